//! What the history costs: the same acts on a short, a longer and a long book, in turns.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use commands::{
    By, Origin, RefreshError, SignedIn,
    history::{self, Written},
};
use domain::{Identifier, Password, UserId};
use projections::audit_history;
use serde::{Deserialize, Serialize};

use crate::{
    Scale,
    appending::{Appender, Sample},
    book::{self, Book, PASSWORD},
    cluster::Database,
    measure,
};

/// Whom the acts concern: some who do a lot, and some who do little.
const PEOPLE: usize = 100;
/// The rows of a page.
const PAGE: i64 = 50;
/// Pages of fewer people than these say little.
const FULL_PAGES: usize = 5;

/// The median times of each act on one book, in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Costs {
    pub(crate) events: u64,
    /// How many refreshes the long session had when it was measured.
    pub(crate) long_session: u64,
    /// The people whose page of the history is full, and is read.
    pub(crate) full_pages: usize,
    /// By the name of the act; none where nobody's page is full.
    pub(crate) micros: Vec<(String, Option<f64>)>,
}

pub(crate) const ACTS: [&str; 6] = [
    "append",
    "sign-in lookup",
    "refresh, the 10th",
    "refresh, the last of a long session",
    "history page, newest",
    "history page, one account",
];

/// One book, ready to be measured.
pub(crate) struct Subject {
    events: u64,
    book: Book,
    people: Vec<(Identifier, UserId)>,
    /// Those whose page is full, so that a page is the same work in every book.
    full_pages: Vec<UserId>,
    appender: Appender,
    origin: Origin,
    long: String,
    long_refreshes: u64,
    times: [Vec<f64>; 6],
}

impl Subject {
    /// So many refreshes are made on the long session, where the history has none.
    pub(crate) async fn open(database: &Database, written: &Written, scale: Scale) -> Result<Self> {
        let book = Book::open(database, 4, book::after(written)).await?;
        let sample = std::sync::Arc::new(Sample::of(database).await?);
        let appender = Appender::new(&book.pool, sample);
        let origin = Origin {
            by: By::Anonymous,
            address: "192.0.2.1".parse().ok(),
            user_agent: Some("Benchmark/1.0".to_owned()),
            request_id: "00000000-0000-7000-8000-000000000000".to_owned(),
        };
        let (mut people, mut full_pages) = (Vec::new(), Vec::new());
        for number in 1..=u32::try_from(written.accounts)? {
            let name = Identifier::typed(&history::username(number));
            let Some(user) = book.entrybook.find_account(&name).await? else { continue };
            if full_pages.len() < PEOPLE && page_of(&book, user).await? == PAGE as usize {
                full_pages.push(user);
            }
            if people.len() < PEOPLE && !book.entrybook.user(user).await?.disabled {
                people.push((name, user));
            }
            if people.len() == PEOPLE && full_pages.len() == PEOPLE {
                break;
            }
        }
        if full_pages.len() < FULL_PAGES && !scale.quick {
            bail!(
                "only {} accounts of the history of {} events fill a page of the history: measure more --events",
                full_pages.len(),
                written.events
            );
        }
        let mut subject = Self {
            events: written.events,
            book,
            people,
            full_pages,
            appender,
            origin,
            long: String::new(),
            long_refreshes: 0,
            times: Default::default(),
        };
        match &written.display {
            Some(display) => {
                subject.long_refreshes = display.refreshes;
                subject.long = display.token.expose().to_owned();
            }
            None => {
                subject.long = subject.sign_in(0).await?.refresh.expose().to_owned();
                while subject.long_refreshes < scale.long_session {
                    subject.refresh_long().await?;
                }
            }
        }
        // The first times are not for the record.
        subject.round(20).await?;
        subject.times = Default::default();
        Ok(subject)
    }

    async fn sign_in(&self, nth: usize) -> Result<SignedIn> {
        let (name, _) = self.people.get(nth % self.people.len().max(1)).context("nobody")?;
        let password = Password::present(PASSWORD)?;
        Ok(self.book.entrybook.sign_in(name, password, true, &self.origin).await?)
    }

    async fn refresh_long(&mut self) -> Result<()> {
        let refreshed = self.book.entrybook.refresh(&self.long, &self.origin).await;
        self.long = refreshed?.refresh.expose().to_owned();
        self.long_refreshes += 1;
        Ok(())
    }

    /// Does each act so many times.
    pub(crate) async fn round(&mut self, times: usize) -> Result<()> {
        for nth in 0..times {
            let began = Instant::now();
            self.appender.append().await?;
            self.note(0, began);

            let (name, _) = self.people.get(nth % self.people.len()).cloned().context("nobody")?;
            let began = Instant::now();
            let found = self.book.entrybook.find_account(&name).await?.context("nobody")?;
            let account = self.book.entrybook.user(found).await?;
            self.note(1, began);
            if account.profile.is_none() {
                bail!("an account is not registered");
            }

            let began = Instant::now();
            self.refresh_long().await?;
            self.note(3, began);

            let order = audit_history::Order::Newest;
            let all = audit_history::Filter::default();
            let began = Instant::now();
            let page = audit_history::page(&self.book.pool, &all, order, None, PAGE).await?;
            self.note(4, began);
            if page.rows.len() != PAGE as usize {
                bail!("the history has no page");
            }

            if let Some(user) = self.full_pages.get(nth % self.full_pages.len().max(1)) {
                let began = Instant::now();
                let rows = page_of(&self.book, *user).await?;
                self.note(5, began);
                if rows != PAGE as usize {
                    bail!("the page of an account is not full any more");
                }
            }
        }
        // Each of these costs a sign-in, and that a hash.
        for nth in 0..times.div_ceil(10) {
            let mut token = self.sign_in(nth).await?.refresh.expose().to_owned();
            for refresh in 1..=12 {
                let began = Instant::now();
                let refreshed: Result<SignedIn, RefreshError> =
                    self.book.entrybook.refresh(&token, &self.origin).await;
                if refresh >= 8 {
                    self.note(2, began);
                }
                token = refreshed?.refresh.expose().to_owned();
            }
        }
        Ok(())
    }

    fn note(&mut self, act: usize, began: Instant) {
        let micros = began.elapsed().as_secs_f64() * 1e6;
        if let Some(times) = self.times.get_mut(act) {
            times.push(micros);
        }
    }

    pub(crate) async fn close(self) -> Costs {
        self.book.pool.close().await;
        let medians =
            self.times.iter().map(|times| (!times.is_empty()).then(|| measure::median(times)));
        Costs {
            events: self.events,
            long_session: self.long_refreshes,
            full_pages: self.full_pages.len(),
            micros: ACTS.iter().map(|act| (*act).to_owned()).zip(medians).collect(),
        }
    }
}

/// The rows of the newest page of what was done to an account.
async fn page_of(book: &Book, user: UserId) -> Result<usize> {
    let of_one = audit_history::Filter { user: Some(user), ..Default::default() };
    let newest = audit_history::Order::Newest;
    Ok(audit_history::page(&book.pool, &of_one, newest, None, PAGE).await?.rows.len())
}

/// The greatest median of each act by its least, over all books; none where it means nothing, because
/// one of the books is too short for the act.
pub(crate) fn spread(costs: &[Costs]) -> Vec<(String, Option<f64>)> {
    let enough = costs.iter().all(|one| one.full_pages >= FULL_PAGES);
    let of = |act: usize| {
        let times: Vec<f64> = costs
            .iter()
            .filter_map(|one| one.micros.get(act).and_then(|(_, time)| *time))
            .collect();
        let spread = measure::quantile(&times, 1.0) / measure::quantile(&times, 0.0);
        (act != 5 || enough).then_some(spread)
    };
    ACTS.iter().enumerate().map(|(act, name)| ((*name).to_owned(), of(act))).collect()
}
