//! How it was: what is folded from the book is what the read tables were when they stood there.

use std::collections::BTreeMap;

use ::projections::{
    Projector, Sequencer, View, all,
    journal::{self, RecordedEvent},
    replay::{AsOf, Replay, ReplayError, State},
    sessions::{self, Sessions},
    users::{self, Users},
};
use chrono::{DateTime, TimeDelta, Utc};
use commands::history::{self, Plan};
use domain::{EndReason, Password, Role, Sealed, SessionId, UserEvent, UserId};
use sqlx::PgPool;

use crate::{
    book::Desk,
    projections::{
        book::{Book, Reader, dawn, session, user},
        random_book::RandomBook,
    },
    support::{
        database::TestDatabase,
        reading::{older_than_any_code, replay},
    },
};

/// The tables as they stand.
#[derive(Debug, Clone, PartialEq)]
struct Tables {
    users: BTreeMap<UserId, users::Row>,
    sessions: BTreeMap<SessionId, sessions::Row>,
}

impl Tables {
    async fn read(pool: &PgPool) -> Self {
        let users = sqlx::query("SELECT * FROM ledger.users_v2").fetch_all(pool).await.unwrap();
        let users = users.iter().map(|row| Users::read(row).unwrap());
        let sessions =
            sqlx::query("SELECT * FROM ledger.sessions_v2").fetch_all(pool).await.unwrap();
        let sessions = sessions.iter().map(|row| Sessions::read(row).unwrap());
        Self {
            users: users.map(|row| (row.user_id, row)).collect(),
            sessions: sessions.map(|row| (row.session_id, row)).collect(),
        }
    }

    fn of(replay: &Replay) -> Self {
        let (users, sessions) = replay.rows();
        Self { users, sessions }
    }

    /// Holds the state of one person against them.
    fn agree_with(&self, state: &State) {
        assert_eq!(state.account.as_ref(), self.users.get(&state.user_id), "{}", state.user_id);
        let mut of_user: Vec<&sessions::Row> =
            self.sessions.values().filter(|row| row.user_id == state.user_id).collect();
        assert_eq!(state.begun, Some(of_user.len()), "{}", state.user_id);
        of_user.retain(|row| row.ended_at.is_none());
        of_user.sort_unstable_by_key(|row| (row.started_at, row.session_id));
        assert_eq!(state.sessions.iter().collect::<Vec<_>>(), of_user, "{}", state.user_id);
    }
}

/// The tables at each of several lines: the book is put in order piece by piece, and the tables are
/// built up to there each time.
async fn tables_piece_by_piece(pool: &PgPool, pieces: &[i64]) -> Vec<(i64, Tables)> {
    let sequencer = Sequencer::new(pool.clone());
    let projector =
        Projector::new(crate::support::reading::source_of(pool), all(), sequencer.head());
    projector.ensure().await.unwrap();
    let events: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(pool).await.unwrap();
    let (mut seen, mut head) = (Vec::new(), 0);
    let mut pieces = pieces.iter().cycle();
    while head < events {
        // Other tests hold the horizon of the cluster for moments.
        let batch = sequencer.sequence_batch(*pieces.next().unwrap()).await.unwrap();
        if batch.head.position == head {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        }
        head = batch.head.position;
        projector.catch_up().await.unwrap();
        seen.push((head, Tables::read(pool).await));
    }
    seen
}

/// The simulated history of some weeks, and when it ended.
async fn simulated(seed: u64, events: u64) -> (Desk, DateTime<Utc>) {
    let desk = Desk::open().await;
    let password = Password::choose("one for everybody").unwrap();
    let plan = Plan::new(events, seed);
    let written = history::write(&desk.book, plan, password, &mut |_| {}).await.unwrap();
    (desk, written.ended)
}

async fn lines(pool: &PgPool) -> Vec<RecordedEvent> {
    let mut connection = pool.acquire().await.unwrap();
    journal::read_after(&mut connection, 0, 100_000).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_line_it_is_what_the_tables_were_when_they_stood_there() {
    for seed in [1, 2, 3] {
        let (desk, _) = simulated(seed, 3_000).await;
        let seen = tables_piece_by_piece(&desk.pool, &[1, 7, 450, 90, 233]).await;
        assert!(seen.len() > 10, "{} places", seen.len());
        assert_eq!(seen.last().unwrap().0, 3_000, "the last is the head");
        let everybody: Vec<UserId> = seen.last().unwrap().1.users.keys().copied().collect();
        assert!(everybody.len() > 5);
        for (number, (position, tables)) in seen.iter().enumerate() {
            let as_of = AsOf::Position(*position);
            let whole = replay::whole(&desk.pool, as_of).await.unwrap();
            assert!(Tables::of(&whole) == *tables, "seed {seed}, line {position}");
            // One by one, by what the history says of them: each of them somewhere, and all at the head.
            let is_head = number + 1 == seen.len();
            for user in everybody.iter().skip(number % 3).step_by(if is_head { 1 } else { 3 }) {
                let state = replay::state(&desk.pool, *user, as_of).await.unwrap();
                tables.agree_with(&state);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_of_a_time_it_is_all_that_had_happened() {
    let (desk, ended) = simulated(7, 3_000).await;
    let (_, now) = tables_piece_by_piece(&desk.pool, &[10_000]).await.pop().unwrap();
    let lines = lines(&desk.pool).await;
    let everybody: Vec<UserId> = now.users.keys().copied().collect();
    let began = lines[0].metadata().unwrap().at;
    let mut signed_in_somewhere = 0;
    for part in 0..=12 {
        let at = began + (ended - began) * part / 12;
        let mut reference = Replay::new(None);
        for line in &lines {
            if line.metadata().unwrap().at <= at {
                reference.absorb(line.clone(), &older_than_any_code()).unwrap();
            }
        }
        let reference = Tables::of(&reference);
        let whole = replay::whole(&desk.pool, AsOf::Time(at)).await.unwrap();
        assert!(Tables::of(&whole) == reference, "{at}");
        for user in everybody.iter().step_by(4) {
            let state = replay::state(&desk.pool, *user, AsOf::Time(at)).await.unwrap();
            reference.agree_with(&state);
            assert_eq!(state.at, at);
        }

        // Who was signed in: the same by the tables, page by page, as by the whole book.
        let mut paged = Vec::new();
        let mut after = None;
        loop {
            let page = replay::signed_in(&desk.pool, at, after, 3).await.unwrap();
            assert!(page.rows.len() <= 3);
            after = page.rows.last().map(|state| state.user_id);
            paged.extend(page.rows.iter().filter_map(live));
            if !page.more {
                break;
            }
        }
        let by_book: Vec<_> = whole.signed_in(at).iter().filter_map(live).collect();
        assert_eq!(paged, by_book, "{at}");
        signed_in_somewhere += paged.len();
    }
    assert!(signed_in_somewhere > 20, "{signed_in_somewhere}");
    // At the end it is what people see as their devices.
    for user in everybody {
        let state = replay::state(&desk.pool, user, AsOf::Time(ended)).await.unwrap();
        let mut live: Vec<_> = state.live().collect();
        live.sort_unstable_by_key(|row| std::cmp::Reverse((row.started_at, row.session_id)));
        let listed = sessions::live_of_user(&desk.pool, user, ended, 1_000).await.unwrap();
        assert_eq!(live, listed.iter().collect::<Vec<_>>());
    }
}

/// Who it is, and the sessions that were good; nobody without one.
fn live(state: &State) -> Option<(UserId, Vec<SessionId>)> {
    let live: Vec<_> = state.live().map(|session| session.session_id).collect();
    (!live.is_empty()).then_some((state.user_id, live))
}

/// Clocks differ, and times go back. What is seen is always something that has been.
#[tokio::test]
async fn where_clocks_differ_a_stream_is_read_up_to_what_happened_later() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut random = RandomBook::new(Book::new(pool), 11);
    random.write(800).await;
    // One replica's clock is an hour ahead of another's.
    let book = &mut random.book;
    book.register(user(1), "ada").await;
    book.now += TimeDelta::hours(1);
    book.user(user(1), UserEvent::RoleGranted { role: Role::Auditor }).await;
    book.now -= TimeDelta::hours(1);
    book.user(user(1), UserEvent::Disabled {}).await;
    let between = book.now + TimeDelta::minutes(1);
    Reader::new(pool).await.read().await;
    let lines = lines(pool).await;
    let people: Vec<UserId> = Tables::read(pool).await.users.into_keys().collect();
    let times: Vec<DateTime<Utc>> =
        lines.iter().step_by(57).map(|line| line.metadata().unwrap().at).chain([between]).collect();
    let mut back = 0;
    for at in times {
        let whole = replay::whole(pool, AsOf::Time(at)).await.unwrap();
        let tables = Tables::of(&whole);
        for user in people.iter().step_by(5) {
            tables.agree_with(&replay::state(pool, *user, AsOf::Time(at)).await.unwrap());
        }
        for (user, row) in &tables.users {
            // The next event of the account, if there is one, happened later.
            let of_user = lines.iter().filter(|line| line.aggregate_id == user.to_string());
            let next = of_user.clone().find(|line| line.sequence > row.version as i64);
            assert!(next.is_none_or(|next| next.metadata().unwrap().at > at));
            back += of_user
                .filter(|line| line.sequence > row.version as i64)
                .filter(|line| line.metadata().unwrap().at <= at)
                .count();
        }
    }
    assert!(back > 0, "no clock went back where it matters");
}

#[tokio::test]
async fn what_the_account_had_ended_was_over_at_once() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.register(user(1), "ada").await;
    book.start(session(1), user(1), 1).await;
    book.start(session(2), user(1), 1).await;
    let changed = UserEvent::PasswordChanged {
        password: Sealed("new".into()),
        kept_session: Some(session(2)),
    };
    book.user(user(1), changed).await;
    book.end(session(1), user(1), EndReason::PasswordChanged).await;
    book.user(user(1), UserEvent::RoleGranted { role: Role::Auditor }).await;
    book.user(user(1), UserEvent::Disabled {}).await;
    book.user(user(1), UserEvent::Enabled {}).await;
    Reader::new(pool).await.read().await;
    let mut seen = Vec::new();
    for position in 1..=8 {
        let state = replay::state(pool, user(1), AsOf::Position(position)).await.unwrap();
        let account = state.account.as_ref().unwrap();
        assert_eq!(state.at, dawn() + TimeDelta::seconds(position));
        seen.push((
            live(&state).map(|(_, sessions)| sessions).unwrap_or_default(),
            account.roles.len(),
            account.disabled,
        ));
    }
    let (one, two) = (session(1), session(2));
    assert_eq!(
        seen,
        [
            (vec![], 1, false),
            (vec![one], 1, false),
            (vec![two, one], 1, false),
            (vec![two], 1, false), // before its end was written down
            (vec![two], 1, false),
            (vec![two], 2, false),
            (vec![], 2, true),
            (vec![], 2, false),
        ]
    );
    // A day later it would have expired.
    let later = dawn() + TimeDelta::hours(25);
    let state = replay::state(pool, user(1), AsOf::Time(later)).await.unwrap();
    assert_eq!(live(&state), None);
    // Before it all, and somebody who never was.
    for (who, at) in [(user(1), dawn()), (user(9), later)] {
        let state = replay::state(pool, who, AsOf::Time(at)).await.unwrap();
        let seen = (state.account, state.sessions.len(), state.begun, state.position);
        assert_eq!(seen, (None, 0, Some(0), 0));
    }
    let ahead = replay::state(pool, user(1), AsOf::Position(9)).await.unwrap_err();
    assert!(matches!(ahead, ReplayError::Ahead { asked: 9, reached: 8 }), "{ahead}");
}

/// A session was good from the moment on at which it began, and not at that at which it ended. A clock that
/// went back stops nothing, and hides nobody.
#[tokio::test]
async fn who_was_signed_in_is_told_to_the_moment() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    let mut began = Vec::new();
    for number in 1..=3 {
        book.register(user(number), &format!("person {number}")).await;
        book.start(session(number), user(number), 1).await;
        began.push(book.now);
    }
    book.end(session(1), user(1), EndReason::SignedOut).await;
    let ended = book.now;
    // By other clocks the second ends before it was last seen, and the third before it began.
    book.refresh(session(2), user(2)).await;
    let seen = book.now;
    book.now -= TimeDelta::seconds(2);
    book.end(session(2), user(2), EndReason::SignedOut).await;
    book.now -= TimeDelta::hours(1);
    book.end(session(3), user(3), EndReason::SignedOut).await;
    Reader::new(pool).await.read().await;

    let moment = TimeDelta::microseconds(1);
    for (at, expected) in [
        (began[0] - moment, &[][..]),
        (began[0], &[1]),
        (began[1], &[1, 2]),
        (began[2], &[1, 2]),
        (ended - moment, &[1, 2]),
        (ended, &[2]),
        (seen - moment, &[2]),
        (seen, &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|number| user(*number)).collect();
        let who = |states: &[State]| -> Vec<UserId> {
            states.iter().filter_map(live).map(|(user, _)| user).collect()
        };
        let page = replay::signed_in(pool, at, None, 10).await.unwrap();
        assert_eq!(who(&page.rows), expected, "{at}");
        let whole = replay::whole(pool, AsOf::Time(at)).await.unwrap();
        assert_eq!(who(&whole.signed_in(at)), expected, "{at}, by the whole book");
    }
}

/// The history is asked for the lines of a person. What it leaves out, the next line of the stream
/// misses.
#[tokio::test]
async fn a_line_that_the_history_leaves_out_is_missed() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    // Ada is registered, signs in, refreshes, is granted a role, and refreshes.
    let lines: Vec<i64> = sqlx::query_scalar(
        "SELECT position FROM ledger.audit_history_v3 WHERE user_id = $1 ORDER BY position",
    )
    .bind(user(1).0)
    .fetch_all(pool)
    .await
    .unwrap();
    let head = AsOf::Position(journal::head(pool).await.unwrap().position);
    replay::state(pool, user(1), head).await.unwrap();
    for left_out in &lines[..3] {
        let hidden = "UPDATE ledger.audit_history_v3 SET user_id = NULL WHERE position = $1";
        sqlx::query(hidden).bind(left_out).execute(pool).await.unwrap();
        let missed = replay::state(pool, user(1), head).await.unwrap_err();
        assert!(
            matches!(missed, ReplayError::LeftOut { .. } | ReplayError::Event(_)),
            "{left_out}: {missed}"
        );
        let back = "UPDATE ledger.audit_history_v3 SET user_id = $2 WHERE position = $1";
        sqlx::query(back).bind(left_out).bind(user(1).0).execute(pool).await.unwrap();
    }
    replay::state(pool, user(1), head).await.unwrap();
}
