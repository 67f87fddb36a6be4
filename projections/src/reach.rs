//! How far a projection shows the book, for whoever must say so beside what it shows.

use std::time::Duration;

use sqlx::PgPool;

use crate::projector::{Projector, standing};

/// How far a projection shows the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The last line that it shows. Those up to it are all there.
    pub reached: i64,
    /// The last line of the book, when it was asked.
    pub head: i64,
}

impl Reach {
    /// Whether it shows all of the book.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.reached >= self.head
    }
}

impl Projector {
    /// How far a projection shows the book. Where that is short of `line`, or of the end of the book
    /// where none is named, it waits for so long at most; not at all while the projection is stopped.
    pub async fn reach(
        &self,
        pool: &PgPool,
        name: &str,
        line: Option<i64>,
        patience: Duration,
    ) -> Result<Reach, sqlx::Error> {
        let projection = self.named(name).ok_or(sqlx::Error::RowNotFound)?;
        let look = || standing(pool, projection.name(), projection.version());
        let (reached, head) = look().await?;
        let seen = Reach { reached: reached.unwrap_or(0), head };
        let wanted = line.unwrap_or(head);
        if seen.reached >= wanted || patience.is_zero() {
            return Ok(seen);
        }
        let waited = tokio::time::timeout(patience, self.shows(projection, wanted)).await;
        if waited == Ok(true) {
            return Ok(Reach { reached: wanted, ..seen });
        }
        let (reached, _) = look().await?;
        Ok(Reach { reached: reached.unwrap_or(0), ..seen })
    }
}
