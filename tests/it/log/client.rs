//! Somebody who checks a log over HTTP, and trusts nothing of it but its key.

use std::{collections::HashMap, path::Path, process::Output};

use ::proof::Checkpoint;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tlog_tiles::{Tile, TileReader};

use crate::support::{
    http::Api,
    server::{Setup, eventually},
};

/// Nothing waits longer for a signature than a test has patience.
pub const FAST: [(&str, &str); 5] = [
    ("ENTRYBOOK_LOG_INTERVAL", "100ms"),
    ("ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES", "1000000"),
    ("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "1000000"),
    ("ENTRYBOOK_CHANGES_PER_HOUR", "1000000"),
    ("ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR", "1000000"),
];

/// The same for a server that is started by hand.
pub fn fast(setup: Setup) -> Setup {
    FAST.iter().fold(setup, |setup, (key, value)| setup.with(key, value))
}

/// The keys that the log tells.
pub async fn keys(api: &Api) -> Vec<String> {
    let answer = api.get("/log/key").send().await.is(200);
    answer.text().lines().map(str::to_owned).collect()
}

/// The name of a log, by its key.
pub fn origin_of(key: &str) -> &str {
    key.split('+').next().unwrap()
}

/// The newest checkpoint, which must be signed by one of the log's keys.
pub async fn newest(api: &Api) -> Option<(Vec<u8>, Checkpoint)> {
    let answer = api.get("/log/checkpoint").send().await;
    if answer.status == 404 {
        return None;
    }
    let note = answer.is(200).body;
    let keys = keys(api).await;
    let checkpoint = Checkpoint::verify(&note, origin_of(keys.last()?), &keys);
    Some((note, checkpoint.unwrap()))
}

/// Waits until a checkpoint covers all lines that the book has now.
pub async fn all_is_signed(api: &Api, pool: &PgPool) -> (Vec<u8>, Checkpoint) {
    let lines = events(pool).await;
    eventually(&format!("{lines} lines are signed"), async || {
        newest(api).await.filter(|(_, checkpoint)| checkpoint.size >= lines)
    })
    .await
}

pub async fn events(pool: &PgPool) -> u64 {
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(pool).await.unwrap();
    count.unsigned_abs()
}

/// What `/readyz` says of the log, if that is no `ok`.
pub async fn warning(api: &Api) -> Option<String> {
    let report = api.get("/readyz").send().await.json();
    let check = report["checks"].as_array()?.iter().find(|check| check["name"] == "log")?;
    if check["state"] == "ok" {
        return None;
    }
    assert_eq!(check["state"], "warning", "{check}");
    assert_eq!(report["ready"], true, "it keeps nobody from signing in");
    Some(check["detail"].as_str().unwrap().to_owned())
}

/// Runs `entrybook log` with these words.
pub async fn log(setup: &Setup, words: &[&str]) -> Output {
    let mut command = setup.command(&[&["log"][..], words].concat());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The same, which must end with that code; what it printed, on either side.
pub async fn log_ends(setup: &Setup, words: &[&str], code: i32) -> String {
    let output = log(setup, words).await;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

pub async fn log_json(setup: &Setup, words: &[&str], code: i32) -> Value {
    let output = log(setup, &[words, &["--json"]].concat()).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a server of this data directory remembers to have signed.
pub fn remembered(data_dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(files) = std::fs::read_dir(data_dir.join("log")) else { return Vec::new() };
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "checkpoint")).collect()
}

/// The only file that remembers, when it says this.
pub async fn is_remembered(data_dir: &Path, note: &[u8]) {
    eventually("it is remembered", async || {
        let file = remembered(data_dir).pop()?;
        // What witnesses have added is not signed by the log, and stands behind what is.
        let kept = std::fs::read(file).ok()?;
        let is_signed = String::from_utf8_lossy(&kept).contains("\n\n\u{2014} ");
        (is_signed && kept.ends_with(b"\n") && note.starts_with(&kept)).then_some(())
    })
    .await;
}

/// RFC 9162, section 2.1.1, as it stands there.
pub fn root_of(leaf_hashes: &[[u8; 32]]) -> [u8; 32] {
    match leaf_hashes {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        more => {
            let left = 1 << (more.len() - 1).ilog2();
            let digest = Sha256::new()
                .chain_update([1])
                .chain_update(root_of(&more[..left]))
                .chain_update(root_of(&more[left..]))
                .finalize();
            digest.into()
        }
    }
}

/// RFC 9162, section 2.1.1: the hash of a leaf.
pub fn leaf_hash(entry: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The entries of a bundle.
pub fn entries(mut bundle: &[u8]) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let length = usize::from(u16::from_be_bytes([bundle[0], bundle[1]]));
        entries.push(bundle[2..2 + length].to_vec());
        bundle = &bundle[2 + length..];
    }
    entries
}

/// All tiles of a tree, fetched.
pub struct Tiles(pub HashMap<Tile, Vec<u8>>);

impl Tiles {
    pub async fn fetch(api: &Api, size: u64) -> Self {
        let mut tiles = HashMap::new();
        for tile in Tile::new_tiles(8, 0, size) {
            // The port of Go writes the height too.
            let path = tile.path().replacen("tile/8/", "/log/tile/", 1);
            tiles.insert(tile, api.get(&path).send().await.is(200).body);
        }
        Self(tiles)
    }

    /// The hashes of the leaves.
    pub fn leaf_hashes(&self) -> Vec<[u8; 32]> {
        let mut level: Vec<_> = self.0.iter().filter(|(tile, _)| tile.level() == 0).collect();
        level.sort_by_key(|(tile, _)| tile.level_index());
        level
            .iter()
            .flat_map(|(_, bytes)| bytes.chunks(32))
            .map(|hash| hash.try_into().unwrap())
            .collect()
    }
}

impl TileReader for Tiles {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        Ok(tiles.iter().map(|tile| self.0[tile].clone()).collect())
    }

    fn save_tiles(&self, _tiles: &[Tile], _data: &[Vec<u8>]) {}
}
