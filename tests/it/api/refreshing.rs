//! Refresh tokens: spent at each use, forgiving for two tabs, and merciless to thieves.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    http::Api,
    server::eventually,
    shared::{Running, unique},
};

#[tokio::test]
async fn each_use_gives_a_new_pair() {
    let running = Running::shared().await;
    let api = running.api();
    let mut tokens = api.register(&unique("ada")).await;
    for _ in 0..5 {
        let next = api.refresh(&tokens.refresh).await.tokens(200);
        assert_ne!(next.refresh, tokens.refresh);
        assert_ne!(next.access, tokens.access);
        assert_eq!(next.session_id, tokens.session_id);
        assert_eq!(next.user_id, tokens.user_id);
        api.me(&next.access).await.is(200);
        tokens = next;
    }
}

/// Two tabs refresh at once, or an answer was lost on the way: neither may cost the session.
#[tokio::test]
async fn a_second_use_within_the_grace_is_answered_too() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let both = join_all([api.refresh(&ada.refresh), api.refresh(&ada.refresh)]).await;
    for answer in both {
        let tokens = answer.tokens(200);
        assert_eq!(tokens.session_id, ada.session_id);
        api.me(&tokens.access).await.is(200);
        // Either pair goes on.
        let next = api.refresh(&tokens.refresh).await.tokens(200);
        api.me(&next.access).await.is(200);
    }
}

#[tokio::test]
async fn a_use_after_the_grace_ends_the_session_and_is_in_the_history() {
    let running = Running::start(&[("ENTRYBOOK_REFRESH_GRACE", "0s")]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let other = api.sign_in("ada").await;
    let next = api.refresh(&ada.refresh).await.tokens(200);
    // The thief, or the victim: nobody knows which, so it ends for both.
    api.refresh(&ada.refresh).await.problem(401, "session-ended");
    api.refresh(&next.refresh).await.problem(401, "session-ended");
    api.me(&next.access).await.problem(401, "invalid-token");
    api.me(&ada.access).await.problem(401, "invalid-token");
    api.me(&other.access).await.is(200);

    let path = format!("/api/v1/audit?session={}&type=SessionEnded", ada.session_id);
    let line = eventually("the reuse is in the history", async || {
        let page = api.get(&path).bearer(&other.access).send().await.is(200).json();
        page["lines"].get(0).cloned()
    })
    .await;
    assert!(line.to_string().contains("token_reused"), "{line}");
    let metrics = api.get("/metrics").send().await.is(200).text();
    assert!(metrics.contains("entrybook_token_reuses_total 1"), "{metrics}");
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused_and_ends_nothing() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let ben = api.register(&unique("ben")).await;
    let mut wrong = vec![
        String::new(),
        "x".to_owned(),
        "\u{1f511}".to_owned(),
        ada.access.clone(),
        format!("{}.", ada.refresh),
        ada.refresh[..ada.refresh.len() - 1].to_owned(),
        format!("{}x", ada.refresh),
        ada.session_id.clone(),
    ];
    // Each character in turn is another one.
    for at in (0..ada.refresh.len()).step_by(7) {
        let mut changed: Vec<char> = ada.refresh.chars().collect();
        changed[at] = if changed[at] == 'A' { 'B' } else { 'A' };
        wrong.push(changed.into_iter().collect());
    }
    // The session of one with the secret of another.
    let half = ada.refresh.len() / 2;
    wrong.push(format!("{}{}", &ada.refresh[..half], &ben.refresh[half..]));
    for token in wrong {
        let answer = api.refresh(&token).await;
        assert_eq!(answer.status, 401, "{token}: {}", answer.text());
        answer.problem(401, "invalid-refresh-token");
    }
    api.refresh(&"x".repeat(513)).await.refuses(&["refresh_token"]);
    api.post("/api/v1/auth/refresh").send().await.problem(401, "not-signed-in");
    api.post("/api/v1/auth/refresh").json(json!({})).send().await.problem(401, "not-signed-in");
    api.refresh(&ada.refresh).await.is(200);
    api.refresh(&ben.refresh).await.is(200);
}

#[tokio::test]
async fn signing_out_stops_the_access_token_at_once() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let stays = api.register(&name).await;
    let logout = async |body: Option<Value>, bearer: Option<&str>| {
        let mut ask = api.post("/api/v1/auth/logout");
        if let Some(token) = bearer {
            ask = ask.bearer(token);
        }
        match body {
            Some(body) => ask.json(body).send().await,
            None => ask.send().await,
        }
    };
    // By refresh token, by access token, by both.
    for by in 0..3 {
        let session = api.sign_in(&name).await;
        api.me(&session.access).await.is(200);
        let body = json!({"refresh_token": session.refresh});
        let out = match by {
            0 => logout(Some(body), None).await,
            1 => logout(None, Some(&session.access)).await,
            _ => logout(Some(body), Some(&session.access)).await,
        };
        assert!(out.is(204).body.is_empty());
        api.me(&session.access).await.problem(401, "invalid-token");
        api.refresh(&session.refresh).await.problem(401, "session-ended");
        // Again: nothing to end, and no error with the refresh token.
        logout(Some(json!({"refresh_token": session.refresh})), None).await.is(204);
        logout(None, Some(&session.access)).await.problem(401, "invalid-token");
    }
    logout(None, None).await.is(401);
    logout(Some(json!({"refresh_token": "nothing of ours"})), None).await.is(204);
    api.me(&stays.access).await.is(200);
}

/// The cookie of a browser: the new pair goes back as cookies, and no script ever sees a token.
#[tokio::test]
async fn a_browser_refreshes_by_its_cookie_and_from_this_site_alone() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let by_cookie = |origin: Option<&str>| {
        let ask = api
            .post("/api/v1/auth/refresh")
            .header("cookie", format!("entrybook_refresh={}", ada.refresh));
        match origin {
            Some(origin) => ask.header("origin", origin),
            None => ask,
        }
    };
    by_cookie(Some("https://evil.example")).send().await.problem(403, "cross-site-request");
    by_cookie(None)
        .header("sec-fetch-site", "cross-site")
        .send()
        .await
        .problem(403, "cross-site-request");

    let origin = format!("http://localhost:{}", running.server.port());
    let answer = by_cookie(Some(&origin)).send().await.is(200);
    let cookies = answer.cookies();
    for (name, value, _) in &cookies {
        assert!(!answer.text().contains(value), "{name} stands in the body: {}", answer.text());
    }
    for token in ["access_token", "refresh_token"] {
        assert_eq!(answer.json().get(token), None);
    }
    let refresh = cookies.iter().find(|(name, _, _)| name == "entrybook_refresh").unwrap();
    assert!(refresh.2.contains(&"httponly".to_owned()), "{refresh:?}");
    assert!(refresh.2.contains(&"samesite=lax".to_owned()), "{refresh:?}");
    let access = cookies.iter().find(|(name, _, _)| name == "entrybook_access").unwrap();
    verify_by_cookie(&api, &format!("entrybook_access={}", access.1), &ada.session_id).await;
    verify_by_cookie(&api, &format!("entrybook_refresh={}", refresh.1), &ada.session_id).await;
}

async fn verify_by_cookie(api: &Api, cookie: &str, session: &str) {
    let answer = api.get("/api/v1/auth/verify").header("cookie", cookie).send().await.is(204);
    assert_eq!(answer.header("x-entrybook-session"), session);
}
