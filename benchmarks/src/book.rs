//! An Entrybook on a database of the cluster: what `serve` would make of it, but for HTTP.

use std::sync::Arc;

use anyhow::Result;
use chrono::{DateTime, Utc};
use commands::{
    Entrybook, Hourly, Settings,
    clock::{Clock, Entropy, ManualClock, SystemEntropy},
    hashing::{HashPool, HashSettings},
    history::{self, Plan, Written},
    keyring::{Keyring, MasterKey},
    tokens::{TokenSettings, Tokens},
};
use domain::Password;
use projections::{BookSource, Projector, Sequencer};
use sqlx::PgPool;

use crate::cluster::Database;

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// The key ring of every book here.
async fn keyring(pool: &PgPool) -> Result<Keyring> {
    let master = MasterKey::parse(&"0123456789abcdef".repeat(4))?;
    Ok(Keyring::load(pool.clone(), master, Arc::new(SystemEntropy)).await?)
}

/// What the folds read, for who needs no more of the service.
pub(crate) async fn source(pool: &PgPool) -> Result<BookSource> {
    Ok(BookSource::new(pool.clone(), keyring(pool).await?.events().clone()))
}

/// The service and the read side.
pub(crate) struct Book {
    pub(crate) pool: PgPool,
    pub(crate) entrybook: Entrybook,
    pub(crate) sequencer: Sequencer,
    pub(crate) projector: Projector,
    pub(crate) clock: Arc<ManualClock>,
}

/// When a history has ended, and nobody whom its last wrong passwords have slowed down has to wait.
pub(crate) fn after(written: &Written) -> DateTime<Utc> {
    written.ended + commands::Settings::default().throttle.longest_delay
}

impl Book {
    pub(crate) async fn open(
        database: &Database,
        connections: u32,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        Self::on(database.connect(connections).await?, now).await
    }

    pub(crate) async fn on(pool: PgPool, now: DateTime<Utc>) -> Result<Self> {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let clock = Arc::new(ManualClock::new(now));
        let shared: Arc<dyn Clock> = clock.clone();
        let keyring = Arc::new(keyring(&pool).await?);
        let tokens = Tokens::load(
            pool.clone(),
            keyring.clone(),
            TokenSettings::default(),
            shared.clone(),
            entropy.clone(),
        )
        .await?;
        let hasher = Arc::new(HashPool::start(HashSettings::default(), entropy.clone())?);
        let entrybook = Entrybook::new(
            pool.clone(),
            keyring,
            Arc::new(tokens),
            hasher,
            shared,
            entropy,
            Settings { changes_per_hour: Hourly::UNBOUNDED, ..Settings::default() },
        );
        let sequencer = Sequencer::new(pool.clone());
        let source = BookSource::new(pool.clone(), entrybook.keyring().events().clone());
        let projector = Projector::new(source, projections::all(), sequencer.head());
        projector.ensure().await?;
        Ok(Self { pool, entrybook, sequencer, projector, clock })
    }

    /// What the folds read.
    pub(crate) fn source(&self) -> BookSource {
        BookSource::new(self.pool.clone(), self.entrybook.keyring().events().clone())
    }

    /// Fills an empty book.
    pub(crate) async fn write_history(&self, events: u64, seed: u64) -> Result<Written> {
        let plan = Plan::new(events, seed);
        let password = Password::choose(PASSWORD)?;
        let mut said = std::time::Instant::now();
        let written = history::write(&self.entrybook, plan, password, &mut |progress| {
            if said.elapsed().as_secs() >= 30 {
                said = std::time::Instant::now();
                crate::say(format!("  {} of {} events", progress.events, progress.of));
            }
        })
        .await?;
        self.clock.set(written.ended);
        Ok(written)
    }
}
