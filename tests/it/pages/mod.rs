//! The pages, as people use them in a browser, and as attackers abuse them.

mod admins;
mod cookies;
mod elsewhere;
mod erasing;
mod forgery;
mod handing_over;
mod people;
mod projections;
mod refusals;
mod return_to;
mod screenshots;
mod state;

use crate::support::{
    browser::{Browser, JavaScript},
    shared::Running,
};

/// A browser on the pages of a server, under the address that people use.
async fn browser(running: &Running, javascript: JavaScript) -> Browser {
    Browser::start(format!("http://localhost:{}", running.server.port()), javascript).await
}
