//! An export as the answer to a request.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use commands::StorageError;
use domain::Role;
use futures_util::stream;
use projections::{Verdict, audit_history::Filter};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{Asked, Export, Format, Running};
use crate::{
    context::Context, identity::Identity, problem::ApiResult, readings::Reading, sources::Seen,
    state::App,
};

/// How long a client may take for one part. Then it loses its place.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked whether who exports may still do so.
const CHECK: Duration = Duration::from_secs(2);

/// Begins to send one. That it was asked for is in the book before its first byte is sent.
pub(crate) async fn send(
    app: &App,
    auditor: &Identity,
    context: &Context,
    format: Format,
    (filter, seen): (Filter, Option<Seen>),
    after: u64,
) -> ApiResult<Response> {
    app.needs("audit_history").await?;
    let running = app.exports().start(auditor.user_id)?;
    let asked = Asked::new(format, filter, seen.as_ref(), after);
    let told = asked.told();
    let mut export = Export::begin(app.book(), app.log(), asked).await?;
    let reading = Reading::Exported { format: format.to_string(), up_to: export.up_to() };
    app.reading(auditor, &context.user(auditor.user_id), reading, told).await?;
    let name = format!("entrybook-{}.{}", export.up_to(), format.extension());
    // What fails at once is answered as a failure.
    let first = export.next().await?;
    let (sender, receiver) = mpsc::channel(1);
    let sending = Sending {
        app: app.clone(),
        auditor: auditor.clone(),
        export,
        checked: Instant::now(),
        _running: running,
    };
    tokio::spawn(sending.run(first, sender));
    let parts = stream::try_unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Some(Sent::Part(part)) => Ok(Some((Bytes::from(part), receiver))),
            Some(Sent::End) => Ok(None),
            None => Err(CutOff),
        }
    });
    let mut response = Body::from_stream(parts).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    // A proxy that collects all of it first would fill its disk.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The answer ends before its end, so that nobody takes it for whole. Why is in the log.
#[derive(Debug, thiserror::Error)]
#[error("the export was broken off")]
struct CutOff;

enum Sent {
    Part(Vec<u8>),
    /// It is whole.
    End,
}

/// An export on its way. The next page is read when the one before it was taken.
struct Sending {
    app: App,
    auditor: Identity,
    export: Export,
    checked: Instant,
    _running: Running,
}

impl Sending {
    async fn run(mut self, mut ready: Option<Vec<u8>>, sender: mpsc::Sender<Sent>) {
        loop {
            // Nothing to send where many lines were read and none passed; whoever waits may be gone meanwhile.
            if ready.as_ref().is_some_and(Vec::is_empty) {
                if sender.is_closed() {
                    return;
                }
            } else {
                let is_end = ready.is_none();
                let sent = ready.take().map_or(Sent::End, Sent::Part);
                match timeout(PATIENCE, sender.send(sent)).await {
                    Ok(Ok(())) if !is_end => {}
                    Ok(_) => return,
                    Err(_) => {
                        tracing::info!("an export was broken off: its reader is too slow");
                        return;
                    }
                }
            }
            match self.may_go_on().await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!("an export was broken off: its reader is no auditor any more");
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        "an export was broken off: whether its reader still is an auditor could not be asked: {error}"
                    );
                    return;
                }
            }
            let position = self.export.position();
            ready = match self.export.next().await {
                Ok(part) => part,
                Err(error) => {
                    tracing::warn!(
                        position,
                        "an export was broken off behind line {position}: {error}"
                    );
                    return;
                }
            };
        }
    }

    /// The session may have ended since, or the role, as it is found for requests. That the token expires
    /// meanwhile does not count.
    async fn may_go_on(&mut self) -> Result<bool, StorageError> {
        let Identity { user_id, session_id, user_version, .. } = self.auditor;
        match self.app.revocations().check(session_id, user_id, user_version) {
            Verdict::Revoked => return Ok(false),
            Verdict::Valid { roles: Some(roles) } if !roles.contains(&Role::Auditor) => {
                return Ok(false);
            }
            // How the account stands is asked below, at intervals.
            Verdict::Valid { .. } | Verdict::Unknown => {}
        }
        if self.checked.elapsed() < CHECK {
            return Ok(true);
        }
        self.checked = Instant::now();
        let account = self.app.book().account(user_id).await?;
        Ok(account
            .is_some_and(|account| !account.disabled && account.roles.contains(&Role::Auditor)))
    }
}
