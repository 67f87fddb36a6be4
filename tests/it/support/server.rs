//! The real `entrybook` binary, started, asked over HTTP, and ended in every way there is.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// How long a test waits for what must happen, before it says that it did not. Generous, because
/// machines are shared: nothing asserts on how long anything takes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls until `done` answers, or panics with `what`.
pub async fn eventually<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = done().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// What Cargo is to build for a program of the workspace. The example is there for the sake of the features: with
/// one, those that tests ask for count too, as where the tests are built, and what both need is compiled once.
pub fn building(program: &str) -> [&str; 8] {
    ["build", "--quiet", "--locked", "--workspace", "--bin", program, "--example", "gallery"]
}

/// The binary of this workspace, built once per run; nothing to do where it is fresh.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(building("entrybook"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .unwrap();
        assert!(built.success(), "cargo build --bin entrybook failed");
        let here = std::env::current_exe().unwrap();
        here.parent().and_then(Path::parent).unwrap().join("entrybook")
    })
}

/// A port that was free a moment ago, and is given to nobody else in this run: its server may be stopped
/// for a while and come back.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// How a server is started; starting again with the same one is a restart.
#[derive(Clone)]
pub struct Setup {
    pub port: u16,
    pub data_dir: PathBuf,
    /// `None`: it starts a private PostgreSQL in its data directory.
    pub database_url: Option<String>,
    pub extra: Vec<(String, String)>,
}

pub const MASTER_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub const ADMIN_PASSWORD: &str = "an admin for the tests";

impl Setup {
    /// On a database of the tests.
    pub fn on(database_url: &str, data_dir: &Path) -> Self {
        let mut setup = Self::private(data_dir);
        setup.database_url = Some(database_url.to_owned());
        setup.with("ENTRYBOOK_MASTER_KEY", MASTER_KEY)
    }

    /// With a private PostgreSQL.
    pub fn private(data_dir: &Path) -> Self {
        Self {
            port: free_port(),
            data_dir: data_dir.to_owned(),
            database_url: None,
            extra: Vec::new(),
        }
        .with("ENTRYBOOK_ADMIN_EMAIL", "admin@example.org")
        .with("ENTRYBOOK_ADMIN_USERNAME", "admin")
        .with("ENTRYBOOK_ADMIN_PASSWORD", ADMIN_PASSWORD)
    }

    /// Another replica: the same database, one public address, a port of its own.
    pub fn replica(&self) -> Self {
        Self { port: free_port(), ..self.clone() }
    }

    /// The address that people know, whichever replica answers.
    pub fn known_as(self, public_url: &str) -> Self {
        self.with("ENTRYBOOK_PUBLIC_URL", public_url)
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.extra.retain(|(k, _)| k != key);
        self.extra.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The command with nothing of this process's own settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (key, _) in std::env::vars() {
            if key.starts_with("ENTRYBOOK_") || key.starts_with("PG") || key == "DATABASE_URL" {
                command.env_remove(key);
            }
        }
        command
            .args(arguments)
            .env("ENTRYBOOK_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("ENTRYBOOK_DATA_DIR", &self.data_dir)
            .env("ENTRYBOOK_LOG", "warn,entrybook=info")
            .stdin(Stdio::null());
        if let Ok(bin) = std::env::var("ENTRYBOOK_TEST_POSTGRES_BIN") {
            command.env("ENTRYBOOK_POSTGRES_BIN", bin);
        }
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command.envs(self.extra.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> Server {
        let server = self.launch();
        server.ready().await;
        server
    }

    /// Starts it. What it prints goes to `<data_dir>/../server-<port>.log`.
    pub fn launch(&self) -> Server {
        std::fs::create_dir_all(&self.data_dir).unwrap();
        let log_path = self.data_dir.with_file_name(format!("server-{}.log", self.port));
        let log = std::fs::File::options().create(true).append(true).open(&log_path).unwrap();
        let child =
            self.command(&["serve"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Server { child, setup: self.clone(), log_path, http: client() }
    }
}

/// A client that follows nothing and keeps nothing: what a test sends is all there is.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // The server closes what is idle for 20 seconds.
        .pool_idle_timeout(Duration::from_secs(10))
        .timeout(Duration::from_secs(60))
        .no_proxy()
        .build()
        .unwrap()
}

/// The same for streams, which last for as long as somebody reads: silence alone ends them.
pub fn streaming_client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .read_timeout(PATIENCE)
        .no_proxy()
        .build()
        .unwrap()
}

/// A server that runs. Dropping it kills it.
pub struct Server {
    child: Child,
    setup: Setup,
    pub log_path: PathBuf,
    pub http: reqwest::Client,
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.setup.port)
    }

    pub fn port(&self) -> u16 {
        self.setup.port
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// Waits until `/readyz` says so; a server that ended meanwhile is shown with what it printed.
    pub async fn ready(&self) {
        let pid = self.child.id();
        eventually("the server is ready", async || {
            let alive = kill(Pid::from_raw(pid as i32), None).is_ok() && !is_zombie(pid);
            assert!(alive, "the server ended:\n{}", self.log());
            let answer = self.http.get(self.url("/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// SIGKILL: no goodbye.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The most memory that the process has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// SIGSTOP: it does nothing any more, and its connections stay as they are.
    pub fn freeze(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGSTOP).unwrap();
    }

    /// SIGCONT: it goes on where it was.
    pub fn thaw(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGCONT).unwrap();
    }

    /// SIGTERM, and what it ended with.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not stop:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    pub async fn post(&self, path: &str, body: Value) -> reqwest::Result<reqwest::Response> {
        self.http.post(self.url(path)).json(&body).send().await
    }

    pub async fn get(&self, path: &str, token: &str) -> reqwest::Result<reqwest::Response> {
        self.http.get(self.url(path)).bearer_auth(token).send().await
    }

    /// Registers `name`, which must succeed.
    pub async fn register(&self, name: &str) -> Tokens {
        Tokens::of(self.try_register(name).await.unwrap(), 201).await
    }

    /// Asks to register `name`.
    pub async fn try_register(&self, name: &str) -> reqwest::Result<reqwest::Response> {
        let body = json!({
            "email": format!("{name}@example.org"),
            "username": name,
            "password": format!("the password of {name}"),
        });
        self.post("/api/v1/auth/register", body).await
    }

    /// Signs `name` in, which must succeed.
    pub async fn sign_in(&self, name: &str) -> Tokens {
        self.sign_in_with(name, &format!("the password of {name}")).await
    }

    pub async fn sign_in_with(&self, identifier: &str, password: &str) -> Tokens {
        let body = json!({"identifier": identifier, "password": password});
        Tokens::of(self.post("/api/v1/auth/login", body).await.unwrap(), 200).await
    }

    pub async fn admin(&self) -> Tokens {
        self.sign_in_with("admin", ADMIN_PASSWORD).await
    }

    pub async fn refresh(&self, refresh_token: &str) -> reqwest::Result<reqwest::Response> {
        self.post("/api/v1/auth/refresh", json!({"refresh_token": refresh_token})).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// What signing in answers.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub user_id: String,
    pub session_id: String,
    pub access: String,
    pub refresh: String,
    pub body: Value,
}

impl Tokens {
    pub async fn of(answer: reqwest::Response, status: u16) -> Self {
        let got = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert_eq!(got, status, "{text}");
        Self::read(serde_json::from_str(&text).unwrap()).unwrap_or_else(|| panic!("{text}"))
    }

    pub fn read(body: Value) -> Option<Self> {
        Some(Self {
            user_id: body["user"]["id"].as_str()?.to_owned(),
            session_id: body["session_id"].as_str()?.to_owned(),
            access: body["access_token"].as_str()?.to_owned(),
            refresh: body["refresh_token"].as_str()?.to_owned(),
            body,
        })
    }
}
