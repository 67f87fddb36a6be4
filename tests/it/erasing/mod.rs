//! What is destroyed for good: a person, the sources of a month, and the master key of before.

mod again;
mod confirming;
mod damaged;
mod erase;
mod her;
mod keys_and_events;
mod master_key;
mod meanwhile;
mod over_http;
mod retention;
mod statistics;

use ::projections::Sequencer;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sqlx::PgPool;

use crate::{
    book::Desk,
    log::backup,
    support::{scratch, server::eventually},
};

/// A database as `pg_dump` writes it, all tables with all columns.
async fn dumped(url: &str) -> String {
    let place = scratch();
    let file = place.path().join("dump.sql");
    backup::dump(url, &file).await;
    std::fs::read_to_string(file).unwrap()
}

/// The forms in which a dump may hold a value: as it is, as the hexadecimal digits of a `bytea`, and
/// within anything in Base64, wherever it begins there.
fn forms(value: &str) -> Vec<String> {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![value.to_owned(), value.to_lowercase(), hex];
    for shift in 0..3 {
        let shifted = [&[0; 2][..shift], value.as_bytes()].concat();
        // What hangs over at either end depends on the neighbours.
        let whole = shifted.len() / 3 * 3;
        let text = STANDARD.encode(&shifted[..whole]);
        let inner = text[if shift == 0 { 0 } else { 4 }..].to_owned();
        // A few letters stand in any random text.
        if inner.len() >= 8 {
            forms.push(inner.replace('+', "-").replace('/', "_"));
            forms.push(inner);
        }
    }
    forms
}

/// Which of the values are in the dump, in whatever form.
fn found<'a>(dump: &str, values: &[&'a str]) -> Vec<&'a str> {
    let is_in = |value: &&&str| forms(value).iter().any(|form| dump.contains(form.as_str()));
    values.iter().filter(is_in).copied().collect()
}

/// What the book has, byte by byte, up to a number of events.
async fn book_of(pool: &PgPool, most: i64) -> Vec<String> {
    sqlx::query_scalar("SELECT e::text FROM events AS e ORDER BY id LIMIT $1")
        .bind(most)
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn count(pool: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// The SQLSTATE of a refusal.
fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map(|code| code.into_owned()).unwrap_or_default()
}

/// Waits until every event has its place: another test's transaction may hold it back.
async fn settled(desk: &Desk, sequencer: &Sequencer) {
    let events = count(&desk.pool, "SELECT count(*) FROM events").await;
    eventually("every event has its place", async || {
        (sequencer.drain().await.unwrap().position == events).then_some(())
    })
    .await;
}
