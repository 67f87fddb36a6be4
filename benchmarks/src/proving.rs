//! What the proof and the replay of a history cost: the whole book held against what is kept of it, and
//! accounts as they were.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, bail};
use commands::history::{self, Written};
use domain::Identifier;
use projections::{
    book_audit::{Given, Progress, audit_book},
    replay::{self, AsOf},
};
use serde::{Deserialize, Serialize};

use crate::{
    book::{self, Book},
    cluster::Database,
    measure,
};

/// Accounts that are replayed: the first, who have done the most.
const PEOPLE: u32 = 50;

/// One history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Proving {
    pub(crate) events: u64,
    /// All lines read as they are stored, hashed, and held against the hashes that are kept.
    pub(crate) verified_seconds: f64,
    /// Medians in microseconds: an account with its sessions at the end of the book, and in its middle.
    pub(crate) replay_at_end: f64,
    pub(crate) replay_in_the_middle: f64,
}

pub(crate) async fn measure(database: &Database, written: &Written) -> Result<Proving> {
    let book = Book::open(database, 4, book::after(written)).await?;
    let given = Given::default();
    let (report, verified_seconds) =
        measure::timed(audit_book(&book.pool, given, Arc::new(Progress::default()))).await?;
    if report.verdict.lines < written.events || report.verdict.wrong > 0 {
        bail!("a sound book was not called sound: {:?}", report.verdict.findings);
    }
    let end = i64::try_from(report.verdict.lines)?;
    let (mut at_end, mut in_the_middle) = (Vec::new(), Vec::new());
    for number in 1..=PEOPLE {
        let name = Identifier::typed(&history::username(number));
        // A short history has fewer.
        let Some(user) = book.entrybook.find_account(&name).await? else { break };
        for (position, times) in [(end, &mut at_end), (end / 2, &mut in_the_middle)] {
            let began = Instant::now();
            replay::state(&book.pool, user, AsOf::Position(position)).await?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    book.pool.close().await;
    Ok(Proving {
        events: report.verdict.lines,
        verified_seconds,
        replay_at_end: measure::median(&at_end),
        replay_in_the_middle: measure::median(&in_the_middle),
    })
}
