//! Keys and tokens against a real database: who makes them, who agrees, and what a wrong one does.

mod keyring;
mod tokens;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use commands::{
    clock::{ManualClock, SeededEntropy},
    database,
    keyring::{Keyring, KeyringError, MasterKey},
};
use sqlx::PgPool;

use crate::support::database::TestDatabase;

/// A fresh database, with the rights that the application has in it and with all of them.
struct Book {
    app: PgPool,
    database: TestDatabase,
}

impl Book {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let options = database.connect_options();
        database::migrate(&options).await.unwrap();
        Self { app: database::connect(options, 10).await.unwrap(), database }
    }

    fn owner(&self) -> &PgPool {
        self.database.pool()
    }
}

fn master() -> MasterKey {
    MasterKey::generate(&SeededEntropy::new(1))
}

/// A keyring as each process of a service would load it. The random bytes differ.
async fn load(pool: &PgPool, seed: u64) -> Result<Keyring, KeyringError> {
    Keyring::load(pool.clone(), master(), Arc::new(SeededEntropy::new(seed))).await
}

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(start()))
}
