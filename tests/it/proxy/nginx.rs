//! nginx, as its container starts it: rendered by `deploy/nginx/render`, in a directory of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::support::{
    scratch,
    server::{client, eventually},
    tools,
};

/// Ends with this value.
pub struct Nginx {
    pub port: u16,
    master: Child,
    directory: TempDir,
}

impl Nginx {
    pub async fn start(port: u16, entrybook: u16, origin: &str, application: u16) -> Self {
        let program = tools::find("ENTRYBOOK_TEST_NGINX", &["nginx"], "nginx");
        let directory = scratch();
        let rendered = directory.path().join("nginx");
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nginx");
        let path = std::env::var("PATH").unwrap_or_default();
        let beside = program.parent().unwrap().display().to_string();
        let status = Command::new(deploy.join("render"))
            .arg(&rendered)
            .env("PATH", format!("{path}:{beside}"))
            .env("NGINX_LISTEN", format!("127.0.0.1:{port}"))
            .env("NGINX_TLS_DIR", directory.path())
            .env("NGINX_UPSTREAM", format!("127.0.0.1:{entrybook}"))
            .env("NGINX_APP_ORIGIN", origin)
            .env("NGINX_APP_UPSTREAM", format!("127.0.0.1:{application}"))
            .env("NGINX_ACCESS_LOG", directory.path().join("access.log"))
            .env("NGINX_ERROR_LOG", directory.path().join("error.log"))
            .status()
            .unwrap();
        assert!(status.success(), "deploy/nginx/render: {status}");
        if nix::unistd::geteuid().is_root() {
            // Its workers let go of root, and must still get at what it keeps there.
            open_to_all(directory.path());
        }
        let master = Command::new(program)
            .args(["-e", "stderr", "-g", "daemon off;", "-c"])
            .arg(rendered.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut nginx = Self { port, master, directory };
        let http = client();
        let url = format!("http://127.0.0.1:{port}/healthz");
        eventually("nginx answers", async || {
            let ended = nginx.master.try_wait().unwrap();
            assert!(ended.is_none(), "nginx ended: {}", nginx.complaints());
            http.get(&url).send().await.ok().map(drop)
        })
        .await;
        nginx
    }

    /// What it wrote down of the requests.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default()
    }

    /// What went wrong, as far as it says.
    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    /// Both its voices; it has ended.
    fn complaints(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut stderr) = self.master.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
        }
        said + &self.error_log()
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It ends its workers itself.
        let _ = kill(Pid::from_raw(self.master.id() as i32), Signal::SIGTERM);
        let _ = self.master.wait();
    }
}
