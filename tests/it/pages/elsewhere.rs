//! Links and pictures of other sites, which would make somebody a reader of the history who never meant to be one:
//! issue 10, number 19.

use super::forgery::other_site;
use crate::support::{
    browser::JavaScript,
    server::{ADMIN_PASSWORD, Tokens, eventually},
    shared::Running,
    tools,
};

fn cookie_of(tokens: &Tokens) -> String {
    format!("entrybook_access={}; entrybook_refresh={}", tokens.access, tokens.refresh)
}

/// Everything that can be asked for with GET and leaves behind who read it.
fn readings(user: &str) -> Vec<String> {
    let state = format!("user={user}&at=2");
    vec![
        "/history".into(),
        format!("/history?user={user}"),
        "/history?user=nobody-was-ever-called-that".into(),
        "/history/lines/1".into(),
        format!("/audit/state?{state}"),
        "/audit/state?at=2026-01-01".into(),
        "/api/v1/audit".into(),
        format!("/api/v1/audit?user={user}&limit=5"),
        "/api/v1/audit/1".into(),
        format!("/api/v1/audit/state?user={user}&position=2"),
        "/api/v1/audit/stream".into(),
        "/api/v1/audit/export?format=jsonl".into(),
    ]
}

#[tokio::test]
async fn what_another_site_opens_is_not_written_down_as_read() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let (admin, ada) = (api.admin().await, api.register("ada").await);
    running.database.settled().await;
    // An export needs a checkpoint. It is a reading that is meant.
    eventually("the book is signed", async || {
        let path = "/api/v1/audit/export?format=jsonl";
        let answer = running.server.get(path, &admin.access).await.unwrap();
        answer.status().is_success().then_some(())
    })
    .await;
    let cookie = cookie_of(&admin);
    let events = running.events().await;
    for path in readings(&ada.user_id) {
        for site in ["cross-site", "same-site", "nonsense", ""] {
            let ask = api.get(&path).header("cookie", &cookie).header("sec-fetch-site", site);
            let answer = ask.send().await;
            // What isn't there, or can't be taken, reads nothing.
            if path.starts_with("/api/") {
                if answer.status == 403 {
                    answer.problem(403, "opened-elsewhere");
                }
            } else if answer.status == 403 {
                let text = answer.text();
                assert!(text.contains("Another site has sent you here"), "{path}: {text}");
                let link = path.replace('&', "&#38;");
                assert!(text.contains(&format!("href=\"{link}\"")), "{path}: {text}");
            }
            assert!(answer.status >= 400, "{site} {path}: {answer:?}");
        }
    }
    assert_eq!(running.events().await, events, "nothing was written down");

    // From a page of this one, from nowhere, and from programs, it is shown and written down.
    for (number, site) in [Some("same-origin"), Some("none"), None].into_iter().enumerate() {
        let path = format!("/history?user={}&outcome=try{number}", ada.user_id);
        let mut ask = api.get(&path).header("cookie", &cookie);
        if let Some(site) = site {
            ask = ask.header("sec-fetch-site", site);
        }
        ask.send().await.is(200);
        assert_eq!(running.events().await, events + 1 + number as i64);
    }
    // A token in the header is nothing that another site could send.
    let path = format!("/api/v1/audit?user={}", ada.user_id);
    let ask = api.get(&path).bearer(&admin.access).header("sec-fetch-site", "cross-site");
    ask.send().await.is(200);
    // One's own lines are nobody else's business, and what records nothing is shown.
    for path in ["/my-history", "/", "/sessions", "/users"] {
        let ask = api.get(path).header("cookie", &cookie).header("sec-fetch-site", "cross-site");
        ask.send().await.is(200);
    }
}

#[tokio::test]
async fn a_browser_that_follows_a_link_of_another_site_is_asked_first() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/").await;
    running.database.settled().await;

    let path = format!("/history?user={}", ada.user_id);
    let target = format!("http://localhost:{}{path}", running.server.port());
    let html = format!(
        "<!doctype html><title>elsewhere</title><a id=link href=\"{target}\">Look</a><img src=\"{target}&amp;order=oldest\">"
    );
    let port = other_site(html).await;
    let read = async || {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM events WHERE event_type = 'HistorySearched'",
        )
        .fetch_one(running.database.pool())
        .await
        .unwrap()
    };
    // Another site, and another port of this one, whose pictures bring the cookies along.
    for host in ["127.0.0.1", "localhost"] {
        browser.open(&format!("http://{host}:{port}/")).await;
        browser.press("Look").await;
        browser.arrives(&path).await;
        browser.shows("Another site has sent you here").await;
        assert_eq!(read().await, 0, "nothing is written down before they say so");
    }
    browser.press("Go on").await;
    browser.shows("History").await;
    browser.arrives(&path).await;
    assert_eq!(read().await, 1);
    browser.close().await;
}
