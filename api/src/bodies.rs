//! Reading the bodies of requests before the requests count.
//!
//! A body may come as slowly as its sender likes, so nothing that others need is held for it: a request is let in
//! when all of its body is there. Each body has a bound of size and time; all that are on their way together
//! have a bound of memory, and where that is passed, the one that takes longest is given up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

use crate::extract::MAX_BODY;

/// So many bytes of bodies are held for requests that are not yet let in: 512 of the largest.
const MOST: usize = 512 * MAX_BODY;

/// The bodies that are being read. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Bodies(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    /// Numbers them, so that the first is the one that takes longest.
    counted: u64,
    bytes: usize,
    bodies: BTreeMap<u64, Part>,
}

#[derive(Debug, Default)]
struct Part {
    bytes: usize,
    given_up: CancellationToken,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLarge,
    TooSlow,
    /// It ended before its end.
    Broken,
    /// Others needed the memory.
    GivenUp,
}

/// A body that is held, and counted for as long.
#[derive(Debug)]
pub(crate) struct Held {
    number: u64,
    bodies: Bodies,
    given_up: CancellationToken,
}

impl Default for Bodies {
    fn default() -> Self {
        Self::of_at_most(MOST)
    }
}

impl Bodies {
    fn of_at_most(most: usize) -> Self {
        Self(Arc::new(Shared { most, reading: Mutex::default() }))
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole body, which counts until what comes with it is dropped.
    pub(crate) async fn read(
        &self,
        body: &mut Body,
        time: Duration,
    ) -> Result<(Bytes, Held), Unread> {
        let held = self.begin();
        let collecting = async {
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
                if bytes.len() + data.len() > MAX_BODY {
                    return Err(Unread::TooLarge);
                }
                held.grow(data.len());
                bytes.extend_from_slice(&data);
            }
            Ok(Bytes::from(bytes))
        };
        let collected = tokio::select! {
            biased;
            () = held.given_up.cancelled() => Err(Unread::GivenUp),
            collected = tokio::time::timeout(time, collecting) => {
                collected.unwrap_or(Err(Unread::TooSlow))
            }
        };
        Ok((collected?, held))
    }

    fn begin(&self) -> Held {
        let mut reading = self.reading();
        reading.counted += 1;
        let number = reading.counted;
        let part = Part::default();
        let given_up = part.given_up.clone();
        reading.bodies.insert(number, part);
        Held { number, bodies: self.clone(), given_up }
    }
}

impl Held {
    fn grow(&self, more: usize) {
        let mut reading = self.bodies.reading();
        let Some(part) = reading.bodies.get_mut(&self.number) else { return };
        part.bytes += more;
        reading.bytes += more;
        while reading.bytes > self.bodies.0.most {
            let with_bytes = reading.bodies.iter().find(|(_, part)| part.bytes > 0);
            let Some(longest) = with_bytes.map(|(number, _)| *number) else { break };
            if let Some(part) = reading.forget(longest) {
                part.given_up.cancel();
            }
        }
    }
}

impl Reading {
    fn forget(&mut self, number: u64) -> Option<Part> {
        let part = self.bodies.remove(&number)?;
        self.bytes -= part.bytes;
        Some(part)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.reading().forget(self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    fn body(parts: usize, bytes: usize) -> Body {
        let part = move |_| Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; bytes]));
        Body::from_stream(stream::iter(0..parts).map(part))
    }

    fn stalled(bytes: usize) -> Body {
        let first =
            stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; bytes]))]);
        Body::from_stream(first.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_has_a_bound_of_size() {
        let bodies = Bodies::default();
        let (bytes, held) = bodies.read(&mut body(64, 1024), TIME).await.unwrap();
        assert_eq!(bytes.len(), MAX_BODY);
        assert_eq!(bodies.reading().bytes, MAX_BODY);
        drop(held);
        assert_eq!(bodies.reading().bytes, 0);
        assert_eq!(bodies.read(&mut body(65, 1024), TIME).await.unwrap_err(), Unread::TooLarge);
        assert!(bodies.reading().bodies.is_empty());
    }

    #[tokio::test]
    async fn a_body_has_a_bound_of_time() {
        let bodies = Bodies::default();
        let time = Duration::from_millis(20);
        assert_eq!(bodies.read(&mut stalled(1), time).await.unwrap_err(), Unread::TooSlow);
        assert_eq!(bodies.reading().bytes, 0);
    }

    #[tokio::test]
    async fn where_memory_ends_the_body_that_takes_longest_is_given_up() {
        let bodies = Bodies::of_at_most(100);
        let waiting = |bytes| {
            let bodies = bodies.clone();
            tokio::spawn(async move { bodies.read(&mut stalled(bytes), TIME).await.unwrap_err() })
        };
        // One that has sent nothing holds nothing, and is no help.
        let nothing = waiting(0);
        tokio::task::yield_now().await;
        let first = waiting(60);
        tokio::task::yield_now().await;
        let second = waiting(40);
        tokio::task::yield_now().await;
        let (bytes, _held) = bodies.read(&mut body(1, 50), TIME).await.unwrap();
        assert_eq!(bytes.len(), 50);
        assert_eq!(first.await.unwrap(), Unread::GivenUp);
        assert_eq!(bodies.reading().bytes, 90);
        assert!(!second.is_finished() && !nothing.is_finished());
    }
}
