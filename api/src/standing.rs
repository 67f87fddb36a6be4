//! How the projections stand, told anew whenever it changes, to whoever follows it (server-sent
//! events, WHATWG HTML, section 9.2).
//!
//! A rebuild may run anywhere: on any replica, or from the command line. Its progress is in the
//! database, and this replica looks there once for all who follow, and only while somebody does.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response, Sse, sse},
};
use futures_util::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::Welcome,
    problem::{ApiError, ApiResult},
    routes::projections::{Projections, read},
    state::App,
};

/// How often it is looked at, and so told at most.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is asked whether who follows may still do so.
const CHECK: Duration = Duration::from_secs(2);
/// How long a connection may be silent: proxies end one that is so for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After how long a client whose stream has ended asks for it again.
const RETRY: Duration = Duration::from_secs(2);
/// How many may follow at once.
const FOLLOWERS: usize = 64;

/// Keeps nginx from collecting what should go out as it comes.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

type Seen = Option<Arc<Projections>>;

/// What those who follow are told, and room for them.
pub struct Standing {
    seen: watch::Sender<Seen>,
    /// Whether somebody looks at the database for all of them.
    looking: Mutex<bool>,
    room: Arc<Semaphore>,
    end: CancellationToken,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            seen: watch::Sender::new(None),
            looking: Mutex::new(false),
            room: Arc::new(Semaphore::new(FOLLOWERS)),
            end: CancellationToken::new(),
        }
    }
}

impl Standing {
    /// Ends all streams: the server stops, and would wait for them.
    pub fn end(&self) {
        self.end.cancel();
    }

    /// What ends when all streams do.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Hears of every change from now on, and first of how it is.
    fn subscribe(&self, app: &App) -> watch::Receiver<Seen> {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.seen.subscribe();
        if seen.borrow_and_update().is_some() {
            seen.mark_changed();
        }
        look_unless(&mut looking, app);
        seen
    }

    /// Sees to it that somebody looks: who did may have panicked.
    fn keep_looking(&self, app: &App) {
        look_unless(&mut self.looking.lock().unwrap_or_else(PoisonError::into_inner), app);
    }

    /// Whether nobody follows any more; then looking ends, and what was seen is forgotten.
    fn is_left_alone(&self) -> bool {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = self.seen.receiver_count() == 0;
        if alone {
            *looking = false;
            self.seen.send_replace(None);
        }
        alone
    }
}

fn look_unless(looking: &mut bool, app: &App) {
    if !*looking {
        *looking = true;
        tokio::spawn(look(app.clone()));
    }
}

/// Whoever looks. Should looking end in a panic, nobody does any more.
struct Looker<'a> {
    standing: &'a Standing,
    /// Whether it has been noted already, and somebody else may look by now.
    noted: bool,
}

impl Drop for Looker<'_> {
    fn drop(&mut self) {
        if !self.noted {
            *self.standing.looking.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
    }
}

async fn look(app: App) {
    let standing = app.standing();
    let mut looker = Looker { standing, noted: false };
    let mut next = interval(LOOK);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = next.tick() => {}
            () = standing.end.cancelled() => return,
        }
        if standing.is_left_alone() {
            looker.noted = true;
            return;
        }
        match read(&app).await {
            Ok(now) => {
                standing.seen.send_if_modified(|seen| {
                    let news = seen.as_ref().is_none_or(|seen| seen.differs_from(&now));
                    if news {
                        *seen = Some(Arc::new(now));
                    }
                    news
                });
            }
            // `/readyz` says what is wrong; here there is just nothing new.
            Err(error) => tracing::debug!("the projections could not be looked at: {error}"),
        }
    }
}

/// A stream of how the projections stand, each time written by `write`, for as long as `may` says.
pub fn follow<W, M, F>(app: &App, write: W, may: M) -> ApiResult<Response>
where
    W: Fn(&Projections) -> ApiResult<String> + Send + 'static,
    M: Fn(App) -> F + Send + 'static,
    F: Future<Output = Welcome> + Send,
{
    let permit = app.standing().room.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::overloaded())?;
    let mut check = interval(CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check.reset();
    let follower = Follower {
        seen: app.standing().subscribe(app),
        app: app.clone(),
        write,
        may,
        check,
        is_sure: true,
        _permit: permit,
    };
    let events = stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, axum::Error>(event), follower))
    });
    Ok(answer(events))
}

/// A stream of events as an answer.
pub(crate) fn answer<S, E>(events: S) -> Response
where
    S: Stream<Item = Result<sse::Event, E>> + Send + 'static,
    E: Into<axum::BoxError>,
{
    let keep_alive = sse::KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

struct Follower<W, M> {
    app: App,
    seen: watch::Receiver<Seen>,
    write: W,
    may: M,
    check: Interval,
    /// Whether it is known that who follows may still do so.
    is_sure: bool,
    _permit: OwnedSemaphorePermit,
}

impl<W, M, F> Follower<W, M>
where
    W: Fn(&Projections) -> ApiResult<String>,
    M: Fn(App) -> F,
    F: Future<Output = Welcome>,
{
    /// The next event; none when the stream ends.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            tokio::select! {
                biased;
                () = self.app.standing().end.cancelled() => return None,
                _ = self.check.tick() => {
                    match (self.may)(self.app.clone()).await {
                        Welcome::Yes => self.is_sure = true,
                        Welcome::No => return None,
                        Welcome::Unknown => self.is_sure = false,
                    }
                    self.app.standing().keep_looking(&self.app);
                }
                changed = self.seen.changed(), if self.is_sure => {
                    changed.ok()?;
                    let seen = self.seen.borrow_and_update().clone();
                    let Some(seen) = seen else { continue };
                    // The format knows three ends of a line; one is enough for us.
                    let text = (self.write)(&seen).ok()?.replace('\r', "");
                    return Some(sse::Event::default().event("projections").retry(RETRY).data(text));
                }
            }
        }
    }
}
