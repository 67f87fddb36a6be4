//! The connections that streams are loaded and appended with.
//!
//! sqlx's pool asks a connection whether it lives whenever it is given back, which is a second round
//! trip for each statement. This one asks when it is taken out, and only one that has been idle.

use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgRow, PgSeverity},
    query::Query,
};

use crate::{
    database::{ACQUIRE_TIMEOUT, FRESH, end_with_the_client},
    leases::is_from_before,
};

/// How long a server that is just starting, or full, is left alone, and one's own statements that are
/// on their way.
const PAUSE: Duration = Duration::from_millis(50);

/// After so long a connection is made anew, so that a server that came back as another is followed.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// A pool of connections for single statements.
#[derive(Clone)]
pub(crate) struct Connections(managed::Pool<Manager>);

impl Connections {
    /// As many as `max_size`, each made when it is needed, as those of `pool` are made.
    pub(crate) fn like(pool: &PgPool, max_size: usize) -> Self {
        let built = managed::Pool::builder(Manager(pool.connect_options().as_ref().clone()))
            .max_size(max_size.max(1))
            // The one that was used last is the one that need not be asked.
            .queue_mode(QueueMode::Lifo)
            .build();
        #[expect(clippy::expect_used, reason = "it fails for timeouts of its own alone")]
        let pool = built.expect("no timeouts are set");
        Self(pool)
    }

    /// Waits for a connection, one bound over all that this may take.
    async fn lend(&self) -> Result<Lent, sqlx::Error> {
        match tokio::time::timeout(ACQUIRE_TIMEOUT, self.0.get()).await {
            Ok(object) => Ok(Lent { object: Some(object.map_err(explain)?), sound: false }),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Sends a statement and reads all its rows.
    pub(crate) async fn fetch_all(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut lent = self.lend().await?;
        let Some(connection) = lent.object.as_deref_mut() else {
            return Err(sqlx::Error::PoolClosed);
        };
        let answer = query.fetch_all(connection).await;
        lent.sound = answer.as_ref().err().is_none_or(leaves_the_connection);
        answer
    }

    /// How many there are, and how many of them nobody uses.
    pub(crate) fn count(&self) -> (usize, usize) {
        let status = self.0.status();
        (status.size, status.available)
    }

    /// Lends no more, and waits for those that are lent.
    pub(crate) async fn close(&self) {
        self.0.close();
        while self.0.status().size > 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A connection that goes back into the pool if its statement was answered, and else is closed: who
/// stopped waiting in the middle leaves an answer on it that nobody has read.
struct Lent {
    object: Option<Object<Manager>>,
    sound: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.object.take().filter(|_| !self.sound) {
            drop(Object::take(object));
        }
    }
}

/// Whether the server goes on with the session after this error (PostgreSQL, 55.8 "Error and Notice
/// Message Fields", severity).
fn leaves_the_connection(error: &sqlx::Error) -> bool {
    let severity = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .map(PgDatabaseError::severity);
    severity.is_some_and(|severity| !matches!(severity, PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether a server that refuses a connection may take one soon: nobody listens, 57P03 (it is starting
/// or stopping), 53300 (it has too many).
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| matches!(code.as_ref(), "57P03" | "53300"))
        }
        _ => false,
    }
}

fn explain(error: PoolError<sqlx::Error>) -> sqlx::Error {
    match error {
        PoolError::Backend(error) => error,
        PoolError::Closed => sqlx::Error::PoolClosed,
        PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            sqlx::Error::PoolTimedOut
        }
    }
}

struct Manager(PgConnectOptions);

impl managed::Manager for Manager {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// Tries again, as long as the pool lets it, where the server is away, starting or full for a moment.
    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        loop {
            match PgConnection::connect_with(&self.0).await {
                Err(error) if may_pass(&error) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
                Ok(mut connection) => {
                    // A statement that nobody waits for any more ends with its connection.
                    end_with_the_client(&mut connection).await;
                    return Ok(connection);
                }
            }
        }
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        if metrics.age() >= MAX_AGE || is_from_before(metrics.age()) {
            return Err(RecycleError::message("it is old"));
        }
        if metrics.last_used() >= FRESH {
            connection.ping().await?;
        }
        Ok(())
    }
}
