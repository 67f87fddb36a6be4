//! What the caller may decide.

use std::path::PathBuf;
use std::time::Duration;

/// Start from [`Settings::new`] and change what you need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Entrybook's data directory. Made when missing.
    pub data_dir: PathBuf,
    /// The directory of `initdb`, `postgres` and `pg_ctl` (`ENTRYBOOK_POSTGRES_BIN`). When given, no other is ever used.
    pub bin_dir: Option<PathBuf>,
    /// Looked through before PATH and the known places. Each may be a `bin` directory, hold one, or hold installations that do.
    pub search_dirs: Vec<PathBuf>,
    /// The account for PostgreSQL when started as root (`ENTRYBOOK_POSTGRES_USER`).
    pub unprivileged_user: Option<String>,
    /// Where the cluster goes when that account may not enter `data_dir`. Only root uses it.
    pub fallback_dir: PathBuf,
    /// Further server parameters, as `postgres -c` takes them. What keeps the data durable and the server closed stays as it is.
    pub parameters: Vec<(String, String)>,
    /// How long one start may take. A recovery after a crash may take longer.
    pub start_timeout: Duration,
    /// How long a fast shutdown may take before it becomes an immediate one.
    pub stop_timeout: Duration,
}

impl Settings {
    /// The defaults, for this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bin_dir: None,
            search_dirs: Vec::new(),
            unprivileged_user: None,
            fallback_dir: PathBuf::from("/var/lib/entrybook"),
            parameters: Vec::new(),
            start_timeout: Duration::from_secs(300),
            stop_timeout: Duration::from_secs(30),
        }
    }
}
