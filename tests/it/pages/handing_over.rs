//! A browser on its way from an application to the login and back, as the proxy passes it on, and those who would
//! get in on it. With a real proxy and a real browser: `proxy::handing_over`.

use axum::http::Uri;

use crate::support::{
    http::{Answer, Api},
    server::{Setup, Tokens},
    shared::Running,
};

const APP: &str = "https://app.example.com";
const WIKI: &str = "https://wiki.example.com";

async fn running() -> Running {
    Running::start(&[("ENTRYBOOK_APPLICATIONS", &format!("{APP},{WIKI}"))]).await
}

/// A browser at an application: what it keeps there.
struct AtApp {
    application: &'static str,
    start: String,
    to_login: Uri,
}

/// What is asked for at an application, where nobody is signed in.
async fn start(api: &Api, application: &'static str, asked: &str) -> AtApp {
    let ask = api.get("/hand-over/start").header("x-entrybook-application", application);
    let answer = ask.header("x-original-uri", asked).send().await.is(303);
    let cookies = answer.cookies();
    let (name, start, attributes) = cookies.first().unwrap();
    assert_eq!((cookies.len(), name.as_str()), (1, "__Host-entrybook_start"));
    for wanted in ["secure", "httponly", "samesite=lax", "path=/"] {
        assert!(attributes.iter().any(|attribute| attribute == wanted), "{attributes:?}");
    }
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    let to_login: Uri = answer.header("location").parse().unwrap();
    AtApp { application, start: start.clone(), to_login }
}

impl AtApp {
    fn path_at_login(&self) -> String {
        self.to_login.path_and_query().unwrap().to_string()
    }

    /// At the login, where somebody is signed in: where it is sent to.
    async fn handed_over(&self, api: &Api, who: &Tokens) -> Uri {
        let cookie = format!("entrybook_access={}", who.access);
        let answer = api.get(&self.path_at_login()).header("cookie", cookie).send().await.is(303);
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        answer.header("location").parse().unwrap()
    }

    async fn callback(&self, api: &Api, at: &Uri) -> Answer {
        callback(api, self.application, Some(&self.start), at).await
    }
}

async fn callback(api: &Api, application: &str, start: Option<&str>, at: &Uri) -> Answer {
    let path = format!("/hand-over/callback?{}", at.query().unwrap());
    let mut ask = api.get(&path).header("x-entrybook-application", application);
    if let Some(start) = start {
        ask = ask.header("cookie", format!("__Host-entrybook_start={start}"));
    }
    ask.send().await
}

/// The token that the application's host was given.
fn token(answer: &Answer) -> Option<String> {
    let cookies = answer.cookies().into_iter();
    cookies.filter(|(name, _, _)| name == "__Host-entrybook_app").map(|(_, value, _)| value).next()
}

async fn verify(api: &Api, application: &str, cookie: &str) -> Answer {
    let ask = api.get("/api/v1/auth/verify").header("x-entrybook-application", application);
    ask.header("cookie", cookie).send().await
}

async fn verified(api: &Api, application: &str, token: &str) -> Answer {
    verify(api, application, &format!("__Host-entrybook_app={token}")).await
}

fn refused(answer: Answer) {
    assert_eq!(token(&answer), None, "{answer:?}");
    assert!(answer.is(400).text().contains("Open the application again."));
}

#[tokio::test]
async fn somebody_signed_in_is_let_in_at_an_application_and_comes_to_what_was_asked_for() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let at = start(&api, APP, "/reports/7?year=2026&x=%26").await;
    let public_url = format!("http://localhost:{}", running.server.port());
    assert!(at.to_login.to_string().starts_with(&format!("{public_url}/hand-over?")));

    let back = at.handed_over(&api, &ada).await;
    assert!(back.to_string().starts_with(&format!("{APP}/.entrybook/callback?code=ebh_")));
    let answer = at.callback(&api, &back).await.is(303);
    assert_eq!(answer.header("location"), "/reports/7?year=2026&x=%26");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    let (_, _, attributes) =
        answer.cookies().into_iter().find(|(name, _, _)| name == "__Host-entrybook_app").unwrap();
    for wanted in ["secure", "httponly", "samesite=lax", "path=/"] {
        assert!(attributes.iter().any(|attribute| attribute == wanted), "{attributes:?}");
    }
    assert!(attributes.iter().any(|attribute| attribute.starts_with("max-age=")));

    let token = token(&answer).unwrap();
    let who = verified(&api, APP, &token).await.is(204);
    assert_eq!(who.header("x-entrybook-user"), ada.user_id);
    assert_eq!(who.header("x-entrybook-session"), ada.session_id);
    assert_eq!(who.header("x-entrybook-roles"), "user");
    assert!(who.header("x-entrybook-until").parse::<i64>().unwrap() > 1_700_000_000);

    // "Back" and "reload" in the browser ask for the same address again.
    let both = format!("__Host-entrybook_start={}; __Host-entrybook_app={token}", at.start);
    let again = format!("/hand-over/callback?{}", back.query().unwrap());
    let ask = api.get(&again).header("x-entrybook-application", APP).header("cookie", both);
    assert_eq!(ask.send().await.is(303).header("location"), "/reports/7?year=2026&x=%26");

    // The end of the session is the end of it, at once.
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    verified(&api, APP, &token).await.problem(401, "invalid-token");
}

#[tokio::test]
async fn a_code_is_good_once_however_many_come_with_it_and_to_whichever_server() {
    let running = Running::start(&[
        ("ENTRYBOOK_APPLICATIONS", APP),
        ("ENTRYBOOK_PUBLIC_URL", "http://localhost:8080"),
    ])
    .await;
    let scratch = crate::support::scratch();
    let other = Setup { data_dir: scratch.path().join("other"), ..running.setup.replica() };
    let other = other.start().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let at = start(&api, APP, "/").await;
    let back = at.handed_over(&api, &ada).await;
    let both = [api.clone(), Api::new(other.url(""))];
    let answers = (0..12).map(|number| {
        let (api, back, start) = (both[number % 2].clone(), back.clone(), at.start.clone());
        tokio::spawn(async move { callback(&api, APP, Some(&start), &back).await })
    });
    let mut let_in = 0;
    for answer in answers.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        match answer.status {
            303 => let_in += u32::from(token(&answer).is_some()),
            _ => refused(answer),
        }
    }
    assert_eq!(let_in, 1);
}

#[tokio::test]
async fn a_code_is_good_at_its_application_in_its_browser_in_its_minute_and_nowhere_else() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let at = start(&api, APP, "/").await;
    let code = async || at.handed_over(&api, &ada).await;

    // Another application, also with a browser that has the same cookie there.
    refused(callback(&api, WIKI, Some(&at.start), &code().await).await);
    // Another browser, and one without the cookie: nobody is signed in as somebody else by a link.
    let other = start(&api, APP, "/").await;
    assert_ne!(other.start, at.start);
    refused(callback(&api, APP, Some(&other.start), &code().await).await);
    refused(callback(&api, APP, None, &code().await).await);
    // Whoever tries it elsewhere has spent it.
    let spent = code().await;
    refused(callback(&api, APP, Some(&other.start), &spent).await);
    refused(at.callback(&api, &spent).await);
    // Too late.
    let late = code().await;
    let aged = sqlx::query("UPDATE hand_overs SET made_at = made_at - interval '61 seconds'");
    assert!(aged.execute(running.database.pool()).await.unwrap().rows_affected() > 0);
    refused(at.callback(&api, &late).await);
    // Not of ours.
    for forged in ["", "ebh_", &format!("ebh_{}", "A".repeat(64)), &"x".repeat(5_000)] {
        let uri = format!("{APP}/.entrybook/callback?code={forged}").parse().unwrap();
        refused(at.callback(&api, &uri).await);
    }
    // A session that ended meanwhile lets nobody in, and the browser asks again.
    let back = code().await;
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    let answer = at.callback(&api, &back).await.is(303);
    assert_eq!(token(&answer), None);
}

/// Whoever has the database and not the master key makes no code by writing a row.
#[tokio::test]
async fn a_row_that_somebody_else_wrote_is_no_code() {
    let running = running().await;
    let api = running.api();
    let [ada, mallory] = [api.register("ada").await, api.register("mallory").await];
    let at = start(&api, APP, "/").await;
    for change in [
        format!("user_id = '{}', session_id = '{}'", ada.user_id, ada.session_id),
        format!("application = '{WIKI}'"),
        "browser = decode(repeat('00', 32), 'hex')".to_owned(),
    ] {
        let back = at.handed_over(&api, &mallory).await;
        let changed = format!("UPDATE hand_overs SET {change}");
        sqlx::raw_sql(&changed).execute(running.database.pool()).await.unwrap();
        let application = if change.contains(WIKI) { WIKI } else { APP };
        refused(callback(&api, application, Some(&at.start), &back).await);
    }
}

#[tokio::test]
async fn neither_side_takes_the_tokens_of_the_other() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let at = start(&api, APP, "/").await;
    let back = at.handed_over(&api, &ada).await;
    let token = token(&at.callback(&api, &back).await).unwrap();
    verified(&api, APP, &token).await.is(204);

    // At the login and at another application.
    for header in [
        ("authorization", format!("Bearer {token}")),
        ("cookie", format!("entrybook_access={token}")),
    ] {
        for path in ["/api/v1/auth/me", "/api/v1/auth/verify", "/api/v1/sessions"] {
            let ask = api.get(path).header(header.0, &header.1);
            ask.send().await.problem(401, "invalid-token");
        }
    }
    api.refresh(&token).await.is(422);
    verified(&api, WIKI, &token).await.problem(401, "invalid-token");
    // The application's cookie is none at the login.
    verify_at_login(&api, &format!("__Host-entrybook_app={token}"))
        .await
        .problem(401, "not-signed-in");

    // The login's tokens at the application, in each place.
    for cookie in [
        format!("__Host-entrybook_app={}", ada.access),
        format!("__Host-entrybook_app={}", ada.refresh),
    ] {
        verify(&api, APP, &cookie).await.problem(401, "invalid-token");
    }
    for cookie in [
        format!("entrybook_access={0}; __Host-entrybook_access={0}", ada.access),
        format!("entrybook_refresh={0}; __Host-entrybook_refresh={0}", ada.refresh),
    ] {
        verify(&api, APP, &cookie).await.problem(401, "not-signed-in");
    }
    let ask = api.get("/api/v1/auth/verify").header("x-entrybook-application", APP);
    ask.bearer(&ada.access).send().await.problem(401, "not-signed-in");
}

async fn verify_at_login(api: &Api, cookie: &str) -> Answer {
    api.get("/api/v1/auth/verify").header("cookie", cookie).send().await
}

/// The header is the proxy's to set. Somebody who sends it past the proxy needs a cookie of the application as before.
#[tokio::test]
async fn whoever_claims_to_be_an_application_gains_nothing() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let cookie = format!("entrybook_access={}; entrybook_refresh={}", ada.access, ada.refresh);
    for unknown in ["", "https://evil.example", "app.example.com", "https://app.example.com/", "é"]
    {
        verify(&api, unknown, &cookie).await.problem(403, "forbidden");
        let ask = api.get("/hand-over/start").header("x-entrybook-application", unknown);
        ask.send().await.is(403);
    }
    let ask = api.get("/api/v1/auth/verify").header("cookie", &cookie);
    let ask = ask.header("x-entrybook-application", APP).header("x-entrybook-application", WIKI);
    ask.send().await.problem(403, "forbidden");
    // Without it there is no application to begin or end at.
    for path in ["/hand-over/start", "/hand-over/callback?code=ebh_x"] {
        api.get(path).header("cookie", &cookie).send().await.is(404);
    }
}

#[tokio::test]
async fn nobody_is_sent_to_where_the_admin_did_not_say() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let cookie = format!("entrybook_access={}", ada.access);
    let at = start(&api, APP, "/").await;
    let asked = at.path_at_login();
    for elsewhere in [
        "https%3A%2F%2Fevil.example",
        "https%3A%2F%2Fapp.example.com%2F",
        "https%3A%2F%2Fapp.example.com.evil.example",
        "https%3A%2F%2Fapp.example.com%40evil.example",
        "http%3A%2F%2Fapp.example.com",
        "",
    ] {
        let path = asked.replace("https%3A%2F%2Fapp.example.com", elsewhere);
        let answer = api.get(&path).header("cookie", &cookie).send().await.is(404);
        assert_eq!(answer.header("location"), "", "{path}");
    }
    for browser in ["", "browser=x", "browser=AAAA"] {
        let path = asked.split_once("browser=").unwrap().0.to_owned() + browser;
        api.get(&path).header("cookie", &cookie).send().await.is(400);
    }
    // The way back is a path of the application, whoever changes it on the way.
    for elsewhere in ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x"]
    {
        let encoded: String = elsewhere.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = asked.replace("return_to=%2F", &format!("return_to={encoded}"));
        let sent = api.get(&path).header("cookie", &cookie).send().await.is(303);
        let back: Uri = sent.header("location").parse().unwrap();
        assert!(back.query().unwrap().ends_with("&return_to=%2F"), "{back}");
        let query = back.query().unwrap().replace("return_to=%2F", &format!("return_to={encoded}"));
        let changed: Uri = format!("{APP}/.entrybook/callback?{query}").parse().unwrap();
        assert_eq!(at.callback(&api, &changed).await.is(303).header("location"), "/");
    }
}

/// What a browser fetches ahead or shows in a frame, nobody has asked for.
#[tokio::test]
async fn only_a_page_that_is_opened_hands_over() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let cookie = format!("entrybook_access={}", ada.access);
    let at = start(&api, APP, "/").await;
    let back = at.handed_over(&api, &ada).await;
    let count = async || {
        let count = sqlx::query_scalar("SELECT count(*) FROM hand_overs");
        let count: i64 = count.fetch_one(running.database.pool()).await.unwrap();
        count
    };
    let before = count().await;
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("purpose", "prefetch"),
        ("x-moz", "prefetch"),
        ("sec-fetch-dest", "iframe"),
        ("sec-fetch-dest", "image"),
        ("sec-fetch-dest", "empty"),
    ] {
        let ask = api.get(&at.path_at_login()).header("cookie", &cookie).header(name, value);
        ask.send().await.is(403);
        let path = format!("/hand-over/callback?{}", back.query().unwrap());
        let ask = api.get(&path).header("x-entrybook-application", APP).header(name, value);
        ask.header("cookie", format!("__Host-entrybook_start={}", at.start)).send().await.is(400);
        let ask = api.get("/hand-over/start").header("x-entrybook-application", APP);
        ask.header(name, value).send().await.is(400);
    }
    assert_eq!(count().await, before, "nothing was made, and nothing spent");
    let opened = api.get(&at.path_at_login()).header("cookie", &cookie);
    opened.header("sec-fetch-dest", "document").send().await.is(303);
    assert!(token(&at.callback(&api, &back).await.is(303)).is_some());
}

#[tokio::test]
async fn a_page_that_sends_a_browser_round_and_round_fills_nothing() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let at = start(&api, APP, "/").await;
    let mut last = at.handed_over(&api, &ada).await;
    for _ in 0..40 {
        last = at.handed_over(&api, &ada).await;
    }
    let count = sqlx::query_scalar("SELECT count(*) FROM hand_overs");
    let count: i64 = count.fetch_one(running.database.pool()).await.unwrap();
    assert_eq!(count, 20);
    assert!(token(&at.callback(&api, &last).await).is_some(), "the newest are kept");
    // Those that nobody came with are deleted at the next, whoever it is for.
    let aged = sqlx::query("UPDATE hand_overs SET made_at = made_at - interval '61 seconds'");
    aged.execute(running.database.pool()).await.unwrap();
    let ben = api.register("ben").await;
    at.handed_over(&api, &ben).await;
    let count = sqlx::query_scalar("SELECT count(*) FROM hand_overs");
    let count: i64 = count.fetch_one(running.database.pool()).await.unwrap();
    assert_eq!(count, 1);
}

/// Two tabs on their way at once have one cookie between them.
#[tokio::test]
async fn tabs_do_not_get_into_each_others_way() {
    let running = running().await;
    let api = running.api();
    let ada = api.register("ada").await;
    let first = start(&api, APP, "/first").await;
    let ask = api.get("/hand-over/start").header("x-entrybook-application", APP);
    let ask = ask.header("cookie", format!("__Host-entrybook_start={}", first.start));
    let answer = ask.header("x-original-uri", "/second").send().await.is(303);
    let (_, start, _) = answer.cookies().into_iter().next().unwrap();
    assert_eq!(start, first.start);
    let second =
        AtApp { application: APP, start, to_login: answer.header("location").parse().unwrap() };
    for (tab, path) in [(&second, "/second"), (&first, "/first")] {
        let back = tab.handed_over(&api, &ada).await;
        let answer = tab.callback(&api, &back).await.is(303);
        assert_eq!(answer.header("location"), path);
        assert!(token(&answer).is_some());
    }
}
