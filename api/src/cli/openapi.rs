//! `entrybook openapi`: the description of the API, from the very code that serves it.

use super::Out;
use anyhow::Context;

pub(super) fn run(out: &mut Out) -> anyhow::Result<()> {
    let text = crate::openapi().to_pretty_json().context("the description could not be written")?;
    Ok(out.line(text)?)
}
