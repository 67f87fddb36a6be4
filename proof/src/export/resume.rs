//! Taking up an export that was broken off: what is there of it is read, and the next part follows it as
//! if nothing had happened.

use std::io::{self, BufRead};

use super::{Control, Header, MOST, RUN, VERSION, Writer, split};
use crate::{hash_of, subtrees};

/// No line of an export is longer.
const LONGEST: u64 = 1 << 20;

/// An export to go on with.
pub struct Resumed {
    pub writer: Writer,
    /// What was asked for when it was begun.
    pub header: Header,
    /// So many bytes of the file are good. What follows them was not written to its end, and is to be
    /// cut off.
    pub bytes: u64,
}

/// Why an export can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error("it could not be read: {0}")]
    Read(#[from] io::Error),
    #[error("it does not begin as an export does")]
    NoExport,
    #[error("it is whole already")]
    Whole,
    #[error("line {0} of the file is not as it was written")]
    Altered(u64),
}

impl Writer {
    /// Reads what there is of an export. Its lines are held against the hashes that stand before them,
    /// and these against the checkpoint when the export ends.
    pub fn resume(file: impl BufRead) -> Result<Resumed, ResumeError> {
        let mut file = Lines { file, line: Vec::new(), number: 0 };
        if !file.next()? {
            return Err(ResumeError::NoExport);
        }
        let header = match serde_json::from_slice(file.text()) {
            Ok(Control::Export(header)) if header.v == VERSION => header,
            _ => return Err(ResumeError::NoExport),
        };
        let (mut writer, mut bytes) = (Self::of(&header.origin), 0);
        writer.took(&file.line, &mut bytes);
        while file.next()? {
            let altered = ResumeError::Altered(file.number);
            let control = serde_json::from_slice(file.text());
            // What is not there to its end counts as not there at all.
            let (mut further, mut read) = (writer.clone(), bytes);
            further.took(&file.line, &mut read);
            let is_whole = match control {
                Ok(Control::Run { first, hashes }) if first == writer.next() => {
                    let hashes = split(&hashes).filter(|hashes| hashes.len() <= RUN);
                    further.take_run(&mut file, &hashes.ok_or(altered)?, &mut read)?
                }
                Ok(Control::Gap { first, last, hashes })
                    if first == writer.next() && (first..=MOST).contains(&last) =>
                {
                    let cuts: Vec<_> = subtrees(first - 1, last).collect();
                    let hashes = split(&hashes).filter(|hashes| hashes.len() == cuts.len());
                    for ((_, height), hash) in cuts.into_iter().zip(hashes.ok_or(altered)?) {
                        further.tree.push_subtree(height, hash);
                    }
                    true
                }
                Ok(Control::End { .. }) => return Err(ResumeError::Whole),
                _ => return Err(altered),
            };
            if !is_whole {
                break;
            }
            (writer, bytes) = (further, read);
        }
        Ok(Resumed { writer, header, bytes })
    }

    /// One line of the file was read.
    fn took(&mut self, line: &[u8], bytes: &mut u64) {
        use sha2::Digest as _;
        self.digest.update(line);
        *bytes += line.len() as u64;
    }

    /// Reads the leaves of a run; tells whether they are all there.
    fn take_run(
        &mut self,
        file: &mut Lines<impl BufRead>,
        hashes: &[crate::Hash],
        bytes: &mut u64,
    ) -> Result<bool, ResumeError> {
        for hash in hashes {
            if !file.next()? {
                return Ok(false);
            }
            if hash_of(file.text()) != *hash {
                return Err(ResumeError::Altered(file.number));
            }
            self.took(&file.line, bytes);
            self.tree.push(*hash, |_| {});
            self.lines += 1;
        }
        Ok(true)
    }
}

/// The file, line by line.
struct Lines<R> {
    file: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line; `false` where the file ends before the line does.
    fn next(&mut self) -> Result<bool, ResumeError> {
        self.line.clear();
        self.number += 1;
        let read = io::Read::take(&mut self.file, LONGEST).read_until(b'\n', &mut self.line)?;
        if read as u64 == LONGEST && !self.line.ends_with(b"\n") {
            return Err(ResumeError::Altered(self.number));
        }
        Ok(self.line.ends_with(b"\n"))
    }

    fn text(&self) -> &[u8] {
        self.line.strip_suffix(b"\n").unwrap_or(&self.line)
    }
}
