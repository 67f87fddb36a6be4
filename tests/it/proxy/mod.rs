//! Behind a real nginx, on the configuration that is shipped (`deploy/nginx`).

mod application;
mod handing_over;
mod limits;
mod nginx;
mod passing;
mod protecting;

use application::Application;
use nginx::Nginx;

use crate::support::{http::Api, server::Tokens, shared::Running};

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
        let origin = format!("http://app.localhost:{port}");
        let entrybook = Running::start(&[
            ("ENTRYBOOK_PUBLIC_URL", &public_url),
            ("ENTRYBOOK_APPLICATIONS", &origin),
            ("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1"),
        ])
        .await;
        let application = Application::start().await;
        let nginx = Nginx::start(port, entrybook.server.port(), &origin, application.port).await;
        Self { nginx, application, entrybook }
    }

    /// Asking nginx, at the host of the login.
    fn api(&self) -> Api {
        Api::new(format!("http://127.0.0.1:{}", self.nginx.port))
    }

    /// Host and port of the application, as browsers name them.
    fn app_host(&self) -> String {
        format!("app.localhost:{}", self.nginx.port)
    }

    /// Where people go who are sent to an address at the host of the login.
    fn at_login(&self, location: &str) -> String {
        let login = format!("http://localhost:{}", self.nginx.port);
        location.strip_prefix(&login).unwrap_or_else(|| panic!("{location}")).to_owned()
    }

    fn at_app(&self, location: &str) -> String {
        let app = format!("http://{}", self.app_host());
        location.strip_prefix(&app).unwrap_or_else(|| panic!("{location}")).to_owned()
    }

    /// A browser in which somebody is signed in opens the application for the first time: the cookies that it has
    /// there afterwards.
    async fn enter(&self, who: &Tokens) -> String {
        let (api, host) = (self.api(), self.app_host());
        let ask = api.get("/").header("host", &host).header("accept", "text/html");
        let off = ask.send().await.is(303);
        let (name, start, _) = off.cookies().into_iter().next().unwrap();
        let start = format!("{name}={start}");
        let login = format!("entrybook_access={}", who.access);
        let ask = api.get(&self.at_login(off.header("location"))).header("cookie", login);
        let back = ask.send().await.is(303);
        let ask = api.get(&self.at_app(back.header("location"))).header("host", &host);
        let on = ask.header("cookie", &start).send().await.is(303);
        let (name, app, _) = on.cookies().into_iter().next().unwrap();
        format!("{start}; {name}={app}")
    }
}
