//! Behind a real nginx, on the configuration that is shipped (`deploy/nginx`).

mod application;
mod limits;
mod nginx;
mod passing;
mod protecting;

use application::Application;
use nginx::Nginx;

use crate::support::{http::Api, shared::Running};

/// nginx in front of Entrybook and of an application that knows nothing of signing in. What ends
/// first stands first.
struct Front {
    nginx: Nginx,
    application: Application,
    entrybook: Running,
}

impl Front {
    async fn start() -> Self {
        let port = crate::support::server::free_port();
        let public_url = format!("http://localhost:{port}");
        let entrybook = Running::start(&[
            ("ENTRYBOOK_PUBLIC_URL", &public_url),
            ("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1"),
        ])
        .await;
        let application = Application::start().await;
        let nginx = Nginx::start(port, entrybook.server.port(), application.port).await;
        Self { nginx, application, entrybook }
    }

    /// Asking nginx.
    fn api(&self) -> Api {
        Api::new(format!("http://127.0.0.1:{}", self.nginx.port))
    }
}
