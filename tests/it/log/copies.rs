//! A machine that was cloned, so that two servers sign what was one log. That is told from a restored backup.

use std::process::Command;

use tempfile::TempDir;

use super::{
    anchors::{api, cosigned, found_out, register},
    backup::{dump, restore},
    client::{events, fast, is_remembered, keys, remembered, warning},
    witness::{Place, Witness},
};
use crate::support::{
    database::TestDatabase,
    scratch,
    server::{Server, Setup, eventually},
};

/// A server whose log a witness has cosigned, and the database of the machine that it is cloned to.
struct Machine {
    database: TestDatabase,
    copy: TestDatabase,
    setup: Setup,
    place: Place,
    /// What was cosigned, and is remembered in the data directory.
    note: Vec<u8>,
    _witness: Witness,
    scratch: TempDir,
}

impl Machine {
    async fn signing() -> (Self, Server) {
        let (database, copy) = (TestDatabase::create().await, TestDatabase::create().await);
        let scratch = scratch();
        let place = Place::make(scratch.path());
        let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
            .known_as("http://localhost:8080")
            .with("ENTRYBOOK_LOG_WITNESSES", &place.setting());
        let server = setup.start().await;
        let _witness = place.start(&keys(&api(&server)).await).await;
        register(&server, &["ada"]).await;
        let (note, _) = cosigned(&server, database.pool(), &[&place]).await;
        is_remembered(&setup.data_dir, &note).await;
        (Self { database, copy, setup, place, note, _witness, scratch }, server)
    }

    /// Copies the database and the data directory as they are now.
    async fn cloned(&self) -> Setup {
        let file = self.scratch.path().join("backup.sql");
        dump(&self.database.url(), &file).await;
        restore(&self.copy.url(), &file).await;
        let cloned = Setup {
            database_url: Some(self.copy.url()),
            data_dir: self.scratch.path().join("clone"),
            ..self.setup.replica()
        };
        let copied =
            Command::new("cp").arg("-a").arg(&self.setup.data_dir).arg(&cloned.data_dir).status();
        assert!(copied.unwrap().success());
        cloned
    }
}

/// A machine that was cloned: two servers, each with a database and a data directory of its own, that were one.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_runs_twice_is_not_taken_for_a_restored_backup() {
    let (machine, server) = Machine::signing().await;
    assert!(server.stop().await.success());
    let cloned = machine.cloned().await;

    // Both agree with the witness when they start. Whoever is cosigned first goes on, and the other is refused.
    let (server, clone) = (machine.setup.start().await, cloned.start().await);
    let mut number = 0;
    let told = eventually("one of both is known to be a copy", async || {
        number += 1;
        register(&server, &[&format!("ben{number}")]).await;
        register(&clone, &[&format!("cleo{number}")]).await;
        for server in [&server, &clone] {
            if let Some(told) = warning(&api(server)).await
                && told.contains("Another server signs this log with its key")
            {
                return Some(told);
            }
        }
        None
    })
    .await;
    println!("{told}");
    assert!(told.contains("entrybook log begin --origin localhost:8080/log2"), "{told}");
    assert!(!told.contains("older backup"), "{told}");
    assert!(server.stop().await.success());
    assert!(clone.stop().await.success());
}

/// A clone that starts when the other has gone on: by what it sees first, both could have been set back.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_starts_behind_the_other_is_told_apart_when_the_other_signs_on() {
    let (machine, server) = Machine::signing().await;
    let cloned = machine.cloned().await;
    // The memory may be one ahead of the dump: that would be another finding.
    let remembered = remembered(&cloned.data_dir).pop().unwrap();
    std::fs::write(remembered, &machine.note).unwrap();
    register(&server, &["ben", "cleo"]).await;
    cosigned(&server, machine.database.pool(), &[&machine.place]).await;

    let clone = cloned.start().await;
    let told = found_out(&clone).await;
    println!("{told}");
    assert!(told.contains("or a copy of both runs elsewhere"), "{told}");
    let told = eventually("it is known to be a copy", async || {
        register(&server, &[&format!("dan{}", events(machine.database.pool()).await)]).await;
        warning(&api(&clone)).await.filter(|told| told.contains("Another server signs this log"))
    })
    .await;
    println!("{told}");
    assert!(!told.contains("older backup"), "{told}");
    assert!(server.stop().await.success());
    assert!(clone.stop().await.success());
}
