//! How PostgreSQL finds what is asked for: the plans of the very statements that Entrybook sends, told
//! by `auto_explain` as they run.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, bail};
use commands::Origin;
use domain::{Identifier, Password};
use projections::{audit_history, sessions, users};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Connection as _;
use tracing::{Subscriber, field::Visit};
use tracing_subscriber::layer::{Context, Layer};

use crate::{
    book::{Book, PASSWORD},
    cluster::Database,
};

const EXPLAIN: &str = "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; \
                       SET auto_explain.log_format = json; SET auto_explain.log_level = notice; \
                       SET client_min_messages = notice";

/// Tables of one row, or of a handful, that are read whole.
const SMALL: [&str; 5] = ["sequencer", "projections", "signing_keys", "builds", "replicas"];

/// A table of fewer rows may rightly be read whole, whatever indexes it has.
const WORTH_AN_INDEX: i64 = 3_000;

/// One way in which a table was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) what: String,
    pub(crate) table: String,
    pub(crate) node: String,
    pub(crate) index: Option<String>,
    /// Of the table, about.
    pub(crate) rows: i64,
}

/// Keeps what the server says about its plans.
#[derive(Clone, Default)]
pub(crate) struct Notices(Arc<Mutex<Vec<String>>>);

impl Notices {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }

            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "message" {
                    self.0 = value.to_owned();
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if message.0.contains("plan:") {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.0);
        }
    }
}

/// What was read how, by each thing that a server does all the time.
pub(crate) async fn read(
    database: &Database,
    notices: &Notices,
    ended: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<Access>> {
    let pool = database.owner_pool(EXPLAIN).await?;
    let book = Book::on(pool.clone(), ended).await?;
    let entrybook = &book.entrybook;
    let origin = Origin {
        address: "192.0.2.1".parse().ok(),
        ..Origin::system("00000000-0000-7000-8000-000000000000".to_owned())
    };
    let (name, user) = somebody(&book).await?;
    let mut accesses = Vec::new();
    let mut note = |what: &str| {
        for notice in notices.take() {
            let Some(start) = notice.find('{') else { continue };
            let Some(plan) = notice.get(start..) else { continue };
            let Ok(plan) = serde_json::from_str::<Value>(plan) else { continue };
            walk(what, plan.get("Plan").unwrap_or(&Value::Null), &mut accesses);
        }
    };
    note("");

    entrybook.find_account(&name).await?;
    entrybook.user(user).await?;
    note("sign-in: look up and load an account");
    let signed_in = entrybook.sign_in(&name, Password::present(PASSWORD)?, true, &origin).await?;
    note("sign-in, whole");
    entrybook.refresh(signed_in.refresh.expose(), &origin).await?;
    note("refresh a session");
    book.sequencer.drain().await?;
    note("sequence");
    book.projector.catch_up().await?;
    note("project");
    let index = entrybook.keyring().index(name.kind(), &name.folded());
    users::get(&pool, user).await?;
    users::by_index(&pool, &index).await?;
    users::page(&pool, None, 50).await?;
    note("read accounts");
    sessions::get(&pool, signed_in.session_id).await?;
    sessions::live_of_user(&pool, user, ended, 50).await?;
    sessions::opened_before(&pool, user, 1, 50).await?;
    sessions::expired(&pool, ended, 50).await?;
    note("read sessions");
    for (what, filter) in filters(user, signed_in.session_id, ended) {
        for order in [audit_history::Order::Newest, audit_history::Order::Oldest] {
            audit_history::page(&pool, &filter, order, None, 50).await?;
            audit_history::page(&pool, &filter, order, Some(1_000), 50).await?;
        }
        note(&format!("history: {what}"));
    }
    let mut connection = pool.acquire().await?;
    projections::journal::read_after(&mut connection, 1_000, 100).await?;
    projections::journal::read_one(&pool, 1_000).await?;
    note("read the journal");
    drop(connection);
    pool.close().await;
    if accesses.is_empty() {
        bail!("auto_explain said nothing; is PostgreSQL's contrib package installed?");
    }
    let mut owner = database.owner().await?;
    let rows: HashMap<String, i64> = sqlx::query_as::<_, (String, i64)>(
        "SELECT relname::text, reltuples::bigint FROM pg_class WHERE relkind = 'r'",
    )
    .fetch_all(&mut owner)
    .await?
    .into_iter()
    .collect();
    owner.close().await?;
    let mut distinct = BTreeSet::new();
    for access in accesses.into_iter().filter(|access| !access.what.is_empty()) {
        let rows = rows.get(&access.table).copied().unwrap_or_default();
        distinct.insert(Access { rows, ..access });
    }
    Ok(distinct.into_iter().collect())
}

/// The first account that may sign in: in a long history some are disabled.
async fn somebody(book: &Book) -> Result<(Identifier, domain::UserId)> {
    for number in 1.. {
        let name = Identifier::typed(&commands::history::username(number));
        let Some(user) = book.entrybook.find_account(&name).await? else { break };
        if !book.entrybook.user(user).await?.disabled {
            return Ok((name, user));
        }
    }
    bail!("nobody is there who may sign in")
}

fn filters(
    user: domain::UserId,
    session: domain::SessionId,
    ended: chrono::DateTime<chrono::Utc>,
) -> Vec<(&'static str, audit_history::Filter)> {
    let all = audit_history::Filter::default;
    vec![
        ("all", all()),
        ("of one account", audit_history::Filter { user: Some(user), ..all() }),
        ("by one account", audit_history::Filter { actor_user: Some(user), ..all() }),
        (
            "by the system",
            audit_history::Filter { actor_kind: Some(audit_history::ActorKind::System), ..all() },
        ),
        ("of one session", audit_history::Filter { session: Some(session), ..all() }),
        (
            "of some types",
            audit_history::Filter {
                event_types: vec!["UserRegistered".to_owned(), "SignInThrottled".to_owned()],
                ..all()
            },
        ),
        (
            "of one day",
            audit_history::Filter {
                from: Some(ended - chrono::TimeDelta::days(8)),
                to: Some(ended - chrono::TimeDelta::days(7)),
                ..all()
            },
        ),
        (
            "of one account, some types, seen by itself",
            audit_history::Filter {
                user: Some(user),
                visible_to: Some(user),
                event_types: vec!["SessionStarted".to_owned()],
                ..all()
            },
        ),
    ]
}

fn walk(what: &str, plan: &Value, accesses: &mut Vec<Access>) {
    let text = |key: &str| plan.get(key).and_then(Value::as_str).map(str::to_owned);
    if let (Some(node), Some(table)) = (text("Node Type"), text("Relation Name"))
        && node != "ModifyTable"
        && !table.starts_with("pg_")
    {
        accesses.push(Access {
            what: what.to_owned(),
            table,
            node,
            index: text("Index Name"),
            rows: 0,
        });
    } else if let (Some(node), Some(index)) = (text("Node Type"), text("Index Name")) {
        // A bitmap's index stands below the node that names the table.
        accesses.push(Access {
            what: what.to_owned(),
            table: String::new(),
            node,
            index: Some(index),
            rows: 0,
        });
    }
    for below in plan.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        walk(what, below, accesses);
    }
}

/// Those that read a table that grows from end to end.
pub(crate) fn whole_tables(accesses: &[Access]) -> Vec<&Access> {
    let whole = |access: &&Access| {
        access.node == "Seq Scan"
            && access.rows >= WORTH_AN_INDEX
            && !SMALL.contains(&access.table.as_str())
    };
    accesses.iter().filter(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_table_that_grows_is_told() {
        let read = |table: &str, node: &str, rows| Access {
            what: "sign-in".to_owned(),
            table: table.to_owned(),
            node: node.to_owned(),
            index: None,
            rows,
        };
        let accesses = [
            read("events", "Seq Scan", 10_000),
            read("events", "Index Scan", 10_000),
            read("events", "Seq Scan", 10),
            read("sequencer", "Seq Scan", 10_000),
        ];
        assert_eq!(whole_tables(&accesses), [&accesses[0]]);
    }
}
