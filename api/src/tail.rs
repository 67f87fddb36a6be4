//! New lines of the history, told as they come (server-sent events, WHATWG HTML, section 9.2).
//!
//! Each stream reads the history after the last line that it told. So nothing is left out and nothing
//! told twice, whichever replica is asked to go on. Who takes nothing for a while is let go, with a
//! word on how to go on.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::response::{Response, sse};
use futures_util::StreamExt;
use projections::{HeadWatch, audit_history};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    history::{self, Filter, Line, Order},
    identity::Identity,
    problem::{ApiError, ApiResult},
    sources, standing,
    state::App,
};

/// How many may follow at once.
const FOLLOWERS: usize = 64;
/// Lines that are read at once.
const PAGE: i64 = 200;
/// Lines that wait for a reader at most …
const ROOM: usize = 256;
/// … and for how long the next one waits for room, before the reader is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for lines where nothing says that there are any.
const POLL: Duration = Duration::from_millis(500);
/// How long the history takes, about, to show a line that is in order.
const SHOWN_AFTER: Duration = Duration::from_millis(25);
/// How often it is asked whether who follows may still do so.
const CHECK: Duration = Duration::from_secs(2);
/// After how long a client whose stream has ended asks for it again.
const RETRY: Duration = Duration::from_secs(2);

/// Room for those who follow.
#[derive(Debug)]
pub struct Tails(Arc<Semaphore>);

impl Default for Tails {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOLLOWERS)))
    }
}

impl Tails {
    /// How many follow.
    #[must_use]
    pub fn open(&self) -> usize {
        FOLLOWERS.saturating_sub(self.0.available_permits())
    }
}

/// A stream of the lines after one that pass a filter, each written by `write`, for as long as `may`
/// says.
pub fn follow<W, M, F>(
    app: &App,
    viewer: Identity,
    (filter, after): (Filter, i64),
    write: W,
    may: M,
) -> ApiResult<Response>
where
    W: Fn(Line) -> ApiResult<String> + Send + Sync + 'static,
    M: Fn(App) -> F + Send + Sync + 'static,
    F: Future<Output = bool> + Send,
{
    let permit = app.tails().0.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::overloaded())?;
    let (events, told) = mpsc::channel(ROOM);
    // Nobody is let go without a word: its place is taken at once, and so is that of the first event,
    // by which a client knows where to go on before there is a line.
    let farewell = events.clone().try_reserve_owned().map_err(|_| ApiError::overloaded())?;
    let first = sse::Event::default().id(after.to_string()).retry(RETRY).comment("the book");
    events.try_send(first).map_err(|_| ApiError::overloaded())?;
    let mut tail = Tail {
        head: app.sequencer().head(),
        app: app.clone(),
        viewer,
        filter,
        after,
        looked: after,
        events,
        checked: Instant::now(),
        _permit: permit,
    };
    tokio::spawn(async move {
        if tail.run(&write, &may).await == End::Lagging {
            farewell.send(lagging(tail.after));
        }
    });
    Ok(standing::answer(ReceiverStream::new(told).map(Ok::<_, Infallible>)))
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The reader took nothing for too long.
    Lagging,
    /// There is nobody, may nobody, or will be no server.
    Over,
}

struct Tail {
    app: App,
    viewer: Identity,
    filter: Filter,
    /// The last line that was told.
    after: i64,
    /// The last line that was looked at: what passes no filter is not read again.
    looked: i64,
    head: HeadWatch,
    events: mpsc::Sender<sse::Event>,
    checked: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What a look has shown.
struct Read {
    lines: Vec<Line>,
    /// Up to where there are no others, where that is known.
    looked: Option<i64>,
    /// Whether to wait for more.
    at_end: bool,
}

impl Tail {
    async fn run<W, M, F>(&mut self, write: &W, may: &M) -> End
    where
        W: Fn(Line) -> ApiResult<String>,
        M: Fn(App) -> F,
        F: Future<Output = bool>,
    {
        let ended = self.app.standing().ended();
        loop {
            if ended.is_cancelled() || !self.is_welcome(may).await {
                return End::Over;
            }
            self.head.mark_unchanged();
            match self.lines().await {
                Ok(Read { lines, looked, at_end }) => {
                    for line in lines {
                        if let Err(end) = self.tell(line, write).await {
                            return end;
                        }
                    }
                    self.looked = self.looked.max(self.after).max(looked.unwrap_or(0));
                    if !at_end {
                        continue;
                    }
                }
                // `/readyz` says what is wrong; here there is just nothing new.
                Err(error) => tracing::debug!("the history could not be followed: {error}"),
            }
            tokio::select! {
                () = ended.cancelled() => return End::Over,
                () = self.events.closed() => return End::Over,
                () = news(&mut self.head) => {}
            }
        }
    }

    /// Asks now and then whether who follows may still do so. A month that has begun meanwhile has a
    /// key of its own, under which a place is looked for as well.
    async fn is_welcome<M, F>(&mut self, may: &M) -> bool
    where
        M: Fn(App) -> F,
        F: Future<Output = bool>,
    {
        if self.checked.elapsed() < CHECK {
            return true;
        }
        self.checked = Instant::now();
        self.renew().await;
        may(self.app.clone()).await
    }

    /// Looks for a place under the keys of all months that there are now, and tells whether there are
    /// others than before.
    async fn renew(&mut self) -> bool {
        let Some(place) = self.filter.place.clone() else { return false };
        let before = self.filter.sources.clone();
        if let Err(error) = sources::narrow(self.app.book(), &place, &mut self.filter).await {
            tracing::debug!("the keys of the months could not be looked at: {error}");
        }
        self.filter.sources != before
    }

    /// The next lines.
    async fn lines(&mut self) -> ApiResult<Read> {
        let (pool, looked) = (self.app.pool().clone(), Some(self.looked));
        // Asked for first: what comes between the two is in the page.
        let reached = audit_history::reached(&pool).await?;
        let found = audit_history::page(&pool, &self.filter, Order::Oldest, looked, PAGE).await?;
        let at_end = found.next.is_none() && found.rows.is_empty();
        let looked = match found.next {
            // A month whose key is not looked for yet may have lines of the place.
            None if self.filter.place.is_some() => None,
            None => Some(reached),
            Some(_) if found.broke_off && self.renew().await => None,
            next => next,
        };
        let lines = history::describe(&self.app, &self.viewer, found.rows).await?;
        Ok(Read { lines, looked, at_end })
    }

    async fn tell<W>(&mut self, line: Line, write: &W) -> Result<(), End>
    where
        W: Fn(Line) -> ApiResult<String>,
    {
        let position = line.position;
        let text = write(line).map_err(|error| {
            tracing::error!(position, "line {position} could not be told: {error}");
            End::Over
        })?;
        let event = sse::Event::default().event("line").id(position.to_string()).data(text);
        match timeout(PATIENCE, self.events.send(event)).await {
            Ok(Ok(())) => {
                self.after = position;
                Ok(())
            }
            Ok(Err(_)) => Err(End::Over),
            Err(_) => Err(End::Lagging),
        }
    }
}

/// Returns when there may be new lines.
async fn news(head: &mut HeadWatch) {
    let moved = async {
        if head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(SHOWN_AFTER).await;
    };
    let _elapsed = timeout(POLL, moved).await;
}

fn lagging(after: i64) -> sse::Event {
    let detail = format!(
        "Lines are read more slowly than they are told. Ask again with `Last-Event-ID: {after}` to go on after line \
         {after}; nothing is lost."
    );
    let told = json!({ "after": after, "detail": detail });
    sse::Event::default().event("lagging").id(after.to_string()).data(told.to_string())
}
