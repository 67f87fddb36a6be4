//! Every page as it looks: light, dark, and on a phone. The pictures are for people to look at
//! (`target/screenshots`); what a machine can see of them is asserted.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};

use crate::support::{
    browser::{Browser, JavaScript},
    held::{half_done, never_built, poison},
    http::{Api, Ask, password_of},
    server::{ADMIN_PASSWORD, Tokens, eventually},
    shared::Running,
    tools,
};

/// What somebody asks with, and from where.
type Device = (&'static str, &'static str);

const LAPTOP: Device =
    ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "192.0.2.17");
const PHONE: Device = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 \
     Mobile/15E148 Safari/604.1",
    "198.51.100.23",
);
const DESK: Device = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 \
     Edg/140.0.0.0",
    "198.51.100.4",
);
const TABLET: Device =
    ("Mozilla/5.0 (Android 15; Tablet; rv:140.0) Gecko/140.0 Firefox/140.0", "2001:db8:42::7");
const STRANGER: Device =
    ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "203.0.113.66");

fn by(ask: Ask, (agent, address): Device) -> Ask {
    ask.header("user-agent", agent).header("x-forwarded-for", address)
}

/// What the README shows: the page, its file there, and how much of it.
const PICTURES: [(&str, &str, u32); 4] = [
    ("sign-in", "sign-in", 720),
    ("overview", "dashboard", 800),
    ("history", "history", 980),
    ("projections", "projections", 830),
];

fn folder(path: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Some weeks in the life of four people, in a minute; the admin who looks after them.
async fn live(api: &Api) -> Tokens {
    let person = async |name: &str, full_name: &str, device: Device| {
        let body = json!({
            "email": format!("{name}@example.org"), "username": name, "full_name": full_name,
            "password": password_of(name),
        });
        by(api.post("/api/v1/auth/register"), device).json(body).send().await.tokens(201)
    };
    let sign_in = async |name: &str, password: &str, device: Device| {
        let body = json!({"identifier": name, "password": password, "remember_me": true});
        by(api.post("/api/v1/auth/login"), device).json(body).send().await
    };
    let ada = person("ada", "Ada Lovelace", LAPTOP).await;
    let grace = person("grace", "Grace Hopper", DESK).await;
    person("katherine", "Katherine Johnson", TABLET).await;
    let mallory = person("mallory", "", STRANGER).await;
    let phone: Tokens = sign_in("ada", &password_of("ada"), PHONE).await.tokens(200);
    sign_in("root@example.org", "password1", STRANGER).await.is(401);
    for n in 0..6 {
        sign_in("katherine", &format!("guess number {n}"), STRANGER).await;
    }
    let body = json!({"refresh_token": grace.refresh});
    by(api.post("/api/v1/auth/refresh"), DESK).json(body).send().await.is(200);
    let desk = sign_in("grace", &password_of("grace"), DESK).await.tokens(200);
    let old = format!("/api/v1/sessions/{}", grace.session_id);
    by(api.delete(&old), DESK).bearer(&desk.access).send().await.is(204);
    let admin = sign_in("admin", ADMIN_PASSWORD, DESK).await.tokens(200);
    let ask = |id: &str, action: &str| {
        by(api.post(&format!("/api/v1/admin/users/{id}/{action}")), DESK).bearer(&admin.access)
    };
    ask(&mallory.user_id, "disable").send().await.is(200);
    let roles = json!({"grant": ["auditor", "admin"]});
    ask(&ada.user_id, "roles").json(roles).send().await.is(200);
    for guess in ["password1", "ada1815!"] {
        sign_in("ada", guess, STRANGER).await.is(401);
    }
    let rename = json!({"full_name": "Ada King"});
    by(api.patch("/api/v1/auth/me"), PHONE).bearer(&phone.access).json(rename).send().await.is(200);
    admin
}

/// What a machine can see of a page that is not as it should be.
const LOOK: &str = r#"
    const wrong = [];
    const all = selector => [...document.querySelectorAll(selector)];
    const shown = element => element.checkVisibility();
    if (document.documentElement.scrollWidth > innerWidth)
        wrong.push(`wider than the window: ${document.documentElement.scrollWidth} of ${innerWidth}`);
    if (all('h1').length !== 1) wrong.push(`${all('h1').length} main headings`);
    if (!document.documentElement.lang) wrong.push('no language');
    if (!document.title) wrong.push('no title');
    for (const input of all('input:not([type=hidden]):not([aria-hidden]), select'))
        if (!input.labels.length && !input.ariaLabel) wrong.push(`no label: ${input.name}`);
    for (const image of all('img')) if (!image.hasAttribute('alt')) wrong.push(`no alt: ${image.src}`);
    for (const button of all('button, a'))
        if (!(button.textContent || button.ariaLabel || '').trim() && shown(button)) wrong.push(`no words: ${button.outerHTML}`);
    const ids = all('[id]').map(element => element.id);
    for (const id of ids.filter((id, at) => ids.indexOf(id) !== at)) wrong.push(`twice: #${id}`);
    for (const name of ['aria-describedby', 'aria-labelledby'])
        for (const element of all(`[${name}]`))
            for (const id of element.getAttribute(name).split(' '))
                if (!document.getElementById(id)) wrong.push(`${name} to nothing: #${id}`);
    // Contrast of the words against the nearest ground (WCAG 2.2, 1.4.3).
    const rgb = text => (text.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => {
        const part = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const ground = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour.length && colour[3] !== 0) return colour;
        }
        return [255, 255, 255];
    };
    for (const element of all('body *')) {
        const words = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!words || !shown(element) || element.closest('option, .skip, .unseen')) continue;
        const style = getComputedStyle(element);
        const [a, b] = [light(rgb(style.color)), light(ground(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const large = parseFloat(style.fontSize) >= 24;
        if (contrast < (large ? 3 : 4.5)) wrong.push(`contrast ${contrast.toFixed(2)}: ${element.innerText.slice(0, 40)}`);
    }
    return wrong;
"#;

async fn look(browser: &Browser, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (mode, width, scheme) in [
        ("light", 1200, "light"),
        ("dark", 1200, "dark"),
        ("phone", 390, "light"),
        ("phone-dark", 390, "dark"),
    ] {
        let size =
            json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500});
        browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        let seen = browser.ask(LOOK).await;
        wrong.extend(seen.as_array().unwrap().iter().map(|what| format!("{name}, {mode}: {what}")));
        let picture = browser.picture(true).await;
        std::fs::write(folder("target/screenshots").join(format!("{name}-{mode}.png")), picture)
            .unwrap();
        let wanted = PICTURES.iter().find(|(page, _, _)| *page == name && mode == "light");
        if let (Some((_, file, height)), true) =
            (wanted, std::env::var_os("ENTRYBOOK_TEST_PICTURES").is_some())
        {
            let size =
                json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
            browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
            let file = folder("docs/pictures").join(format!("{file}.png"));
            std::fs::write(file, browser.picture(false).await).unwrap();
        }
    }
    wrong
}

#[tokio::test]
async fn every_page_fits_and_can_be_read() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let api = running.api();
    let admin = live(&api).await;
    let browser = super::browser(&running, JavaScript::On).await;
    browser.devtools("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
    // As if Ada sat at her own desk.
    browser.devtools("Network.enable", json!({})).await;
    let headers = json!({"headers": {"X-Forwarded-For": "192.0.2.17"}});
    browser.devtools("Network.setExtraHTTPHeaders", headers).await;
    let mut wrong = Vec::new();
    browser.open("/sign-in").await;
    wrong.extend(look(&browser, "sign-in").await);
    browser.sign_in("nobody", "not the password").await;
    wrong.extend(look(&browser, "sign-in-refused").await);
    browser.open("/register").await;
    wrong.extend(look(&browser, "register").await);
    browser.fill("email", "ada@example.org").await;
    browser.fill("username", "ada").await;
    browser.fill("password", "long enough").await;
    browser.press("Create the account").await;
    wrong.extend(look(&browser, "register-refused").await);
    browser.open("/nothing-here").await;
    wrong.extend(look(&browser, "not-found").await);

    browser.open("/sign-in").await;
    browser.sign_in("ada@example.org", &password_of("ada")).await;
    browser.arrives("/").await;
    let projections = || api.get("/api/v1/admin/projections").bearer(&admin.access).send();
    eventually("the projections are level with the book", async || {
        let level = |projection: &Value| projection["lag_events"] == 0;
        projections().await.json()["projections"]
            .as_array()
            .unwrap()
            .iter()
            .all(level)
            .then_some(())
    })
    .await;
    for (path, name) in [
        ("/", "overview"),
        ("/sessions", "sessions"),
        ("/password", "password"),
        ("/profile", "profile"),
        ("/my-history", "my-history"),
        ("/history", "history"),
        ("/history?type=SignInFailed&from=2020-01-01&to=tomorrow", "history-refused"),
        ("/history/lines/3", "line"),
        ("/users", "users"),
        ("/users?q=nobody", "users-none"),
        ("/projections", "projections"),
        ("/nothing-here", "not-found-signed-in"),
    ] {
        browser.open(path).await;
        wrong.extend(look(&browser, name).await);
    }
    browser.open("/profile").await;
    browser.fill("username", "countess").await;
    browser.press("Save").await;
    browser.shows("Please give your current password").await;
    wrong.extend(look(&browser, "profile-refused").await);
    let link = format!(
        "data:text/html,<a href=\"{}\">Look</a>",
        running.server.url("/history?type=SignInFailed")
    );
    browser.open(&link.replace("127.0.0.1", "localhost")).await;
    browser.press("Look").await;
    browser.shows("Another site has sent you here").await;
    wrong.extend(look(&browser, "opened-elsewhere").await);
    browser.open("/sign-in").await;
    assert_eq!(browser.at().await, "/", "whoever is signed in has nothing to do there");
    browser.press("Sign out").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.open("/audit/state").await;
    wrong.extend(look(&browser, "state-people").await);
    browser.open("/audit/state?user=katherine@example.org").await;
    wrong.extend(look(&browser, "state").await);
    browser.open("/audit/state?user=ada&against=1").await;
    browser.press("Event before").await;
    wrong.extend(look(&browser, "state-compared").await);
    browser.open("/audit/state?user=nobody&at=yesterday").await;
    wrong.extend(look(&browser, "state-refused").await);
    browser.open("/history?address=203.0.113.0/24").await;
    wrong.extend(look(&browser, "history-address").await);
    browser.open("/users").await;
    browser.press("Manage").await;
    wrong.extend(look(&browser, "users-managed").await);
    let mallory = "//tr[td//span[normalize-space()='mallory']]";
    browser.open("/users").await;
    browser.press_within(mallory, "Manage").await;
    browser.press_within(mallory, "Erase this person").await;
    browser.fill("username", "nobody").await;
    browser.press("Erase for good").await;
    wrong.extend(look(&browser, "erase").await);
    browser.fill("username", "mallory").await;
    browser.press("Erase for good").await;
    browser.shows("This person is erased").await;
    let here = browser.at().await;
    eventually("the receipt can be had", async || {
        browser.open(&here).await;
        browser.text().await.contains("Download the receipt").then_some(())
    })
    .await;
    wrong.extend(look(&browser, "erased").await);

    // One that differs from the book, one that is rebuilt, and one that is stopped.
    let mut database = running.database.connect_options().connect().await.unwrap();
    let damage = "UPDATE ledger.users_v2 SET disabled = NOT disabled";
    sqlx::raw_sql(damage).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    let check = api.post("/api/v1/admin/projections/users/verify").bearer(&admin.access);
    check.send().await.is(202);
    let view = async |is_it: &dyn Fn(&Value) -> bool| {
        let view = projections().await.json();
        view["projections"].as_array().unwrap().iter().any(is_it).then_some(())
    };
    eventually("it is found to differ", async || {
        view(&|one| one["build"]["state"] == "differs").await
    })
    .await;
    let found =
        api.get("/api/v1/admin/users?q=katherine").bearer(&admin.access).send().await.json();
    poison(&running.database, found["users"][0]["id"].as_str().unwrap()).await;
    eventually("one is stopped", async || view(&|one| one["state"] == "stopped").await).await;
    browser.open("/history").await;
    browser.shows("The history shows the book up to line").await;
    wrong.extend(look(&browser, "history-behind").await);
    browser.open("/audit/state?user=ada").await;
    browser.shows("shows the book up to line").await;
    wrong.extend(look(&browser, "state-behind").await);
    let building = half_done(&running.database, "sessions").await;
    browser.open("/projections").await;
    browser.press("Repair …").await;
    wrong.extend(look(&browser, "projections-busy").await);
    building.close().await.unwrap();
    wrong.extend(browser.complaints().await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    browser.close().await;
}

/// A version's tables are made for the first time: what is read from them says so.
#[tokio::test]
async fn the_pages_of_tables_that_are_being_built_can_be_read() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let admin = live(&running.api()).await;
    let Running { server, setup, database, .. } = running;
    assert!(server.stop().await.success());
    let builder = never_built(&database).await;
    let server = setup.launch();
    eventually("tokens are good", async || {
        let me = server.get("/api/v1/auth/me", &admin.access).await.ok()?;
        (me.status() == 200).then_some(())
    })
    .await;
    let base = format!("http://localhost:{}", server.port());
    let browser = Browser::start(base, JavaScript::On).await;
    browser.devtools("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    let mut wrong = Vec::new();
    for (path, name, words) in [
        ("/", "overview-building", "It will be here in a moment"),
        ("/sessions", "sessions-building", "This is being put together from the history"),
        ("/my-history", "my-history-building", "This is being put together from the history"),
        ("/history", "history-building", "This is being put together from the history"),
        ("/users", "users-building", "This is being put together from the history"),
        ("/projections", "projections-building", "It is being built for the first time"),
    ] {
        browser.open(path).await;
        browser.shows(words).await;
        browser.shows("Sign out").await;
        wrong.extend(look(&browser, name).await);
    }
    wrong.extend(browser.complaints().await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    browser.close().await;
    builder.close().await.unwrap();
    server.ready().await;
}
