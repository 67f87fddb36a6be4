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
    identity::{Identity, Welcome},
    problem::{ApiError, ApiResult},
    sources::{Followed, SourcesError},
    standing,
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
/// After so many lines of which none was to be told, a client hears up to where that is so.
const SO_FAR: i64 = 1_000;
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

/// What is followed: the lines after one that pass a filter, and come from a place if one is asked for.
#[derive(Debug)]
pub struct Wanted {
    pub filter: Filter,
    pub place: Option<Followed>,
    pub after: i64,
}

/// A stream of the lines that are wanted, each written by `write`, for as long as `may` says.
pub fn follow<W, M, F>(
    app: &App,
    viewer: Identity,
    Wanted { filter, place, after }: Wanted,
    write: W,
    may: M,
) -> ApiResult<Response>
where
    W: Fn(Line) -> ApiResult<String> + Send + Sync + 'static,
    M: Fn(App) -> F + Send + Sync + 'static,
    F: Future<Output = Welcome> + Send,
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
        place,
        after,
        looked: after,
        events,
        checked: Instant::now(),
        is_sure: true,
        _permit: permit,
    };
    tokio::spawn(async move {
        match tail.run(&write, &may).await {
            End::Lagging => drop(farewell.send(lagging(tail.after))),
            End::TooMuch(why) => drop(farewell.send(too_much(tail.after, &why))),
            End::Over => {}
        }
    });
    Ok(standing::answer(ReceiverStream::new(told).map(Ok::<_, Infallible>)))
}

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The reader took nothing for too long.
    Lagging,
    /// The place can't be looked for any more, and why.
    TooMuch(String),
    /// There is nobody, may nobody, or will be no server.
    Over,
}

struct Tail {
    app: App,
    viewer: Identity,
    filter: Filter,
    place: Option<Followed>,
    /// The last line that was told, or up to which the reader heard that there is none.
    after: i64,
    /// The last line that was looked at: what passes no filter is not read again.
    looked: i64,
    head: HeadWatch,
    events: mpsc::Sender<sse::Event>,
    /// When it was last asked whether the reader may still follow, and whether that was known.
    checked: Instant,
    is_sure: bool,
    _permit: OwnedSemaphorePermit,
}

/// What a look has shown.
struct Read {
    lines: Vec<Line>,
    /// Up to where there are no others.
    looked: i64,
    /// Whether to wait for more.
    at_end: bool,
}

/// Why there is nothing to tell.
enum NoLines {
    /// It can't be looked for any more, whatever happens.
    TooMuch(String),
    Error(ApiError),
}

impl<E: Into<ApiError>> From<E> for NoLines {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl Tail {
    async fn run<W, M, F>(&mut self, write: &W, may: &M) -> End
    where
        W: Fn(Line) -> ApiResult<String>,
        M: Fn(App) -> F,
        F: Future<Output = Welcome>,
    {
        let ended = self.app.standing().ended();
        loop {
            if ended.is_cancelled() {
                return End::Over;
            }
            match self.welcome(may).await {
                Welcome::Yes => {}
                Welcome::No => return End::Over,
                Welcome::Unknown => {
                    tokio::select! {
                        () = ended.cancelled() => return End::Over,
                        () = self.events.closed() => return End::Over,
                        () = sleep(POLL) => continue,
                    }
                }
            }
            self.head.mark_unchanged();
            match self.lines().await {
                Ok(Read { lines, looked, at_end }) => {
                    for line in lines {
                        if let Err(end) = self.tell(line, write).await {
                            return end;
                        }
                    }
                    self.looked = self.looked.max(self.after).max(looked);
                    if !at_end {
                        continue;
                    }
                    self.tell_so_far();
                }
                Err(NoLines::TooMuch(why)) => return End::TooMuch(why),
                // `/readyz` says what is wrong; here there is just nothing new.
                Err(NoLines::Error(error)) => {
                    tracing::debug!("the history could not be followed: {error}");
                }
            }
            tokio::select! {
                () = ended.cancelled() => return End::Over,
                () = self.events.closed() => return End::Over,
                () = news(&mut self.head) => {}
            }
        }
    }

    /// Asks now and then whether who follows may still do so, and again and again where that is not known.
    async fn welcome<M, F>(&mut self, may: &M) -> Welcome
    where
        M: Fn(App) -> F,
        F: Future<Output = Welcome>,
    {
        if self.is_sure && self.checked.elapsed() < CHECK {
            return Welcome::Yes;
        }
        self.checked = Instant::now();
        let welcome = may(self.app.clone()).await;
        self.is_sure = welcome == Welcome::Yes;
        welcome
    }

    /// The next lines.
    async fn lines(&mut self) -> Result<Read, NoLines> {
        let pool = self.app.pool().clone();
        // Asked for first: what comes between the two is in the page.
        let reached = audit_history::reached(&pool).await?;
        if let Some(place) = &mut self.place {
            let lines = (self.looked, reached);
            match place.narrow(self.app.book(), lines, &mut self.filter).await {
                Ok(()) => {}
                Err(error @ SourcesError::TooMany) => {
                    return Err(NoLines::TooMuch(error.to_string()));
                }
                Err(error) => return Err(ApiError::from(error).into()),
            }
        }
        let looked = Some(self.looked);
        let mut found =
            audit_history::page(&pool, &self.filter, Order::Oldest, looked, PAGE).await?;
        let at_end = found.next.is_none() && found.rows.is_empty();
        if self.place.is_some() {
            // Of what has come since, the months are not known; one of its lines may be missing here.
            found.rows.retain(|row| row.position <= reached);
        }
        let looked = found.next.map_or(reached, |next| next.min(reached));
        let lines = history::describe(&self.app, &self.viewer, found.rows).await?;
        Ok(Read { lines, looked, at_end })
    }

    /// Lets a reader to whom little is told know from where to go on, should the stream end: otherwise
    /// all since their last line would be looked through again.
    fn tell_so_far(&mut self) {
        if self.looked.saturating_sub(self.after) < SO_FAR {
            return;
        }
        let event = sse::Event::default().id(self.looked.to_string()).comment("so far");
        if self.events.try_send(event).is_ok() {
            self.after = self.looked;
        }
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

fn too_much(after: i64, why: &str) -> sse::Event {
    let told =
        json!({ "after": after, "detail": format!("The address can't be followed: {why}.") });
    sse::Event::default().event("too_much").id(after.to_string()).data(told.to_string())
}

fn lagging(after: i64) -> sse::Event {
    let detail = format!(
        "Lines are read more slowly than they are told. Ask again with `Last-Event-ID: {after}` to go on after line \
         {after}; nothing is lost."
    );
    let told = json!({ "after": after, "detail": detail });
    sse::Event::default().event("lagging").id(after.to_string()).data(told.to_string())
}
