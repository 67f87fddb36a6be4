//! The history as it is written: every line once, from wherever one goes on, for auditors alone.

use std::time::Duration;

use ::projections::{
    Projector, Sequencer, all,
    audit_history::{self, Filter, Order},
};
use chrono::TimeDelta;
use entrybook::sources::{self, Followed, SourcesError};
use reqwest::Response;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};

use crate::book::Desk;
use crate::support::{
    http::Api,
    scratch,
    server::{PATIENCE, Server, Setup, Tokens, eventually, streaming_client},
    shared::{Running, unique},
};

const STREAM: &str = "/api/v1/audit/stream";

/// What is told: the name of the event, its id, and its data.
type Told = (String, i64, Value);

/// Somebody who follows, as a program reads it.
struct Tail {
    answer: Response,
    read: String,
    /// The id that was received last.
    last: Option<i64>,
}

async fn ask(server: &Server, token: &str, query: &str, last: Option<&str>) -> Response {
    let ask = streaming_client().get(server.url(&format!("{STREAM}{query}"))).bearer_auth(token);
    let ask = match last {
        Some(last) => ask.header("last-event-id", last),
        None => ask,
    };
    ask.send().await.unwrap()
}

impl Tail {
    async fn of(server: &Server, token: &str, query: &str, last: Option<i64>) -> Self {
        let last = last.map(|last| last.to_string());
        let answer = ask(server, token, query, last.as_deref()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Self { answer, read: String::new(), last: None }
    }

    /// The next event; none when the stream has ended.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.read = rest;
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                if let Some(id) = field("id: ") {
                    self.last = Some(id.parse().unwrap());
                }
                if let (Some(data), Some(name)) = (field("data: "), field("event: ")) {
                    return Some((name, self.last.unwrap(), serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answer.chunk()).await;
            match chunk.expect("waited in vain for an event") {
                Ok(Some(bytes)) => self.read.push_str(std::str::from_utf8(&bytes).unwrap()),
                Ok(None) => return None,
                Err(error) => panic!("the stream broke off after {:?}: {error:?}", self.last),
            }
        }
    }

    /// The next line, which must come.
    async fn line(&mut self) -> Value {
        let (name, id, data) = self.next().await.expect("the stream ended");
        assert_eq!((name.as_str(), data["position"].as_i64()), ("line", Some(id)), "{data}");
        data
    }
}

/// An auditor who is nobody else's.
async fn auditor(api: &Api) -> Tokens {
    let admin = api.admin().await;
    let name = unique("auditor");
    let auditor = api.register(&name).await;
    let roles = api.post(&format!("/api/v1/admin/users/{}/roles", auditor.user_id));
    roles.bearer(&admin.access).json(json!({"grant": ["auditor"]})).send().await.is(200);
    api.sign_in(&name).await
}

#[tokio::test]
async fn a_line_is_told_as_it_is_written_and_as_the_history_shows_it() {
    let running = Running::shared().await;
    let api = running.api();
    let auditor = auditor(&api).await;
    let name = unique("ada");
    let ada = api.register(&name).await;
    let query = format!("?user={}", ada.user_id);
    // What is told is what comes after the last line that the history shows.
    eventually("the history shows her", async || {
        let path = format!("/api/v1/audit{query}");
        let page = api.get(&path).bearer(&auditor.access).send().await.is(200).json();
        (page["lines"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    let mut all = Tail::of(&running.server, &auditor.access, &query, None).await;
    let mut ended =
        Tail::of(&running.server, &auditor.access, &format!("{query}&type=SessionEnded"), None)
            .await;
    let mut failed = Tail::of(
        &running.server,
        &auditor.access,
        &format!("{query}&outcome=wrong_password"),
        None,
    )
    .await;
    api.try_sign_in(&name, "not the password").await.is(401);
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    let (first, second) = (all.line().await, all.line().await);
    assert_eq!((&first["type"], &second["type"]), (&json!("SignInFailed"), &json!("SessionEnded")));
    assert_eq!(failed.line().await, first);
    assert_eq!(ended.line().await, second);
    assert_eq!(first["address"], "127.0.0.1");
    let path = format!("/api/v1/audit?user={}&limit=2&order=newest", ada.user_id);
    let history = api.get(&path).bearer(&auditor.access).send().await.is(200).json();
    assert_eq!(history["lines"], json!([second, first]));

    // From any line on, be it the very first.
    let mut again = Tail::of(&running.server, &auditor.access, &query, Some(0)).await;
    let mut types = Vec::new();
    for _ in 0..4 {
        types.push(again.line().await["type"].clone());
    }
    assert_eq!(types, ["UserRegistered", "SessionStarted", "SignInFailed", "SessionEnded"]);
    let after = first["position"].as_i64().unwrap();
    let mut on = Tail::of(&running.server, &auditor.access, &query, Some(after)).await;
    assert_eq!(on.line().await, second);
    let mut on =
        Tail::of(&running.server, &auditor.access, &format!("{query}&after={after}"), None).await;
    assert_eq!(on.line().await, second);
    // By the network that it comes from.
    let network = format!("{query}&address=127.0.0.0/24");
    let mut from = Tail::of(&running.server, &auditor.access, &network, Some(after)).await;
    assert_eq!(from.line().await, second);
}

#[tokio::test]
async fn nobody_but_an_auditor_follows_and_garbage_is_refused() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    api.get(STREAM).send().await.problem(401, "not-signed-in");
    api.get(STREAM).bearer(&ada.access).send().await.problem(403, "forbidden");
    let auditor = auditor(&api).await;
    let garbage: [&[u8]; 8] =
        [b"", b"-1", b"+1", b"1.5", b"after-1", b"99999999999999999999", b"\xff", b"999999999"];
    for garbage in garbage {
        let ask = api.get(STREAM).bearer(&auditor.access).header("last-event-id", garbage);
        ask.send().await.problem(400, "malformed-request");
    }
    for (query, field) in [
        ("user=ada", "user"),
        ("type=Nothing", "type"),
        ("actor=1", "actor"),
        ("address=10.0.0.0/8", "address"),
        ("address=nowhere", "address"),
        ("after=-1", "after"),
        ("after=999999999", "after"),
        ("limit=1", "limit"),
        ("order=newest", "order"),
    ] {
        let ask = api.get(&format!("{STREAM}?{query}")).bearer(&auditor.access);
        ask.send().await.refuses(&[field]);
    }
}

/// Many write at once, on two replicas, and who follows is broken off all the time and goes on at
/// either of them.
#[tokio::test(flavor = "multi_thread")]
async fn going_on_leaves_out_nothing_and_repeats_nothing() {
    let public = ("ENTRYBOOK_PUBLIC_URL", "http://localhost:8080");
    let running = Running::start(&[public]).await;
    let place = scratch();
    let other = Setup { data_dir: place.path().join("other"), ..running.setup.replica() };
    let other = other.start().await;
    let (api, there) = (running.api(), Api::new(other.url("")));
    let auditor = auditor(&api).await;
    let mut first = Tail::of(&running.server, &auditor.access, "", None).await;
    let mut writers = Vec::new();
    for number in 0..6 {
        let api = if number % 2 == 0 { api.clone() } else { there.clone() };
        writers.push(tokio::spawn(async move {
            let mut tokens = api.register(&format!("writer-{number}")).await;
            for _ in 0..25 {
                tokens = api.refresh(&tokens.refresh).await.tokens(200);
            }
        }));
    }
    first.line().await;
    let begun = first.last.unwrap();
    drop(first);

    let mut told = vec![begun];
    let mut round = 0;
    loop {
        let server = if round % 2 == 0 { &other } else { &running.server };
        let mut tail = Tail::of(server, &auditor.access, "", told.last().copied()).await;
        for _ in 0..(1 + round * 7 % 11) {
            let line = tokio::time::timeout(Duration::from_secs(5), tail.line()).await;
            let Ok(line) = line else { break };
            told.push(line["position"].as_i64().unwrap());
        }
        round += 1;
        let done = writers.iter().all(|writer| writer.is_finished());
        let last = *told.last().unwrap();
        if done && last == running.events().await {
            break;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(round > 5, "it was broken off {round} times");
    assert!(told.len() > 6 * 27, "{}", told.len());
    // Without a filter each line of the book is told: the numbers have no gap and none stands twice.
    let expected: Vec<i64> = (begun..).take(told.len()).collect();
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_is_told_how_to_go_on() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let auditor = auditor(&api).await;
    running.many_lines(&auditor.user_id, 40_000).await;
    running.database.settled().await;
    let query = "?session=00000000-0000-0000-0000-00000000b001";
    let path = format!("/api/v1/audit{query}&limit=1");
    let page = api.get(&path).bearer(&auditor.access).send().await.is(200).json();
    let shown = page["lines"][0]["position"].as_i64().unwrap();
    let streams = async |count: usize| {
        let metrics = api.get("/metrics").send().await.is(200).text();
        metrics.contains(&format!("entrybook_history_streams {count}\n")).then_some(())
    };
    let mut tail = Tail::of(&running.server, &auditor.access, query, Some(0)).await;
    eventually("it is a stream", async || streams(1).await).await;
    // It is not read, until the server has had enough of it.
    eventually("it is let go", async || streams(0).await).await;
    let mut told = Vec::new();
    let farewell = loop {
        match tail.next().await.expect("it ends with a word") {
            (name, id, _) if name == "line" => told.push(id),
            farewell => break farewell,
        }
    };
    let (name, last, data) = farewell;
    assert_eq!((name.as_str(), Some(&last)), ("lagging", told.last()));
    assert_eq!(data["after"], last, "{data}");
    assert!(data["detail"].as_str().unwrap().contains(&format!("`Last-Event-ID: {last}`")));
    assert_eq!(tail.next().await, None, "and that was the last");
    assert!(told.len() < 40_000, "all was read: the line was too wide for this test");

    // And so it does.
    let mut tail = Tail::of(&running.server, &auditor.access, query, Some(last)).await;
    while told.last() != Some(&shown) {
        told.push(tail.line().await["position"].as_i64().unwrap());
    }
    assert_eq!(told.len(), 40_000);
    assert!(told.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_role_the_session_and_the_server_and_they_are_few() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    let auditor = auditor(&api).await;
    let mut tail = Tail::of(&running.server, &auditor.access, "", None).await;
    let roles = api.post(&format!("/api/v1/admin/users/{}/roles", auditor.user_id));
    roles.bearer(&admin.access).json(json!({"revoke": ["auditor"]})).send().await.is(200);
    while tail.next().await.is_some() {}
    api.get(STREAM).bearer(&auditor.access).send().await.problem(403, "forbidden");

    let session = api.admin().await;
    let mut tail = Tail::of(&running.server, &session.access, "", None).await;
    api.post("/api/v1/auth/logout").bearer(&session.access).send().await.is(204);
    while tail.next().await.is_some() {}

    let mut tails = Vec::new();
    for _ in 0..64 {
        tails.push(Tail::of(&running.server, &admin.access, "", None).await);
    }
    let one_more = ask(&running.server, &admin.access, "", None).await;
    assert_eq!(one_more.status(), 503);
    assert!(one_more.headers().contains_key("retry-after"));
    api.get("/api/v1/audit").bearer(&admin.access).send().await.is(200);
    tails.truncate(2);
    eventually("there is room again", async || {
        (ask(&running.server, &admin.access, "", None).await.status() == 200).then_some(())
    })
    .await;

    let Running { server, database: _database, .. } = running;
    let log = server.log_path.clone();
    assert!(server.stop().await.success());
    for mut tail in tails {
        while tail.next().await.is_some() {}
    }
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("were not finished"), "it did not wait for who follows:\n{log}");
}

/// The ends of sessions are not known while the book can't be read. Who follows waits, and is told no line
/// meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlasts_a_time_in_which_nobody_is_known() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let auditor = auditor(&api).await;
    // The stream begins after what is shown.
    running.database.settled().await;
    let mut tail = Tail::of(&running.server, &auditor.access, "?type=UserRegistered", None).await;
    let admin = api.admin().await;
    let standing = "/api/v1/admin/projections/progress";
    let mut standing = running.server.get(standing, &admin.access).await.unwrap();
    let mut connection = running.database.connect_options().connect().await.unwrap();
    let lock = "BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    let asked = async || {
        let mine = running.server.get("/api/v1/sessions", &auditor.access).await.unwrap();
        mine.status().as_u16()
    };
    eventually("nobody is known", async || (asked().await == 503).then_some(())).await;
    let nothing = tokio::time::timeout(Duration::from_secs(5), tail.next()).await;
    assert!(nothing.is_err(), "it has ended, or told something: {nothing:?}");
    connection.close().await.unwrap();
    eventually("they are known again", async || (asked().await == 200).then_some(())).await;
    let ada = api.register(&unique("ada")).await;
    assert_eq!(tail.line().await["person"]["id"], ada.user_id);
    // How the projections stand is told by the same rule.
    let news = async {
        let head: i64 = sqlx::query_scalar("SELECT max(position) FROM journal")
            .fetch_one(running.database.pool())
            .await
            .unwrap();
        let mut told = String::new();
        let is_there = |told: &str| {
            let heads = told.split("\"head\":").skip(1);
            let digits =
                |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
            heads.filter_map(digits).any(|told: i64| told >= head)
        };
        while !is_there(&told) {
            let piece = standing.chunk().await.unwrap().expect("it has ended");
            told.push_str(std::str::from_utf8(&piece).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, news).await.expect("nothing more is told of the projections");
}

/// Of eighteen months a network has more hashes than can be asked for at once. Who follows it needs those of
/// the months that are still to come.
#[tokio::test]
async fn a_place_is_followed_from_month_to_month() {
    const NETWORK: &str = "192.0.0.0/16";
    let desk = Desk::open().await;
    let sequencer = Sequencer::new(desk.pool.clone());
    let projector =
        Projector::new(crate::support::reading::source_of(&desk.pool), all(), sequencer.head());
    projector.ensure().await.unwrap();
    let shown = async |count: i64| {
        eventually("all is in the book", async || {
            (sequencer.drain().await.unwrap().position >= count).then_some(())
        })
        .await;
        projector.catch_up().await.unwrap();
        audit_history::reached(&desk.pool).await.unwrap()
    };
    let mut followed = Followed::read(NETWORK).unwrap();
    let (mut filter, mut looked) = (Filter::default(), 0);
    let mut look = async |looked: i64, reached: i64| {
        followed.narrow(&desk.book, (looked, reached), &mut filter).await.unwrap();
        let (order, after) = (Order::Oldest, Some(looked));
        let found = audit_history::page(&desk.pool, &filter, order, after, 100).await.unwrap();
        found.rows.iter().map(|row| row.position).collect::<Vec<_>>()
    };
    // Nothing is there to look at yet.
    assert_eq!(look(0, 0).await, Vec::<i64>::new());
    for month in 0..18 {
        desk.register(&format!("person-{month}")).await;
        let reached = shown(looked + 2).await;
        assert_eq!(look(looked, reached).await, [looked + 1, looked + 2], "month {month}");
        looked = reached;
        desk.clock.advance(TimeDelta::days(31));
    }
    // At the turn of the month one clock is behind another: the first line is of the new month.
    desk.register("early").await;
    desk.clock.advance(TimeDelta::days(-20));
    desk.register("late").await;
    let reached = shown(looked + 4).await;
    let all_four: Vec<i64> = (looked + 1..=looked + 4).collect();
    assert_eq!(look(looked, reached).await, all_four);

    let whole = sources::narrow(&desk.book, NETWORK, &mut Filter::default()).await;
    assert!(matches!(whole, Err(SourcesError::TooMany)), "{whole:?}");
    let mut from_the_beginning = Followed::read(NETWORK).unwrap();
    let all = (0, reached);
    let all = from_the_beginning.narrow(&desk.book, all, &mut Filter::default()).await;
    assert!(matches!(all, Err(SourcesError::TooMany)), "{all:?}");
    let mut from_lately = Followed::read(NETWORK).unwrap();
    let lately = (looked - 4, reached);
    from_lately.narrow(&desk.book, lately, &mut Filter::default()).await.unwrap();
}

/// That somebody follows is history, and they see it themselves.
#[tokio::test]
async fn following_is_written_down() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let auditor = auditor(&api).await;
    let query = "?type=HistoryFollowed";
    let mut tail = Tail::of(&running.server, &auditor.access, query, Some(0)).await;
    let line = tail.line().await;
    assert_eq!(line["actor"]["id"], auditor.user_id, "{line}");
    // The same again is not.
    let mut again = Tail::of(&running.server, &auditor.access, query, Some(0)).await;
    assert_eq!(again.line().await, line);
    let more = tokio::time::timeout(Duration::from_millis(1_500), again.next()).await;
    assert!(more.is_err(), "{more:?}");
}
