//! Listening, and ending without losing an answer.
//!
//! HTTP/1.1 alone, with bounds on how long and how large the head of a request may be: a client
//! that sends it drop by drop is cut off, without an answer; so is one that does not read its answers.
//! Proxies keep their connections; the header timeout is how
//! long an idle one lives, so a proxy should let go of it sooner.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tower::Service;

use crate::{router, state::App};

/// The most bytes of a request's head.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// How long a client may read nothing of what is to be sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        max_connections: app.settings().max_connections,
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// More of them wait to be accepted.
    pub(crate) max_connections: usize,
    /// How long the head of a request may take, and an idle connection stay open.
    pub(crate) header_timeout: Duration,
}

/// Answers with the router, and takes no new connections once `closing` resolves. What is being
/// answered then is for the caller to wait for.
pub(crate) async fn accept_until(
    listener: TcpListener,
    router: axum::Router,
    bounds: Bounds,
    closing: impl Future<Output = ()>,
) -> io::Result<GracefulShutdown> {
    let address = listener.local_addr()?;
    let connections = Arc::new(Semaphore::new(bounds.max_connections));
    let graceful = GracefulShutdown::new();
    let mut closing = pin!(closing);
    tracing::debug!(%address, "listening on http://{address}");
    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            () = &mut closing => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.header_timeout)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .serve_connection(
                TokioIo::new(impatient(stream, WRITE_TIMEOUT)),
                service_fn(move |request| answer(router.clone(), peer, request)),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended early: {error}");
            }
        });
    }
    Ok(graceful)
}

/// The next connection, as soon as there is room for it.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    let permit = connections.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
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
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    router.call(request).await
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
