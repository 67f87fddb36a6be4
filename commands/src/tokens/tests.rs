//! What needs no database. The rest is in the integration tests, under `keys`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::Role;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    clock::{ManualClock, SeededEntropy},
    keyring::tests::keyring,
};

const USER: UserId = UserId(Uuid::from_u128(1));
const SESSION: SessionId = SessionId(Uuid::from_u128(2));

fn settings(algorithm: Algorithm) -> TokenSettings {
    TokenSettings {
        algorithm,
        ..TokenSettings::new("https://id.example.org".to_owned(), "example".to_owned())
    }
}

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 250_000_000).unwrap()
}

/// Tokens with one key for each algorithm given, the last of them signing.
fn tokens(algorithms: &[Algorithm]) -> (Tokens, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(start()));
    let keyring = Arc::new(keyring(1));
    let entropy = Arc::new(SeededEntropy::new(2));
    let rows = (0_i32..).zip(algorithms).map(|(minute, algorithm)| {
        let begun = start() - TimeDelta::minutes(10) + TimeDelta::minutes(minute.into());
        Material::generate(*algorithm, entropy.as_ref()).unwrap().wrapped(&keyring, begun)
    });
    let keys = KeySet::of(rows.collect(), &keyring, &KeySet::default()).unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(1))
        .connect_lazy_with(
            sqlx::postgres::PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1),
        );
    let settings = settings(*algorithms.last().unwrap());
    let tokens = Tokens::without_keys(pool, keyring, settings, clock.clone(), entropy);
    tokens.use_keys(keys);
    (tokens, clock)
}

fn sign(tokens: &Tokens) -> String {
    tokens.sign(USER, SESSION, 3, &[Role::User, Role::Admin].into()).unwrap().token
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn read_part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// A token whose claims were changed by `change` and signed with the service's own key.
fn signed_with(tokens: &Tokens, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = read_part(&sign(tokens), 1);
    change(&mut claims);
    let keys = tokens.keys();
    let key = keys.signer(start()).unwrap();
    let mut header = Header::new(key.jwt_algorithm());
    header.kid = Some(key.kid().to_owned());
    jsonwebtoken::encode(&header, &claims, key.encoding()).unwrap()
}

#[tokio::test]
async fn a_token_is_verified_with_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let (tokens, _) = tokens(&[algorithm]);
        let signed = tokens.sign(USER, SESSION, 3, &[Role::User].into()).unwrap();
        assert_eq!(signed.expires_at, DateTime::from_timestamp(1_780_000_900, 0).unwrap());
        let header = read_part(&signed.token, 0);
        assert_eq!((&header["alg"], &header["typ"]), (&json!(algorithm.as_str()), &json!("JWT")));
        for _ in 0..2 {
            let claims = tokens.verify(&signed.token).await.unwrap();
            assert_eq!((claims.sub, claims.sid, claims.uv), (USER, SESSION, 3));
            assert_eq!((claims.role, claims.jti.len()), (vec![Role::User], 32));
            assert_eq!((claims.iat, claims.exp), (1_780_000_000, 1_780_000_900));
        }
        assert!(!format!("{signed:?}").contains(&signed.token));
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    assert_eq!("none".parse::<Algorithm>(), Err(UnknownAlgorithm));
}

#[tokio::test]
async fn the_jwks_shows_public_keys_alone() {
    let (tokens, _) = tokens(&Algorithm::ALL);
    let keys = tokens.jwks()["keys"].as_array().unwrap().clone();
    let shape: Vec<_> = keys
        .iter()
        .map(|key| {
            assert_eq!((&key["use"], key["kid"].as_str().unwrap().len()), (&json!("sig"), 43));
            let mut names: Vec<_> = key.as_object().unwrap().keys().cloned().collect();
            names.sort();
            (key["alg"].as_str().unwrap(), key["kty"].as_str().unwrap(), names.join(" "))
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("EdDSA", "OKP", "alg crv kid kty use x".to_owned()),
            ("ES256", "EC", "alg crv kid kty use x y".to_owned()),
            ("RS256", "RSA", "alg e kid kty n use".to_owned()),
        ],
        "no secret, and nothing of HS256"
    );
}

#[tokio::test]
async fn a_token_ends_at_its_second_cached_or_not() {
    let (tokens, clock) = tokens(&[Algorithm::EdDsa]);
    let [seen, unseen] = [sign(&tokens), sign(&tokens)];
    tokens.verify(&seen).await.unwrap();
    clock.set(DateTime::from_timestamp(1_780_000_899, 999_999_000).unwrap());
    tokens.verify(&seen).await.unwrap();
    clock.set(DateTime::from_timestamp(1_780_000_900, 0).unwrap());
    assert_eq!(tokens.verify(&seen).await, Err(TokenProblem::Expired));
    assert_eq!(tokens.verify(&unseen).await, Err(TokenProblem::Expired));
}

#[tokio::test]
async fn no_algorithm_but_the_keys_own_is_accepted() {
    let (tokens, _) = tokens(&[Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256]);
    let jwks = tokens.jwks();
    let claims = read_part(&sign(&tokens), 1);
    for key in jwks["keys"].as_array().unwrap() {
        let kid = key["kid"].as_str().unwrap();
        for none in ["none", "None", "NONE", "nOnE", ""] {
            let unsigned =
                format!("{}.{}.", part(&json!({"alg": none, "kid": kid})), part(&claims));
            assert_eq!(tokens.verify(&unsigned).await, Err(TokenProblem::Malformed), "{none}");
        }
        // A public key taken for an HMAC secret, in each form it is published in.
        let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let public = key["x"].as_str().or(key["n"].as_str()).unwrap();
        for secret in [
            URL_SAFE_NO_PAD.decode(public).unwrap(),
            public.as_bytes().to_vec(),
            key.to_string().into_bytes(),
            Vec::new(),
        ] {
            let forged =
                jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&secret)).unwrap();
            assert_eq!(tokens.verify(&forged).await, Err(TokenProblem::BadSignature));
        }
        // Every other algorithm's name over a right signature.
        for other in ["HS256", "HS512", "ES256", "ES384", "RS256", "RS512", "PS256", "EdDSA"] {
            if key["alg"] != other {
                let token = sign(&tokens);
                let (_, rest) = token.split_once('.').unwrap();
                let renamed = format!("{}.{rest}", part(&json!({"alg": other, "kid": kid})));
                assert_eq!(tokens.verify(&renamed).await, Err(TokenProblem::BadSignature));
            }
        }
    }
}

#[tokio::test]
async fn a_key_of_ones_own_gets_nowhere() {
    let (tokens, _) = tokens(&[Algorithm::EdDsa]);
    let (stranger, _) = self::tokens(&[Algorithm::Es256]);
    let foreign = sign(&stranger);
    assert_eq!(tokens.verify(&foreign).await, Err(TokenProblem::UnknownKey));

    let claims = read_part(&foreign, 1);
    let mine = Material::generate(Algorithm::EdDsa, &SeededEntropy::new(99)).unwrap();
    let row = mine.wrapped(&keyring(1), start());
    let keys = KeySet::of(vec![row], &keyring(1), &KeySet::default()).unwrap();
    let mine = keys.signer(start()).unwrap();
    let forged = |kid: Option<&str>, extra: &dyn Fn(&mut Header)| {
        let mut header = Header::new(mine.jwt_algorithm());
        header.kid = kid.map(str::to_owned);
        extra(&mut header);
        jsonwebtoken::encode(&header, &claims, mine.encoding()).unwrap()
    };
    let known = tokens.jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let plain: &dyn Fn(&mut Header) = &|_| {};
    let with_jwk: &dyn Fn(&mut Header) = &|header| {
        header.jwk = Some(
            jsonwebtoken::jwk::Jwk::from_encoding_key(mine.encoding(), mine.jwt_algorithm())
                .unwrap(),
        );
        header.jku = Some("https://evil.example/jwks.json".to_owned());
    };
    let critical: &dyn Fn(&mut Header) = &|header| header.crit = Some(vec!["exp".to_owned()]);
    let typed: &dyn Fn(&mut Header) = &|header| header.typ = Some("dpop+jwt".to_owned());
    for (token, problem) in [
        (forged(Some(&known), plain), TokenProblem::BadSignature),
        (forged(Some(&known), with_jwk), TokenProblem::BadSignature),
        (forged(Some(mine.kid()), with_jwk), TokenProblem::UnknownKey),
        (forged(Some("../../etc/passwd"), plain), TokenProblem::UnknownKey),
        (forged(Some("' OR 1=1 --"), plain), TokenProblem::UnknownKey),
        (forged(Some(""), plain), TokenProblem::UnknownKey),
        (forged(None, plain), TokenProblem::UnknownKey),
        (forged(Some(&known), critical), TokenProblem::Malformed),
        (forged(Some(&known), typed), TokenProblem::Malformed),
    ] {
        assert_eq!(tokens.verify(&token).await, Err(problem));
    }
}

#[tokio::test]
async fn tokens_by_or_for_others_are_refused() {
    let (tokens, _) = tokens(&[Algorithm::EdDsa]);
    tokens.verify(&signed_with(&tokens, |_| {})).await.unwrap();
    for (claim, value, problem) in [
        ("iss", json!("https://evil.example"), TokenProblem::WrongAudience),
        ("iss", json!("https://id.example.org/"), TokenProblem::WrongAudience),
        ("aud", json!("another"), TokenProblem::WrongAudience),
        ("aud", json!(["another"]), TokenProblem::Malformed),
        ("aud", Value::Null, TokenProblem::Malformed),
        ("exp", json!("1780000900"), TokenProblem::Malformed),
        ("exp", json!(-1), TokenProblem::Malformed),
        ("exp", json!(1_780_000_000), TokenProblem::Expired),
        ("sub", json!("ada"), TokenProblem::Malformed),
        ("role", json!(["root"]), TokenProblem::Malformed),
    ] {
        let token = signed_with(&tokens, |claims| claims[claim] = value.clone());
        assert_eq!(tokens.verify(&token).await, Err(problem), "{claim}: {value}");
        let token = signed_with(&tokens, |claims| {
            claims.as_object_mut().unwrap().remove(claim);
        });
        assert_eq!(tokens.verify(&token).await, Err(TokenProblem::Malformed), "no {claim}");
    }
}

#[tokio::test]
async fn no_changed_character_goes_unnoticed() {
    let (tokens, _) = tokens(&[Algorithm::EdDsa]);
    let token = sign(&tokens);
    tokens.verify(&token).await.unwrap();
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(tokens.verify(&changed).await.is_err(), "{at}");
    }
    for changed in
        [format!("{token}="), format!(" {token}"), format!("{token}."), token[1..].to_owned()]
    {
        assert!(tokens.verify(&changed).await.is_err());
    }
}

#[tokio::test]
async fn garbage_is_malformed_and_bounded() {
    let (tokens, _) = tokens(&[Algorithm::EdDsa]);
    let long = format!("{}.{}", "a".repeat(2000), "b".repeat(3000));
    let deep = format!("{}.e30.e30", URL_SAFE_NO_PAD.encode("[".repeat(2900)));
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.e30", "Bearer x", "\0.\0.\0", &long, &deep]
    {
        assert_eq!(tokens.verify(text).await, Err(TokenProblem::Malformed), "{text:.40}");
    }
    let mut bloated = sign(&tokens);
    bloated.push_str(&"A".repeat(4096));
    assert_eq!(tokens.verify(&bloated).await, Err(TokenProblem::Malformed));
}

#[tokio::test]
async fn unknown_key_ids_ask_the_database_once_a_second() {
    let (tokens, _) = tokens(&[Algorithm::EdDsa]);
    let began = Instant::now();
    let mut asked = std::collections::BTreeSet::new();
    for n in 0..50 {
        let token = format!("{}.e30.e30", part(&json!({"alg": "EdDSA", "kid": n.to_string()})));
        assert_eq!(tokens.verify(&token).await, Err(TokenProblem::UnknownKey));
        asked.extend(*tokens.reloaded.lock().await);
    }
    assert!((1..=1 + began.elapsed().as_secs()).contains(&(asked.len() as u64)), "{asked:?}");
}

/// The order of the keys in time: published, signing, accepted, over.
#[tokio::test]
async fn keys_follow_one_another() {
    let keyring = keyring(1);
    let entropy = SeededEntropy::new(3);
    let lifetime = TimeDelta::minutes(15);
    let mut rows: Vec<KeyRow> = [0, 60]
        .map(|minute| {
            Material::generate(Algorithm::EdDsa, &entropy)
                .unwrap()
                .wrapped(&keyring, start() + TimeDelta::minutes(minute))
        })
        .into();
    let set = |rows: &[KeyRow]| KeySet::of(rows.to_vec(), &keyring, &KeySet::default()).unwrap();
    let (old, new) = (rows[0].kid.clone(), rows[1].kid.clone());
    let at = |minute| start() + TimeDelta::minutes(minute);
    let keys = set(&rows);
    for (minute, signs, accepted) in [
        (-5, &old, vec![&old, &new]),
        (0, &old, vec![&old, &new]),
        (59, &old, vec![&old, &new]),
        (60, &new, vec![&old, &new]),
        (75, &new, vec![&old, &new]),
        (76, &new, vec![&new]),
        (10_000, &new, vec![&new]),
    ] {
        assert_eq!(keys.signer(at(minute)).unwrap().kid(), signs, "{minute}");
        let kids: Vec<_> = keys.accepted(at(minute), lifetime).map(|key| key.kid()).collect();
        assert_eq!(kids, accepted, "{minute}");
    }

    // Withdrawn by hand: at once, and the one that was to follow takes over.
    rows[0].retired_at = Some(at(30));
    let keys = set(&rows);
    assert_eq!(keys.signer(at(29)).unwrap().kid(), old);
    assert_eq!(keys.signer(at(30)).unwrap().kid(), new);
    assert!(keys.accepts(&old, at(29), lifetime).is_some());
    assert!(keys.accepts(&old, at(30), lifetime).is_none());
}

#[tokio::test]
async fn a_key_passes_for_no_other() {
    let keyring = keyring(1);
    let rows = [Algorithm::EdDsa, Algorithm::Hs256].map(|algorithm| {
        Material::generate(algorithm, &SeededEntropy::new(4)).unwrap().wrapped(&keyring, start())
    });
    let refused = |row: KeyRow| KeySet::of(vec![row], &keyring, &KeySet::default()).unwrap_err();
    let [eddsa, hs256] = rows;
    // The algorithm and the id are authenticated with the private half.
    for row in [
        KeyRow { algorithm: "HS256".to_owned(), ..eddsa.clone() },
        KeyRow { kid: hs256.kid.clone(), ..eddsa.clone() },
        KeyRow { wrapped: hs256.wrapped.clone(), ..eddsa.clone() },
    ] {
        let error = refused(row);
        assert!(matches!(error, TokensError::Keyring(KeyringError::DamagedKey { .. })), "{error}");
    }
    // What is published is derived; the column of the table is not read.
    let mut row = eddsa.clone();
    row.public_jwk = Some(json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}));
    let keys = KeySet::of(vec![row], &keyring, &KeySet::default()).unwrap();
    let published = keys.jwks(start(), TimeDelta::minutes(15));
    assert_eq!(published["keys"][0], eddsa.public_jwk.unwrap());
    // An algorithm of the future is left out.
    let row = KeyRow { algorithm: "ML-DSA-44".to_owned(), ..hs256 };
    assert!(KeySet::of(vec![row], &keyring, &KeySet::default()).unwrap().newest(start()).is_none());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let sound = settings(Algorithm::EdDsa);
    assert!(sound.check().is_ok());
    for unsound in [
        TokenSettings { issuer: String::new(), ..sound.clone() },
        TokenSettings { audience: "a".repeat(513), ..sound.clone() },
        TokenSettings { access_lifetime: TimeDelta::zero(), ..sound.clone() },
        TokenSettings { access_lifetime: TimeDelta::seconds(28_801), ..sound.clone() },
        TokenSettings { rotate_after: TimeDelta::minutes(59), ..sound.clone() },
    ] {
        assert!(matches!(unsound.check(), Err(TokensError::Settings(_))), "{unsound:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_refused(
        text in any::<String>(),
        like in "[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,86}",
        header in "\\{\"alg\":\"(EdDSA|none|HS256|)\",?(\"kid\":(\"[a-z]{0,3}\"|7|null))?\\}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (tokens, _) = tokens(&[Algorithm::EdDsa]);
            let headed = format!("{}.e30.{}", URL_SAFE_NO_PAD.encode(&header), "A".repeat(86));
            for text in [&text, &like, &headed] {
                assert!(tokens.verify(text).await.is_err());
            }
        });
    }
}

/// Neither kind passes for the other, also once it was seen, and also where the service has the application's
/// origin as its own audience.
#[tokio::test]
async fn a_token_for_an_application_is_good_there_alone() {
    let [here, there] = ["https://app.example.com", "https://wiki.example.com"];
    let (mut tokens, clock) = tokens(&[Algorithm::EdDsa]);
    for audience in [tokens.settings.audience.clone(), here.to_owned()] {
        tokens.settings.audience = audience;
        let until = clock.now() + TimeDelta::minutes(5);
        let roles = [Role::User].into();
        let of_app =
            tokens.sign_for_application(here, USER, SESSION, 3, &roles, until).unwrap().token;
        let of_service = sign(&tokens);
        for _ in 0..2 {
            let claims = tokens.verify_for_application(here, &of_app).await.unwrap();
            assert_eq!((claims.sub, claims.sid, claims.uv), (USER, SESSION, 3));
            assert_eq!((claims.aud.as_str(), claims.exp - claims.iat), (here, 300));
            tokens.verify(&of_service).await.unwrap();
            let elsewhere = tokens.verify_for_application(there, &of_app).await;
            assert_eq!(elsewhere, Err(TokenProblem::WrongAudience));
            assert_eq!(tokens.verify(&of_app).await, Err(TokenProblem::Malformed));
            for application in [here, there] {
                let verified = tokens.verify_for_application(application, &of_service).await;
                assert_eq!(verified, Err(TokenProblem::Malformed));
            }
        }
    }
}
