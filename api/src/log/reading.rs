//! The checkpoints that were signed, as they are read.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use projections::transparency::{self, TransparencyError};
use proof::{Checkpoint, Hash};
use sqlx::PgConnection;
use tokio::sync::Mutex;

use super::{Known, Log, LogError};

/// For so long one look answers everybody who asks over HTTP …
const FRESH: Duration = Duration::from_millis(500);
/// … and who asks for lines beyond what it has shown is made to wait so long for the next one.
const AGAIN: Duration = Duration::from_millis(50);

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

/// How many checkpoints are looked through for one that all witnesses have cosigned: who is away for longer
/// is not waited for.
const LOOKED_THROUGH: i64 = 100;

/// The newest checkpoint that all of these have cosigned, by the keys that their lines stand under.
async fn newest_cosigned(
    connection: &mut PgConnection,
    known: &Known,
    witnesses: &[String],
) -> Result<Option<Signed>, LogError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT origin, size, root, note, signed_at, ARRAY(
                    SELECT line FROM cosignatures
                     WHERE cosignatures.origin = latest.origin AND cosignatures.size = latest.size
                     ORDER BY witness) AS cosignatures
           FROM (SELECT * FROM checkpoints WHERE origin = $1 ORDER BY size DESC LIMIT $3) AS latest
          WHERE (SELECT count(*) FROM cosignatures
                  WHERE cosignatures.origin = latest.origin AND cosignatures.size = latest.size
                    AND witness = ANY ($2)) = cardinality($2)
          ORDER BY size DESC LIMIT 1",
    )
    .bind(known.origin())
    .bind(witnesses)
    .bind(LOOKED_THROUGH)
    .fetch_optional(connection)
    .await?;
    row.map(|row| row.verify(known)).transpose()
}

/// The newest checkpoint of a log, if it is as one of its keys has signed it. Whoever may write to the
/// table can put anything there, and what is read here is served, remembered and anchored: so no row is
/// believed for itself.
pub(super) async fn newest(
    connection: &mut PgConnection,
    known: &Known,
) -> Result<Option<Signed>, LogError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT origin, size, root, note, signed_at,
                ARRAY(SELECT line FROM cosignatures
                       WHERE cosignatures.origin = checkpoints.origin
                         AND cosignatures.size = checkpoints.size
                       ORDER BY witness) AS cosignatures
           FROM checkpoints WHERE origin = $1 ORDER BY size DESC LIMIT 1",
    )
    .bind(known.origin())
    .fetch_optional(connection)
    .await?;
    row.map(|row| row.verify(known)).transpose()
}

impl Row {
    fn verify(self, known: &Known) -> Result<Signed, LogError> {
        let unsigned = || LogError::Unsigned { origin: self.origin.clone(), size: self.size };
        let believe = |note: &[u8]| Checkpoint::verify(note, &self.origin, &known.verifier_keys);
        let noted = believe(&self.note).map_err(|_| unsigned())?;
        if i64::try_from(noted.size).ok() != Some(self.size) || noted.root.0.as_slice() != self.root
        {
            return Err(unsigned());
        }
        let Checkpoint { origin, size, root } = noted;
        let Row { note, signed_at, cosignatures, .. } = self;
        let mut signed = Signed { origin, size, root, note, signed_at, cosignatures };
        // A line that is none would spoil the note for everybody who reads it.
        let whole =
            Checkpoint::verify(&signed.with_cosignatures(), &signed.origin, &known.verifier_keys);
        if whole.is_err() {
            signed.cosignatures.clear();
        }
        Ok(signed)
    }
}

/// The root of the first `size` lines of those that were signed, by the tree. Nothing, where the tree does
/// not come so far yet, or is not the one that was signed: a damaged tree tells nothing of the past, and
/// the signer says that it is damaged.
pub(super) async fn root_within(
    connection: &mut PgConnection,
    last: &Signed,
    size: u64,
) -> Result<Option<Hash>, LogError> {
    if size == last.size {
        return Ok(Some(last.root));
    }
    let told = async {
        if size > last.size || transparency::size(connection).await? < last.size {
            return Ok(None);
        }
        let root = transparency::root(connection, size).await?;
        let path = transparency::prove_consistency(connection, last.size, size).await?;
        let follows = proof::is_consistent(path, last.size, last.root, size, root);
        Ok(follows.then_some(root))
    };
    match told.await {
        Err(error) if is_damage(&error) => Ok(None),
        told => Ok(told?),
    }
}

/// Whether waiting won't mend it.
pub(super) fn is_damage(error: &TransparencyError) -> bool {
    !matches!(error, TransparencyError::Database(_) | TransparencyError::NotRegistered)
}

/// The last look at the newest checkpoint.
#[derive(Default)]
pub(super) struct Recent {
    seen: RwLock<Option<(Instant, Option<Signed>)>>,
    /// One looks, and the others take what it has seen.
    turn: Mutex<()>,
}

impl Recent {
    fn seen(&self) -> Option<(Instant, Option<Signed>)> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was seen last, where it is of this log, not old, and covers so many lines; else what `look`
    /// sees. However many ask for lines that nobody has signed, it is looked now and then.
    async fn covering<E>(
        &self,
        origin: &str,
        lines: u64,
        look: impl AsyncFnOnce() -> Result<Option<Signed>, E>,
    ) -> Result<Option<Signed>, E> {
        let asked = Instant::now();
        let covers = |signed: &Signed| signed.size >= lines && signed.origin == origin;
        let known = || {
            let seen = self.seen().filter(|(at, _)| at.elapsed() < FRESH);
            seen.and_then(|(_, signed)| signed).filter(covers)
        };
        if let Some(signed) = known() {
            return Ok(Some(signed));
        }
        let _turn = self.turn.lock().await;
        if let Some(signed) = known() {
            return Ok(Some(signed));
        }
        if let Some((at, signed)) = self.seen() {
            if at >= asked {
                return Ok(signed);
            }
            tokio::time::sleep(AGAIN.saturating_sub(at.elapsed())).await;
        }
        // What is signed from here on may be missed; what was signed before is not.
        let begun = Instant::now();
        let signed = look().await?;
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        *seen = Some((begun, signed.clone()));
        Ok(signed)
    }
}

impl Log {
    /// The newest checkpoint for whoever asks over HTTP; it may be half a second old.
    pub async fn recent(&self) -> Result<Option<Signed>, LogError> {
        self.recent_of(0).await
    }

    /// The same, and looks again where what was seen last covers fewer lines than these: another
    /// replica may have shown more already.
    pub async fn recent_of(&self, lines: u64) -> Result<Option<Signed>, LogError> {
        self.0.recent.covering(&self.origin()?, lines, async || self.latest().await).await
    }

    /// The checkpoint to prove a line with: a proof is kept, so rather one that all witnesses have cosigned, if
    /// there is one among the last that covers the line. Else the newest, which may not cover it.
    pub async fn for_proof(&self, lines: u64) -> Result<Option<Signed>, LogError> {
        let witnesses = self.0.anchors.shorts();
        if !witnesses.is_empty() {
            let look = async || {
                let mut connection = self.0.book.pool().acquire().await?;
                newest_cosigned(&mut connection, &*self.known()?, &witnesses).await
            };
            let signed = self.0.cosigned.covering(&self.origin()?, lines, look).await?;
            if let Some(signed) = signed.filter(|signed| signed.size >= lines) {
                return Ok(Some(signed));
            }
        }
        self.recent_of(lines).await
    }

    /// Looks again when it is asked next: there is a cosignature more.
    pub(super) fn forget_recent(&self) {
        for recent in [&self.0.recent, &self.0.cosigned] {
            *recent.seen.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicU32, Ordering},
    };

    use futures_util::future::join_all;

    use super::*;

    fn signed(size: u64) -> Signed {
        Signed {
            origin: "a".into(),
            size,
            root: Hash([0; 32]),
            note: Vec::new(),
            signed_at: DateTime::UNIX_EPOCH,
            cosignatures: Vec::new(),
        }
    }

    #[tokio::test]
    async fn one_looks_for_all_who_ask_for_what_nobody_has_signed() {
        let (recent, looks) = (Recent::default(), AtomicU32::new(0));
        let ask = async |lines| {
            let look = async || {
                looks.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(Some(signed(7)))
            };
            let Ok(seen) = recent.covering("a", lines, look).await;
            seen.map(|signed| signed.size)
        };
        assert_eq!(ask(7).await, Some(7));
        assert_eq!(ask(7).await, Some(7), "what was seen is known");
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        // They are told what there is, and that after they asked somebody has looked.
        let told = join_all((0..100).map(|_| ask(1_000_000))).await;
        assert!(told.iter().all(|size| *size == Some(7)), "{told:?}");
        // One more, where the machine let it wait so long that the first had looked before the others asked.
        let before = looks.load(Ordering::Relaxed);
        assert!((2..=3).contains(&before), "{before}");
        assert_eq!(ask(8).await, Some(7), "another replica may have signed it");
        assert_eq!(looks.load(Ordering::Relaxed), before + 1);
    }

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
