//! Going on with an export that was broken off.

use std::io::{self, BufRead};

use proof::export::{ResumeError, Writer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Body, Export, Format, Step,
    jsonl::Lines,
    table::{Rows, TableReader},
};

/// What an export was begun with. Only the same can go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    pub format: Format,
    pub origin: String,
    pub after: u64,
    pub filter: Option<Value>,
}

/// Why an export can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum CannotResume {
    #[error("it could not be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is whole already")]
    Whole,
    #[error("line {0} of it is not as it was written; begin anew, in another file")]
    Altered(u64),
    #[error("it was begun with another filter, format or log; begin anew, in another file")]
    Other,
    #[error(
        "it goes up to line {position}, and only {size} lines are signed; begin anew, in another file"
    )]
    Beyond { position: u64, size: u64 },
}

impl From<ResumeError> for CannotResume {
    fn from(error: ResumeError) -> Self {
        match error {
            ResumeError::Read(error) => Self::Read(error),
            ResumeError::NoExport => Self::Other,
            ResumeError::Whole => Self::Whole,
            ResumeError::Altered(line) => Self::Altered(line),
        }
    }
}

impl Export {
    /// What it is begun with.
    #[must_use]
    pub fn begun(&self) -> Begun {
        Begun {
            format: self.asked.format,
            origin: self.source.signed.origin.clone(),
            after: self.asked.after,
            filter: self.asked.named.clone(),
        }
    }

    /// Goes on behind what there is in a file; so many bytes of it are good, and the rest is to be cut
    /// off. Of a file in which there is nothing yet, that is 0.
    pub fn take_up(&mut self, mut file: impl BufRead) -> Result<u64, CannotResume> {
        let (body, position, bytes) = match self.asked.format {
            Format::Jsonl => {
                let mut first = Vec::new();
                file.read_until(b'\n', &mut first)?;
                if !first.ends_with(b"\n") {
                    return Ok(0);
                }
                let resumed = Writer::resume(io::Read::chain(first.as_slice(), file))?;
                let header = &resumed.header;
                if header.origin != self.source.signed.origin || header.filter != self.asked.named {
                    return Err(CannotResume::Other);
                }
                let position = resumed.writer.next() - 1;
                (Body::Lines(Lines::resumed(resumed.writer)), position, resumed.bytes)
            }
            Format::Csv | Format::Ocsf => {
                let mut line = Vec::new();
                file.read_until(b'\n', &mut line)?;
                if !line.ends_with(b"\n") {
                    return Ok(0);
                }
                let mut reader = TableReader::of(&line).ok_or(CannotResume::Other)?;
                while !line.is_empty() {
                    reader.line(&line);
                    line.clear();
                    file.read_until(b'\n', &mut line)?;
                }
                if reader.has_ended() {
                    return Err(CannotResume::Whole);
                }
                let position = reader.position().unwrap_or(self.asked.after);
                (Body::Rows(Rows::resumed(&reader)), position, reader.bytes())
            }
        };
        let size = self.up_to();
        if position > size {
            return Err(CannotResume::Beyond { position, size });
        }
        self.body = body;
        self.position = position.max(self.asked.after);
        self.step = if position >= size { Step::End } else { Step::Lines };
        Ok(bytes)
    }
}
