//! How fast the book grows: appends against `pgbench` inserting the same bytes with the same
//! durability, and the order of the book against itself.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use commands::{
    SessionAggregate,
    clock::{Ids, SystemClock, SystemEntropy},
    store::{Loaded, Store},
};
use cqrs_es::DomainEvent as _;
use domain::SessionEvent;
use proof::EventAuthenticator;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use zeroize::Zeroizing;

use crate::{
    cluster::{Cluster, Database},
    measure,
};

pub(crate) const CLIENTS: [u32; 3] = [1, 8, 32];

/// Appends per second by so many clients at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Appends {
    pub(crate) clients: u32,
    pub(crate) ours: f64,
    pub(crate) pgbench: f64,
    /// Of each round, ours by pgbench's.
    pub(crate) ratios: Vec<f64>,
}

/// A real event to append again and again: the start of a session, with its metadata.
pub(crate) struct Sample {
    pub(crate) event: SessionEvent,
    pub(crate) metadata: HashMap<String, String>,
}

impl Sample {
    pub(crate) async fn of(database: &Database) -> Result<Self> {
        let mut owner = database.owner().await?;
        let row = sqlx::query(
            "SELECT payload, metadata FROM events
              WHERE aggregate_type = 'Session' AND sequence = 1 AND metadata ? 'source' LIMIT 1",
        )
        .fetch_one(&mut owner)
        .await?;
        Ok(Self {
            event: serde_json::from_value(row.try_get("payload")?)?,
            metadata: serde_json::from_value(row.try_get("metadata")?)?,
        })
    }
}

/// Appends a sample, each time to a stream of its own, as a sign-in does.
#[derive(Clone)]
pub(crate) struct Appender {
    store: Store,
    sample: Arc<Sample>,
    ids: Ids,
}

impl Appender {
    pub(crate) fn new(pool: &sqlx::PgPool, sample: Arc<Sample>) -> Self {
        // The key of snapshots, of which these streams get none.
        let store = Store::new(
            pool.clone(),
            pool.options().get_max_connections() as usize,
            Zeroizing::new([0; 32]),
            Zeroizing::new([0; 32]),
            EventAuthenticator::new(&[0; 32], 0),
        );
        Self { store, sample, ids: Ids::new(Arc::new(SystemClock), Arc::new(SystemEntropy)) }
    }

    pub(crate) async fn append(&self) -> Result<commands::Receipt> {
        let loaded = Loaded::<SessionAggregate>::new_stream(self.ids.session().to_string());
        let Sample { event, metadata } = self.sample.as_ref();
        Ok(self.store.append(&loaded, std::slice::from_ref(event), metadata).await?)
    }
}

/// Compares, round by round and in turns, so that whatever drifts drifts for both.
pub(crate) async fn measure(
    cluster: &Cluster,
    database: &Database,
    seconds: u64,
    rounds: usize,
) -> Result<Vec<Appends>> {
    let sample = Arc::new(Sample::of(database).await?);
    prepare_pgbench(database).await?;
    let mut measured = Vec::new();
    for clients in CLIENTS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(append(database, &sample, clients, seconds).await?);
            theirs.push(pgbench(cluster, database, &sample, clients, seconds).await?);
        }
        measured.push(Appends {
            clients,
            ours: measure::median(&ours),
            pgbench: measure::median(&theirs),
            ratios: ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect(),
        });
    }
    sqlx::raw_sql("DROP TABLE pgbench_events").execute(&mut database.owner().await?).await?;
    Ok(measured)
}

async fn append(
    database: &Database,
    sample: &Arc<Sample>,
    clients: u32,
    seconds: u64,
) -> Result<f64> {
    let pool = database.connect(clients).await?;
    let appender = Appender::new(&pool, sample.clone());
    // The connections are made and their statements prepared before the clock starts.
    let first = (0..clients).map(|_| appender.append());
    futures_util::future::try_join_all(first).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let appended = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut running = Vec::new();
    for _ in 0..clients {
        let (appender, stop, appended) = (appender.clone(), stop.clone(), appended.clone());
        running.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                appender.append().await?;
                appended.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        }));
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = appended.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for client in running {
        client.await??;
    }
    pool.close().await;
    Ok(rate)
}

/// A table like `events`, with the same rows in it.
async fn prepare_pgbench(database: &Database) -> Result<()> {
    let mut owner = database.owner().await?;
    for statement in [
        "DROP TABLE IF EXISTS pgbench_events",
        "CREATE TABLE pgbench_events (LIKE events INCLUDING ALL)",
        "INSERT INTO pgbench_events OVERRIDING SYSTEM VALUE SELECT * FROM events ORDER BY tx, id",
        "SELECT setval(pg_get_serial_sequence('pgbench_events', 'id'), (SELECT max(id) FROM events))",
        "VACUUM (ANALYZE) pgbench_events",
        "CHECKPOINT",
    ] {
        sqlx::raw_sql(statement).execute(&mut owner).await?;
    }
    Ok(())
}

/// What pgbench sends: one INSERT, prepared, with the same bytes as its parameters. Its stream's id is
/// made of a sequence, so that the index grows at its end, as ours does with ids that begin with the
/// time.
const SCRIPT: &str = "\
\\set n random(1, 1000000000000)
INSERT INTO pgbench_events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata) \
VALUES ('Session', 'ffffffff-' || lpad(nextval('pgbench_events_id_seq')::text, 13, '0') || '-' || lpad(:n::text, 13, '0'), \
1, :type, :version, :payload, :metadata) RETURNING tx, id;
";

async fn pgbench(
    cluster: &Cluster,
    database: &Database,
    sample: &Sample,
    clients: u32,
    seconds: u64,
) -> Result<f64> {
    let program = cluster.pgbench()?;
    let mut child = tokio::process::Command::new(&program)
        .args(["--no-vacuum", "--protocol=prepared", "--file=/dev/stdin"])
        .args(["--client", &clients.to_string(), "--jobs", &clients.min(2).to_string()])
        .args(["--time", &seconds.to_string()])
        .args(["--define", &format!("type={}", sample.event.event_type())])
        .args(["--define", &format!("version={}", sample.event.event_version())])
        .args(["--define", &format!("payload={}", serde_json::to_string(&sample.event)?)])
        .args(["--define", &format!("metadata={}", serde_json::to_string(&sample.metadata)?)])
        .envs(cluster.environment(database))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let mut input = child.stdin.take().context("pgbench has no input")?;
    tokio::io::AsyncWriteExt::write_all(&mut input, SCRIPT.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    let told = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("pgbench: {} {told}", String::from_utf8_lossy(&output.stderr));
    }
    let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")).context("no tps")?;
    let rate = rate.split(' ').next().context("no tps")?;
    Ok(rate.parse()?)
}
