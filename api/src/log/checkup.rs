//! A look at all that the log needs, for `entrybook doctor`: by a process that is no server, and changes
//! nothing.

use std::{fs, io, path::Path};

use chrono::{DateTime, Utc};
use commands::{keyring::Keyring, log_keys::LogKeys};
use nix::unistd::{AccessFlags, access};
use proof::Checkpoint;
use sqlx::PgPool;

use super::{
    Known, LogError, Status,
    anchors::{self, AnchorSettings, WitnessAddress},
    memory::FOLDER,
    status,
};

/// What was found.
pub struct Checkup {
    pub status: Status,
    /// Whether a key is there that signs.
    pub can_sign: bool,
    /// Whether a server with this data directory, run by who runs this, could remember what was signed.
    pub memory: io::Result<()>,
    /// What each witness shows.
    pub witnesses: Vec<(WitnessAddress, Result<Checkpoint, String>)>,
    /// Whether the anchor file can be written.
    pub file: Option<io::Result<()>>,
}

/// Looks; nothing where no log has begun.
pub async fn look(
    pool: &PgPool,
    keyring: &Keyring,
    data_dir: &Path,
    settings: &AnchorSettings,
    now: DateTime<Utc>,
) -> Result<Option<Checkup>, LogError> {
    let mut connection = pool.acquire().await?;
    let Some(keys) = LogKeys::read(&mut connection, keyring).await? else { return Ok(None) };
    let known = Known::of(keys)?;
    let status = status::read(&mut connection, &known, &settings.shorts(), now).await?;
    drop(connection);
    Ok(Some(Checkup {
        status,
        can_sign: known.keys.signer(now).is_some(),
        memory: may_be_written(&data_dir.join(FOLDER)),
        witnesses: anchors::shown(settings, known.origin(), &known.verifier_keys).await,
        file: settings.file.as_deref().map(may_be_written),
    }))
}

/// Whether this may be written to, or made: by the folder that is nearest to it.
fn may_be_written(path: &Path) -> io::Result<()> {
    let there = path.ancestors().find(|path| fs::symlink_metadata(path).is_ok());
    let there = match there {
        None => Path::new("."),
        Some(there) if there.as_os_str().is_empty() => Path::new("."),
        Some(there) => there,
    };
    access(there, AccessFlags::W_OK).map_err(io::Error::from)
}
