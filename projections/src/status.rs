//! How each projection stands: for `/readyz`, the metrics, the admin page and the command line.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Row, types::Json};

use crate::projection::{CannotApply, Projection, StopKind};

/// How one projection stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProjectionStatus {
    pub name: &'static str,
    pub version: i32,
    /// The last line it has applied.
    pub position: i64,
    /// The last line of the book.
    pub head: i64,
    pub lag_events: i64,
    /// The age of the oldest line it has not applied, in seconds; 0 when it has applied them all.
    pub lag_seconds: f64,
    pub state: ProjectionState,
    /// Why it is stopped, where, and what to do.
    pub detail: Option<String>,
    /// The same in parts.
    pub stopped: Option<Stopped>,
    /// Its first build is complete: its tables show a whole book, if not up to the last line.
    pub built: bool,
    pub updated_at: Option<DateTime<Utc>>,
}

/// The line at which a projection is stopped, and why. It holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    pub position: i64,
    /// The stream and the place in it, where the line can be read that far.
    pub stream: Option<String>,
    pub event_type: Option<String>,
    pub event_version: Option<String>,
    /// Not noted by older binaries.
    #[serde(default)]
    pub kind: StopKind,
    pub cause: String,
}

impl From<&CannotApply> for Stopped {
    fn from(cannot: &CannotApply) -> Self {
        Self {
            position: cannot.position,
            stream: Some(cannot.stream.clone()),
            event_type: Some(cannot.event_type.clone()),
            event_version: Some(cannot.event_version.clone()),
            kind: cannot.kind,
            cause: cannot.cause.clone(),
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.position)?;
        if let (Some(stream), Some(event), Some(version)) =
            (&self.stream, &self.event_type, &self.event_version)
        {
            write!(f, " ({stream}, {event} version {version})")?;
        }
        write!(f, ": {}", self.cause)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionState {
    /// It was never made.
    Missing,
    /// It has not yet caught up for the first time.
    Building,
    Live,
    /// It met an event that it can't apply, and waits for a binary that can.
    Stopped,
}

impl ProjectionState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Building => "building",
            Self::Live => "live",
            Self::Stopped => "stopped",
        }
    }

    fn from_stored(state: Option<&str>) -> Self {
        match state {
            None => Self::Missing,
            Some("live") => Self::Live,
            Some("stopped") => Self::Stopped,
            Some(_) => Self::Building,
        }
    }
}

impl fmt::Display for ProjectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How these projections stand, in their order.
pub async fn status(
    pool: &PgPool,
    projections: &[&'static dyn Projection],
) -> Result<Vec<ProjectionStatus>, sqlx::Error> {
    // The limit keeps the planner from joining the whole log where it has no statistics: it has none of `sequencer`,
    // which it takes for a thousand rows.
    let rows = sqlx::query(
        "SELECT coalesce(p.position, 0) AS position, s.position AS head, p.state, p.detail,
                p.stopped, coalesce(p.built, false) AS built,
                p.updated_at,
                coalesce(greatest(extract(epoch FROM clock_timestamp() - oldest.recorded_at), 0),
                         0)::float8 AS lag_seconds
           FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS wanted (name, version, place)
          CROSS JOIN sequencer s
           LEFT JOIN projections p USING (name, version)
           LEFT JOIN LATERAL (
                SELECT e.recorded_at
                  FROM journal j JOIN events e ON e.tx = j.tx AND e.id = j.event_id
                 WHERE j.position = coalesce(p.position, 0) + 1
                 LIMIT 1) AS oldest ON true
          ORDER BY place",
    )
    .bind(projections.iter().map(|projection| projection.name()).collect::<Vec<_>>())
    .bind(projections.iter().map(|projection| projection.version()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    projections
        .iter()
        .zip(rows)
        .map(|(projection, row)| {
            let position: i64 = row.try_get("position")?;
            // The projection may have come further than the head that this snapshot saw.
            let head = position.max(row.try_get("head")?);
            let state: Option<String> = row.try_get("state")?;
            Ok(ProjectionStatus {
                name: projection.name(),
                version: projection.version(),
                position,
                head,
                lag_events: head - position,
                lag_seconds: row.try_get("lag_seconds")?,
                state: ProjectionState::from_stored(state.as_deref()),
                detail: row.try_get("detail")?,
                stopped: row.try_get::<Option<Json<_>>, _>("stopped")?.map(|Json(stopped)| stopped),
                built: row.try_get("built")?,
                updated_at: row.try_get("updated_at")?,
            })
        })
        .collect()
}
