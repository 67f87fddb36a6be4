//! `entrybook serve`: everything started, in order, and stopped in the reverse of it.

use super::Out;
use crate::bootstrap::{Database, FirstAdmin, Migrate, Services, Size, make_first_admin, prepare};
use crate::config::{Config, ConfigError};
use crate::settings::{HttpSettings, PublicUrl};
use crate::{App, Parts, processes, server, service_events};
use anyhow::{Context, bail};
use commands::Origin;
use projections::{BookSource, Revocations};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For what runs beside the requests; it has no work that must not be broken off.
const BACKGROUND_GRACE: Duration = Duration::from_secs(10);
const LAST_WRITES: Duration = Duration::from_secs(5);

pub(super) async fn run(config: &Config, out: &mut Out) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    config.anchors.check().map_err(|error| ConfigError::one(format!("{error}.")))?;
    // First, so that a port in use is found before anything is started. Until the server accepts, connections wait.
    let listener = bind(config.listen).await?;
    let port = listener.local_addr()?.port();
    let public_url = config.public_url(port)?;

    let database = Database::open(config).await?;
    let served = serve(config, &database, listener, public_url, &stop, out).await;
    let closed = database.close().await;
    served?;
    closed?;
    tracing::info!("Entrybook has stopped");
    Ok(())
}

async fn serve(
    config: &Config,
    database: &Database,
    listener: TcpListener,
    public_url: PublicUrl,
    stop: &Stop,
    out: &mut Out,
) -> anyhow::Result<()> {
    let built = tokio::select! {
        built = build(config, database, &public_url) => built?,
        () = stop.asked.cancelled() => return Ok(()),
    };
    let (services, app, admin) = built;
    let presence = service_events::started(&app, config.recorded.clone()).await?;
    let background = CancellationToken::new();
    let tracker = TaskTracker::new();
    processes::spawn(&app, &tracker, &background);
    {
        let (app, background) = (app.clone(), background.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = background.cancelled() => {}
                () = service_events::stay(&app, presence) => {}
            }
        });
    }
    let replica = app.replica();

    let address = listener.local_addr()?;
    if let Some(admin) = admin {
        announce_admin(&admin, &public_url, config, out)?;
    }
    out.line(format!("Entrybook listens on {address}. Open {public_url}"))?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "Entrybook {} serves {public_url} on {address}", env!("CARGO_PKG_VERSION"));

    let served = tokio::select! {
        served = server::serve(listener, app, stop.asked.clone().cancelled_owned()) => served.context("The server failed"),
        () = stop.at_once.cancelled() => {
            tracing::warn!("told twice to stop: requests in flight are broken off");
            Ok(())
        }
    };

    background.cancel();
    tracker.close();
    tokio::select! {
        () = tracker.wait() => {}
        () = tokio::time::sleep(BACKGROUND_GRACE) => tracing::warn!("background work did not end in time"),
        () = stop.at_once.cancelled() => {}
    }
    let last_writes = async {
        services.book.post_blocked().await;
        service_events::stopped(&services.book, replica).await;
        services.close().await;
    };
    if tokio::time::timeout(LAST_WRITES, last_writes).await.is_err() {
        tracing::warn!("the database did not take the last writes in time");
    }
    served
}

async fn build(
    config: &Config,
    database: &Database,
    public_url: &PublicUrl,
) -> anyhow::Result<(Services, App, Option<FirstAdmin>)> {
    prepare(config, database, if config.migrate { Migrate::Yes } else { Migrate::No }).await?;
    let services =
        Services::open(config, database, public_url.origin(), Size::of_server(config)).await?;
    let admin = make_first_admin(&services, database, &config.admin).await?;
    let begins = Origin::system(services.book.ids().uuid_v7().to_string());
    services.log.ensure(&config.log_origin(public_url), &begins).await?;
    let events = services.book.keyring().events().clone();
    let revocations = Revocations::new(
        BookSource::new(services.background.clone(), events),
        services.sequencer.head(),
        config.access_token_lifetime.to_std()?,
    );
    let app = App::new(Parts {
        book: services.book.clone(),
        background: services.background.clone(),
        sequencer: services.sequencer.clone(),
        projector: services.projector.clone(),
        revocations,
        log: services.log.clone(),
        settings: HttpSettings {
            max_connections: server::within_file_limit(config.max_connections),
            ..config.http(public_url.clone())
        },
        lease_news: database.lease().news(),
    });
    Ok((services, app, admin))
}

pub(super) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "{address} is in use by another program. Stop that one, or listen elsewhere: --listen {}:{}",
            address.ip(),
            address.port().checked_add(1).unwrap_or(8080)
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(
            "{address} may not be listened on: {error}. Ports below 1024 need a privilege; take a higher one, such as 8080, and put a proxy \
             in front"
        ),
        Err(error) => bail!("{address} cannot be listened on: {error}"),
    }
}

/// Standard output only: the log may be kept, and sent elsewhere.
fn announce_admin(
    admin: &FirstAdmin,
    url: &PublicUrl,
    config: &Config,
    out: &mut Out,
) -> std::io::Result<()> {
    let password = match &admin.generated_password {
        Some(password) => password.as_str(),
        None => "(the one in ENTRYBOOK_ADMIN_PASSWORD)",
    };
    let title = match &admin.generated_password {
        Some(_) => "Your first admin is ready. The password is shown this once:",
        None => "Your first admin is ready:",
    };
    let private = config.database_url.is_none();
    let mut lines = vec![
        title.to_owned(),
        String::new(),
        format!("  Sign in at  {url}{}", ui::paths::SIGN_IN),
        format!("  Username    {}", admin.username),
        format!("  E-mail      {}", admin.email),
        format!("  Password    {password}"),
    ];
    if private {
        let data = std::path::absolute(&config.data_dir)?;
        lines.push(format!("  Data        {}", data.display()));
    }
    lines.push(String::new());
    lines.push(format!(
        "Lost it? Run{}: entrybook admin reset-password {}",
        if private { " here" } else { "" },
        admin.username
    ));
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    out.line(format!("┌{}┐", "─".repeat(width + 4)))?;
    for line in &lines {
        let space = " ".repeat(width - line.chars().count());
        out.line(format!("│  {line}{space}  │"))?;
    }
    out.line(format!("└{}┘", "─".repeat(width + 4)))
}

/// The wishes of who runs us: the first signal asks to stop, the second to stop at once.
pub(super) struct Stop {
    pub(super) asked: CancellationToken,
    pub(super) at_once: CancellationToken,
}

impl Stop {
    /// Replaces the default of the signals, which would end the process where it stands.
    pub(super) fn listen() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = Self { asked: CancellationToken::new(), at_once: CancellationToken::new() };
        let (asked, at_once) = (stop.asked.clone(), stop.at_once.clone());
        tokio::spawn(async move {
            next(&mut terminate, &mut interrupt).await;
            tracing::info!("told to stop: finishing the requests in flight");
            asked.cancel();
            next(&mut terminate, &mut interrupt).await;
            at_once.cancel();
        });
        Ok(stop)
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
