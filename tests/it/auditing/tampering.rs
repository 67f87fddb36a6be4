//! What somebody did to the database who may do anything to it: each is found, and named.

use crate::support::reading::rebuild;
use ::projections::{Options, named, transparency};
use ::proof::{Checkpoint, NoteSigner};
use commands::database;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Signed, found, text, verify};
use crate::{
    log::client::origin_of,
    support::{database::TestDatabase, server::Setup},
};

/// The superuser takes the guard away.
const UNGUARDED: &str = "ALTER TABLE events DISABLE TRIGGER append_only;
     ALTER TABLE journal DISABLE TRIGGER append_only;
     ALTER TABLE checkpoints DISABLE TRIGGER append_only;";

/// A condition for the event of a line.
const OF_LINE_40: &str = "(tx, id) = (SELECT tx, event_id FROM journal WHERE position = 40)";

/// A copy of the book in which somebody does something.
struct Copy {
    database: TestDatabase,
    setup: Setup,
}

impl Copy {
    async fn of(signed: &Signed) -> Self {
        let database = signed.database.copy().await;
        let setup = Setup { database_url: Some(database.url()), ..signed.setup.clone() };
        let copy = Self { database, setup };
        copy.run(UNGUARDED).await;
        copy
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    async fn run(&self, statements: &str) {
        sqlx::raw_sql(statements)
            .execute(self.pool())
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }

    /// Makes the kept hashes those of the lines as they are now, which a rebuild refuses as long as what was
    /// signed says otherwise.
    async fn rehash(&self) {
        self.run("CREATE TABLE signed AS SELECT * FROM checkpoints; DELETE FROM checkpoints").await;
        let chosen = [named("transparency").unwrap()];
        let options = Options { repair: true, ..Options::default() };
        let cancel = CancellationToken::new();
        // As the server does it, so that the table is the application's.
        let pool = database::connect(self.database.connect_options(), 6).await.unwrap();
        rebuild(&pool, &chosen, options, &cancel, &mut |_| {}).await.unwrap();
        pool.close().await;
        self.run("INSERT INTO checkpoints SELECT * FROM signed; DROP TABLE signed").await;
    }
}

/// What is done, how the verification ends, and what it names.
struct Case {
    name: &'static str,
    done: String,
    exit: i32,
    finds: Vec<Value>,
}

fn case(name: &'static str, done: &str, exit: i32, finds: impl Into<Vec<Value>>) -> Case {
    Case { name, done: done.to_owned(), exit, finds: finds.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_the_book_is_found_and_named() {
    let signed = Signed::ended().await;
    let untouched = Copy::of(&signed).await;
    let (code, report) = verify(&untouched.setup, &[]).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report}");
    let last = untouched.number("SELECT max(position) FROM journal").await;
    let hashed =
        untouched.number("SELECT position FROM projections WHERE name = 'transparency'").await;
    assert_eq!(last, hashed, "all lines are hashed");
    let size = signed.last.1.size;

    let edited = json!({ "kind": "edited", "position": 40 });
    let deleted = json!({ "kind": "deleted", "first": 40, "last": 40 });
    let cut_off =
        |lines: i64, size: i64| json!({ "kind": "cut_tail", "lines": lines, "size": size });
    let kind = |kind: &str| json!({ "kind": kind });
    let cut = format!(
        "DELETE FROM events USING journal
          WHERE (events.tx, events.id) = (journal.tx, event_id) AND position > {last} - 5;
         DELETE FROM journal WHERE position > {last} - 5;"
    );
    let cut_with_hashes = format!(
        "{cut}
         DELETE FROM ledger.transparency_v1 WHERE node BETWEEN {last} - 5 AND 1000000;
         UPDATE projections SET position = {last} - 5 WHERE name = 'transparency';
         UPDATE sequencer SET position = {last} - 5;"
    );
    let forged = "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type,
                                      event_version, payload, metadata)
                  VALUES ('User', 'forged', 1, 'UserEnabled', '1', '{}', '{}')";
    let cases = [
        case(
            "an edited payload",
            &format!("UPDATE events SET payload = payload || '{{\"x\": 1}}' WHERE {OF_LINE_40}"),
            6,
            [edited.clone()],
        ),
        case(
            "an edited time",
            &format!(
                "UPDATE events SET recorded_at = recorded_at + interval '1 microsecond' WHERE {OF_LINE_40}"
            ),
            6,
            [edited.clone()],
        ),
        case(
            "an edited actor",
            &format!(
                "UPDATE events SET metadata = metadata || '{{\"actor\": \"system\"}}' WHERE {OF_LINE_40}"
            ),
            6,
            [edited.clone()],
        ),
        case(
            "a payload that can't be hashed",
            &format!("UPDATE events SET payload = payload || '{{\"x\": 1.5}}' WHERE {OF_LINE_40}"),
            6,
            [edited.clone()],
        ),
        case(
            "a deleted event",
            &format!("DELETE FROM events WHERE {OF_LINE_40}"),
            7,
            [deleted.clone()],
        ),
        case(
            "a deleted event and its line",
            &format!(
                "DELETE FROM events WHERE {OF_LINE_40}; DELETE FROM journal WHERE position = 40"
            ),
            7,
            [deleted.clone()],
        ),
        case(
            "a deleted line, the event left behind",
            "DELETE FROM journal WHERE position = 40",
            6,
            [deleted.clone(), kind("unlisted")],
        ),
        case(
            "a deleted event, the lines behind it moved up",
            &format!(
                "DELETE FROM events WHERE {OF_LINE_40};
                 DELETE FROM journal WHERE position = 40;
                 UPDATE journal SET position = position + 1000000 WHERE position > 40;
                 UPDATE journal SET position = position - 1000001 WHERE position > 1000000;
                 UPDATE sequencer SET position = position - 1"
            ),
            6,
            [deleted.clone(), json!({ "kind": "moved", "first": 41, "last": last, "by": -1 })],
        ),
        case(
            "an inserted event",
            &format!(
                "UPDATE journal SET position = position + 1000000 WHERE position >= 40;
                 UPDATE journal SET position = position - 999999 WHERE position > 1000000;
                 WITH forged AS ({forged} RETURNING tx, id)
                 INSERT INTO journal SELECT 40, tx, id FROM forged;
                 UPDATE sequencer SET position = position + 1"
            ),
            6,
            [
                json!({ "kind": "inserted", "position": 40 }),
                json!({ "kind": "moved", "first": 40, "last": last, "by": 1 }),
            ],
        ),
        case(
            "a second line of one position",
            &format!(
                "ALTER TABLE journal DROP CONSTRAINT journal_pkey;
                 WITH forged AS ({forged} RETURNING tx, id)
                 INSERT INTO journal SELECT 40, tx, id FROM forged"
            ),
            6,
            [json!({ "kind": "inserted", "position": 40 })],
        ),
        case(
            "a line that took the position of another",
            "ALTER TABLE journal DROP CONSTRAINT journal_pkey;
             UPDATE journal SET position = 40 WHERE position = 41",
            6,
            [json!({ "kind": "moved", "first": 41, "last": 41, "by": -1 })],
        ),
        case(
            "a line that names the event in another transaction",
            "UPDATE journal SET tx = (tx::text::bigint + 1)::text::xid8 WHERE position = 40",
            6,
            [deleted.clone(), kind("unlisted")],
        ),
        case(
            "a line before the first",
            "ALTER TABLE journal DROP CONSTRAINT journal_position_check;
             INSERT INTO journal SELECT 0, tx, event_id FROM journal WHERE position = 1",
            6,
            [kind("misplaced")],
        ),
        case(
            "an event that was slipped into a stream past the order of the book",
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                                 payload, metadata, id, tx) OVERRIDING SYSTEM VALUE
             SELECT 'User', 'forged', 1, 'UserEnabled', '1', '{}', '{}', -1, tx
               FROM journal WHERE position = 40",
            6,
            [kind("unlisted")],
        ),
        case(
            "a line far behind the end, of an event that would count",
            &format!(
                "WITH forged AS ({forged} RETURNING tx, id)
                 INSERT INTO journal SELECT 1000000000000, tx, id FROM forged"
            ),
            6,
            [kind("misplaced")],
        ),
        case(
            "an event of a transaction that is yet to come",
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                                 payload, metadata, tx) OVERRIDING SYSTEM VALUE
             VALUES ('User', 'forged', 1, 'UserEnabled', '1', '{}', '{}', '1152921504606846976')",
            6,
            [kind("unlisted")],
        ),
        case(
            "two lines that changed places",
            "UPDATE journal SET position = 1000000 WHERE position = 40;
             UPDATE journal SET position = 40 WHERE position = 45;
             UPDATE journal SET position = 45 WHERE position = 1000000",
            6,
            [
                json!({ "kind": "moved", "first": 40, "last": 40, "by": 5 }),
                json!({ "kind": "moved", "first": 45, "last": 45, "by": -5 }),
            ],
        ),
        case("an end that was cut off", &cut, 7, [cut_off(last - 5, last)]),
        case(
            "the same with its hashes",
            &cut_with_hashes,
            7,
            [cut_off(last - 5, size.cast_signed())],
        ),
        case(
            "a kept hash that was edited",
            "UPDATE ledger.transparency_v1 SET hash = decode(repeat('07', 32), 'hex') WHERE node = 39",
            6,
            [kind("kept_hashes")],
        ),
        case(
            "a kept hash that was deleted",
            "DELETE FROM ledger.transparency_v1 WHERE node = 39",
            6,
            [kind("kept_hashes")],
        ),
        case(
            "a kept hash of 256 lines that was edited",
            "UPDATE ledger.transparency_v1 SET hash = decode(repeat('07', 32), 'hex')
              WHERE node = 72057594037927936",
            6,
            [kind("kept_hashes")],
        ),
        case(
            "a checkpoint that was edited",
            &format!(
                "UPDATE checkpoints SET root = decode(repeat('07', 32), 'hex') WHERE size = {size}"
            ),
            6,
            [kind("checkpoint_not_believed")],
        ),
        case(
            "a signed text that was edited",
            &format!(
                "UPDATE checkpoints SET note = convert_to(replace(convert_from(note, 'UTF8'),
                        E'\\n{size}\\n', E'\\n{size}1\\n'), 'UTF8') WHERE size = {size}"
            ),
            6,
            [kind("checkpoint_not_believed")],
        ),
    ];
    for Case { name, done, exit, mut finds } in cases {
        let copy = Copy::of(&signed).await;
        copy.run(&done).await;
        let (code, report) = verify(&copy.setup, &["--key", signed.key()]).await;
        finds.sort_by_key(Value::to_string);
        assert_eq!((code, found(&report)), (exit, finds), "{name}: {report:#}");
        let says = ["integrity", "completeness"].map(|answer| report[answer]["findings"].clone());
        for said in says.iter().flat_map(|findings| findings.as_array().unwrap()) {
            println!("{name}: exit {code}: {}", said["says"].as_str().unwrap());
        }
    }
}

/// Where a line was changed, the table that was made of it before tells how it was. It is not mended away.
#[tokio::test(flavor = "multi_thread")]
async fn no_table_is_repaired_by_a_book_that_was_changed() {
    let signed = Signed::ended().await;
    let copy = Copy::of(&signed).await;
    let forge = |request_id: &str| {
        format!(
            "UPDATE events SET metadata = jsonb_set(metadata, '{{request_id}}', '\"{request_id}\"')
              WHERE {OF_LINE_40}"
        )
    };
    let told = "SELECT request_id FROM ledger.audit_history_v3 WHERE position = 40";
    let before: String = sqlx::query_scalar(told).fetch_one(copy.pool()).await.unwrap();
    copy.run(&forge("forged")).await;
    let run = async |words: &[&str]| {
        let mut command = copy.setup.command(words);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run(&["projections", "verify", "audit_history"]).await;
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("entrybook audit verify"), "{said}");
    let repair = ["projections", "rebuild", "audit_history", "--repair"];
    let (code, said) = run(&repair).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the book is not the one that was signed: line 40 was edited"), "{said}");
    let after: String = sqlx::query_scalar(told).fetch_one(copy.pool()).await.unwrap();
    assert_eq!(after, before, "it tells how it was");

    // A table that was damaged is mended where the book is as it was.
    copy.run(&forge(&before)).await;
    copy.run("UPDATE ledger.audit_history_v3 SET request_id = 'forged' WHERE position = 40").await;
    let (code, said) = run(&repair).await;
    assert_eq!(code, Some(0), "{said}");
    let after: String = sqlx::query_scalar(told).fetch_one(copy.pool()).await.unwrap();
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_book_that_was_rewritten_with_all_that_stands_for_it_is_found_by_what_was_kept_elsewhere()
{
    let signed = Signed::ended().await;
    let (key, size) = (signed.key(), signed.last.1.size);
    let kept = signed.file("kept.txt", &[signed.first.0.clone(), signed.last.0.clone()].concat());
    let elsewhere = ["--key", key, "--checkpoint", text(&kept)];

    // The kept hashes are made anew: the checkpoints are not.
    let copy = Copy::of(&signed).await;
    copy.run(&format!("UPDATE events SET payload = payload || '{{\"x\": 1}}' WHERE {OF_LINE_40}"))
        .await;
    copy.rehash().await;
    let before =
        copy.number("SELECT coalesce(max(size), 0) FROM checkpoints WHERE size < 40").await;
    let after = copy.number("SELECT min(size) FROM checkpoints WHERE size >= 40").await;
    let (code, report) = verify(&copy.setup, &[]).await;
    let forked = json!({ "kind": "forked", "agrees": before, "differs": after });
    assert_eq!((code, found(&report)), (6, vec![forked]), "{report:#}");
    println!("{}", report["integrity"]["findings"][0]["says"]);

    // The checkpoints are made anew as well, with a key of somebody's own, that the book names.
    let forger = NoteSigner::from_seed(origin_of(key), &[9; 32]).unwrap();
    sqlx::query(
        "UPDATE events SET payload = jsonb_set(payload, '{LogBegun,key}', to_jsonb($1::text))
          WHERE event_type = 'LogBegun'",
    )
    .bind(forger.verifier_key())
    .execute(copy.pool())
    .await
    .unwrap();
    copy.rehash().await;
    let root = transparency::root(&mut copy.pool().acquire().await.unwrap(), size).await.unwrap();
    let origin = origin_of(key).to_owned();
    let note = Checkpoint { origin: origin.clone(), size, root }.sign(&[&forger]).unwrap();
    copy.run("DELETE FROM checkpoints").await;
    sqlx::query("INSERT INTO checkpoints (origin, size, root, note) VALUES ($1, $2, $3, $4)")
        .bind(&origin)
        .bind(size.cast_signed())
        .bind(root.0.as_slice())
        .bind(&note)
        .execute(copy.pool())
        .await
        .unwrap();
    // It vouches for itself, and the report says that this is all that it does.
    let (code, report) = verify(&copy.setup, &[]).await;
    assert_eq!((code, &report["trusts_database"]), (0, &true.into()), "{report:#}");
    assert!(report["remarks"][0].as_str().unwrap().contains("vouches for itself"), "{report}");
    // Who has the key is not taken in …
    let (code, report) = verify(&copy.setup, &["--key", key]).await;
    let unbelieved = json!({ "kind": "checkpoint_not_believed" });
    let unsigned = json!({ "kind": "not_signed" });
    assert_eq!((code, found(&report)), (6, vec![unbelieved.clone(), unsigned]), "{report:#}");
    // … and who has a checkpoint is told where.
    let (code, report) = verify(&copy.setup, &elsewhere).await;
    let forked = json!({ "kind": "forked", "agrees": 0, "differs": signed.first.1.size });
    assert_eq!((code, found(&report)), (6, vec![forked, unbelieved]), "{report:#}");

    // An end that was cut off with everything that tells of it.
    let copy = Copy::of(&signed).await;
    let last = signed.last.1.size - 5;
    copy.run(&format!(
        "DELETE FROM events USING journal
          WHERE (events.tx, events.id) = (journal.tx, event_id) AND position > {last};
         DELETE FROM journal WHERE position > {last};
         DELETE FROM ledger.transparency_v1 WHERE node BETWEEN {last} AND 1000000;
         UPDATE projections SET position = {last} WHERE name = 'transparency';
         UPDATE sequencer SET position = {last};
         DELETE FROM checkpoints WHERE size > {last}"
    ))
    .await;
    let (code, report) = verify(&copy.setup, &["--key", key]).await;
    assert_eq!((code, found(&report)), (0, vec![]), "nothing in there tells: {report:#}");
    let (code, report) = verify(&copy.setup, &elsewhere).await;
    let cut_off = json!({ "kind": "cut_tail", "lines": last, "size": size });
    assert_eq!((code, found(&report)), (7, vec![cut_off]), "{report:#}");
}
