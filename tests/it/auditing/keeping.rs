//! What somebody has kept, and gives to a verification: checkpoints, and keys from before a rotation.

use ::proof::{Checkpoint, Hash, NoteSigner};
use serde_json::json;

use super::{Signed, exported, found, text, verify};
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
async fn the_first_key_is_enough_after_several_rotations() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let (pool, first) = (signed.database.pool(), signed.key().to_owned());
    let by = |note: &[u8], key: &str| {
        Checkpoint::verify(note, origin_of(key), &[key.to_owned()]).is_ok()
    };
    let mut newest = Vec::new();
    for rotations in 2..=3 {
        let rotated = signed.setup.command(&["log", "rotate", "--after", "0s"]).output().unwrap();
        assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
        let new = eventually("the new key is told", async || {
            let keys = keys(&api).await;
            (keys.len() == rotations).then(|| keys[rotations - 1].clone())
        })
        .await;
        newest = eventually("the new key signs", async || {
            api.register(&crate::support::shared::unique("cleo")).await;
            let (note, _) = all_is_signed(&api, pool).await;
            by(&note, &new).then_some(note)
        })
        .await;
    }
    let all = keys(&api).await;
    for words in [&[][..], &["--key", &first]] {
        let (code, report) = verify(&signed.setup, words).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
        assert_eq!(report["keys"], json!(all), "{report:#}");
    }
    assert!(server.stop().await.success());

    let (_nowhere, offline) = nowhere();
    let kept = signed.file("kept.txt", &newest);
    for format in ["jsonl", "csv", "ocsf"] {
        let file = exported(&signed, &format!("whole.{format}"), &["--format", format]).await;
        let (code, report) = verify(&offline, &[text(&file), "--key", &first]).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{format}: {report:#}");
        assert_eq!(report["keys"], json!(all), "{format}: {report:#}");
        // The last key alone, and all of them, do as well.
        for keys in [vec![all[2].as_str()], all.iter().map(String::as_str).collect()] {
            let mut words = vec![text(&file)];
            keys.iter().for_each(|key| words.extend(["--key", key]));
            let (code, report) = verify(&offline, &words).await;
            assert_eq!((code, found(&report)), (0, vec![]), "{format}: {report:#}");
        }
        let (code, report) =
            verify(&offline, &[text(&file), "--key", &all[1], "--checkpoint", text(&kept)]).await;
        let unbelieved = json!({ "kind": "checkpoint_not_believed" });
        assert!(!found(&report).contains(&unbelieved), "{format}, {code}: {report:#}");
    }
    let part = exported(&signed, "part.jsonl", &["--after", "305"]).await;
    let words = [text(&part), "--key", &first, "--checkpoint", text(&kept)];
    let (code, report) = verify(&offline, &words).await;
    assert!(code != 6 && report["keys"] == json!(all), "{code}: {report:#}");
}
