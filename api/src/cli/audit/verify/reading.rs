//! Reading a file of JSON Lines with all that the machine has.
//!
//! One thread reads, others look at lines by themselves, which is most of the work, and this one holds them
//! against each other in their order. What is on the way is bounded, whatever the file.

use indicatif::ProgressBar;
use proof::export::{Looked, Reader, look};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc;
use std::thread;

/// No line is longer.
const LONGEST: u64 = 1 << 20;
const BUFFER: usize = 1 << 20;
/// So many bytes are looked at in one go.
const BLOCK: usize = 1 << 18;
/// So many blocks wait for each thread.
const WAITING: usize = 2;
/// More threads than these would wait for the one that keeps the order.
const MOST: usize = 4;

/// The lines of a file that are whole.
pub(super) struct Lines {
    file: BufReader<File>,
    /// The file ends within a line.
    pub(super) cut_off: bool,
    pub(super) bar: ProgressBar,
}

impl Lines {
    pub(super) fn new(file: File, bar: ProgressBar) -> Self {
        Self { file: BufReader::with_capacity(BUFFER, file), cut_off: false, bar }
    }

    /// Appends the next one, with its line feed; nothing at the end. What is longer than any line can be
    /// comes in parts.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<()> {
        let before = line.len();
        let read = Read::take(&mut self.file, LONGEST).read_until(b'\n', line)?;
        if !line.ends_with(b"\n") && (read as u64) < LONGEST {
            self.cut_off |= read > 0;
            line.truncate(before);
        }
        Ok(())
    }

    fn block(&mut self) -> io::Result<Block> {
        let mut block = Block { bytes: Vec::with_capacity(BLOCK + BLOCK / 4), ends: Vec::new() };
        while block.bytes.len() < BLOCK {
            let before = block.bytes.len();
            self.next(&mut block.bytes)?;
            if block.bytes.len() == before {
                break;
            }
            block.ends.push(block.bytes.len());
        }
        self.bar.inc(block.bytes.len() as u64);
        Ok(block)
    }
}

/// Some lines, one after the other.
struct Block {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Block {
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).filter_map(|(begin, end)| self.bytes.get(begin..*end))
    }
}

/// Reads all lines that are left.
pub(super) fn read(lines: &mut Lines, reader: &mut Reader) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let (mut givers, mut takers) = (Vec::new(), Vec::new());
        // In turn, so that their answers come in the order of the file.
        for _ in 0..cores.clamp(1, MOST) {
            let (give, given) = mpsc::sync_channel::<Block>(WAITING);
            let (tell, told) = mpsc::sync_channel::<(Block, Vec<Looked>)>(WAITING);
            givers.push(give);
            takers.push(told);
            scope.spawn(move || {
                for block in given {
                    let looked = block.lines().map(look).collect();
                    if tell.send((block, looked)).is_err() {
                        return;
                    }
                }
            });
        }
        let reading = scope.spawn(move || {
            for give in givers.iter().cycle() {
                let block = lines.block()?;
                if block.ends.is_empty() || give.send(block).is_err() {
                    break;
                }
            }
            Ok(())
        });
        for told in takers.iter().cycle() {
            let Ok((block, looked)) = told.recv() else { break };
            for (line, looked) in block.lines().zip(looked) {
                reader.take(line, looked);
            }
        }
        // Whoever panicked is told by the scope, when it ends.
        reading.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread broke off")))
    })
}
