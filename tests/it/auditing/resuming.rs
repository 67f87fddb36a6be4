//! Going on with an export that was broken off: here because the disk is full.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{Signed, audit, exported, found, text, verify};
use crate::{auditing::export::nowhere, support::server::Setup};

/// Exports into a file that may have so many blocks of 512 bytes, and no more.
async fn broken_off(setup: &Setup, words: &[&str], blocks: usize) -> Output {
    let whole = setup.command(&[&["audit", "export"][..], words].concat());
    // The signal would end the program; without it, writing fails.
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(whole.get_program()).args(whole.get_args());
    command.env_clear();
    command.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.envs(std::env::vars().filter(|(name, _)| name == "PATH"));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.resume", text(path)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_broken_off_is_gone_on_with_and_nothing_else_is_signed() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    for (format, filter) in [
        ("jsonl", &[][..]),
        ("jsonl", &["--type", "SignInFailed", "--type", "SessionRefreshed"]),
        ("csv", &[]),
        ("ocsf", &["--type", "SessionRefreshed"]),
    ] {
        let name = format!("{format}-{}", filter.len());
        let words = [&["--format", format][..], filter].concat();
        let path = exported(&signed, &name, &words).await;
        let whole = std::fs::read(&path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "nobody else reads it");
        let resume = [&["export", "--out", text(&path), "--resume"][..], &words].concat();
        let refused = async |says: &str| {
            let output = audit(&signed.setup, &resume).await;
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{name}: {error}");
            assert!(error.contains(says), "{name}: {error}");
        };
        assert!(!beside(&path).exists(), "it is whole");
        refused("it is whole, or no export").await;
        let marked = |mark: &[u8]| {
            let mark: serde_json::Value = serde_json::from_slice(mark).unwrap();
            mark["mark"]["bytes"].as_u64().unwrap() as usize
        };
        // Nearly all of it, and nearly nothing.
        let blocks = whole.len() / 512;
        for blocks in [blocks - 2, 1] {
            std::fs::remove_file(&path).unwrap();
            let out = [&["--out", text(&path)][..], &words].concat();
            let output = broken_off(&signed.setup, &out, blocks).await;
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && error.contains("--resume"), "{name}: {error}");
            let (part, mark) =
                (std::fs::read(&path).unwrap(), std::fs::read(beside(&path)).unwrap());
            let good = marked(&mark);
            assert!(good <= part.len() && part.len() < whole.len(), "{name}: {good}");
            assert!(blocks == 1 || good > whole.len() / 3, "{name}: {good} of {}", whole.len());
            println!("{name}: {good} of {} bytes are good", part.len());
            let begin = |part: &[u8], mark: &[u8]| {
                std::fs::write(&path, part).unwrap();
                std::fs::write(beside(&path), mark).unwrap();
            };
            if good > 0 {
                // Whatever was done to what was written, nothing of it is signed.
                let mut edited = part.clone();
                edited[good - 3] ^= 1;
                begin(&edited, &mark);
                refused("it is not as it was written").await;
                begin(&part[..good - 1], &mark);
                refused("it is not as it was written").await;
                let lines: Vec<&[u8]> = part.split_inclusive(|byte| *byte == b'\n').collect();
                let (last, others) = lines.split_last().unwrap();
                begin(&[others.concat(), b"\n".to_vec(), last.to_vec()].concat(), &mark);
                if good < part.len() - last.len() {
                    begin(&[&lines[1..].concat(), lines[0]].concat(), &mark);
                    refused("it is not as it was written").await;
                }
            }
            let text_of = String::from_utf8(mark.clone()).unwrap();
            let moved = text_of.replacen(&format!("\"bytes\":{good}"), "\"bytes\":0", 1);
            if good > 0 {
                begin(&part, moved.as_bytes());
                refused("was not written by this Entrybook, or was changed").await;
            }
            begin(&part, &mark);
            let other = [&resume[..], &["--type", "UserRegistered"]].concat();
            let output = audit(&signed.setup, &other).await;
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("another filter"), "{name}: {error}");
            // What stands behind what is good was not written to its end.
            let garbage = [&part[..], b"1,2,3\r\n{\"event_type\":"].concat();
            begin(&garbage, &mark);
            let output = audit(&signed.setup, &resume).await;
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let (code, report) = verify(&offline, &[text(&path), "--key", signed.key()]).await;
            assert_eq!((code, found(&report)), (0, vec![]), "{name}: {report:#}");
            assert!(std::fs::read(&path).unwrap().len() >= whole.len(), "{name}");
            assert!(!beside(&path).exists(), "it is whole");
        }
    }
}
