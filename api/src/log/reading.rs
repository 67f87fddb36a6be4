//! The checkpoints that were signed, as they are read.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use proof::Hash;
use sqlx::PgConnection;
use tokio::sync::Mutex;

use super::{Log, LogError};

/// For so long one look answers everybody who asks over HTTP.
const FRESH: Duration = Duration::from_millis(500);

/// A checkpoint that was signed and stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Signed {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// As the log signed it.
    pub note: Vec<u8>,
    pub signed_at: DateTime<Utc>,
    /// The lines of the witnesses.
    pub cosignatures: Vec<String>,
}

impl Signed {
    /// The note with the lines of the witnesses after the log's own.
    #[must_use]
    pub fn with_cosignatures(&self) -> Vec<u8> {
        let mut note = self.note.clone();
        for line in &self.cosignatures {
            note.extend_from_slice(line.trim_end_matches('\n').as_bytes());
            note.push(b'\n');
        }
        note
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    origin: String,
    size: i64,
    root: Vec<u8>,
    note: Vec<u8>,
    signed_at: DateTime<Utc>,
    cosignatures: Vec<String>,
}

/// The newest checkpoint of a log.
pub(super) async fn newest(
    connection: &mut PgConnection,
    origin: &str,
) -> Result<Option<Signed>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT origin, size, root, note, signed_at,
                ARRAY(SELECT line FROM cosignatures
                       WHERE cosignatures.origin = checkpoints.origin
                         AND cosignatures.size = checkpoints.size
                       ORDER BY witness) AS cosignatures
           FROM checkpoints WHERE origin = $1 ORDER BY size DESC LIMIT 1",
    )
    .bind(origin)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let decode = |what: &str| sqlx::Error::Decode(format!("a checkpoint has no {what}").into());
    let root: [u8; 32] = row.root.try_into().map_err(|_| decode("root of 32 bytes"))?;
    Ok(Some(Signed {
        origin: row.origin,
        size: u64::try_from(row.size).map_err(|_| decode("size"))?,
        root: Hash(root),
        note: row.note,
        signed_at: row.signed_at,
        cosignatures: row.cosignatures,
    }))
}

/// The last look at the newest checkpoint.
#[derive(Default)]
pub(super) struct Recent(Mutex<Option<(Instant, Option<Signed>)>>);

impl Log {
    /// The newest checkpoint for whoever asks over HTTP; it may be half a second old.
    pub async fn recent(&self) -> Result<Option<Signed>, LogError> {
        self.recent_of(0).await
    }

    /// The same, and looks at once where what was seen last covers fewer lines than these: another
    /// replica may have shown more already.
    pub async fn recent_of(&self, lines: u64) -> Result<Option<Signed>, LogError> {
        let origin = self.origin()?;
        let mut recent = self.0.recent.0.lock().await;
        if let Some((at, signed)) = &*recent
            && at.elapsed() < FRESH
            && signed.as_ref().is_some_and(|signed| signed.size >= lines && signed.origin == origin)
        {
            return Ok(signed.clone());
        }
        let signed = self.latest().await?;
        *recent = Some((Instant::now(), signed.clone()));
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witnesses_stand_after_the_log() {
        let signed = Signed {
            origin: "a".into(),
            size: 1,
            root: Hash([0; 32]),
            note: "a\n1\nAA=\n\n— a x\n".into(),
            signed_at: DateTime::UNIX_EPOCH,
            cosignatures: vec!["— w y".into(), "— v z\n".into()],
        };
        let note = String::from_utf8(signed.with_cosignatures()).unwrap();
        assert_eq!(note, "a\n1\nAA=\n\n— a x\n— w y\n— v z\n");
    }
}
