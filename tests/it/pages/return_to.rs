//! Where a browser goes after it has signed in: nowhere but here.

use crate::support::{
    http::{Answer, Api, password_of},
    shared::{Running, unique},
};

async fn sign_in(api: &Api, name: &str, query: &str, return_to: &str) -> Answer {
    let form = api.get(&format!("/sign-in{query}")).send().await.is(200);
    let cookies: Vec<_> =
        form.cookies().into_iter().map(|(name, value, _)| format!("{name}={value}")).collect();
    let (csrf, password) = (super::forgery::csrf_of(&form), password_of(name));
    let fields =
        [("identifier", name), ("password", &password), ("return_to", return_to), ("csrf", &csrf)];
    api.post("/sign-in").header("cookie", cookies.join("; ")).form(&fields).send().await
}

const ELSEWHERE: [&str; 16] = [
    "https://evil.example/",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/%09/evil.example",
    "/\t/evil.example",
    "/.//evil.example",
    "/a/..//evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "https:evil.example",
    " //evil.example",
    "/\r\nSet-Cookie: a=b",
    "http://localhost@evil.example/",
];

#[tokio::test]
async fn nobody_is_sent_to_another_site() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let ada = api.register(&name).await;
    let cookie = format!("entrybook_access={}", ada.access);
    for elsewhere in ELSEWHERE {
        let encoded: String = elsewhere.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let query = format!("?return_to={encoded}");
        let to = sign_in(&api, &name, &query, elsewhere).await.is(303);
        let location = to.header("location");
        // A path that begins with an encoded tab is a path of ours; all else goes home.
        assert!(
            location == "/" || (elsewhere == "/%09/evil.example" && location == elsewhere),
            "{elsewhere:?}: {location}"
        );
        // Whoever is signed in already is sent on at once.
        let on = api.get(&format!("/sign-in{query}")).header("cookie", &cookie).send().await;
        assert!(on.status == 303 || on.status == 422, "{}", on.status);
        let location = on.header("location");
        assert!(
            location.is_empty() || location == "/" || location == "/%09/evil.example",
            "{elsewhere:?}: {location}"
        );
    }
}

#[tokio::test]
async fn people_come_to_where_they_wanted() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    api.register(&name).await;
    let asked = api.get("/my-history?type=SessionStarted&order=oldest").send().await.is(303);
    let location = asked.header("location");
    assert_eq!(
        location,
        "/sign-in?return_to=%2Fmy-history%3Ftype%3DSessionStarted%26order%3Doldest"
    );
    let query = location.strip_prefix("/sign-in").unwrap();
    let form = api.get(location).send().await.is(200).text();
    assert!(form.contains(r#"name="return_to" value="/my-history?type=SessionStarted"#), "{form}");
    let to =
        sign_in(&api, &name, query, "/my-history?type=SessionStarted&order=oldest").await.is(303);
    assert_eq!(to.header("location"), "/my-history?type=SessionStarted&order=oldest");
    // Behind a proxy it may be an application beside us.
    assert_eq!(sign_in(&api, &name, "", "/app/").await.is(303).header("location"), "/app/");
}
