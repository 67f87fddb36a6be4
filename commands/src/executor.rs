//! Running one command on one stream: load, decide, seal the origin, append; again on a conflict.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use cqrs_es::event_sink::EventSink;
use domain::Index;

use crate::{
    Entrybook, Origin, StorageError,
    budgets::{Budget, Spender},
    keyring::{NewKey, PersonKey},
    store::{AppendError, Loaded, Receipt, Stream},
};

/// How often a command is decided anew when others came first.
pub(crate) const ATTEMPTS: u32 = 16;

/// What a command has done.
pub struct Executed<A: Stream> {
    /// The state after it.
    pub aggregate: A,
    /// What it wrote; nothing where there was nothing to change.
    pub events: Vec<A::Event>,
    /// Where that stands.
    pub receipt: Option<Receipt>,
}

/// Why a command wrote nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R> {
    #[error("refused")]
    Refused(R),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A command with what surrounds it.
pub(crate) struct Order<'a> {
    pub(crate) stream_id: &'a str,
    pub(crate) origin: &'a Origin,
    /// The key of the person whom the stream is about, where there is one.
    pub(crate) person: Option<&'a PersonKey>,
    /// The key that comes to be with this commit.
    pub(crate) new_key: Option<&'a NewKey>,
    pub(crate) at: DateTime<Utc>,
}

impl Entrybook {
    /// Decides and appends. A conflict is decided anew from the stream as it then stands, a bounded
    /// number of times; a lost connection is never tried again, because the append may count.
    pub(crate) async fn execute<A>(
        &self,
        order: Order<'_>,
        command: A::Command,
        services: &A::Services,
    ) -> Result<Executed<A>, ExecuteError<A::Error>>
    where
        A: Stream,
        A::Command: Clone,
    {
        self.execute_named(order, None, command, services).await
    }

    /// The same for a command that gives an account a username: what it looks like is claimed with it.
    pub(crate) async fn execute_named<A>(
        &self,
        order: Order<'_>,
        lookalikes: Option<Vec<Index>>,
        command: A::Command,
        services: &A::Services,
    ) -> Result<Executed<A>, ExecuteError<A::Error>>
    where
        A: Stream,
        A::Command: Clone,
    {
        for attempt in 0..ATTEMPTS {
            let mut loaded = self.store().load::<A>(order.stream_id).await?;
            let sink = EventSink::default();
            loaded
                .aggregate
                .handle(command.clone(), services, &sink)
                .await
                .map_err(ExecuteError::Refused)?;
            let events = sink.collect().await;
            if events.is_empty() {
                return Ok(Executed { aggregate: loaded.aggregate, events, receipt: None });
            }
            // Whatever follows, it was an attempt, and is counted once.
            if attempt == 0
                && let Some(budget) = A::budget(&events)
            {
                self.afford(budget, &loaded, &order).await?;
            }
            if let Some(key) = order.new_key {
                loaded.with_key(key.clone());
            }
            if let Some(lookalikes) = &lookalikes {
                loaded.with_lookalikes(lookalikes.clone());
            }
            let stream = (A::TYPE, order.stream_id);
            let metadata = order
                .origin
                .seal(self.keyring(), stream, order.person, order.at)
                .await
                .map_err(StorageError::from)?;
            match self.store().append(&loaded, &events, &metadata).await {
                Ok(receipt) => {
                    self.counters().appends.fetch_add(events.len() as u64, Ordering::Relaxed);
                    self.appended().notify_one();
                    return Ok(Executed {
                        aggregate: loaded.aggregate,
                        events,
                        receipt: Some(receipt),
                    });
                }
                Err(AppendError::Conflict) => {
                    self.counters().conflicts.fetch_add(1, Ordering::Relaxed);
                    self.pause(attempt).await;
                }
                Err(AppendError::Taken(kind)) => match A::taken(kind) {
                    Some(refusal) => return Err(ExecuteError::Refused(refusal)),
                    None => return Err(StorageError::Contended.into()),
                },
                Err(AppendError::Storage(error)) => return Err(error.into()),
            }
        }
        Err(StorageError::Contended.into())
    }

    /// Takes what is to be appended from the budgets of who asks, or refuses it.
    async fn afford<A: Stream>(
        &self,
        budget: Budget,
        loaded: &Loaded<A>,
        order: &Order<'_>,
    ) -> Result<(), StorageError> {
        self.budgets().take(budget, order.origin, order.at)?;
        // Each replica counts for itself; the stream is the same for all of them.
        if budget.is_shared()
            && let Some(wait) =
                self.store().wait_of(loaded, self.budgets().most_in_an_hour()).await?
        {
            return Err(self.budgets().refuse(budget, Spender::Stream, wait).into());
        }
        Ok(())
    }

    /// Waits a little, at random and longer each time, so that writers to one stream take turns.
    pub(crate) async fn pause(&self, attempt: u32) {
        let mut byte = [0_u8];
        self.entropy().fill(&mut byte);
        let [random] = byte;
        let micros = u64::from(random) * 20 * (1 << attempt.min(6));
        tokio::time::sleep(std::time::Duration::from_micros(micros)).await;
    }
}
