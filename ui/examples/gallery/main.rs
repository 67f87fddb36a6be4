//! Writes every page with invented data to a directory, to be looked at in a browser:
//! `cargo run -p entrybook-ui --example gallery -- OUT_DIR`.

use std::{env, error::Error, fs, path::PathBuf};

use ui::{Chrome, Locale, Page, pages::NotFoundPage, static_asset};

#[path = "../../tests/it/samples.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod samples;

fn main() -> Result<(), Box<dyn Error>> {
    let out: PathBuf = env::args().nth(1).ok_or("name the directory to write to")?.into();
    fs::create_dir_all(out.join("static"))?;
    for name in ["entrybook.css", "entrybook.svg"] {
        let asset = static_asset(&format!("/static/{name}")).ok_or("a static file is missing")?;
        fs::write(out.join("static").join(name), asset.bytes)?;
    }
    let css = address(&NotFoundPage { chrome: Chrome::new(Locale::En) }.render()?, ".css")?;
    let svg = address(&NotFoundPage { chrome: Chrome::new(Locale::En) }.render()?, ".svg")?;
    for (name, page) in samples::all(samples::PLAIN) {
        let html = page
            .render()?
            .replace(&css, "static/entrybook.css")
            .replace(&svg, "static/entrybook.svg");
        fs::write(out.join(format!("{name}.html")), html)?;
    }
    Ok(())
}

/// The versioned address in a page that ends like this.
fn address(html: &str, end: &str) -> Result<String, &'static str> {
    html.split('"')
        .find(|part| part.starts_with("/static/") && part.ends_with(end))
        .map(str::to_owned)
        .ok_or("a page names no such static file")
}
