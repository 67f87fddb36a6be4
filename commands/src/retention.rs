//! The end of a month's retention: from then on nobody can read where the requests of that month came
//! from, and what was typed for names that were nobody's. The events keep their lines.
//!
//! A month goes in one small commit, in nobody's way: the event `MonthForgotten`, and the end of the key.
//! Where the key is there all the same, as after a part of a backup was brought back, it is found again
//! and destroyed.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ServiceEvent;

use crate::{
    Entrybook, Origin, ServiceAggregate, StorageError,
    executor::ATTEMPTS,
    keyring::{Keyring, Month},
    store::AppendError,
};

impl Entrybook {
    /// Forgets the oldest month that has a key and was over before so long; nothing if there is none.
    /// A month that is not over is never forgotten, whatever the retention.
    pub async fn forget_next_month(
        &self,
        retention: TimeDelta,
        origin: &Origin,
    ) -> Result<Option<Month>, StorageError> {
        // What is destroyed never comes back, so a clock that is ahead must not decide alone.
        let database: DateTime<Utc> =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(self.pool()).await?;
        let now = self.clock().now().min(database);
        let before = now.checked_sub_signed(retention.max(TimeDelta::zero()));
        let Some(before) = before else { return Ok(None) };
        let months = self.keyring().months_until(Month::of(before)).await?;
        let Some(month) = months.into_iter().find(|month| month.end() <= before) else {
            return Ok(None);
        };
        self.forget_month(month, origin).await?;
        Ok(Some(month))
    }

    async fn forget_month(&self, month: Month, origin: &Origin) -> Result<(), StorageError> {
        let (stream_id, key) = (month_stream(month), Keyring::month_key_id(month));
        for attempt in 0..ATTEMPTS {
            let loaded = self.store().load::<ServiceAggregate>(&stream_id).await?;
            if loaded.events() > 0 {
                self.keyring().destroy_month(month).await?;
                return Ok(());
            }
            let event = ServiceEvent::MonthForgotten { month: month.to_string() };
            match self.append_destroying(&loaded, &event, &key, &[], origin).await {
                Ok(_) => {
                    self.keyring().forget_month(month);
                    return Ok(());
                }
                Err(AppendError::Conflict) => self.pause(attempt).await,
                Err(AppendError::Taken(_)) => return Err(StorageError::Contended),
                Err(AppendError::Storage(error)) => return Err(error),
            }
        }
        Err(StorageError::Contended)
    }
}

/// The stream of a month has that one event. The database looks for it there (`destroy_key`), and so
/// does `projections::revocations`.
fn month_stream(month: Month) -> String {
    format!("month:{month}")
}
