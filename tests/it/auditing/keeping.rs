//! What somebody has kept, and gives to a verification: checkpoints, and keys from before a rotation.

use ::proof::{Checkpoint, Hash, NoteSigner};
use serde_json::json;

use super::{Signed, audit, exported, found, text, verify};
use crate::{
    auditing::export::nowhere,
    log::client::{all_is_signed, keys, origin_of},
    support::{http::Api, server::eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_checkpoint_that_is_given_is_held_against_a_file_or_it_is_said_that_it_was_not() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    let forger = NoteSigner::from_seed(origin_of(signed.key()), &[9; 32]).unwrap();
    let both = format!("{}\n{}\n", signed.key(), forger.verifier_key());
    let both = signed.file("keys", both.as_bytes());
    let first = &signed.first.1;
    let kept = signed.file("kept.txt", &signed.first.0);
    let forged = Checkpoint { root: Hash([7; 32]), ..first.clone() };
    let unheld = json!({ "kind": "checkpoint_not_held", "size": first.size });

    let whole = exported(&signed, "whole.jsonl", &[]).await;
    let words = [text(&whole), "--key", signed.key(), "--checkpoint", text(&kept)];
    let (code, report) = verify(&offline, &words).await;
    assert_eq!(
        (code, found(&report), &report["checkpoints"]),
        (0, vec![], &2.into()),
        "{report:#}"
    );
    assert!(!report["remarks"].to_string().contains("an older export"), "{report:#}");
    let (_, report) = verify(&offline, &words[..3]).await;
    assert_eq!(&report["checkpoints"], &1, "{report:#}");
    assert!(report["remarks"].to_string().contains("an older export"), "{report:#}");

    // Its size lies among lines that are left out.
    let part = exported(&signed, "part.jsonl", &["--type", "UserErased"]).await;
    let words = [text(&part), "--key", signed.key(), "--checkpoint", text(&kept)];
    let (code, report) = verify(&offline, &words).await;
    assert_eq!((code, found(&report)), (7, vec![unheld.clone()]), "{report:#}");
    assert_eq!(&report["checkpoints"], &1, "{report:#}");
    println!("{}", report["completeness"]["findings"][0]["says"]);

    for format in ["csv", "ocsf"] {
        let table = exported(&signed, &format!("table.{format}"), &["--format", format]).await;
        let size = {
            let (_, report) = verify(&offline, &[text(&table), "--key", signed.key()]).await;
            let remarks = report["remarks"].to_string();
            let last = remarks.split("the lines 1 to ").nth(1).unwrap();
            last.split(' ').next().unwrap().replace(',', "").parse::<u64>().unwrap()
        };
        let other = Checkpoint { size, root: Hash([7; 32]), ..first.clone() };
        let longer = Checkpoint { size: size + 5, ..first.clone() };
        let cut_tail = json!({ "kind": "cut_tail", "lines": size, "size": size + 5 });
        let forked = json!({ "kind": "forked", "agrees": 0, "differs": size });
        for (checkpoint, exit, finding) in
            [(forged.clone(), 7, unheld.clone()), (other, 6, forked), (longer, 7, cut_tail)]
        {
            let kept = signed.file("other.txt", &checkpoint.sign(&[&forger]).unwrap());
            let words = [text(&table), "--key", text(&both), "--checkpoint", text(&kept)];
            let (code, report) = verify(&offline, &words).await;
            assert_eq!((code, found(&report)), (exit, vec![finding]), "{format}: {report:#}");
            // One that is not believed is told, and not passed by.
            let words = [text(&table), "--key", signed.key(), "--checkpoint", text(&kept)];
            let (code, report) = verify(&offline, &words).await;
            let unbelieved = json!({ "kind": "checkpoint_not_believed" });
            assert_eq!((code, found(&report)), (6, vec![unbelieved]), "{format}: {report:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_before_a_rotation_is_enough_where_it_has_signed_the_line_that_names_the_new_one()
 {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let (pool, old) = (signed.database.pool(), signed.key().to_owned());
    // The new key signs a while later, and the old one the line that names it.
    let rotated = signed.setup.command(&["log", "rotate", "--after", "60s"]).output().unwrap();
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let new = eventually("both keys are told", async || {
        let keys = keys(&api).await;
        (keys.len() == 2).then(|| keys[1].clone())
    })
    .await;
    let by = |note: &[u8], key: &str| {
        Checkpoint::verify(note, origin_of(key), &[key.to_owned()]).is_ok()
    };
    let (covering, _) = all_is_signed(&api, pool).await;
    assert!(by(&covering, &old), "the old key signs for a minute more");
    eventually("the new key signs", async || {
        api.register(&crate::support::shared::unique("cleo")).await;
        let (note, _) = all_is_signed(&api, pool).await;
        by(&note, &new).then_some(())
    })
    .await;

    // The database has both checkpoints: the line that names the new key is proved by the old one.
    let (code, report) = verify(&signed.setup, &["--key", &old]).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["keys"], json!([old, new]), "{report:#}");
    assert!(report["remarks"].to_string().contains("is trusted because a line"), "{report:#}");
    assert!(server.stop().await.success());

    let (_nowhere, offline) = nowhere();
    let kept = signed.file("kept.txt", &covering);
    let whole = exported(&signed, "whole.jsonl", &[]).await;
    let words = [text(&whole), "--key", &old, "--checkpoint", text(&kept)];
    let (code, report) = verify(&offline, &words).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["keys"], json!([old, new]), "{report:#}");
    // What the old key has signed before that line says nothing of the new one, and neither does the file
    // itself; what to do is said.
    let early = signed.file("early.txt", &signed.first.0);
    for words in [&words[..3], &[&words[..3], &["--checkpoint", text(&early)]].concat()] {
        let (code, report) = verify(&offline, words).await;
        assert_eq!(code, 6, "{report:#}");
        let says = report["integrity"]["findings"][0]["says"].to_string();
        assert!(says.contains("If the log's key was rotated, give the new one"), "{says}");
    }
    let table = exported(&signed, "table.csv", &["--format", "csv"]).await;
    for file in [&whole, &table] {
        let (code, report) = verify(&offline, &[text(file), "--key", &old, "--key", &new]).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    }
    let printed = audit(&offline, &["verify", text(&table), "--key", &old]).await;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.contains("`entrybook log key` prints them all"), "{printed}");
}
