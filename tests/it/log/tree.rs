//! The tree over the book: the same however it came to be, and what follows from it holds by somebody
//! else's reckoning.

use crate::support::reading::verify;
use std::collections::{BTreeMap, HashMap};

use ::projections::{
    BuildState, Options, Outcome, Phase, Progress, Projection, ProjectionState, RebuildError,
    builds,
    transparency::{self, Transparency, TransparencyError},
};
use ::proof::{Hash, Leaf, MAX_LEAF, TilePath, Tree, entry_bundle, subtrees};
use serde_json::json;
use sqlx::{PgConnection, PgPool, Row};
use tlog_tiles::{Tile, TileHashReader, TileReader};
use tokio_util::sync::CancellationToken;

use crate::{
    projections::{
        book::{Book, Reader, eventually, session, user},
        projecting::Running,
        random_book::RandomBook,
        rebuilding::{few_rows, named, rebuild, rebuild_with},
    },
    support::database::TestDatabase,
};

/// The tree as it follows from the events and the documentation, by nothing of the projection.
struct Expected {
    leaves: Vec<Vec<u8>>,
    /// Of the tree of each size, from 0.
    roots: Vec<Hash>,
    /// The rows of the table: level and index in one number.
    rows: BTreeMap<i64, Vec<u8>>,
}

impl Expected {
    async fn of(pool: &PgPool) -> Self {
        let events = sqlx::query(
            "SELECT position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                    payload::text, metadata::text, recorded_at
               FROM journal JOIN events ON events.tx = journal.tx AND id = event_id ORDER BY position",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let (mut tree, mut rows) = (Tree::default(), BTreeMap::new());
        let (mut leaves, mut roots) = (Vec::new(), vec![tree.root()]);
        for event in &events {
            let leaf = Leaf {
                position: event.get::<i64, _>(0).unsigned_abs(),
                stream_type: event.get(1),
                stream_id: event.get(2),
                sequence: event.get::<i64, _>(3).unsigned_abs(),
                event_type: event.get(4),
                event_version: event.get(5),
                payload: event.get(6),
                metadata: event.get(7),
                recorded_at: event.get(8),
            };
            let leaf = leaf.to_bytes().unwrap();
            tree.push(::proof::hash_of(&leaf), |node| {
                let key = (u64::from(node.level) << 56) + node.index;
                rows.insert(i64::try_from(key).unwrap(), node.hash.0.to_vec());
            });
            leaves.push(leaf);
            roots.push(tree.root());
        }
        Self { leaves, roots, rows }
    }

    fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    fn root(&self, size: u64) -> Hash {
        self.roots[usize::try_from(size).unwrap()]
    }

    fn leaf_hash(&self, index: u64) -> Hash {
        ::proof::hash_of(&self.leaves[usize::try_from(index).unwrap()])
    }
}

/// All rows of the live table.
async fn rows(pool: &PgPool) -> BTreeMap<i64, Vec<u8>> {
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as("SELECT node, hash FROM ledger.transparency_v1")
        .fetch_all(pool)
        .await
        .unwrap();
    rows.into_iter().collect()
}

async fn connection(pool: &PgPool) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
    pool.acquire().await.unwrap()
}

/// The live tree is that of the events, to the last row.
async fn assert_is_that_of_the_events(pool: &PgPool, when: &str) -> Expected {
    let expected = Expected::of(pool).await;
    let conn = &mut *connection(pool).await;
    assert_eq!(transparency::size(conn).await.unwrap(), expected.size(), "{when}");
    let root = transparency::root(conn, expected.size()).await.unwrap();
    assert_eq!(root, expected.root(expected.size()), "{when}");
    assert!(rows(pool).await == expected.rows, "{when}");
    expected
}

/// So many lines, fast.
async fn write_many(pool: &PgPool, lines: i64) {
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'User', 'u', n, 'UserEnabled', '1', '{\"UserEnabled\": {}}', jsonb_build_object('n', n)
           FROM generate_series(1, $1) AS n",
    )
    .bind(lines)
    .execute(pool)
    .await
    .unwrap();
}

async fn run(pool: &PgPool, statement: &str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

fn tree_alone() -> Vec<&'static dyn Projection> {
    vec![&Transparency]
}

#[tokio::test]
async fn it_follows_the_book_batch_by_batch() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let reader = Reader::of(pool, tree_alone()).await;
    reader.read().await;
    let conn = &mut *connection(pool).await;
    assert_eq!(transparency::size(conn).await.unwrap(), 0);
    assert_eq!(transparency::root(conn, 0).await.unwrap(), Tree::default().root());
    let mut book = RandomBook::new(Book::new(pool), 5);
    for lines in [1, 1, 2, 250, 1, 1, 1, 300, 700, 40] {
        book.write(lines).await;
        reader.read().await;
        assert_is_that_of_the_events(pool, &format!("after {lines} more")).await;
    }
    let expected = Expected::of(pool).await;
    // What was true of a smaller tree stays so.
    for size in [0, 1, 2, 3, 255, 256, 257, 511, 512, 513, 1_000, expected.size()] {
        assert_eq!(transparency::root(conn, size).await.unwrap(), expected.root(size), "{size}");
    }
}

/// More lines than are in a tile of tiles.
#[tokio::test]
async fn it_is_the_same_built_in_pieces_followed_and_rebuilt() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let reader = Reader::of(pool, tree_alone()).await;
    write_many(pool, 65_900).await;
    reader.settle().await;
    let in_pieces = reader.projector.clone().keeping_in_memory(7_000);
    run(pool, "UPDATE projections SET built = false, state = 'building'").await;
    in_pieces.catch_up().await.unwrap();
    let built = assert_is_that_of_the_events(pool, "built in pieces").await;
    assert!(built.rows.contains_key(&(2 << 56)), "it has a hash of the second level");
    // Line after line, over what is there and over nothing.
    for statement in ["SELECT", "TRUNCATE ledger.transparency_v1"] {
        run(pool, statement).await;
        run(pool, "UPDATE projections SET position = 0").await;
        reader.projector.catch_up().await.unwrap();
        assert_is_that_of_the_events(pool, statement).await;
    }
    let rebuilt = rebuild_with(pool, &tree_alone(), few_rows(5_500)).await.unwrap();
    assert_eq!((rebuilt[0].outcome, rebuilt[0].events), (Outcome::Swapped, 65_900));
    let rebuilt = assert_is_that_of_the_events(pool, "rebuilt").await;
    assert_eq!(rebuilt.root(65_900), built.root(65_900), "the very same root");
    let again = verify(pool, &Transparency).await.unwrap();
    assert!(again.is_equal(), "{again}");
}

/// Rows commit in pieces, and the checkpoint with the last: there may be rows ahead of it.
#[tokio::test]
async fn a_flush_that_was_broken_off_is_written_over() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 6).write(1_500).await;
    let reader = Reader::of(pool, tree_alone()).await;
    reader.read().await;
    assert_is_that_of_the_events(pool, "at first").await;

    // A first build, a follower.
    for position in [0, 1, 255, 256, 700] {
        for (what, state) in [("a first build", "built = false"), ("a follower", "built = true")] {
            run(
                pool,
                &format!(
                    "UPDATE projections SET position = {position}, {state};
                     UPDATE ledger.transparency_v1 SET hash = decode(repeat('00', 32), 'hex')
                      WHERE node >= {position} AND node < {position} + 90;
                     DELETE FROM ledger.transparency_v1 WHERE node = {position} + 40"
                ),
            )
            .await;
            reader.projector.catch_up().await.unwrap();
            assert_is_that_of_the_events(pool, &format!("{what} from line {position}")).await;
        }
    }

    // A rebuild.
    let cancel = CancellationToken::new();
    let mut tell = |progress: &Progress| {
        if progress.phase == Phase::Indexing {
            cancel.cancel();
        }
    };
    let broken = rebuild(pool, &tree_alone(), few_rows(50), &cancel, &mut tell).await;
    assert!(matches!(broken, Err(RebuildError::Cancelled)), "{broken:?}");
    run(
        pool,
        "UPDATE builds SET position = 700;
         UPDATE ledger.transparency_v1_new SET hash = decode(repeat('00', 32), 'hex')
          WHERE node BETWEEN 900 AND 950;
         DELETE FROM ledger.transparency_v1_new WHERE node BETWEEN 1000 AND 1490",
    )
    .await;
    let rebuilt = rebuild_with(pool, &tree_alone(), few_rows(50)).await.unwrap();
    assert_eq!((rebuilt[0].outcome, rebuilt[0].resumed_at), (Outcome::Swapped, 700));
    assert_is_that_of_the_events(pool, "a rebuild that was gone on with").await;
}

/// A client that has nothing but tiles, and the root.
struct Tiles(HashMap<Tile, Vec<u8>>);

impl TileReader for Tiles {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        Ok(tiles.iter().map(|tile| self.0[tile].clone()).collect())
    }

    fn save_tiles(&self, _tiles: &[Tile], _data: &[Vec<u8>]) {}
}

#[tokio::test]
async fn proofs_and_tiles_hold_by_the_checkers_of_the_port_of_go() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 7).write(1_300).await;
    Reader::of(pool, tree_alone()).await.read().await;
    let expected = Expected::of(pool).await;
    let conn = &mut *connection(pool).await;
    for size in [1, 2, 255, 256, 257, 1_024, 1_299, 1_300] {
        let root = expected.root(size);
        for index in [0, 1, 254, 255, 256, 700, 1_023, 1_298, 1_299] {
            let proved = transparency::prove_inclusion(conn, size, index).await;
            if index >= size {
                assert!(matches!(proved, Err(TransparencyError::Proof(_))), "{index} of {size}");
                continue;
            }
            let leaf = expected.leaf_hash(index);
            tlog_tiles::check_record(&proved.unwrap(), size, root, index, leaf).unwrap();
        }
        for old in [1, 2, 128, 255, 256, 257, 1_000, 1_299] {
            if old <= size {
                let proof = transparency::prove_consistency(conn, size, old).await.unwrap();
                tlog_tiles::check_tree(&proof, size, root, old, expected.root(old)).unwrap();
            }
        }
        assert_eq!(transparency::prove_consistency(conn, size, 0).await.unwrap(), []);

        let mut tiles = Tiles(HashMap::new());
        for tile in Tile::new_tiles(8, 0, size) {
            let width = u16::try_from(tile.width()).unwrap();
            let bytes = transparency::tile(conn, tile.level(), tile.level_index(), width).await;
            tiles.0.insert(tile, bytes.unwrap().unwrap());
        }
        let reader = TileHashReader::new(size, root, &tiles);
        for index in [0, 254, 255, 256, 1_299].into_iter().filter(|index| *index < size) {
            let proof = tlog_tiles::prove_record(size, index, &reader).unwrap();
            let leaf = expected.leaf_hash(index);
            tlog_tiles::check_record(&proof, size, root, index, leaf).unwrap();
        }
    }

    // Bundles: each entry hashes to its place in the tile.
    for (index, width) in [(0_u64, 256_u16), (4, 256), (5, 20)] {
        let leaves = transparency::leaves(conn, index * 256, u64::from(width)).await.unwrap();
        let hashes = transparency::tile(conn, 0, index, width).await.unwrap().unwrap();
        let (mut bundle, mut hashes) = (&entry_bundle(&leaves)[..], hashes.chunks(32));
        while !bundle.is_empty() {
            let length = usize::from(u16::from_be_bytes([bundle[0], bundle[1]]));
            let entry = &bundle[2..2 + length];
            assert_eq!(tlog_tiles::record_hash(entry).0, *hashes.next().unwrap());
            bundle = &bundle[2 + length..];
        }
        assert!(hashes.next().is_none());
    }
}

#[tokio::test]
async fn what_the_tree_has_not_is_not_told() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let conn = &mut *connection(pool).await;
    assert!(matches!(transparency::size(conn).await, Err(TransparencyError::NotRegistered)));
    RandomBook::new(Book::new(pool), 8).write(300).await;
    Reader::of(pool, tree_alone()).await.read().await;
    for path in ["0/000", "0/001.p/44", "1/000.p/1", "0/001.p/1"] {
        let tile = TilePath::parse(path).unwrap();
        let bytes = transparency::tile(conn, tile.level.unwrap(), tile.index, tile.width).await;
        assert_eq!(bytes.unwrap().map(|bytes| bytes.len()), Some(32 * usize::from(tile.width)));
    }
    for path in
        ["0/001.p/45", "0/001", "0/002.p/1", "1/000.p/2", "2/000.p/1", "7/000.p/1", "63/000"]
    {
        let tile = TilePath::parse(path).unwrap();
        let bytes = transparency::tile(conn, tile.level.unwrap(), tile.index, tile.width).await;
        assert_eq!(bytes.unwrap(), None, "{path}");
    }
    assert_eq!(transparency::tile(conn, 0, u64::MAX, 1).await.unwrap(), None);
    assert_eq!(transparency::tile(conn, 0, u64::MAX / 256, 256).await.unwrap(), None);
    assert_eq!(transparency::tile(conn, 0, 0, 0).await.unwrap(), None);

    let beyond = transparency::leaf_hashes(conn, 299, 2).await;
    assert!(matches!(beyond, Err(TransparencyError::Missing { level: 0, index: 300 })));
    let beyond = transparency::leaves(conn, 299, 2).await;
    assert!(matches!(beyond, Err(TransparencyError::NoLine { position: 301 })), "{beyond:?}");
    assert!(transparency::root(conn, 301).await.is_err());
    for size in [u64::MAX, 1 << 63, 1 << 56] {
        assert!(transparency::root(conn, size).await.is_err());
        assert!(transparency::prove_inclusion(conn, size, 3).await.is_err());
        assert!(transparency::prove_consistency(conn, size, 3).await.is_err());
        assert!(transparency::subtree_hashes(conn, 3, size).await.is_err());
        assert!(transparency::leaves(conn, size, 1).await.is_err());
        assert!(transparency::leaf_hashes(conn, size, 1).await.is_err());
    }
}

/// What is left out of an export is stood for by the hashes of subtrees.
#[tokio::test]
async fn subtrees_stand_for_the_lines_that_are_left_out() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 9).write(1_100).await;
    Reader::of(pool, tree_alone()).await.read().await;
    let expected = Expected::of(pool).await;
    let conn = &mut *connection(pool).await;
    let gaps = [(0, 1_100), (1, 1_100), (0, 1), (255, 257), (256, 512), (3, 1_030), (7, 7)];
    let at_once = transparency::subtree_hashes_of(conn, &gaps).await.unwrap();
    for ((from, to), hashes) in gaps.into_iter().zip(at_once) {
        assert_eq!(transparency::subtree_hashes(conn, from, to).await.unwrap(), hashes);
        let mut tree = Tree::default();
        for hash in transparency::leaf_hashes(conn, 0, from).await.unwrap() {
            tree.push(hash, |_| {});
        }
        assert_eq!(subtrees(from, to).count(), hashes.len());
        for ((_, height), hash) in subtrees(from, to).zip(hashes) {
            tree.push_subtree(height, hash);
        }
        for hash in transparency::leaf_hashes(conn, to, 1_100 - to).await.unwrap() {
            tree.push(hash, |_| {});
        }
        assert_eq!((tree.size(), tree.root()), (1_100, expected.root(1_100)), "{from} to {to}");
    }
}

#[tokio::test]
async fn an_event_that_only_a_newer_binary_can_read_is_a_line_like_any_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.register(user(1), "ada").await;
    book.raw("Client", "c1", "ClientAdded", json!({"ClientAdded": {"name": "sealed"}})).await;
    book.stored("User", &user(1).to_string(), ("UserDisabled", "99"), json!({"UserDisabled": 5}))
        .await;
    book.start(session(1), user(1), 1).await;
    let last = book.refresh(session(1), user(1)).await;
    let running = Running::start(pool, ::projections::all()).await;
    eventually("the tree has them all", || async {
        running.sequencer.head().borrow().covers(last.tx, last.event_id)
            && running.status("transparency").await.lag_events == 0
            && running.status("transparency").await.state == ProjectionState::Live
            && running.status("audit_history").await.state == ProjectionState::Stopped
    })
    .await;
    running.stop().await;
    assert_is_that_of_the_events(pool, "beside those that are stopped").await;
    let rebuilt = rebuild_with(pool, &tree_alone(), few_rows(2)).await.unwrap();
    assert_eq!(rebuilt[0].outcome, Outcome::Swapped);
    assert_is_that_of_the_events(pool, "rebuilt").await;
}

/// What has no canonical form is never written by us; and if it is, it is not passed over.
#[tokio::test]
async fn a_line_that_can_not_be_hashed_stops_it() {
    for (payload, why) in [
        (json!({"UserEnabled": {"n": 1.5}}), "its payload has no canonical form: 1.5 is not"),
        (json!({"UserEnabled": {"x": "x".repeat(MAX_LEAF)}}), "an entry has at most 65535"),
    ] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let mut book = Book::new(pool);
        book.register(user(1), "ada").await;
        book.raw("User", &user(1).to_string(), "UserEnabled", payload).await;
        book.register(user(2), "bob").await;
        let reader = Reader::of(pool, tree_alone()).await;
        reader.settle().await;
        let stopped = reader.projector.catch_up().await.unwrap_err().to_string();
        assert!(stopped.contains("line 2 ") && stopped.contains(why), "{stopped}");
        let status = &reader.projector.status().await.unwrap()[0];
        assert_eq!((status.position, status.state), (1, ProjectionState::Stopped));
        assert_eq!(transparency::size(&mut *connection(pool).await).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_damaged_tree_stops_and_is_mended_where_that_is_asked_for() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = RandomBook::new(Book::new(pool), 10);
    book.write(300).await;
    let reader = Reader::of(pool, tree_alone()).await;
    reader.read().await;
    // One that the next line needs.
    run(pool, "DELETE FROM ledger.transparency_v1 WHERE node = 290").await;
    let conn = &mut *connection(pool).await;
    let missing = transparency::root(conn, 300).await;
    assert!(matches!(missing, Err(TransparencyError::Missing { level: 0, index: 290 })));
    book.write(1).await;
    reader.settle().await;
    let stopped = reader.projector.catch_up().await.unwrap_err().to_string();
    assert!(stopped.contains("hash 290 of level 0 of the tree is not there"), "{stopped}");

    let refused = rebuild_with(pool, &tree_alone(), Options::default()).await.unwrap();
    assert_eq!(refused[0].outcome, Outcome::Differs);
    let said = refused[0].verified.to_string();
    assert!(said.contains("transparency lacks 1 rows"), "{said}");
    assert!(said.contains("`entrybook audit verify` tells which"), "{said}");
    // What was signed of it agrees with the book, so it is the tree that was damaged.
    sign(pool, 200, Expected::of(pool).await.root(200)).await;
    let repair = Options { repair: true, ..Options::default() };
    let mended = rebuild_with(pool, &tree_alone(), repair).await.unwrap();
    assert_eq!(mended[0].outcome, Outcome::Swapped);
    reader.projector.catch_up().await.unwrap();
    assert_is_that_of_the_events(pool, "mended").await;
}

async fn sign(pool: &PgPool, size: i64, root: Hash) {
    sqlx::query("INSERT INTO checkpoints (origin, size, root, note) VALUES ('log', $1, $2, '')")
        .bind(size)
        .bind(root.0.as_slice())
        .execute(pool)
        .await
        .unwrap();
}

/// The kept hashes tell which line was changed. A tree of the changed book would not.
#[tokio::test]
async fn no_repair_makes_a_changed_book_look_as_if_it_had_been_signed() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 11).write(400).await;
    Reader::of(pool, tree_alone()).await.read().await;
    let signed = assert_is_that_of_the_events(pool, "before").await;
    sign(pool, 100, signed.root(100)).await;
    sign(pool, 350, signed.root(350)).await;
    run(
        pool,
        "ALTER TABLE events DISABLE TRIGGER append_only;
         UPDATE events SET recorded_at = recorded_at + interval '1 s'
          WHERE id = (SELECT event_id FROM journal WHERE position = 120)",
    )
    .await;
    let found = verify(pool, &Transparency).await.unwrap();
    assert_eq!(found.tables[0].changed, 2, "the leaf, and the hash of its tile: {found}");
    let repair = Options { repair: true, ..Options::default() };
    let refused = rebuild_with(pool, &tree_alone(), repair).await;
    let Err(RebuildError::Contradicted { why, .. }) = refused else { panic!("{refused:?}") };
    assert!(why.contains("its first 350 lines are not those that were signed for log"), "{why}");
    assert!(rows(pool).await == signed.rows, "the tree stays");
    let build = builds(pool).await.unwrap().pop().unwrap();
    assert_eq!(build.state, BuildState::Failed);
    assert!(build.detail.unwrap().contains("put them back as they were"));

    run(
        pool,
        "UPDATE events SET recorded_at = recorded_at - interval '1 s'
          WHERE id = (SELECT event_id FROM journal WHERE position = 120)",
    )
    .await;
    assert!(verify(pool, named("transparency")).await.unwrap().is_equal());
}

#[tokio::test]
async fn what_was_signed_can_not_be_taken_back() {
    let database = TestDatabase::create().await;
    commands::database::migrate(&database.connect_options()).await.unwrap();
    let app = commands::database::connect(database.connect_options(), 2).await.unwrap();
    assert_eq!(commands::database::acting_role(&app).await.unwrap(), commands::database::APP_ROLE);
    sign(database.pool(), 3, Hash([7; 32])).await;
    run(
        database.pool(),
        "INSERT INTO cosignatures (origin, size, witness, line) VALUES ('log', 3, 'w', 'line');
         INSERT INTO log_keys (id, origin, wrapped, master_key, signs_from)
         VALUES ('00000000', 'log', '', 'm', now())",
    )
    .await;
    let attempts = [
        "UPDATE checkpoints SET root = root",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
        "UPDATE cosignatures SET line = ''",
        "DELETE FROM cosignatures",
        "UPDATE log_keys SET retired_at = now()",
        "DELETE FROM log_keys",
    ];
    for attempt in attempts {
        let error = sqlx::raw_sql(attempt).execute(&app).await.unwrap_err();
        assert_eq!(code(&error).as_deref(), Some("42501"), "{attempt}: {error}");
    }
    for attempt in attempts.iter().take(3) {
        let error = sqlx::raw_sql(attempt).execute(database.pool()).await.unwrap_err();
        assert_eq!(code(&error).as_deref(), Some("23001"), "{attempt}: {error}");
    }
    let again = "INSERT INTO checkpoints (origin, size, root, note) VALUES ('log', 3, $1, '')";
    let fork =
        sqlx::query(again).bind([8_u8; 32].as_slice()).execute(database.pool()).await.unwrap_err();
    assert_eq!(code(&fork).as_deref(), Some("23505"), "one root for each size: {fork}");
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Callers choose the snapshot: what is asked of one is of one tree.
#[tokio::test]
async fn a_snapshot_sees_one_tree() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = RandomBook::new(Book::new(pool), 12);
    book.write(10).await;
    let reader = Reader::of(pool, tree_alone()).await;
    reader.read().await;
    let mut snapshot = pool.begin().await.unwrap();
    run_on(&mut snapshot, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await;
    assert_eq!(transparency::size(&mut snapshot).await.unwrap(), 10);
    book.write(10).await;
    reader.read().await;
    assert_eq!(transparency::size(&mut snapshot).await.unwrap(), 10);
    assert!(transparency::root(&mut snapshot, 11).await.is_err());
    let expected = Expected::of(pool).await;
    assert_eq!(transparency::root(&mut snapshot, 10).await.unwrap(), expected.root(10));
    snapshot.rollback().await.unwrap();
    assert_eq!(transparency::size(&mut *connection(pool).await).await.unwrap(), 20);
}

async fn run_on(conn: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(statement).execute(conn).await.unwrap();
}

/// The longest event that the store takes, wherever it stands.
#[test]
fn whatever_may_be_appended_has_a_leaf() {
    let payload = format!("\"{}\"", "x".repeat(commands::MAX_EVENT - 2));
    let leaf = Leaf {
        position: (1 << 53) - 1,
        stream_type: "",
        stream_id: "",
        sequence: (1 << 53) - 1,
        event_type: "",
        event_version: "",
        payload: &payload,
        metadata: "{}",
        recorded_at: chrono::DateTime::UNIX_EPOCH,
    };
    leaf.to_bytes().unwrap();
}
