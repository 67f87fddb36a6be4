//! The master key: given, in a file, or made at the first start of a private database.

use super::secret_file;
use crate::config::{Config, ConfigError, MasterKeySource};
use anyhow::Context;
use commands::clock::Entropy;
use commands::keyring::{MasterKey, MasterKeys};
use sqlx::PgPool;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const FILE: &str = "master.key";

/// Where the private database has its key, unless it is given.
fn default_file(config: &Config) -> PathBuf {
    config.data_dir.join(FILE)
}

/// The master key of this database, if there is one: nothing is made.
pub fn master_key_of(config: &Config) -> anyhow::Result<Option<MasterKey>> {
    match &config.master_key {
        Some(MasterKeySource::Given(key)) => Ok(Some(parse(key.expose(), "ENTRYBOOK_MASTER_KEY")?)),
        Some(MasterKeySource::File(path)) => Ok(Some(read(path)?)),
        None if config.database_url.is_some() => Ok(None),
        None => {
            let path = default_file(config);
            let there = path
                .try_exists()
                .with_context(|| format!("{} cannot be looked at", path.display()))?;
            if there { Ok(Some(read(&path)?)) } else { Ok(None) }
        }
    }
}

/// The other master key, while it is being changed.
pub fn previous_master_key_of(config: &Config) -> anyhow::Result<Option<MasterKey>> {
    match &config.previous_master_key {
        Some(MasterKeySource::Given(key)) => {
            Ok(Some(parse(key.expose(), "ENTRYBOOK_PREVIOUS_MASTER_KEY")?))
        }
        Some(MasterKeySource::File(path)) => Ok(Some(read(path)?)),
        None => Ok(None),
    }
}

/// The master key of this database, and the other one if there is one. A private database without any gets one.
pub(super) async fn find(
    config: &Config,
    pool: &PgPool,
    entropy: &dyn Entropy,
) -> anyhow::Result<MasterKeys> {
    let previous = previous_master_key_of(config)?;
    let key = match master_key_of(config)? {
        Some(key) => key,
        None => make(&default_file(config), pool, entropy).await?,
    };
    Ok(MasterKeys::new(key, previous))
}

/// Makes sure that a key which must be given is given, and sound: before anything is done to the database.
pub(super) fn require(config: &Config) -> anyhow::Result<()> {
    if config.database_url.is_some() && master_key_of(config)?.is_none() {
        return Err(ConfigError::one(
            "With DATABASE_URL a master key must be given, and there is none. If this database was used before, give the key that it was \
             made with: no other opens it. Else make one with\n    \
             openssl rand -base64 32 > master.key && chmod 600 master.key\nand set ENTRYBOOK_MASTER_KEY_FILE to that file (or \
             ENTRYBOOK_MASTER_KEY to its content). Keep a copy: without it the personal data in the database is lost. Every replica \
             needs the same one.",
        )
        .into());
    }
    previous_master_key_of(config).map(drop)
}

async fn make(path: &Path, pool: &PgPool, entropy: &dyn Entropy) -> anyhow::Result<MasterKey> {
    // A new key would not open what an old one has closed.
    let used: Option<String> = sqlx::query_scalar("SELECT master_key FROM sealing_keys LIMIT 1")
        .fetch_optional(pool)
        .await?;
    if let Some(used) = used {
        return Err(ConfigError::one(format!(
            "{} is missing, and the database was made with it (key {used}). Put it back from your backup, or give the key with \
             ENTRYBOOK_MASTER_KEY.",
            path.display()
        ))
        .into());
    }
    let key = MasterKey::generate(entropy);
    secret_file::create(path, &key.to_text())
        .with_context(|| format!("The master key could not be written to {}", path.display()))?;
    tracing::warn!(
        "a new master key was made: {}. Copy it to a safe place, apart from the database backups: without it nobody can read the personal \
         data in the database",
        path.display()
    );
    Ok(key)
}

fn read(path: &Path) -> anyhow::Result<MasterKey> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ConfigError::one(format!(
                "The master key file {shown} is not there. If this database was used before, put the key back that it was made with (is a \
                 volume not mounted?): no other opens it. Else make one with: openssl rand -base64 32 > {shown} && chmod 600 {shown}"
            ))
            .into());
        }
        Err(error) => {
            return Err(ConfigError::one(format!(
                "The master key file {shown} cannot be read: {error}."
            ))
            .into());
        }
    };
    // A warning and no refusal: secrets of containers are often mounted like that, and nobody else is in there.
    if secret_file::is_open_to_others(path) {
        tracing::warn!("others may read the master key file {shown}. Run: chmod 600 {shown}");
    }
    Ok(parse(&text, &format!("The master key file {shown}"))?)
}

fn parse(text: &str, name: &str) -> Result<MasterKey, ConfigError> {
    MasterKey::parse(text).map_err(|_| {
        ConfigError::one(format!(
            "{name} holds no master key: 32 bytes in base64 or hexadecimal. Make one with: openssl rand -base64 32"
        ))
    })
}
