//! What all pages have in common: they render to HTML.

/// A page that could not be written. It names no personal data.
#[derive(Debug, thiserror::Error)]
#[error("a page could not be rendered: {0}")]
pub struct RenderError(#[from] askama::Error);

/// A page, ready to be written.
pub trait Page {
    /// The whole HTML document; every value in it is escaped.
    fn render(&self) -> Result<String, RenderError>;
}

impl<T: askama::Template> Page for T {
    fn render(&self) -> Result<String, RenderError> {
        Ok(askama::Template::render(self)?)
    }
}
