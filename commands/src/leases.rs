//! Leases: every process says twice a second that it lives, so that one that stands still holds up nobody.
//!
//! A process that is stopped (SIGSTOP, a machine that is paused, a network that swallows packets) keeps its connections,
//! and with them its locks and open transactions. PostgreSQL waits for such a client: `statement_timeout` and
//! `idle_in_transaction_session_timeout` do not end a COPY that waits for its rows. So the other processes
//! watch, and end the sessions of one that is silent, as far as these hold anything.
//!
//! Being wrong about a process costs it a reconnect and nothing else: what its sessions were about to write is rolled
//! back, so one that wakes up finds its connections closed and can write nothing that it decided before.
//!
//! Whether a process is silent is decided without any clock of another machine: its lease stays the same while the
//! observer has renewed its own several times. After a pause of the database all leases are equally old, and nobody is ended.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool, Row, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

use crate::database::{self, APP_ROLE};

/// How often a lease is renewed.
const BEAT: Duration = Duration::from_millis(500);
/// One attempt to renew it takes no longer; a connection that doesn't answer is given up.
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that didn't answer is asked once more, when a new one does.
const LAST_QUESTION: Duration = Duration::from_secs(1);
/// A process that is silent for so long stands still. `end_stalled` holds that by the database's clock.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// A lease is reported from the second on in which it was not renewed. It must be seen unchanged so often.
const SIGHTINGS: u32 = 5;
/// A session that was told to end has ended after that, and what it held is free …
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// … which is looked for so often.
const SOON: Duration = Duration::from_millis(200);
/// How long giving a lease back may keep a process that ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// When a new connection to the database answered, and one that was there before did not.
static REGAINED: RwLock<Option<Instant>> = RwLock::new(None);

/// The database does not answer at the moment.
static CUT_OFF: AtomicBool = AtomicBool::new(false);

/// Whether a connection may be given to the next who needs one. While nothing answers, what is given back is not even
/// asked: it would keep its place in the pool until it answers.
pub(crate) fn may_be_kept(age: Duration) -> bool {
    !CUT_OFF.load(Ordering::Relaxed) && !is_from_before(age)
}

/// Whether a connection of this age was made before the process was cut off from the database. It may stay silent for ever,
/// so it is not used again.
pub(crate) fn is_from_before(age: Duration) -> bool {
    let regained = *REGAINED.read().unwrap_or_else(PoisonError::into_inner);
    regained.is_some_and(|regained| age > regained.elapsed())
}

/// Which process it is.
#[derive(Debug, Clone)]
pub struct Holder {
    pub id: Uuid,
    /// What runs, and its version.
    pub program: String,
    pub host: String,
}

impl Holder {
    /// The name of a session of this process: a word that begins with `entrybook`, and the id.
    #[must_use]
    pub fn session_name(&self, word: &str) -> String {
        format!("{word} {}", self.id)
    }
}

/// A lease that is kept as long as this value lives. On a thread of its own, with a connection of its own: a process
/// that is merely busy keeps it.
#[derive(Debug)]
pub struct Lease {
    holder: Holder,
    /// Closed, the thread ends.
    stop: watch::Sender<bool>,
    only_looks: Arc<AtomicBool>,
    news: News,
    thread: Option<thread::JoinHandle<()>>,
}

/// What whoever keeps the lease has found out.
#[derive(Debug, Clone)]
pub struct News {
    /// When sessions of another process were last ended.
    taken: watch::Receiver<Option<Instant>>,
    cut_off: watch::Receiver<u64>,
}

impl News {
    /// Waits for a while, or until sessions of a process that stood still are ended: what they held is to be had. A
    /// session that is told to end does so a little later, so that for some seconds each wait is short.
    pub async fn takeover_or(&self, pause: Duration) {
        let taken = self.taken.borrow().is_some_and(|at| at.elapsed() < ENDS_WITHIN);
        let pause = if taken { pause.min(SOON) } else { pause };
        let _ = timeout(pause, next(&self.taken)).await;
    }

    /// Waits until this process is back after it was cut off from the database. What waits for an answer on an older
    /// connection may wait for ever, and has to begin again.
    pub async fn back_again(&self) {
        next(&self.cut_off).await;
    }
}

async fn next<T>(news: &watch::Receiver<T>) {
    let mut news = news.clone();
    news.mark_unchanged();
    if news.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Lease {
    /// Begins to keep a lease by connections of their own, made with these options. Nothing waits for it: where the
    /// database is away, or not yet migrated, it is tried again with each beat.
    pub fn keep(options: &PgConnectOptions, holder: Holder) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let (tell_taken, taken) = watch::channel(None);
        let (tell_cut_off, cut_off) = watch::channel(0);
        let only_looks = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            options: database::noticing_a_lost_peer(options.clone())
                .application_name(&holder.session_name("entrybook-lease")),
            holder: holder.clone(),
            only_looks: only_looks.clone(),
            taken: tell_taken,
            cut_off: tell_cut_off,
            unanswered: None,
            connection: None,
            sightings: HashMap::new(),
            failing: false,
        };
        let thread = thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || runtime.block_on(keeper.run(stopped)))?;
        Ok(Self { holder, stop, only_looks, news: News { taken, cut_off }, thread: Some(thread) })
    }

    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    #[must_use]
    pub fn news(&self) -> News {
        self.news.clone()
    }

    /// From now on this process ends no sessions of others: it is here to tell how they are.
    pub fn only_look(&self) {
        self.only_looks.store(true, Ordering::Relaxed);
    }

    /// Gives the lease back, and waits until its connection is closed.
    pub async fn give_back(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A thread that failed has nothing to give back.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// What an observer has seen of another's lease.
struct Sighting {
    renewed_at: DateTime<Utc>,
    /// How often it was there unchanged, each time after a renewal of the observer's own.
    times: u32,
}

struct Keeper {
    options: PgConnectOptions,
    holder: Holder,
    only_looks: Arc<AtomicBool>,
    taken: watch::Sender<Option<Instant>>,
    cut_off: watch::Sender<u64>,
    /// A connection that was asked and didn't answer.
    unanswered: Option<PgConnection>,
    connection: Option<PgConnection>,
    sightings: HashMap<Uuid, Sighting>,
    failing: bool,
}

impl Keeper {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                // Also when nobody is left who could ask for it.
                _ = stopped.wait_for(|stopped| *stopped) => break,
                _ = ticks.tick() => {}
            }
            let silent = last.elapsed();
            last = Instant::now();
            if silent > STALLED_AFTER {
                tracing::warn!(
                    seconds = silent.as_secs(),
                    "this process stood still for {} s; others may have ended its connections to the database, \
                     and it goes on with new ones",
                    silent.as_secs()
                );
                // What it knows of the others is as old.
                self.sightings.clear();
            }
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = self.beat_and_tell() => {}
            }
        }
        let _ = timeout(GOODBYE, self.leave()).await;
    }

    /// What fails is told once, and tried again with the next beat.
    async fn beat_and_tell(&mut self) {
        let cause = match timeout(BEAT_TIMEOUT, self.beat()).await {
            Ok(Ok(())) => {
                CUT_OFF.store(false, Ordering::Relaxed);
                if self.failing {
                    tracing::info!("this process keeps its lease again");
                    self.failing = false;
                }
                if let Some(before) = self.unanswered.take() {
                    self.ask_again(before).await;
                }
                return;
            }
            Ok(Err(cause)) => {
                // The role may be there only now.
                self.connection = None;
                cause
            }
            Err(_) => {
                CUT_OFF.store(true, Ordering::Relaxed);
                let silent = self.connection.take();
                self.unanswered = self.unanswered.take().or(silent);
                sqlx::Error::PoolTimedOut
            }
        };
        self.sightings.clear();
        if !self.failing && !is_unmigrated(&cause) {
            tracing::warn!(
                %cause,
                "this process could not renew its lease in the database, and goes on trying; if that goes on, \
                 others may take it for one that stands still, and end its connections: {cause}"
            );
            self.failing = true;
        }
    }

    /// Tells a database that was slow from a way to it on which connections are lost without a word.
    async fn ask_again(&mut self, mut before: PgConnection) {
        if timeout(LAST_QUESTION, before.ping()).await.is_ok() {
            return;
        }
        tracing::warn!(
            "connections to the database stay silent, and new ones answer: what goes on in the background begins again \
             with new ones"
        );
        *REGAINED.write().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.cut_off.send_modify(|times| *times += 1);
    }

    async fn beat(&mut self) -> Result<(), sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.options).await?),
        };
        let others: Vec<(Uuid, DateTime<Utc>)> =
            sqlx::query_as("SELECT other, other_renewed_at FROM renew_lease($1, $2, $3, $4)")
                .bind(self.holder.id)
                .bind(&self.holder.program)
                .bind(&self.holder.host)
                .bind(i32::try_from(std::process::id()).unwrap_or_default())
                .fetch_all(&mut *connection)
                .await?;
        self.sightings.retain(|id, _| others.iter().any(|(other, _)| other == id));
        for (other, renewed_at) in others {
            let sighting = self.sightings.entry(other).or_insert(Sighting { renewed_at, times: 0 });
            if sighting.renewed_at != renewed_at {
                *sighting = Sighting { renewed_at, times: 0 };
            }
            sighting.times = sighting.times.saturating_add(1);
            let over = sighting.times.checked_sub(SIGHTINGS);
            // Every second beat, for as long as it lasts.
            if over.is_some_and(|over| over.is_multiple_of(2))
                && !self.only_looks.load(Ordering::Relaxed)
            {
                let ended = end(connection, other).await?;
                if ended > 0 {
                    self.taken.send_replace(Some(Instant::now()));
                }
            }
        }
        Ok(())
    }

    async fn leave(self) -> Result<(), sqlx::Error> {
        let Some(mut connection) = self.connection else { return Ok(()) };
        sqlx::query("SELECT give_back_lease($1)")
            .bind(self.holder.id)
            .execute(&mut connection)
            .await?;
        connection.close().await
    }
}

/// Of the login, in the application's role where it may take it: its rights come with the role alone.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    take_role(&mut connection).await;
    Ok(connection)
}

/// A login that can't take the role owns the tables, and needs none.
async fn take_role(connection: &mut PgConnection) {
    let _ = sqlx::raw_sql(&format!("SET ROLE {APP_ROLE}")).execute(connection).await;
}

/// 42883, 42P01: no such function or table. 42501: its rights are granted after the migration.
fn is_unmigrated(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42883" | "42P01" | "42501"))
}

/// Ends what a process that stands still holds; how many sessions that were.
async fn end(connection: &mut PgConnection, process: Uuid) -> Result<usize, sqlx::Error> {
    let who = who(connection, process).await?;
    let found: Vec<(i32, bool)> = sqlx::query_as("SELECT pid, ended FROM end_stalled($1)")
        .bind(process)
        .fetch_all(&mut *connection)
        .await?;
    let mut ended = found.iter().filter(|(_, ended)| *ended).count();
    let left: Vec<i32> = found.iter().filter(|(_, ended)| !ended).map(|(pid, _)| *pid).collect();
    if !left.is_empty() {
        // Those of its own login a session may end, if it is in no other role.
        sqlx::raw_sql("SET ROLE NONE").execute(&mut *connection).await?;
        for pid in &left {
            match sqlx::query("SELECT pg_terminate_backend($1, 200)")
                .bind(pid)
                .execute(&mut *connection)
                .await
            {
                Ok(_) => ended += 1,
                Err(sqlx::Error::Database(cause)) => tracing::warn!(
                    "{who} stands still, and the database process {pid}, which holds what others wait for, could \
                     not be ended: {cause}. End it as an administrator of the database: SELECT pg_terminate_backend({pid})"
                ),
                Err(other) => return Err(other),
            }
        }
        take_role(connection).await;
    }
    if ended > 0 {
        tracing::warn!(
            sessions = ended,
            "{who} has not been heard of for {} s: what it held is to be had again, for {ended} of its database \
             sessions {} ended",
            STALLED_AFTER.as_secs(),
            if ended == 1 { "was" } else { "were" }
        );
    }
    Ok(ended)
}

async fn who(connection: &mut PgConnection, process: Uuid) -> Result<String, sqlx::Error> {
    let row: Option<(String, String, i32)> =
        sqlx::query_as("SELECT program, host, pid FROM leases WHERE process = $1")
            .bind(process)
            .fetch_optional(connection)
            .await?;
    Ok(match row {
        Some((program, host, pid)) => described(&program, &host, pid),
        None => format!("the process {process}"),
    })
}

fn described(program: &str, host: &str, pid: i32) -> String {
    format!("{program} on {host} (process {pid})")
}

/// A process that stands still and has sessions in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Stalled {
    pub process: Uuid,
    pub program: String,
    pub host: String,
    pub pid: i32,
    /// When it was last heard of, by the database's clock …
    pub since: DateTime<Utc>,
    /// … and for how long it is silent.
    pub silent_for: Duration,
    /// What others may wait for, each in a few words.
    pub holds: Vec<String>,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&described(&self.program, &self.host, self.pid))
    }
}

/// The processes that stand still now, and what each of them holds.
pub async fn stalled(pool: &PgPool) -> Result<Vec<Stalled>, sqlx::Error> {
    // Locks are shown to everybody. The names of advisory locks are hashed as where they are taken.
    let rows = sqlx::query(
        "WITH silent AS MATERIALIZED (
             SELECT *, extract(epoch FROM clock_timestamp() - renewed_at)::float8 AS seconds FROM leases
              WHERE renewed_at < clock_timestamp() - make_interval(secs => $1))
         SELECT process, program, host, pid, renewed_at, seconds,
                ARRAY(SELECT DISTINCT what FROM (
                    SELECT CASE
                        WHEN l.locktype = 'transactionid' AND l.transactionid = pg_snapshot_xmin(pg_current_snapshot())::xid
                            THEN 'the order of new events'
                        WHEN l.locktype = 'advisory' AND l.objsubid = 1 THEN
                            CASE l.objid::bigint
                                WHEN hashtext('process:sign_log')::bigint & 4294967295
                                    THEN 'the turn to sign the transparency log'
                                WHEN hashtext('process:anchor_log')::bigint & 4294967295
                                    THEN 'the turn to anchor the transparency log'
                                WHEN hashtext('process:end_sessions')::bigint & 4294967295
                                    THEN 'the turn to end sessions'
                                ELSE 'a lock of a background process' END
                        WHEN l.locktype = 'advisory' THEN 'the right to build read tables'
                        WHEN c.relkind = 'r' AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
                            THEN 'a transaction that writes to ' || c.relname END
                      FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid AND l.granted
                      LEFT JOIN pg_class AS c ON l.locktype = 'relation' AND c.oid = l.relation
                           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                     WHERE a.datname = current_database() AND a.application_name LIKE 'entrybook% ' || process::text
                    ) AS held (what) WHERE what IS NOT NULL ORDER BY 1) AS holds
           FROM silent WHERE EXISTS (SELECT FROM sessions_of_lease(process)) ORDER BY renewed_at",
    )
    .bind(STALLED_AFTER.as_secs_f64())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let seconds: f64 = row.try_get("seconds")?;
            Ok(Stalled {
                process: row.try_get("process")?,
                program: row.try_get("program")?,
                host: row.try_get("host")?,
                pid: row.try_get("pid")?,
                since: row.try_get("renewed_at")?,
                silent_for: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
                holds: row.try_get("holds")?,
            })
        })
        .collect()
}
