//! After an older backup was restored, those who were erased since are erased again, by their receipts.

use super::{count, dumped, found};
use crate::{
    log::{backup, client::FAST},
    support::{
        database::TestDatabase,
        http::email_of,
        scratch,
        server::{Setup, eventually},
        shared::Running,
    },
};
use serde_json::{Value, json};

async fn run(setup: &Setup, arguments: &[&str]) -> (i32, String, String) {
    let mut command = setup.command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_folder_of_receipts_erases_again_whom_a_restored_backup_brought_back() {
    let running = Running::start(&FAST).await;
    let (api, place) = (running.api(), scratch());
    let ada = api.register("ada").await;
    let eve = api.register("eve").await;
    let dump = place.path().join("before.sql");
    backup::dump(&running.database.url(), &dump).await;

    // After the backup: two are erased, of whom one registered after it, too.
    let ben = api.register("ben").await;
    let receipts = place.path().join("receipts");
    std::fs::create_dir(&receipts).unwrap();
    for user in [&ada, &ben] {
        let (code, _, said) =
            run(&running.setup, &["users", "erase", &user.user_id, "--yes"]).await;
        assert_eq!(code, 0, "{said}");
        let receipt = eventually("there is a receipt", async || {
            let (code, receipt, _) =
                run(&running.setup, &["users", "receipt", &user.user_id]).await;
            (code == 0).then_some(receipt)
        })
        .await;
        std::fs::write(receipts.join(format!("{}.json", user.user_id)), receipt).unwrap();
    }
    // Somebody would like eve to go, and has no receipt that the log signed.
    let receipt = std::fs::read_to_string(receipts.join(format!("{}.json", ada.user_id))).unwrap();
    std::fs::write(receipts.join("eve.json"), receipt.replace(&ada.user_id, &eve.user_id)).unwrap();
    std::fs::write(receipts.join("empty.json"), "").unwrap();
    std::fs::write(receipts.join("notes.txt"), "no receipt, and not meant to be one").unwrap();

    let restored = TestDatabase::create().await;
    backup::restore(&restored.url(), &dump).await;
    let setup = Setup::on(&restored.url(), &place.path().join("restored"));
    let folder = receipts.to_str().unwrap();
    assert_eq!(found(&dumped(&restored.url()).await, &[&ada.user_id]), [&ada.user_id]);
    let erased = async || {
        count(restored.pool(), "SELECT count(*) FROM events WHERE event_type = 'UserErased'").await
    };

    let (code, _, said) = run(&setup, &["users", "erase", "--receipts", folder]).await;
    assert_eq!((code, said.contains("add --yes")), (2, true), "{said}");
    assert_eq!(erased().await, 0);
    let (code, out, said) =
        run(&setup, &["users", "erase", "--receipts", folder, "--yes", "--json"]).await;
    assert_eq!(code, 4, "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["erased"], json!([ada.user_id]), "{report}");
    assert_eq!(report["unknown"], json!([ben.user_id]), "{report}");
    assert_eq!(report["erased_before"], json!([]), "{report}");
    let refused: Vec<&str> = report["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["file"].as_str().unwrap())
        .collect();
    assert_eq!(refused.len(), 2, "{report}");
    assert!(refused.iter().any(|file| file.ends_with("eve.json")), "{report}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["error"]["exit_code"], 4, "{said}");
    assert_eq!(erased().await, 1);
    let keys = "SELECT count(*) FROM sealing_keys WHERE id LIKE 'p:%'";
    assert_eq!(count(restored.pool(), keys).await, 2, "those of eve and the admin");
    assert_eq!(found(&dumped(&restored.url()).await, &[&email_of("ada")]), [""; 0]);

    // A second time there is nothing to do, and nothing to complain of once the others are gone.
    std::fs::remove_file(receipts.join("eve.json")).unwrap();
    std::fs::remove_file(receipts.join("empty.json")).unwrap();
    let (code, out, said) = run(&setup, &["users", "erase", "--receipts", folder, "--yes"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        out.contains("Erased now: 0; erased before: 1; not in this database: 1; refused: 0."),
        "{out}"
    );
    assert_eq!(erased().await, 1);

    let (code, _, said) = run(&setup, &["users", "erase", "ada", "--receipts", folder]).await;
    assert_eq!((code, said.contains("cannot be used with")), (2, true), "{said}");
    let (code, _, said) = run(&setup, &["users", "erase"]).await;
    assert_eq!(code, 2, "{said}");
    let nothing = scratch();
    let nothing = nothing.path().to_str().unwrap();
    let (code, _, said) = run(&setup, &["users", "erase", "--receipts", nothing, "--yes"]).await;
    assert_eq!((code, said.contains("ends with .json")), (2, true), "{said}");
}
