//! A private PostgreSQL for one Entrybook: found, initialised, started, watched and stopped by the process that needs it.
//!
//! The crate owns the `postgres/` part of a data directory, the lock that keeps a second Entrybook out of it, and every process
//! it starts. It knows nothing of events, migrations or HTTP; [`PrivatePostgres::connect_parts`] is all that the rest needs.
//!
//! ```no_run
//! # async fn example() -> Result<(), postgres::Error> {
//! use postgres::{PrivatePostgres, Settings};
//!
//! let postgres = PrivatePostgres::start(Settings::new(".entrybook")).await?;
//! let parts = postgres.connect_parts();
//! // PgConnectOptions::new_without_pgpass().socket(&parts.socket_dir).port(parts.port).username(&parts.user)
//! //     .password(parts.password.expose()).database(&parts.database)
//! postgres.stop().await
//! # }
//! ```
//!
//! # What lies where
//!
//! ```text
//! <data_dir>/entrybook.lock           held (flock) while an Entrybook lives; names its process
//! <data_dir>/private-postgres.json    0600: where the cluster is, and its two passwords
//! <data_dir>/postgres/                the home: ours, closed to writing for the account that runs PostgreSQL
//!     pg_hba.conf, output.log         ours: written at each start
//!     cluster/, log/, socket/         0700, of the account that runs PostgreSQL
//! ```
//!
//! # What it holds to
//!
//! - **Durable.** `fsync`, `synchronous_commit` and `full_page_writes` are on, given on the command line so that no file and no
//!   `ALTER SYSTEM` turns them off; data checksums are on. `initdb` fills a directory beside the cluster, renamed when complete.
//! - **Closed.** No TCP. One Unix socket in a directory of mode 0700, and behind it SCRAM with random passwords, never trust. The
//!   application's role is no superuser. PostgreSQL's environment is empty but for its path: no secret of ours is in it.
//! - **Nothing left behind.** PostgreSQL runs beside a watchdog (`watchdog.sh`) that reads from a pipe we hold. However we end, the
//!   pipe closes and the watchdog stops PostgreSQL. Were the watchdog killed too, the next start finds the orphan through
//!   `postmaster.pid`, makes sure that the process is a PostgreSQL of this very cluster, and ends it.
//! - **Not waited for while it recovers.** A fast shutdown of a server that replays its log may wait for the end of that. So such
//!   a server is told to stop at once, which loses nothing: it takes no writes, and the next start replays the same log.
//! - **Watched.** A PostgreSQL that dies is started again on the same socket, with growing pauses; [`PrivatePostgres::subscribe`]
//!   tells the state meanwhile.
//! - **Never root.** Started as root, everything runs as an unprivileged account: the one that owns the cluster already, else
//!   [`Settings::unprivileged_user`], else the first that exists of `postgres`, `_postgres`, `daemon`, `nobody`. Where that account may
//!   not enter the data directory (a clone under `/root`), the home moves to [`Settings::fallback_dir`], and the log says so.
//!
//! # Why not `postgresql_embedded`
//!
//! Its 0.22 does this job for tests, and well. For data that must last it would need working around at each step: it always starts
//! the server with `-F` (fsync off, unless a setting given later says otherwise), deletes the data by default (`temporary`), listens on TCP, initialises in
//! place, cannot start where a crashed owner left its server running, does not restart a server that died, does nothing about
//! root, and brings an HTTP client, an archive reader and sqlx 0.9 with it while Entrybook is on 0.8.

mod account;
mod cluster;
mod connect;
mod error;
mod guard;
mod install;
mod join;
mod launch;
mod place;
mod postmaster;
mod settings;
mod supervisor;
mod version;

pub use connect::{ConnectParts, Password};
pub use error::Error;
pub use join::join;
pub use place::prepare_data_dir;
pub use settings::Settings;
pub use supervisor::{PrivatePostgres, State};
pub use version::Version;
