//! The folds, for books that a test writes by SQL, without the codes that authenticate events: each event
//! counts as older than these.

use ::projections::{
    BookSource, IdentifierDifferences, Options, Progress, Projection, RebuildError, Rebuilt,
    Unfinished, Verified,
};
use proof::EventAuthenticator;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// A book of which every event is believed.
pub fn source_of(pool: &PgPool) -> BookSource {
    BookSource::new(pool.clone(), older_than_any_code())
}

pub fn older_than_any_code() -> EventAuthenticator {
    EventAuthenticator::new(&[0; 32], i64::MAX)
}

pub async fn verify(
    pool: &PgPool,
    projection: &'static dyn Projection,
) -> Result<Verified, RebuildError> {
    ::projections::verify(&source_of(pool), projection).await
}

pub async fn verify_identifiers(pool: &PgPool) -> Result<IdentifierDifferences, RebuildError> {
    ::projections::verify_identifiers(&source_of(pool)).await
}

pub async fn rebuild(
    pool: &PgPool,
    chosen: &[&'static dyn Projection],
    options: Options,
    cancel: &CancellationToken,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Vec<Rebuilt>, Unfinished> {
    ::projections::rebuild(&source_of(pool), chosen, options, cancel, tell).await
}

pub mod replay {
    use ::projections::{
        Page,
        replay::{Replay, ReplayError, State},
    };
    use chrono::{DateTime, Utc};
    use domain::UserId;
    use sqlx::PgPool;

    pub use ::projections::replay::AsOf;

    pub async fn state(pool: &PgPool, user: UserId, as_of: AsOf) -> Result<State, ReplayError> {
        ::projections::replay::state(&super::source_of(pool), user, as_of).await
    }

    pub async fn signed_in(
        pool: &PgPool,
        at: DateTime<Utc>,
        after: Option<UserId>,
        limit: i64,
    ) -> Result<Page<State>, ReplayError> {
        ::projections::replay::signed_in(&super::source_of(pool), at, after, limit).await
    }

    pub async fn whole(pool: &PgPool, as_of: AsOf) -> Result<Replay, ReplayError> {
        ::projections::replay::whole(&super::source_of(pool), as_of).await
    }
}
