//! A real Chromium, with a profile of its own, led by ChromeDriver.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    scratch,
    server::{PATIENCE, client, eventually, free_port},
    tools,
};

pub struct Browser {
    pub client: Client,
    base: String,
    driver: Driver,
}

/// Whether pages may run scripts. One has one, and works without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JavaScript {
    On,
    Off,
}

/// A cookie as the browser keeps it.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cookie {
    pub name: String,
    pub value: String,
    pub path: String,
    pub domain: String,
    pub http_only: bool,
    pub secure: bool,
    pub same_site: Option<String>,
    /// In seconds since 1970; none for one that ends with the browser.
    pub expiry: Option<i64>,
}

impl Browser {
    /// On the pages of `base`, such as `http://localhost:8080`.
    pub async fn start(base: impl Into<String>, javascript: JavaScript) -> Self {
        let driver = Driver::start().await;
        let root = if nix::unistd::geteuid().is_root() { &["--no-sandbox"][..] } else { &[] };
        let profile = format!("--user-data-dir={}", driver.profile.path().display());
        let arguments = [
            "--headless",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-default-browser-check",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--window-size=1200,800",
            "--lang=en",
            // Headless or not, and of whichever version: the pages show it as the same browser.
            "--user-agent=Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 \
             Safari/537.36",
            &profile,
        ];
        let arguments: Vec<&str> = arguments.iter().chain(root).copied().collect();
        let scripts = if javascript == JavaScript::On { 1 } else { 2 };
        let capabilities = json!({
            "goog:chromeOptions": {
                "binary": tools::find("ENTRYBOOK_TEST_CHROMIUM", &["chromium", "chromium-browser", "google-chrome"], "browser"),
                "args": arguments,
                "prefs": {
                    "profile.managed_default_content_settings.javascript": scripts,
                    "credentials_enable_service": false,
                    "intl.accept_languages": "en",
                },
            },
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = ClientBuilder::new(connector)
            .capabilities(capabilities)
            .connect(&driver.url(""))
            .await
            .expect("Chromium starts");
        Self { client, base: base.into(), driver }
    }

    /// Closes it. Dropping it does so as well, less politely.
    pub async fn close(self) {
        self.client.clone().close().await.unwrap();
    }

    pub async fn open(&self, path: &str) {
        let url =
            if path.starts_with('/') { format!("{}{path}", self.base) } else { path.to_owned() };
        self.client.goto(&url).await.unwrap();
    }

    /// The path and query of the page that is shown.
    pub async fn at(&self) -> String {
        let url = self.client.current_url().await.unwrap();
        url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
    }

    /// Waits until a page with this path and query is shown.
    pub async fn arrives(&self, at: &str) {
        eventually(&format!("the page is {at}"), async || (self.at().await == at).then_some(()))
            .await;
    }

    /// All words that are shown.
    pub async fn text(&self) -> String {
        self.client.find(Locator::Css("body")).await.unwrap().text().await.unwrap()
    }

    /// Asserts that these words are shown.
    pub async fn shows(&self, words: &str) {
        let text = self.text().await;
        assert!(text.contains(words), "{words:?} is not shown at {}:\n{text}", self.at().await);
    }

    /// The notice on top of the page, or of its form; an empty text if there is none.
    pub async fn notice(&self) -> String {
        match self.client.find(Locator::Css(".notice")).await {
            Ok(notice) => notice.text().await.unwrap(),
            Err(_) => String::new(),
        }
    }

    /// Types into the field of this name, in place of what stands there.
    pub async fn fill(&self, field: &str, text: &str) {
        let field = self.client.find(Locator::Css(&format!("main [name={field}]"))).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    pub async fn choose(&self, field: &str, value: &str) {
        let field =
            self.client.find(Locator::Css(&format!("main select[name={field}]"))).await.unwrap();
        field.select_by_value(value).await.unwrap();
    }

    /// Presses the first button or link with this label, in the page or in its frame.
    pub async fn press(&self, label: &str) {
        self.press_within("", label).await;
    }

    /// The same, within what this XPath leads to.
    pub async fn press_within(&self, place: &str, label: &str) {
        let path = format!(
            "{place}//*[self::button or self::a or self::summary][normalize-space()={label:?}]"
        );
        let found = self.client.find(Locator::XPath(&path)).await;
        let Ok(button) = found else {
            panic!("there is no {label:?} at {}:\n{}", self.at().await, self.text().await)
        };
        let leads_away = button.tag_name().await.unwrap() != "summary";
        let page = self.client.find(Locator::Css("html")).await.unwrap();
        button.click().await.unwrap();
        // What is asked next is asked of the page that comes.
        if leads_away {
            let what = format!("the page after {label:?} is there");
            eventually(&what, async || page.tag_name().await.err().map(drop)).await;
            let what = format!("the page after {label:?} is complete");
            eventually(&what, async || {
                let state =
                    self.client.execute("return document.readyState", Vec::new()).await.ok()?;
                (state == "complete").then_some(())
            })
            .await;
        }
    }

    pub async fn sign_in(&self, identifier: &str, password: &str) {
        self.fill("identifier", identifier).await;
        self.fill("password", password).await;
        self.press_within("//main", "Sign in").await;
    }

    pub async fn cookies(&self) -> Vec<Cookie> {
        let answer = self.driver.get(&self.session().await, "cookie").await;
        serde_json::from_value(answer).unwrap()
    }

    pub async fn cookie(&self, name: &str) -> Option<Cookie> {
        self.cookies().await.into_iter().find(|cookie| cookie.name == name)
    }

    /// What the browser had to say since it was last asked: violations of the content security
    /// policy, files that are missing, mistakes. That a page is a refusal is none of these.
    pub async fn complaints(&self) -> Vec<String> {
        let body = json!({"type": "browser"});
        let entries = self.driver.post(&self.session().await, "se/log", body).await;
        let entries = entries.as_array().unwrap().iter();
        let lines = entries.map(|entry| entry["message"].as_str().unwrap().to_owned());
        let about_a_file =
            |line: &String| line.contains("/static/") || !line.contains("Failed to load resource");
        lines.filter(about_a_file).collect()
    }

    /// A command of the Chrome DevTools Protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.driver.post(&self.session().await, "goog/cdp/execute", body).await
    }

    /// The page as a PNG: what fits into the window, or all of it.
    pub async fn picture(&self, whole: bool) -> Vec<u8> {
        let parameters = json!({"format": "png", "captureBeyondViewport": whole});
        let picture = self.devtools("Page.captureScreenshot", parameters).await;
        STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }

    /// Runs a script in the page, past its policy, as only whoever leads the browser can.
    pub async fn ask(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    async fn session(&self) -> String {
        self.client.session_id().await.unwrap().unwrap()
    }
}

/// ChromeDriver, and whatever it has started. Both end with this value.
struct Driver {
    child: Child,
    port: u16,
    http: reqwest::Client,
    profile: TempDir,
}

impl Driver {
    async fn start() -> Self {
        let program = tools::find("ENTRYBOOK_TEST_CHROMEDRIVER", &["chromedriver"], "browser");
        let port = free_port();
        let child = Command::new(program)
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let driver = Self { child, port, http: client(), profile: scratch() };
        eventually("ChromeDriver is ready", async || {
            let answer = driver.http.get(driver.url("/status")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        driver
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, session: &str, command: &str) -> Value {
        let ask = self.http.get(self.url(&format!("/session/{session}/{command}")));
        let answer: Value = ask.send().await.unwrap().json().await.unwrap();
        answer["value"].clone()
    }

    async fn post(&self, session: &str, command: &str, body: Value) -> Value {
        let ask = self.http.post(self.url(&format!("/session/{session}/{command}"))).json(&body);
        let answer: Value = ask.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["value"].get("error"), None, "{command}: {answer}");
        answer["value"].clone()
    }

    /// The processes of our browser: nobody else has this profile.
    fn browsers(&self) -> Vec<i32> {
        let profile = self.profile.path().to_string_lossy().into_owned();
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&profile)
            })
            .collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Politely first: it then ends its browser by itself.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.browsers();
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
