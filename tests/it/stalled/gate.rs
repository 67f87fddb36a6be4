//! A way to the database that can be closed: what is sent then is neither lost nor delivered, and nobody is told.
//! This is what a network that swallows packets looks like from both of its ends.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Gate {
    /// The database, through the gate.
    pub options: PgConnectOptions,
    inner: Arc<Inner>,
    _end: (tempfile::TempDir, DropGuard),
}

struct Inner {
    open: watch::Sender<bool>,
    /// Closes when a client sends this.
    trap: &'static [u8],
    armed: AtomicBool,
    /// Connections of a lower number are never served again, open or not.
    lost_below: AtomicUsize,
    accepted: AtomicUsize,
}

impl Gate {
    /// Before the database of `to`, with a trap for what a client sends: see [`Gate::arm`].
    pub fn before(to: PgConnectOptions, trap: &'static str) -> Self {
        let near_end = crate::support::scratch();
        let socket = |folder: &Path| folder.join(format!(".s.PGSQL.{}", to.get_port()));
        let listener = UnixListener::bind(socket(near_end.path())).unwrap();
        let far_end = to.get_socket().map(|folder| socket(folder));
        let server = (to.get_host().to_owned(), to.get_port());
        let options = to.socket(near_end.path());
        let inner = Arc::new(Inner {
            open: watch::Sender::new(true),
            trap: trap.as_bytes(),
            armed: AtomicBool::new(false),
            lost_below: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
        });
        let (accepting, end) = (inner.clone(), CancellationToken::new());
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let number = accepting.accepted.fetch_add(1, Ordering::SeqCst);
                let (inner, far_end, server) = (accepting.clone(), far_end.clone(), server.clone());
                tokio::spawn(async move {
                    inner.passes(number).await;
                    match far_end {
                        Some(path) => match UnixStream::connect(path).await {
                            Ok(far) => inner.join(number, near, far).await,
                            Err(_) => drop(near),
                        },
                        None => match TcpStream::connect(server).await {
                            Ok(far) => inner.join(number, near, far).await,
                            Err(_) => drop(near),
                        },
                    }
                });
            }
        }));
        Self { options, inner, _end: (near_end, end.drop_guard()) }
    }

    /// Closes the gate once a client has sent the text of the trap, which is still delivered.
    pub async fn arm(&self) {
        self.inner.armed.store(true, Ordering::SeqCst);
        let mut open = self.inner.open.subscribe();
        open.wait_for(|open| !open).await.unwrap();
    }

    pub fn close(&self) {
        self.inner.open.send_replace(false);
    }

    pub fn open(&self) {
        self.inner.open.send_replace(true);
    }

    /// Lets new connections through. Those that are there stay as they are: silent at both ends, for ever.
    pub fn open_for_new_ones(&self) {
        let accepted = self.inner.accepted.load(Ordering::SeqCst);
        self.inner.lost_below.store(accepted, Ordering::SeqCst);
        self.open();
    }
}

impl Inner {
    /// Waits until what is sent on a connection is delivered.
    async fn passes(&self, number: usize) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        if number < self.lost_below.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn join(
        &self,
        number: usize,
        near: impl AsyncRead + AsyncWrite,
        far: impl AsyncRead + AsyncWrite,
    ) {
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        tokio::join!(
            self.pump(number, near_read, far_write, true),
            self.pump(number, far_read, near_write, false)
        );
    }

    async fn pump(
        &self,
        number: usize,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        from_client: bool,
    ) {
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut piece).await.unwrap_or(0);
            self.passes(number).await;
            if read == 0 || to.write_all(&piece[..read]).await.is_err() {
                let _ = to.shutdown().await;
                return;
            }
            // One statement comes in one piece.
            if from_client
                && piece[..read].windows(self.trap.len()).any(|part| part == self.trap)
                && self.armed.swap(false, Ordering::SeqCst)
            {
                self.open.send_replace(false);
            }
        }
    }
}
