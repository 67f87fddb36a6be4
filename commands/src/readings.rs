//! Posts that somebody read the history: who, when, from where, and what they looked for.

use cqrs_es::{Aggregate, event_sink::EventSink};
use domain::{ReadingEvent, Sealed, stream};
use serde::{Deserialize, Serialize};

use crate::{
    Entrybook, ExecuteError, Origin, Receipt, StorageError, executor::Order, store::Stream,
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
}

/// Where the sealed filter of a reading stands.
#[must_use]
pub fn filter_place(reader: &str) -> String {
    format!("{}/{reader}/filter", stream::READING)
}

impl Entrybook {
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
