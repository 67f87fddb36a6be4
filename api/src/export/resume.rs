//! Going on with an export that was broken off.
//!
//! What is in such a file will be signed. So nothing of it is taken at its word: beside it stands how far it
//! is as it was written, with a digest, and with a code that only this service can make.

use std::io::{self, BufRead, Read};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use proof::export::{ResumeError, Writer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Body, Export, Format, Step, jsonl::Lines, table::Rows};

/// What the key is derived for.
const PURPOSE: &str = "export";
/// So much of a file is read at once.
const BUFFER: usize = 1 << 16;

/// What an export was begun with. Only the same can go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    format: Format,
    origin: String,
    after: u64,
    filter: Option<Value>,
}

/// How far a file is as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    begun: Begun,
    /// So many bytes …
    bytes: u64,
    /// … with this SHA-256 …
    digest: String,
    /// … hold so many lines of the book, of those up to this one.
    lines: u64,
    position: u64,
}

/// A mark as it stands beside the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    mark: Mark,
    code: String,
}

/// Why an export can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum CannotResume {
    #[error("it could not be read: {0}")]
    Read(#[from] io::Error),
    #[error(
        "what stands beside it was not written by this Entrybook, or was changed; begin anew, in another file"
    )]
    Mark,
    #[error("it is not as it was written up to byte {0}; begin anew, in another file")]
    Altered(u64),
    #[error("it was begun with another filter, format or log; begin anew, in another file")]
    Other,
    #[error(
        "it goes up to line {position}, and only {size} lines are signed; begin anew, in another file"
    )]
    Beyond { position: u64, size: u64 },
}

/// The key of the code, and the code of a mark.
struct Sealing(Zeroizing<[u8; 32]>);

impl Sealing {
    fn mac(&self, mark: &Mark) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).ok()?;
        mac.update(&serde_json::to_vec(mark).ok()?);
        Some(mac)
    }

    fn seal(&self, mark: Mark) -> Option<Vec<u8>> {
        let code = BASE64.encode(self.mac(&mark)?.finalize().into_bytes());
        let mut kept = serde_json::to_vec(&Kept { mark, code }).ok()?;
        kept.push(b'\n');
        Some(kept)
    }

    fn open(&self, kept: &[u8]) -> Option<Mark> {
        let Kept { mark, code } = serde_json::from_slice(kept).ok()?;
        self.mac(&mark)?.verify_slice(&BASE64.decode(code).ok()?).ok()?;
        Some(mark)
    }
}

impl Export {
    fn begun(&self) -> Begun {
        Begun {
            format: self.asked.format,
            origin: self.source.signed.origin.clone(),
            after: self.asked.after,
            filter: self.asked.named.clone(),
        }
    }

    fn sealing(&self) -> Sealing {
        Sealing(self.source.book.keyring().service_secret(PURPOSE))
    }

    /// How far it is: to be kept beside the file when all of that is on the disk. Nothing behind its end.
    #[must_use]
    pub fn mark(&self) -> Option<Vec<u8>> {
        let digest = match &self.body {
            Body::Lines(lines) => lines.digest()?,
            Body::Rows(rows) => rows.digest(),
        };
        // Of nothing, as long as the header that is prepared was not handed out.
        let digest = if self.bytes == 0 { Sha256::digest(b"").into() } else { digest };
        self.sealing().seal(Mark {
            begun: self.begun(),
            bytes: self.bytes,
            digest: BASE64.encode(digest),
            lines: self.lines(),
            position: self.position,
        })
    }

    /// Goes on behind what there is in a file, as its mark says; so many bytes of it are good, and the rest
    /// is to be cut off.
    pub fn take_up(&mut self, mark: &[u8], file: impl BufRead) -> Result<u64, CannotResume> {
        let mark = self.sealing().open(mark).ok_or(CannotResume::Mark)?;
        let Mark { begun, bytes, digest, lines, position } = mark;
        if begun != self.begun() {
            return Err(CannotResume::Other);
        }
        let size = self.up_to();
        if position > size {
            return Err(CannotResume::Beyond { position, size });
        }
        if bytes == 0 {
            return Ok(0);
        }
        let (altered, mut file) = (CannotResume::Altered(bytes), file.take(bytes));
        let (body, found) = match self.asked.format {
            Format::Jsonl => {
                let resumed = match Writer::resume(file) {
                    Ok(resumed) if resumed.bytes == bytes => resumed,
                    Err(ResumeError::Read(error)) => return Err(error.into()),
                    Ok(_) | Err(_) => return Err(altered),
                };
                let found = resumed.writer.digest();
                (Body::Lines(Lines::resumed(resumed.writer)), found)
            }
            format @ (Format::Csv | Format::Ocsf) => {
                let (mut digest, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
                loop {
                    let read = file.read(&mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    digest.update(buffer.get(..read).unwrap_or_default());
                }
                let found = digest.clone().finalize().into();
                (Body::Rows(Rows::resumed(format, digest, lines)), found)
            }
        };
        if BASE64.encode(found) != digest {
            return Err(altered);
        }
        self.body = body;
        self.bytes = bytes;
        self.position = position;
        self.step = if position >= size { Step::End } else { Step::Lines };
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        let (origin, filter) = ("example.org/log".to_owned(), None);
        let begun = Begun { format: Format::Csv, origin, after: 0, filter };
        Mark { begun, bytes: 1_000, digest: BASE64.encode([1; 32]), lines: 7, position: 42 }
    }

    #[test]
    fn a_mark_is_believed_as_it_was_written_and_not_otherwise() {
        let sealing = Sealing(Zeroizing::new([1; 32]));
        let kept = String::from_utf8(sealing.seal(mark()).unwrap()).unwrap();
        assert_eq!(sealing.open(kept.as_bytes()), Some(mark()));
        for (from, to) in [
            ("\"bytes\":1000", "\"bytes\":2000"),
            ("\"lines\":7", "\"lines\":8"),
            ("\"position\":42", "\"position\":41"),
            ("example.org/log", "example.org/lag"),
            ("AQEB", "AQEC"),
        ] {
            let changed = kept.replacen(from, to, 1);
            assert_ne!(changed, kept);
            assert_eq!(sealing.open(changed.as_bytes()), None, "{from}");
        }
        assert_eq!(Sealing(Zeroizing::new([2; 32])).open(kept.as_bytes()), None, "another key");
        assert_eq!(sealing.open(b"{}"), None);
    }
}
