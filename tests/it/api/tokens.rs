//! Access tokens: what is accepted, what nginx is told, and the attacks on JWTs.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use chrono::TimeDelta;
use commands::{
    clock::{SystemClock, SystemEntropy},
    keyring::{Keyring, MasterKey},
    tokens::{TokenSettings, Tokens as Signer},
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{
    http::Api,
    server::{MASTER_KEY, Tokens, eventually},
    shared::{Running, unique},
};

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).unwrap();
    serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
}

fn encoded(value: &Value) -> String {
    BASE64.encode(value.to_string())
}

/// A token of HMAC-SHA-256 under any secret.
fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(mac.finalize().into_bytes()))
}

async fn refused(api: &Api, what: &str, token: &str) {
    for path in [
        "/api/v1/auth/me",
        "/api/v1/auth/verify",
        "/api/auth/me",
        "/api/v1/audit",
        "/api/v1/admin/users",
    ] {
        let answer = api.get(path).bearer(token).send().await;
        assert_eq!(answer.status, 401, "{what}, {path}: {}", answer.text());
        answer.problem(401, "invalid-token");
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains(r#"error="invalid_token""#), "{what}: {challenge}");
        assert!(!answer.text().contains(token), "{what}: the token is repeated");
    }
}

#[tokio::test]
async fn a_token_says_who_and_until_when() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let header = part(&ada.access, 0);
    assert_eq!(header["alg"], "EdDSA");
    let claims = part(&ada.access, 1);
    assert_eq!(claims["sub"], ada.user_id);
    assert_eq!(claims["sid"], ada.session_id);
    assert_eq!(claims["role"], json!(["user"]));
    assert_eq!(claims["iss"], format!("http://localhost:{}", running.server.port()));
    assert_eq!(claims["aud"], "entrybook");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 900);
    assert!(!claims.to_string().contains("example.org"), "no personal data: {claims}");
}

/// As an application would that knows nothing but the JWKS.
#[tokio::test]
async fn anybody_can_check_a_token_by_the_published_keys() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let answer = api.get("/.well-known/jwks.json").send().await.is(200);
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&answer.body).unwrap();
    for key in answer.json()["keys"].as_array().unwrap() {
        assert_eq!(key.get("d"), None, "no private key is published");
        assert_eq!(key["alg"], "EdDSA");
        assert_eq!(key["use"], "sig");
    }
    let header = jsonwebtoken::decode_header(&ada.access).unwrap();
    let key = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["entrybook"]);
    let key = jsonwebtoken::DecodingKey::from_jwk(key).unwrap();
    let decoded = jsonwebtoken::decode::<Value>(&ada.access, &key, &validation).unwrap();
    assert_eq!(decoded.claims["sub"], ada.user_id);
}

#[tokio::test]
async fn nginx_is_told_who_it_is_or_401() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let answer = api.get("/api/v1/auth/verify").bearer(&ada.access).send().await.is(204);
    assert_eq!(answer.header("x-entrybook-user"), ada.user_id);
    assert_eq!(answer.header("x-entrybook-session"), ada.session_id);
    assert_eq!(answer.header("x-entrybook-roles"), "user");
    assert!(answer.body.is_empty());
    let admin = api.admin().await;
    let answer = api.get("/api/v1/auth/verify").bearer(&admin.access).send().await.is(204);
    for role in ["user", "auditor", "admin"] {
        assert!(
            answer.header("x-entrybook-roles").split(',').any(|r| r == role),
            "{:?}",
            answer.headers
        );
    }

    let nobody = api.get("/api/v1/auth/verify").send().await;
    nobody.problem(401, "not-signed-in");
    assert_eq!(nobody.header("www-authenticate"), r#"Bearer realm="entrybook""#);
    assert_eq!(nobody.headers.get("x-entrybook-user"), None);
    // What a client says of itself is not said back.
    let forged = api
        .get("/api/v1/auth/verify")
        .header("x-entrybook-user", ada.user_id.as_str())
        .send()
        .await;
    forged.problem(401, "not-signed-in");
    assert_eq!(forged.headers.get("x-entrybook-user"), None);
}

/// The key alone decides the algorithm (RFC 8725, 3.1).
#[tokio::test]
async fn the_algorithm_is_not_for_the_token_to_choose() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let (header, claims) = (part(&ada.access, 0), part(&ada.access, 1));
    let [h, c, s] = ada.access.split('.').collect::<Vec<_>>().try_into().unwrap();

    for none in ["none", "None", "NONE", "nOnE", ""] {
        let mut unsigned = header.clone();
        unsigned["alg"] = none.into();
        refused(&api, none, &format!("{}.{c}.", encoded(&unsigned))).await;
        refused(&api, none, &format!("{}.{c}.{s}", encoded(&unsigned))).await;
    }
    refused(&api, "no algorithm", &format!("{}.{c}.{s}", encoded(&json!({"kid": header["kid"]}))))
        .await;

    // The public key, in each form that somebody may take it in, as the secret of an HMAC.
    let jwks = api.get("/.well-known/jwks.json").send().await.is(200);
    let key = jwks.json()["keys"][0].clone();
    let raw = BASE64.decode(key["x"].as_str().unwrap()).unwrap();
    // SubjectPublicKeyInfo of Ed25519 (RFC 8410).
    let der =
        [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], raw.as_slice()]
            .concat();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(&der)
    );
    let mut confused = header.clone();
    confused["alg"] = "HS256".into();
    let mut without_key = confused.clone();
    without_key.as_object_mut().unwrap().remove("kid");
    for secret in [
        &raw,
        &der,
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        key["x"].as_str().unwrap().as_bytes(),
        b"",
        &jwks.body,
    ] {
        refused(&api, "HS256 by the public key", &hs256(&confused, &claims, secret)).await;
        refused(&api, "HS256 without a key", &hs256(&without_key, &claims, secret)).await;
    }
    for algorithm in ["HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA "] {
        let mut other = header.clone();
        other["alg"] = algorithm.into();
        refused(&api, algorithm, &format!("{}.{c}.{s}", encoded(&other))).await;
    }
    api.me(&format!("{h}.{c}.{s}")).await.is(200);
}

#[tokio::test]
async fn a_token_is_good_as_it_was_made_or_not_at_all() {
    let running = Running::shared().await;
    let api = running.api();
    let (ada, admin) = (api.register(&unique("ada")).await, api.admin().await);
    let (header, claims) = (part(&ada.access, 0), part(&ada.access, 1));
    let [h, c, s] = ada.access.split('.').collect::<Vec<_>>().try_into().unwrap();

    for (claim, value) in [
        ("sub", json!(admin.user_id)),
        ("sid", json!(admin.session_id)),
        ("role", json!(["user", "auditor", "admin"])),
        ("exp", json!(claims["exp"].as_i64().unwrap() + 3600)),
        ("uv", json!(9)),
    ] {
        let mut changed = claims.clone();
        changed[claim] = value;
        refused(&api, claim, &format!("{h}.{}.{s}", encoded(&changed))).await;
    }
    // Keys that the token brings along.
    for (name, value) in [
        ("kid", json!("../../dev/null")),
        ("kid", json!("' OR 1=1 --")),
        ("kid", json!("")),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("jwk", json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode([1; 32])})),
        ("x5u", json!("http://127.0.0.1:1/cert")),
        ("crit", json!(["exp"])),
        ("typ", json!("refresh")),
    ] {
        let mut changed = header.clone();
        changed[name] = value;
        refused(&api, name, &format!("{}.{c}.{s}", encoded(&changed))).await;
    }
    let admin_signature = admin.access.rsplit('.').next().unwrap();
    let long = "x".repeat(10_000);
    for (what, token) in [
        ("the signature of another", format!("{h}.{c}.{admin_signature}")),
        ("no signature", format!("{h}.{c}")),
        ("an empty signature", format!("{h}.{c}.")),
        ("a zero signature", format!("{h}.{c}.{}", BASE64.encode([0; 64]))),
        ("a cut signature", format!("{h}.{c}.{}", &s[..s.len() - 2])),
        ("four parts", format!("{h}.{c}.{s}.{s}")),
        ("five parts", format!("{h}.{c}.{s}.{s}.{s}")),
        ("padding", format!("{h}.{c}.{s}==")),
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("a refresh token", ada.refresh.clone()),
        ("an array", format!("{h}.{}.{s}", encoded(&json!([])))),
        ("10 KB", long.clone()),
        ("10 KB of a part", format!("{h}.{long}.{s}")),
        ("10 KB behind", format!("{}{long}", ada.access)),
        ("deep", format!("{}.{c}.{s}", BASE64.encode("[".repeat(4_000)))),
    ] {
        refused(&api, what, &token).await;
    }
    for header in ["Basic YWRhOmFkYQ==", "Bearer", "Bearer ", "bearer: x", "Token x", "\u{e9}"] {
        let answer = api.get("/api/v1/auth/me").header("authorization", header).send().await;
        assert_eq!(answer.status, 401, "{header}: {}", answer.text());
    }
    api.get("/api/v1/auth/me")
        .bearer(&ada.access)
        .bearer(&ada.access)
        .send()
        .await
        .problem(401, "invalid-token");
    // A wrong token is not made good by a cookie.
    let cookie = format!("entrybook_access={}", ada.access);
    api.get("/api/v1/auth/me")
        .header("cookie", &cookie)
        .bearer("garbage")
        .send()
        .await
        .problem(401, "invalid-token");
    api.get("/api/v1/auth/me").header("cookie", &cookie).send().await.is(200);
    // Whatever else stands in the line (issue 10, number 18).
    for others in ["a=é; ".as_bytes(), b"a=\xff; ", b"x; =; \"; ", b"b=\xe9\xe8; c=d; "] {
        let line = [others, cookie.as_bytes()].concat();
        api.get("/api/v1/auth/me").header("cookie", line).send().await.is(200);
    }
    // Nor is it taken from where addresses are logged.
    api.get(&format!("/api/v1/sessions?access_token={}", ada.access)).send().await.is(401);
}

/// Tokens signed with the server's own key, by somebody who says other things in them.
async fn signer(running: &Running, change: impl FnOnce(&mut TokenSettings)) -> Signer {
    let pool = running.database.another_pool("signer").await;
    let entropy = Arc::new(SystemEntropy);
    let master = MasterKey::parse(MASTER_KEY).unwrap();
    let keyring = Arc::new(Keyring::load(pool.clone(), master, entropy.clone()).await.unwrap());
    let issuer = format!("http://localhost:{}", running.server.port());
    let mut settings = TokenSettings::new(issuer, "entrybook".to_owned());
    change(&mut settings);
    Signer::load(pool, keyring, settings, Arc::new(SystemClock), entropy).await.unwrap()
}

fn signed_by(signer: &Signer, ada: &Tokens) -> String {
    let claims = part(&ada.access, 1);
    let user = domain::UserId(ada.user_id.parse().unwrap());
    let session = domain::SessionId(ada.session_id.parse().unwrap());
    let roles = domain::Roles::from([domain::Role::User]);
    signer.sign(user, session, claims["uv"].as_u64().unwrap(), &roles).unwrap().token
}

#[tokio::test]
async fn a_token_of_this_key_for_somebody_else_or_of_the_past_is_refused() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let same = signer(&running, |_| {}).await;
    api.me(&signed_by(&same, &ada)).await.is(200);

    let other_audience =
        signer(&running, |settings| settings.audience = "another-service".to_owned()).await;
    refused(&api, "another audience", &signed_by(&other_audience, &ada)).await;
    let other_issuer =
        signer(&running, |settings| settings.issuer = "https://login.example.org".to_owned()).await;
    refused(&api, "another issuer", &signed_by(&other_issuer, &ada)).await;

    let short = signer(&running, |settings| settings.access_lifetime = TimeDelta::seconds(1)).await;
    let token = signed_by(&short, &ada);
    eventually("a token of one second is refused", async || {
        (api.me(&token).await.status == 401).then_some(())
    })
    .await;
    refused(&api, "expired", &token).await;
    assert!(api.me(&token).await.header("www-authenticate").contains("expired"));
    api.me(&ada.access).await.is(200);
}
