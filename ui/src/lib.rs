//! Everything a person sees: server-rendered pages, their texts, and the static files beside them.
//!
//! This crate knows none of the others. A page is a struct of plain view data that the caller
//! fills in, and [`Page::render`] turns it into HTML; which rows a person may see, and what a
//! button does, is decided elsewhere. Pages work without JavaScript, hold no inline script or
//! style, and take every visible text from `locales/`. What holds personal data or a token has no
//! `Debug`, so that it can't reach a log by accident.
//!
//! How to add a page: a struct in `pages/<noun>.rs` with a `chrome: Chrome` and a `title()`, its
//! template in `templates/<noun>.html`, its address in [`paths`], and a sample in
//! `tests/it/samples.rs`, by which every test of all pages and the gallery see it:
//!
//! ```
//! use ui::{Chrome, Locale, Page, pages::NotFoundPage};
//!
//! let page = NotFoundPage { chrome: Chrome::new(Locale::negotiate(None)) };
//! assert!(page.render()?.contains("<html lang=\"en\">"));
//! # Ok::<(), ui::RenderError>(())
//! ```

mod assets;
mod chrome;
mod event;
mod field;
mod form_problem;
mod locale;
mod moment;
mod notice;
mod page;
pub mod pages;
pub mod paths;
mod person;
mod problem;
mod query;
mod role;
mod session;
mod texts;
mod user_agent;

pub use assets::{Asset, static_asset};
pub use chrome::{Chrome, SignedIn};
pub use event::{
    Actor, EVENT_TYPES, HistoryRow, READING_TYPES, SERVICE_OUTCOMES, SESSION_END_REASONS,
    SESSION_METHODS, SIGN_IN_FAILURE_REASONS,
};
pub use form_problem::FormProblem;
pub use locale::Locale;
pub use moment::parse_filter_time;
pub use notice::Notice;
pub use page::{Page, RenderError};
pub use person::PersonRef;
pub use problem::Problem;
pub use role::Role;
pub use session::SessionView;
pub use texts::{Arg, Texts};
pub use user_agent::UserAgent;
