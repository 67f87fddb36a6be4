//! Whether this replica knows enough to sign.
//!
//! A data directory that is lost takes the memory of what was signed with it. A database that was restored
//! to a new machine from an older backup looks no different, and what is signed on top of it is a fork that
//! nothing takes back, while waiting costs nobody a sign-in. So a replica that remembers nothing of a log
//! that has signed before asks those who should know, its witnesses and its anchor file, and signs when one
//! of them has shown a checkpoint that the book agrees with. Where nobody is left who could, somebody says
//! `entrybook log resume` on that machine. Without a witness and a file there is nobody to ask.

use std::sync::{PoisonError, RwLock};

use commands::Origin;
use domain::ServiceEvent;

use super::{Log, LogError, Remembered, STREAM, anchors};
use crate::state::App;

/// Where this process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stands {
    /// It has not looked yet.
    #[default]
    Unknown,
    /// Nobody has said yet what was signed.
    Waits,
    /// What the table says next follows from what this process has seen.
    Firm,
}

#[derive(Default)]
pub(super) struct Footing(RwLock<Stands>);

impl Footing {
    fn get(&self) -> Stands {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stands: Stands) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = stands;
    }
}

impl Log {
    /// Whether what the table says may be remembered: before, it would look like something that was known.
    pub(super) fn is_firm(&self) -> bool {
        self.0.footing.get() == Stands::Firm
    }

    /// Whether it waits for somebody who knows what was signed.
    #[must_use]
    pub(super) fn waits(&self) -> bool {
        self.0.footing.get() == Stands::Waits
    }

    /// Whether somebody else has to be asked. Once this process has begun to follow the log it has not.
    async fn knows_nothing(&self) -> Result<bool, LogError> {
        if self.is_firm() {
            return Ok(false);
        }
        let known = self.known()?;
        let remembered = self.0.memory.read(&known).await?;
        if remembered != Remembered::Nothing || !self.0.anchors.remember() {
            return Ok(false);
        }
        let asked = sqlx::query_scalar("SELECT EXISTS (SELECT FROM checkpoints WHERE origin = $1)");
        Ok(asked.bind(known.origin()).fetch_one(&self.0.background).await?)
    }

    /// Takes the newest checkpoint of the database for what was signed last, where nothing is remembered on
    /// this machine and others could know: somebody has decided that. Answers how many lines it has.
    pub async fn take_for_signed(&self, by: &Origin) -> Result<Option<u64>, LogError> {
        if !self.knows_nothing().await? {
            return Ok(None);
        }
        let Some(last) = self.latest().await? else { return Ok(None) };
        let text = format!(
            "nothing was remembered here of the {} lines that the database has signed",
            last.size
        );
        let event = ServiceEvent::LogResumed { origin: self.origin()?, refusal: text };
        self.0.book.record(STREAM, event, by).await?;
        self.0.memory.keep(&*self.known()?, &last).await;
        match self.memory_problem() {
            Some(problem) => Err(LogError::Memory(problem)),
            None => Ok(Some(last.size)),
        }
    }
}

/// Whether this replica may take its turn; asks others where it knows nothing. `told` is what was said of
/// that last.
pub(super) async fn is_firm(app: &App, told: &mut Vec<String>) -> Result<bool, LogError> {
    let log = app.log();
    log.refresh().await?;
    if log.knows_nothing().await? {
        let heard = anchors::ask(app).await;
        if !heard.agrees {
            log.0.footing.set(Stands::Waits);
            if *told != heard.failures {
                tracing::warn!(
                    "this server remembers nothing of what the transparency log has signed, and signs when one of those who keep \
                     checkpoints has shown that the database is not an older one: {}",
                    heard.failures.join("; ")
                );
                *told = heard.failures;
            }
            log.tell_damage().await?;
            return Ok(false);
        }
        tracing::info!("what the database says was signed is not behind what others keep");
    }
    told.clear();
    log.0.footing.set(Stands::Firm);
    Ok(true)
}
