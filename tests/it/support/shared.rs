//! One server that several tests use at once, each with people of its own. It ends with the last
//! test that uses it.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{
    database::TestDatabase,
    http::Api,
    scratch,
    server::{Server, Setup},
};

static SHARED: Mutex<Weak<Running>> = Mutex::const_new(Weak::new());

/// A server on a database of its own. All of it goes with this value, the server first.
pub struct Running {
    pub server: Server,
    pub setup: Setup,
    pub database: TestDatabase,
    pub _scratch: TempDir,
}

impl Running {
    /// A server for one test alone.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_on(TestDatabase::create().await, settings).await
    }

    /// The same on a database that the test has made.
    pub async fn start_on(database: TestDatabase, settings: &[(&str, &str)]) -> Self {
        let scratch = scratch();
        let mut setup = Setup::on(&database.url(), &scratch.path().join("data"));
        for (key, value) in settings {
            setup = setup.with(key, value);
        }
        let server = setup.start().await;
        Self { server, setup, database, _scratch: scratch }
    }

    /// The server that tests share: nothing is throttled there that one of them could set off for
    /// the others.
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let running = Arc::new(Self::start(&UNTHROTTLED).await);
        *shared = Arc::downgrade(&running);
        running
    }

    /// Ends the server, and leaves the database.
    pub async fn stop(self) -> (TestDatabase, TempDir) {
        self.server.stop().await;
        (self.database, self._scratch)
    }

    pub fn api(&self) -> Api {
        Api::new(self.server.url(""))
    }

    /// How many events the book has.
    pub async fn events(&self) -> i64 {
        self.events_where("true", &[]).await
    }

    /// How many events of the account the book has.
    pub async fn events_of(&self, user: &str) -> i64 {
        self.events_where("aggregate_type = 'User' AND aggregate_id = $1", &[user]).await
    }

    /// How many events of the book match a condition on these values.
    pub async fn events_where(&self, condition: &str, values: &[&str]) -> i64 {
        // Not through the pool, whose connections belong to the runtime of the test that made it.
        let mut connection = self.database.connect_options().connect().await.unwrap();
        let query = format!("SELECT count(*) FROM events WHERE {condition}");
        let query =
            values.iter().fold(sqlx::query_scalar(&query), |query, value| query.bind(*value));
        let count = query.fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        count
    }

    /// So many changes of an account's profile, and after them one end of all its sessions, in one go.
    pub async fn many_changes(&self, user: &str, changes: i64) {
        let mut connection = self.database.connect_options().connect().await.unwrap();
        sqlx::query(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             SELECT 'User', $1, last + n, name, '1', jsonb_build_object(name, payload),
                    '{\"actor\": \"system\", \"request_id\": \"r\", \"at\": \"2026-03-01T10:00:00Z\"}'
               FROM (SELECT max(sequence) AS last FROM events WHERE aggregate_type = 'User' AND aggregate_id = $1) AS s,
                    generate_series(1, $2::bigint + 1) AS n,
                    LATERAL (SELECT CASE WHEN n <= $2 THEN 'UserProfileChanged' ELSE 'UserSessionsEnded' END AS name,
                                    CASE WHEN n <= $2 THEN '{\"full_name\": {\"from\": null, \"to\": null}}'::jsonb
                                         ELSE '{\"kept_session\": null}' END AS payload) AS event
              ORDER BY n",
        )
        .bind(user)
        .bind(changes)
        .execute(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
    }

    /// So many lines about one session, in one go.
    pub async fn many_lines(&self, user: &str, lines: i64) {
        let mut connection = self.database.connect_options().connect().await.unwrap();
        let id = "00000000-0000-0000-0000-00000000b001";
        sqlx::query(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                                 payload, metadata)
             SELECT 'Session', $1, sequence,
                    CASE sequence WHEN 1 THEN 'SessionStarted' ELSE 'SessionRefreshed' END,
                    CASE sequence WHEN 1 THEN '2' ELSE '1' END,
                    CASE sequence WHEN 1 THEN jsonb_build_object('SessionStarted', common || jsonb_build_object(
                             'user_version', 1, 'methods', jsonb_build_array('password'), 'remember_me', false))
                         ELSE jsonb_build_object('SessionRefreshed', common) END,
                    '{\"actor\": \"system\", \"request_id\": \"r\", \"at\": \"2026-03-01T10:00:00Z\"}'
               FROM generate_series(1, $3::bigint) AS sequence,
                    jsonb_build_object('user_id', $2::text, 'refresh', 'h', 'at', '2026-03-01T10:00:00Z',
                                       'expires_at', '2099-03-01T10:00:00Z') AS common
              ORDER BY sequence",
        )
        .bind(id)
        .bind(user)
        .bind(lines)
        .execute(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
    }
}

/// All requests of a test come from one address.
pub const UNTHROTTLED: [(&str, &str); 4] = [
    ("ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES", "1000000"),
    ("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "1000000"),
    ("ENTRYBOOK_CHANGES_PER_HOUR", "1000000"),
    ("ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR", "1000000"),
];

/// A name that nobody else has on a shared server.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
