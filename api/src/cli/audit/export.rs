//! `entrybook audit export`.

use super::super::{Out, Refused, with_services};
use super::Wanted;
use crate::bootstrap::Services;
use crate::config::Config;
use crate::export::{Asked, CannotResume, Export, ExportError, Format};
use crate::readings::Reading;
use anyhow::{Context as _, bail};
use indicatif::{HumanCount, ProgressBar};
use projections::journal;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind, Seek, SeekFrom, Write, stderr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// So much may be written before it is seen to that it is on the disk, and marked as good.
const UNMARKED: usize = 4 << 20;

#[derive(Debug, clap::Args)]
#[command(
    about = "Write the history to a file, with proofs, for a spreadsheet or for a SIEM",
    long_about = "Writes the lines of the history that pass the filter, up to the newest signed checkpoint.\n\n\
        jsonl has the lines as they are hashed, with personal data sealed: `entrybook audit verify FILE` proves them without a database and \
        without a network. csv is for spreadsheets, ocsf for a SIEM: one event a line. Both have personal data in the clear, and what belongs to \
        a person or a month that was erased as (erased).\n\n\
        A file is whole if it ends with its manifest, which the log has signed. That it was exported stands in the history.",
    after_help = "Examples:\n  entrybook audit export --out history.jsonl\n  entrybook audit export --out history.jsonl --resume\n  \
        entrybook audit export --format csv --user ada --from 2026-01-01 --out ada.csv\n  \
        entrybook audit export --format ocsf --type SignInFailed | siem-import"
)]
pub(super) struct Arguments {
    /// What the file is made of
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    #[command(flatten)]
    wanted: Wanted,
    /// Only lines after this one
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    after: u64,
    /// Where to; standard output where none is named
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Go on with FILE where an export of the same lines was broken off
    #[arg(long, requires = "out")]
    resume: bool,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    with_services(config, async |services| export(services, arguments, out).await).await
}

async fn export(services: &Services, arguments: &Arguments, out: &mut Out) -> anyhow::Result<()> {
    // It sees for itself that the tables show what it holds.
    services.catch_up(&[]).await?;
    let (filter, seen) = super::filter(services, &arguments.wanted).await?;
    let asked = Asked::new(arguments.format, filter, seen.as_ref(), arguments.after);
    let told = asked.told();
    let mut export = match Export::begin(&services.book, &services.log, asked).await {
        Err(error @ ExportError::NothingSigned) => return Err(Refused(error.to_string()).into()),
        other => other?,
    };
    let mut target = match &arguments.out {
        Some(path) => Target::File(Written::open(path, &mut export, arguments.resume)?),
        None => Target::Standard(out),
    };
    let reading = Reading::Exported { format: arguments.format.to_string(), up_to: export.up_to() };
    super::record(services, reading, told).await?;
    let bar = match arguments.out.is_some() {
        true => super::bar(export.up_to(), super::LINES),
        false => ProgressBar::hidden(),
    };
    while let Some(part) = export.next().await? {
        target.write(&part, &export)?;
        bar.set_position(export.position());
    }
    bar.finish_and_clear();
    let head = journal::head(&services.pool).await?.position.unsigned_abs();
    let up_to = export.up_to();
    let lines = HumanCount(export.lines());
    let mut words =
        format!("{lines} lines, of the {} up to the last checkpoint", HumanCount(up_to));
    if head > up_to {
        let behind = HumanCount(head - up_to);
        words = format!("{words}; {behind} lines behind it are not signed yet");
    }
    match seen.map(|seen| seen.months) {
        Some(Some((first, last))) => {
            words = format!("{words}; of the address, those of {first} to {last} can be found");
        }
        Some(None) => words = format!("{words}; of the address, none can be found any more"),
        None => {}
    }
    if let Target::File(written) = target {
        let path = written.end()?;
        // It is written; whether anybody reads this changes nothing.
        let _ = writeln!(stderr(), "{}: {words}.", path.display());
    }
    Ok(())
}

enum Target<'a> {
    Standard(&'a mut Out),
    File(Written),
}

impl Target<'_> {
    fn write(&mut self, part: &[u8], export: &Export) -> anyhow::Result<()> {
        match self {
            Self::Standard(out) => Ok(out.bytes(part)?),
            Self::File(written) => written.write(part, export),
        }
    }
}

/// A file, and beside it how far it is good, until it is whole.
struct Written {
    path: PathBuf,
    beside: PathBuf,
    file: File,
    /// How far it is, and not marked yet.
    mark: Option<Vec<u8>>,
    unmarked: usize,
}

impl Written {
    fn open(path: &Path, export: &mut Export, resume: bool) -> anyhow::Result<Self> {
        let beside = with(path, ".resume");
        // It holds what only auditors may see.
        let open =
            |options: &mut OpenOptions| options.read(true).write(true).mode(0o600).open(path);
        let file = match open(OpenOptions::new().create_new(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && resume => {
                let mut file = open(&mut OpenOptions::new())
                    .with_context(|| format!("{} could not be opened", path.display()))?;
                take_up(path, &beside, &mut file, export)?;
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(Refused(format!(
                "There is {} already. Name another file, or go on with it: --resume",
                path.display()
            ))),
            Err(error) => {
                return Err(error).with_context(|| format!("{} could not be made", path.display()));
            }
        };
        let mark = export.mark();
        let mut written = Self { path: path.to_owned(), beside, file, mark, unmarked: 0 };
        written
            .keep_mark()
            .with_context(|| format!("{} could not be written", written.beside.display()))?;
        Ok(written)
    }

    fn write(&mut self, part: &[u8], export: &Export) -> anyhow::Result<()> {
        let written = self.file.write_all(part).and_then(|()| {
            self.mark = export.mark();
            self.unmarked += part.len();
            if self.unmarked < UNMARKED { Ok(()) } else { self.keep_mark() }
        });
        written.with_context(|| {
            format!(
                "{} could not be written. What is in it stays; go on with it later: --resume",
                self.path.display()
            )
        })
    }

    /// Marks as good what was written: what is in the file by then will be signed.
    fn keep_mark(&mut self) -> std::io::Result<()> {
        // The end of an export is behind the last mark: with it, the file is whole.
        let Some(mark) = self.mark.take() else { return Ok(()) };
        self.file.sync_data()?;
        // In the place of the one before it at once: half of one would be none.
        let fresh = with(&self.beside, ".new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&mark)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.beside)?;
        self.unmarked = 0;
        Ok(())
    }

    /// It is whole.
    fn end(mut self) -> anyhow::Result<PathBuf> {
        self.mark = None;
        self.file.sync_all()?;
        fs::remove_file(&self.beside)?;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for Written {
    /// It was broken off: what is good of it is marked, so that no more than that is made again.
    fn drop(&mut self) {
        if let Err(error) = self.keep_mark() {
            tracing::debug!("how far the export is could not be written: {error}");
        }
    }
}

/// The path of another file beside one.
fn with(path: &Path, ending: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(ending);
    PathBuf::from(beside)
}

/// Goes on behind what is good of a file.
fn take_up(path: &Path, beside: &Path, file: &mut File, export: &mut Export) -> anyhow::Result<()> {
    let cannot = |why: &dyn std::fmt::Display| {
        Refused(format!("{} can't be gone on with: {why}", path.display()))
    };
    let mark = match fs::read(beside) {
        Ok(mark) => mark,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = format!(
                "there is no {} beside it, so it is whole, or no export that can be gone on with: export it again, to another file",
                beside.display()
            );
            bail!(cannot(&why));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{} could not be read", beside.display()));
        }
    };
    let taken = export.take_up(&mark, BufReader::new(&mut *file));
    let bytes = taken.map_err(|error| match error {
        CannotResume::Read(error) => anyhow::Error::from(error),
        other => cannot(&other).into(),
    })?;
    file.set_len(bytes)?;
    file.seek(SeekFrom::Start(bytes))?;
    Ok(())
}
