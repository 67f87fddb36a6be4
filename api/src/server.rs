//! Listening, and ending without losing an answer.
//!
//! HTTP/1.1 alone, with bounds on how long and how large the head of a request may be: a client
//! that sends it drop by drop is cut off, without an answer; so is one that does not read its answers.
//! Proxies keep their connections; the header timeout is how long an idle one lives, so a proxy should
//! let go of it sooner. Connections are always accepted: `connections` makes room for them.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    http::{HeaderValue, header},
    response::Response,
};
use hyper::{
    body::{Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{
    connections::{Answering, Connection, Connections},
    router,
    state::App,
};

/// The most bytes of a request's head.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// How long a client may read nothing of what is to be sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How long a crowded connection waits for a head: whoever asks how we are does so at once.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that makes room may still send what was answered on it.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Serves until `shutdown` resolves. Then `/readyz` says that this replica is leaving, and after the
/// drain of the settings it takes no new connections, finishes the requests that are being answered,
/// within the grace, and the commands that are running.
pub async fn serve(
    listener: TcpListener,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let grace = app.settings().shutdown_grace;
    let drain = app.settings().shutdown_drain;
    let bounds = Bounds {
        connections: app.connections().clone(),
        header_timeout: app.settings().header_timeout,
    };
    let closing = async {
        shutdown.await;
        app.readiness().leave();
        if !drain.is_zero() {
            tracing::info!(
                "stopping: requests are taken for {drain:?} more, and /readyz answers 503"
            );
            tokio::time::sleep(drain).await;
        }
    };
    let graceful = accept_until(listener, router(app.clone()), bounds, closing).await?;
    app.standing().end();
    tracing::info!("stopping: finishing the requests that are being answered");
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not finished within {} s", grace.as_secs());
    }
    let commands = app.running_commands();
    commands.close();
    if tokio::time::timeout(grace, commands.wait()).await.is_err() {
        tracing::warn!("some commands were not finished within {} s", grace.as_secs());
    }
    Ok(())
}

/// What a server grants its connections.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) connections: Connections,
    /// How long the head of a request may take, and an idle connection stay open.
    pub(crate) header_timeout: Duration,
}

/// Told with a request of a connection for which there was no room: only who asks how the server is may be
/// answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowded;

/// What a server that accepts no more still answers.
pub(crate) struct Draining {
    connections: TaskTracker,
    leaving: CancellationToken,
}

impl Draining {
    /// Closes what is idle, and waits for what is being answered.
    pub(crate) async fn shutdown(self) {
        self.leaving.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Answers with the router, and takes no new connections once `closing` resolves. What is being
/// answered then is for the caller to wait for.
pub(crate) async fn accept_until(
    listener: TcpListener,
    router: axum::Router,
    bounds: Bounds,
    closing: impl Future<Output = ()>,
) -> io::Result<Draining> {
    let address = listener.local_addr()?;
    let draining = Draining { connections: TaskTracker::new(), leaving: CancellationToken::new() };
    let mut closing = pin!(closing);
    tracing::debug!(%address, "listening on http://{address}");
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = &mut closing => break,
            accepted = accept(&listener, &bounds.connections) => accepted,
        };
        let Some(connection) = bounds.connections.admit(peer.ip()) else { continue };
        let timeout = match connection.crowded {
            true => bounds.header_timeout.min(CROWDED_TIMEOUT),
            false => bounds.header_timeout,
        };
        let serving =
            serve_one(stream, peer, connection, router.clone(), timeout, draining.leaving.clone());
        draining.connections.spawn(serving);
    }
    Ok(draining)
}

/// Serves one connection to its end, or until it has to make room.
async fn serve_one(
    stream: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    router: axum::Router,
    header_timeout: Duration,
    leaving: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(connection);
    let answering = connection.clone();
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .serve_connection(
                TokioIo::new(impatient(stream, WRITE_TIMEOUT)),
                service_fn(move |request| {
                    answer(router.clone(), peer, answering.clone(), request)
                }),
            )
    );
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = leaving.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = connection.asked_to_go() => {
            if connection.is_blank() {
                return;
            }
            serving.as_mut().graceful_shutdown();
            make_room(serving, &connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// Sends what was answered, and what is being answered if a request came in the last moment.
async fn make_room(
    mut serving: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    connection: &Connection,
) -> hyper::Result<()> {
    loop {
        match tokio::time::timeout(LAST_BYTES, serving.as_mut()).await {
            Ok(ended) => return ended,
            Err(_) if connection.is_answering() => {}
            Err(_) => return Ok(()),
        }
    }
}

/// The next connection. Where the process may open no more files, an idle one is closed.
async fn accept(listener: &TcpListener, connections: &Connections) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                connections.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How many connections the process may have open, of those it is to have: each is a file, and so are those to
/// the database. The soft limit of files is raised to the hard one.
pub(crate) fn within_file_limit(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// For the database, the log's files, and what runs beside the requests.
    const OTHERS: u64 = 256;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, hard)| {
        let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        if raised { hard } else { soft }
    });
    let Ok(limit) = limit else { return wanted };
    let most = limit.saturating_sub(OTHERS.min(limit / 2)).max(1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most < wanted {
        tracing::warn!(
            "the process may open {limit} files, so {most} connections are taken at most and not {wanted}; raise the \
             limit (ulimit -n, LimitNOFILE) to take more"
        );
    }
    most.min(wanted)
}

/// A stream that fails when its other end takes nothing for so long.
fn impatient(stream: TcpStream, timeout: Duration) -> Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(timeout));
    Box::pin(stream)
}

/// One request of a connection, with the address of its other end.
async fn answer(
    mut router: axum::Router,
    peer: SocketAddr,
    connection: Arc<Connection>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let answering = connection.answering();
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(connection.clone());
    if connection.crowded {
        request.extensions_mut().insert(Crowded);
    }
    let mut response = router.call(request).await?;
    if connection.crowded {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answer { body, _answering: answering }))
}

/// The body of an answer. The connection is idle when it was handed over.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn whoever_does_not_read_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = impatient(stream, Duration::from_millis(100));
        let error = loop {
            if let Err(error) = stream.write_all(&[b'x'; 64 * 1024]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        silent.shutdown().await.unwrap();
    }
}
