//! What is served of the log, and to whom: all that was signed, and nothing more.

use ::proof::{Hash, InclusionProof};
use sqlx::{Connection, PgConnection};
use tlog_tiles::TileHashReader;

use super::client::{
    FAST, Tiles, all_is_signed, entries, events, keys, leaf_hash, newest, origin_of, root_of,
};
use crate::support::{http::Api, server::eventually, shared::Running};

/// A server whose book has more lines than a tile.
async fn more_than_a_tile() -> (Running, Api) {
    let running = Running::start(&FAST).await;
    let api = running.api();
    let mut token = api.register("ada").await.refresh;
    while events(running.database.pool()).await < 280 {
        token = api.refresh(&token).await.tokens(200).refresh;
    }
    (running, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fetches_tiles_and_lines_gets_the_root_that_was_signed() {
    let (running, api) = more_than_a_tile().await;
    let (_, checkpoint) = all_is_signed(&api, running.database.pool()).await;
    let size = checkpoint.size;
    let tiles = Tiles::fetch(&api, size).await;

    // By hand.
    let leaf_hashes = tiles.leaf_hashes();
    assert_eq!(leaf_hashes.len() as u64, size);
    assert_eq!(root_of(&leaf_hashes), checkpoint.root.0);

    // By the port of Go, which checks each tile against the root.
    let reader = TileHashReader::new(size, checkpoint.root, &tiles);
    for index in [0, 255, 256, size - 1] {
        let proof = tlog_tiles::prove_record(size, index, &reader).unwrap();
        let leaf = Hash(leaf_hashes[usize::try_from(index).unwrap()]);
        tlog_tiles::check_record(&proof, size, checkpoint.root, index, leaf).unwrap();
    }

    // The lines themselves, as an auditor.
    let admin = api.admin().await.access;
    let mut lines = Vec::new();
    for path in
        ["/log/tile/entries/000".to_owned(), format!("/log/tile/entries/001.p/{}", size - 256)]
    {
        let answer = api.get(&path).bearer(&admin).send().await.is(200);
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert!(answer.header("cache-control").starts_with("private"), "an auditor's alone");
        lines.extend(entries(&answer.body));
    }
    let hashes: Vec<_> = lines.iter().map(|line| leaf_hash(line)).collect();
    assert_eq!(hashes, leaf_hashes);
    let first: serde_json::Value = serde_json::from_slice(&lines[0]).unwrap();
    assert_eq!((&first["position"], &first["v"]), (&1.into(), &1.into()));
    println!("{size} lines recomputed to the root {}", checkpoint.root);
}

/// What gzip makes of it, a program that is not ours.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let scratch = crate::support::scratch();
    let file = scratch.path().join("packed.gz");
    std::fs::write(&file, bytes).unwrap();
    let output = std::process::Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_has_a_proof_that_holds_without_the_log() {
    let running = Running::start(&FAST).await;
    let api = running.api();
    api.register("ada").await;
    let (_, checkpoint) = all_is_signed(&api, running.database.pool()).await;
    let keys = keys(&api).await;
    let admin = api.admin().await.access;
    let path = format!("/log/tile/entries/000.p/{}", checkpoint.size);
    let lines = entries(&api.get(&path).bearer(&admin).send().await.is(200).body);
    for (index, line) in lines.iter().enumerate() {
        let answer = api.get(&format!("/log/proof/{}", index + 1)).send().await.is(200);
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        let proof = InclusionProof::parse(&answer.text()).unwrap();
        assert_eq!(proof.index, index as u64);
        let proved = proof.verify(Hash(leaf_hash(line)), origin_of(&keys[0]), &keys).unwrap();
        assert!(proved.size >= checkpoint.size);
        let other = Hash(leaf_hash(b"another line"));
        assert!(proof.verify(other, origin_of(&keys[0]), &keys).is_err());
    }
    assert_eq!(lines.len() as u64, checkpoint.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_is_for_everybody_and_the_lines_are_for_auditors() {
    let running = Running::start(&FAST).await;
    let api = running.api();
    let ada = api.register("ada").await.access;
    let (note, checkpoint) = all_is_signed(&api, running.database.pool()).await;
    let answer = api.get("/log/checkpoint").send().await.is(200);
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(String::from_utf8(note).unwrap().starts_with(&checkpoint.origin));
    let tile = api.get(&format!("/log/tile/0/000.p/{}", checkpoint.size)).send().await.is(200);
    assert_eq!(tile.header("cache-control"), "public, max-age=604800, immutable");

    let entries = format!("/log/tile/entries/000.p/{}", checkpoint.size);
    api.get(&entries).send().await.problem(401, "not-signed-in");
    api.get(&entries).bearer("nonsense").send().await.problem(401, "invalid-token");
    api.get(&entries).bearer(&ada).send().await.problem(403, "forbidden");
    let admin = api.admin().await.access;
    api.get(&entries).bearer(&admin).send().await.is(200);
    api.get(&entries).bearer(&admin).send().await.is(200);
    let followed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'HistoryFollowed'")
            .fetch_one(running.database.pool())
            .await
            .unwrap();
    // Compressed for who accepts that, and told apart by caches; hashes don't get smaller.
    let plain = api.get(&entries).bearer(&admin).send().await.is(200);
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    let packed = api.get(&entries).bearer(&admin).header("accept-encoding", "br, gzip;q=0.5");
    let packed = packed.send().await.is(200);
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert_eq!(packed.header("vary"), "accept-encoding");
    assert_eq!(packed.header("cache-control"), plain.header("cache-control"));
    println!("{} bytes, compressed {}", plain.body.len(), packed.body.len());
    assert!(packed.body.len() < plain.body.len());
    assert_eq!(unpacked(&packed.body), plain.body);
    let refused = api.get(&entries).bearer(&admin).header("accept-encoding", "gzip;q=0");
    assert_eq!(refused.send().await.is(200).header("content-encoding"), "");
    let hashes = format!("/log/tile/0/000.p/{}", checkpoint.size);
    let hashes = api.get(&hashes).header("accept-encoding", "gzip").send().await.is(200);
    assert_eq!((hashes.header("content-encoding"), hashes.header("vary")), ("", ""));
    assert_eq!(hashes.body, tile.body);
    assert_eq!(followed, 1, "that an auditor reads lines is a line, once in a while");

    let open = [FAST.as_slice(), &[("ENTRYBOOK_LOG_ENTRIES", "public")]].concat();
    let public = Running::start(&open).await;
    let (_, checkpoint) = all_is_signed(&public.api(), public.database.pool()).await;
    let entries = format!("/log/tile/entries/000.p/{}", checkpoint.size);
    let answer = public.api().get(&entries).send().await.is(200);
    assert!(answer.header("cache-control").starts_with("public"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_that_is_not_signed_or_has_another_name() {
    let (running, api) = more_than_a_tile().await;
    let pool = running.database.pool();
    all_is_signed(&api, pool).await;
    // Nobody signs from here on.
    let mut held = PgConnection::connect(&running.database.url()).await.unwrap();
    let other = "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
                  WHERE locktype = 'advisory' AND datname = current_database()
                    AND objid = (hashtext('process:sign_log')::bigint & 4294967295)::oid";
    eventually("the test holds the lock of the signer", async || {
        sqlx::raw_sql(other).execute(pool).await.unwrap();
        let held: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('process:sign_log'))")
                .fetch_one(&mut held)
                .await
                .unwrap();
        held.then_some(())
    })
    .await;
    let before = newest(&api).await.unwrap().1.size;
    api.register("late").await;
    let size = eventually("there are lines behind the checkpoint", async || {
        let lines = events(pool).await;
        let tree: i64 =
            sqlx::query_scalar("SELECT position FROM projections WHERE name = 'transparency'")
                .fetch_one(pool)
                .await
                .unwrap();
        (tree.unsigned_abs() == lines && lines > before).then_some(before)
    })
    .await;
    assert_eq!(newest(&api).await.unwrap().1.size, size, "nobody has signed meanwhile");

    let admin = api.admin().await.access;
    let width = size - 256;
    let there = [
        "tile/0/000".to_owned(),
        format!("tile/0/001.p/{width}"),
        "tile/0/000.p/7".to_owned(),
        "tile/1/000.p/1".to_owned(),
        "tile/entries/000".to_owned(),
        format!("tile/entries/001.p/{width}"),
        format!("proof/{size}"),
        "proof/1".to_owned(),
    ];
    let missing = [
        // Of the tree, and not signed.
        format!("tile/0/001.p/{}", width + 1),
        format!("tile/entries/001.p/{}", width + 1),
        format!("proof/{}", size + 1),
        // Not there at all.
        "tile/0/001".to_owned(),
        "tile/0/002.p/1".to_owned(),
        "tile/1/000.p/2".to_owned(),
        "tile/1/000".to_owned(),
        "tile/2/000.p/1".to_owned(),
        "tile/63/000.p/1".to_owned(),
        "tile/entries/001".to_owned(),
        "tile/0/x999/x999/x999/999".to_owned(),
        "proof/9223372036854775807".to_owned(),
        "proof/18446744073709551615".to_owned(),
        // Another name of what is there, or none.
        "tile/64/000".to_owned(),
        "tile/00/000".to_owned(),
        "tile/0/0".to_owned(),
        "tile/0/00".to_owned(),
        "tile/0/0000".to_owned(),
        "tile/0/x000/000".to_owned(),
        "tile/0/000.p/0".to_owned(),
        "tile/0/000.p/01".to_owned(),
        "tile/0/000.p/256".to_owned(),
        "tile/0/000.p/-1".to_owned(),
        "tile/0/000.p/".to_owned(),
        "tile/0/000/".to_owned(),
        "tile/0/".to_owned(),
        "tile/0".to_owned(),
        "tile/".to_owned(),
        "tile/8/0/000".to_owned(),
        "tile/entries/000.p/0".to_owned(),
        "tile/data/000".to_owned(),
        "proof/0".to_owned(),
        "proof/-1".to_owned(),
        "proof/one".to_owned(),
        "proof/".to_owned(),
        "nothing".to_owned(),
    ];
    for path in &there {
        api.get(&format!("/log/{path}")).bearer(&admin).send().await.is(200);
    }
    for path in &missing {
        api.get(&format!("/log/{path}")).bearer(&admin).send().await.problem(404, "not-found");
    }
    held.close().await.unwrap();
}
