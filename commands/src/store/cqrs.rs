//! The event store as cqrs-es asks for one: whole streams through the repository of postgres-es, and commits by our own statement.

use std::collections::HashMap;

use cqrs_es::{
    AggregateError, EventEnvelope, EventStore,
    persist::{PersistedEventRepository, PersistenceError, SerializedEvent},
};
use domain::UnreadableEvent;
use postgres_es::PostgresEventRepository;
use proof::EventFields;

use super::{AppendError, Loaded, Store, Stream};

impl<A: Stream> EventStore<A> for Store {
    type AC = Loaded<A>;

    /// The whole stream, through the repository of postgres-es.
    async fn load_events(
        &self,
        id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let stored = PostgresEventRepository::new(self.pool.clone()).get_events::<A>(id).await?;
        // The repository reads no ids, and those of older events tell that they need no code.
        let ids: HashMap<i64, i64> = sqlx::query_as(
            "SELECT sequence, id FROM events WHERE aggregate_type = $1 AND aggregate_id = $2",
        )
        .bind(A::TYPE)
        .bind(id)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| PersistenceError::UnknownError(Box::new(error)))?
        .into_iter()
        .collect();
        let is_authentic = |event: &SerializedEvent| {
            let sequence = i64::try_from(event.sequence).unwrap_or(i64::MAX);
            let fields = EventFields {
                stream_type: A::TYPE,
                stream_id: id,
                sequence,
                event_type: &event.event_type,
                event_version: &event.event_version,
                payload: &event.payload.to_string(),
            };
            let stored = ids.get(&sequence).copied().unwrap_or(i64::MAX);
            self.events.is_authentic(stored, &fields, &event.metadata.to_string())
        };
        let unreadable = |cause: UnreadableEvent| {
            AggregateError::from(PersistenceError::DeserializationError(Box::new(cause)))
        };
        let read = |event: SerializedEvent| {
            Ok(EventEnvelope {
                payload: domain::read_stored(
                    &event.event_type,
                    &event.event_version,
                    event.payload,
                )
                .map_err(unreadable)?,
                aggregate_id: event.aggregate_id,
                sequence: event.sequence,
                metadata: serde_json::from_value(event.metadata).map_err(PersistenceError::from)?,
            })
        };
        stored.into_iter().filter(is_authentic).map(read).collect()
    }

    async fn load_aggregate(&self, id: &str) -> Result<Loaded<A>, AggregateError<A::Error>> {
        self.load(id).await.map_err(|error| AppendError::from(error).into_aggregate_error::<A>())
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: Loaded<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let (id, places) = (context.id.clone(), context.next(events.len()));
        self.append(&context, &events, &metadata)
            .await
            .map_err(AppendError::into_aggregate_error::<A>)?;
        let numbered = places.into_iter().zip(events);
        Ok(numbered
            .map(|((sequence, _), payload)| EventEnvelope {
                aggregate_id: id.clone(),
                sequence: usize::try_from(sequence).unwrap_or(usize::MAX),
                payload,
                metadata: metadata.clone(),
            })
            .collect())
    }
}

impl AppendError {
    fn into_aggregate_error<A: Stream>(self) -> AggregateError<A::Error> {
        match self {
            Self::Conflict => AggregateError::AggregateConflict,
            Self::Taken(kind) => match A::taken(kind) {
                Some(refusal) => AggregateError::UserError(refusal),
                None => AggregateError::AggregateConflict,
            },
            Self::Storage(error) if error.is_temporary() => {
                PersistenceError::ConnectionError(Box::new(error)).into()
            }
            Self::Storage(error) => AggregateError::UnexpectedError(Box::new(error)),
        }
    }
}
