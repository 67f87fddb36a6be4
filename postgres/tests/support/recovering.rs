//! A server that replays its log, and is to stop.

use crate::{recorded_parts, support::*};
use nix::sys::signal::Signal;
use postgres::{Error, PrivatePostgres};
use std::fs;
use std::path::Path;

/// A fast shutdown of a server that recovers may wait for the end of that, for which nobody needs it to wait. Here one of its
/// processes has died, so that it starts itself anew, and then its owner.
#[tokio::test]
async fn a_start_does_not_wait_for_the_recovery_of_a_server_that_was_left_over() {
    let dir = dir();
    let mut owner = Owner::start_patient(&dir.data).await;
    leave_a_row(&recorded_parts(&dir.data)).await;
    let mut session = connect(&recorded_parts(&dir.data)).await.unwrap();
    let pid = text(&mut session, "SELECT pg_backend_pid()::text").await.parse().unwrap();
    let log = HeldLog::of(&dir.data);
    kill(pid, Signal::SIGKILL);
    until_recovering(&dir.data).await;
    owner.kill_9();
    // Its watchdog has told it to stop.
    until("the server stops", || {
        let status = fs::read_to_string(dir.data.join("postgres/cluster/postmaster.pid"));
        status.is_ok_and(|status| status.contains("stopping"))
    })
    .await;
    log.put_back();
    let mut patient = settings(&dir.data);
    patient.stop_timeout = FOR_EVER;
    let again = tokio::time::timeout(DEADLINE, PrivatePostgres::start(patient)).await;
    let again = again.expect("it waited for a recovery that does not end").unwrap();
    assert!(!alive(owner.server));
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_broken_off_does_not_wait_for_the_recovery() {
    let dir = dir();
    let mut owner = Owner::start(&dir.data).await;
    leave_a_row(&recorded_parts(&dir.data)).await;
    kill(owner.server, Signal::SIGKILL);
    owner.kill_9();
    until("no process is left", || processes_naming(&dir.data.to_string_lossy()).is_empty()).await;

    let log = HeldLog::of(&dir.data);
    let mut patient = settings(&dir.data);
    patient.stop_timeout = FOR_EVER;
    let start = PrivatePostgres::start(patient);
    tokio::select! {
        started = start => panic!("{started:?}"),
        _ = until_recovering(&dir.data) => {}
    }
    log.put_back();
    until("no process is left", || processes_naming(&dir.data.to_string_lossy()).is_empty()).await;
    let again = start_soon(&dir.data).await;
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

/// One of its processes has died, so the server starts itself anew; `postmaster.pid` says nothing of that.
#[tokio::test]
async fn a_stop_does_not_wait_for_the_recovery_after_a_session_was_killed() {
    let dir = dir();
    let mut patient = settings(&dir.data);
    patient.stop_timeout = FOR_EVER;
    let postgres = PrivatePostgres::start(patient).await.unwrap();
    leave_a_row(postgres.connect_parts()).await;
    let mut session = connect(postgres.connect_parts()).await.unwrap();
    let pid = text(&mut session, "SELECT pg_backend_pid()::text").await.parse().unwrap();
    let log = HeldLog::of(&dir.data);
    kill(pid, Signal::SIGKILL);
    until_recovering(&dir.data).await;
    let stopped = tokio::time::timeout(DEADLINE, postgres.stop()).await;
    stopped.expect("it waited for a recovery that does not end").unwrap();
    log.put_back();
    let again = start_soon(&dir.data).await;
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

/// Where whoever had the data directory may still be about to leave it.
async fn start_soon(data_dir: &Path) -> PrivatePostgres {
    let began = std::time::Instant::now();
    loop {
        match PrivatePostgres::start(settings(data_dir)).await {
            Err(Error::InUse { .. }) if began.elapsed() < DEADLINE => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            other => return other.unwrap(),
        }
    }
}
