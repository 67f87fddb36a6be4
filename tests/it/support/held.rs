//! Builds that stand still for as long as a test looks at them, and an event that stops projections.

use sqlx::{ConnectOptions, Connection, PgConnection};

use super::database::TestDatabase;

/// Somebody who holds the live table of a projection: a comparison with it waits. It ends with this value.
pub struct Held(PgConnection);

impl Held {
    pub async fn live_table_of(database: &TestDatabase, projection: &str) -> Self {
        let mut connection = database.connect_options().connect().await.unwrap();
        let version: i32 =
            sqlx::query_scalar("SELECT max(version) FROM projections WHERE name = $1")
                .bind(projection)
                .fetch_one(&mut connection)
                .await
                .unwrap();
        let lock =
            format!("BEGIN; LOCK TABLE ledger.{projection}_v{version} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(&lock).execute(&mut connection).await.unwrap();
        Self(connection)
    }

    pub async fn let_go(mut self) {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// An event that this binary can't apply, as a newer one might have written it, in the stream of `user`;
/// somebody has been disabled before. Gives its place in the stream.
pub async fn poison(database: &TestDatabase, user: &str) -> i64 {
    let mut connection = database.connect_options().connect().await.unwrap();
    let sequence = sqlx::query_scalar(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'User', $1, (SELECT max(sequence) + 1 FROM events WHERE aggregate_id = $1),
                event_type, '99.0', payload, metadata
           FROM events WHERE event_type = 'UserDisabled' LIMIT 1
         RETURNING sequence",
    )
    .bind(user)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    sequence
}

/// As if a binary had come that can apply it: the event is made one that this binary knows.
pub async fn readable_again(database: &TestDatabase) {
    let mut connection = database.connect_options().connect().await.unwrap();
    sqlx::raw_sql(
        "ALTER TABLE events DISABLE TRIGGER append_only;
         UPDATE events SET event_version = (SELECT event_version FROM events
                                             WHERE event_type = 'UserDisabled' AND event_version <> '99.0' LIMIT 1)
          WHERE event_version = '99.0';
         ALTER TABLE events ENABLE ALWAYS TRIGGER append_only;",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
}

/// As after an upgrade: the tables are registered and empty. Somebody else builds them, and is slow, until
/// this connection is closed. No server runs meanwhile.
pub async fn never_built(database: &TestDatabase) -> PgConnection {
    let mut builder = database.connect_options().connect().await.unwrap();
    for name in ["users", "sessions", "audit_history"] {
        lock_build(&mut builder, name).await;
    }
    sqlx::raw_sql(
        "TRUNCATE ledger.users_v2, ledger.sessions_v2, ledger.audit_history_v3, ledger.audit_history_times_v3;
         UPDATE projections SET built = false, state = 'building', position = 0
          WHERE name IN ('users', 'sessions', 'audit_history')",
    )
    .execute(&mut builder)
    .await
    .unwrap();
    for name in ["users", "sessions", "audit_history"] {
        run_half(&mut builder, name).await;
    }
    builder
}

/// The lock of who builds: `projections::tables::BUILD_LOCK`.
async fn lock_build(connection: &mut PgConnection, projection: &str) {
    sqlx::query("SELECT pg_advisory_lock(236433410, hashtext($1))")
        .bind(projection)
        .execute(connection)
        .await
        .unwrap();
}

/// A build as somebody else would be doing it, half done, until this connection is closed.
pub async fn half_done(database: &TestDatabase, projection: &str) -> PgConnection {
    let mut connection = database.connect_options().connect().await.unwrap();
    lock_build(&mut connection, projection).await;
    run_half(&mut connection, projection).await;
    connection
}

async fn run_half(connection: &mut PgConnection, projection: &str) {
    sqlx::query(
        "UPDATE builds SET state = 'running', phase = 'folding', dry_run = false, detail = NULL,
                events_total = s.position, events_done = s.position / 2, events_per_second = 81250,
                seconds_left = 94.5, started_at = now() - interval '94 s', updated_at = now()
           FROM sequencer s WHERE name = $1",
    )
    .bind(projection)
    .execute(connection)
    .await
    .unwrap();
}
