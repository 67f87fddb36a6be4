//! Standard output. Printing may fail: the reader of a pipe may have gone, and that is no fault of the verb.

use super::tame;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether anything was printed. What is printed behind a part of an answer would be read as part of it.
static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

/// Whether anything was printed on standard output.
pub(super) fn has_begun() -> bool {
    HAS_BEGUN.load(Ordering::Relaxed)
}

/// Where answers go. What strangers typed is among them, so nothing that is written as text steers a terminal.
pub(super) struct Out(Box<dyn Write + Send>);

impl Out {
    pub(super) fn standard() -> Self {
        Self(Box::new(io::stdout()))
    }

    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        HAS_BEGUN.store(true, Ordering::Relaxed);
        writeln!(self.0, "{}", tame::text(&text.to_string()))?;
        self.0.flush()
    }

    /// What must be exact, byte by byte, such as an export.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        HAS_BEGUN.store(true, Ordering::Relaxed);
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// For people.
    pub(super) fn table(&mut self, table: &comfy_table::Table) -> io::Result<()> {
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// For programs.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(tame::json(&text))
    }

    /// One part of a list, which is not held as a whole; the first begins it.
    pub(super) fn json_part(&mut self, is_first: bool, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        let before = if is_first { "[" } else { "," };
        HAS_BEGUN.store(true, Ordering::Relaxed);
        // In JSON no text has an end of a line in it.
        write!(self.0, "{before}\n  {}", tame::json(&text).replace('\n', "\n  "))?;
        self.0.flush()
    }

    /// Ends a list of parts.
    pub(super) fn json_end(&mut self, is_empty: bool) -> io::Result<()> {
        self.line(if is_empty { "[]" } else { "\n]" })
    }

    /// For programs that read one line at a time.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.line(tame::json(&text))
    }
}
