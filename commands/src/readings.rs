//! Posts that somebody read the history: who, when, from where, and what they looked for.

use cqrs_es::{Aggregate, event_sink::EventSink};
use domain::{Event, Metadata, ReadingEvent, Sealed, stream};
use proof::EventFields;
use serde::{Deserialize, Serialize};

use crate::{
    Budget, Entrybook, ExecuteError, Origin, Receipt, StorageError, executor::Order, store::Stream,
};

/// The stream of what is read from the command line.
pub const CLI_READER: &str = "cli";

/// Nothing is refused: who may read was asked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadingRefusal {}

/// What somebody has read, as cqrs-es wants it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReadingAggregate {
    /// How often.
    pub readings: u64,
}

impl Aggregate for ReadingAggregate {
    const TYPE: &'static str = stream::READING;
    type Command = ReadingEvent;
    type Event = ReadingEvent;
    type Error = ReadingRefusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: ReadingEvent,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), ReadingRefusal> {
        sink.write(command, self).await;
        Ok(())
    }

    fn apply(&mut self, _event: ReadingEvent) {
        self.readings += 1;
    }
}

impl Stream for ReadingAggregate {
    const SHAPE: i32 = 1;

    /// Who answers readings counts them by the hour.
    fn budget(_events: &[ReadingEvent]) -> Option<Budget> {
        None
    }
}

/// Where the sealed filter of a reading stands.
#[must_use]
pub fn filter_place(reader: &str) -> String {
    format!("{}/{reader}/filter", stream::READING)
}

/// So many readings are looked back at.
const PAST_READINGS: i64 = 1_000;

/// A reading that stands in the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastReading {
    pub event: ReadingEvent,
    pub metadata: Metadata,
}

impl Entrybook {
    /// The newest readings of a reader, the newest first, whether or not they have a place in the
    /// journal yet. Those that only a newer binary knows are left out.
    pub async fn past_readings(&self, reader: &str) -> Result<Vec<PastReading>, StorageError> {
        let rows: Vec<(i64, i64, String, String, String, String)> = sqlx::query_as(
            "SELECT id, sequence, event_type, event_version, payload::text, metadata::text FROM events
              WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence DESC LIMIT $3",
        )
        .bind(stream::READING)
        .bind(reader)
        .bind(PAST_READINGS)
        .fetch_all(self.pool())
        .await?;
        let mut readings = Vec::with_capacity(rows.len());
        for (id, sequence, event_type, version, payload, metadata) in rows {
            let fields = EventFields {
                stream_type: stream::READING,
                stream_id: reader,
                sequence,
                event_type: &event_type,
                event_version: &version,
                payload: &payload,
            };
            if !self.keyring().events().is_authentic(id, &fields, &metadata) {
                continue;
            }
            let event = Event::from_stored_text(stream::READING, &event_type, &version, &payload);
            if let (Ok(Event::Reading(event)), Ok(metadata)) =
                (event, Metadata::from_text(&metadata))
            {
                readings.push(PastReading { event, metadata });
            }
        }
        Ok(readings)
    }

    /// Posts that `reader` has read: the id of an account, or [`CLI_READER`].
    pub async fn record_reading(
        &self,
        event: ReadingEvent,
        reader: &str,
        origin: &Origin,
    ) -> Result<Receipt, StorageError> {
        let at = self.clock().now();
        let order = Order { stream_id: reader, origin, person: None, new_key: None, at };
        match self.execute::<ReadingAggregate>(order, event, &()).await {
            Ok(done) => Ok(done.receipt.unwrap_or(Receipt { tx: 0, event_id: 0 })),
            Err(ExecuteError::Refused(never)) => match never {},
            Err(ExecuteError::Storage(error)) => Err(error),
        }
    }

    /// Seals what a reader looked for, under the key of this month.
    pub async fn seal_filter(&self, reader: &str, filter: &str) -> Result<Sealed, StorageError> {
        let month = self.keyring().month(self.clock().now()).await?;
        Ok(self.keyring().seal(&month, &filter_place(reader), filter.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    #[test]
    fn each_reading_is_an_event() {
        let read = || ReadingEvent::HistorySearched { filter: Some(Sealed("s1.test".into())) };
        TestFramework::<ReadingAggregate>::with(())
            .given(vec![read()])
            .when(read())
            .then_expect_events(vec![read()]);
    }
}
