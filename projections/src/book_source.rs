//! Where the folds read: a database, and what tells the events that the service wrote from others.

use std::ops::Deref;

use proof::EventAuthenticator;
use sqlx::PgPool;

/// The book of one database. It is a pool wherever one is wanted.
///
/// This crate holds no key ring: whoever makes this has derived the authenticator from one.
#[derive(Debug, Clone)]
pub struct BookSource {
    pool: PgPool,
    authenticator: EventAuthenticator,
}

impl BookSource {
    #[must_use]
    pub fn new(pool: PgPool, authenticator: EventAuthenticator) -> Self {
        Self { pool, authenticator }
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    #[must_use]
    pub fn authenticator(&self) -> &EventAuthenticator {
        &self.authenticator
    }
}

impl Deref for BookSource {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}
