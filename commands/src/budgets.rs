//! How much of the book one person, and one address, may fill.
//!
//! The book is for ever, so whoever may append to it without limit fills it without limit. Each kind of event that
//! a person can cause again and again has a budget ([`Budget`]): so many in an hour, a sixth of that at once. What
//! is bounded already has none: an event of which there is at most one for another (a session ends once), and one
//! that something else counts (failures by the throttles, registrations and readings by the hour). An event is
//! counted where it is appended (`executor`), so that no command can be forgotten, and a command that changes
//! nothing costs nothing.
//!
//! The kinds are apart so that nobody is locked out. Whoever has stolen a session alone can use up what a session
//! alone can do; to sign in and to change the password takes the password, and those have budgets of their own. An
//! address has a budget too, for the kinds that many accounts together could fill the book with, and none for those
//! by which a person defends themselves: somebody in the same office must not stand in their way.
//!
//! Every replica counts for itself. What one stream takes in an hour is bounded over all of them
//! ([`Store::wait_of`](crate::store::Store::wait_of)).

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::UserId;

use crate::{Origin, origin::By};

/// The kinds of what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Budget {
    /// Changes of one's own profile.
    Changes,
    /// Sessions opened with a password.
    SignIns,
    Refreshes,
    /// Ending all one's other sessions at once.
    SessionCuts,
    Passwords,
    /// What an admin does to accounts: roles, disabling, enabling.
    Administration,
}

impl Budget {
    pub const ALL: [Self; 6] = [
        Self::Changes,
        Self::SignIns,
        Self::Refreshes,
        Self::SessionCuts,
        Self::Passwords,
        Self::Administration,
    ];

    /// The name under which metrics and the log tell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::SignIns => "sign_ins",
            Self::Refreshes => "refreshes",
            Self::SessionCuts => "session_cuts",
            Self::Passwords => "passwords",
            Self::Administration => "administration",
        }
    }

    /// Whether the address counts as well, and the stream over all replicas. Not where a person defends an account.
    pub(crate) fn is_shared(self) -> bool {
        match self {
            Self::Changes | Self::SignIns | Self::Refreshes => true,
            Self::SessionCuts | Self::Passwords | Self::Administration => false,
        }
    }

    /// How many times a person's budget it is. An admin may have many accounts to see to.
    fn times(self) -> u32 {
        match self {
            Self::Administration => 10,
            Self::Changes
            | Self::SignIns
            | Self::Refreshes
            | Self::SessionCuts
            | Self::Passwords => 1,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spender {
    Person,
    Address,
    /// What one stream takes over all replicas.
    Stream,
}

impl Spender {
    pub const ALL: [Self; 3] = [Self::Person, Self::Address, Self::Stream];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Address => "address",
            Self::Stream => "stream",
        }
    }
}

/// A budget is used up. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget {} of the {} is used up", .budget.name(), .spender.name())]
pub struct OverBudget {
    pub budget: Budget,
    pub spender: Spender,
    /// After that, one more is taken.
    pub retry_after: Duration,
}

/// What an operator may set: how many of each kind in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hourly {
    pub person: u32,
    pub address: u32,
}

impl Hourly {
    /// More than anybody can do. For tests and benchmarks, which do in a minute what people do in a year.
    pub const UNBOUNDED: Self = Self { person: u32::MAX, address: u32::MAX };

    fn rate(self, budget: Budget) -> Rate {
        Rate::hourly(self.person.saturating_mul(budget.times()))
    }
}

/// So much of what is for an hour may come at once.
const AT_ONCE: u32 = 6;
const HOUR: i64 = 3_600_000_000_000;

/// A rate, as the generic cell rate algorithm has it (ITU-T I.371, annex A), in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// What one costs.
    each: i64,
    /// What may be taken at once.
    most: i64,
}

impl Rate {
    fn hourly(count: u32) -> Self {
        let each = (HOUR / i64::from(count.max(1))).max(1);
        Self { each, most: each * i64::from((count / AT_ONCE).max(1)) }
    }
}

/// How far each cell is spoken for, in nanoseconds since 1970: a cell at or before now is full.
///
/// The cells are a fixed number, and a spender has one in each of two rows, found by a keyed hash; what the emptier
/// of the two says counts (a count-min sketch: Cormode and Muthukrishnan, 2005). So the memory is bounded whoever
/// comes, and nothing is ever put out to be had afresh. Spenders that share a cell can make each other seem to have
/// spent more, never less: to be refused wrongly, one must share both cells with such as are at their limit, and
/// nobody can choose whom they share with. With 10,000 spenders at their limits that is one in seven hundred.
///
/// A crate such as governor has the same algorithm, but keeps a cell for each key it was ever asked about.
struct Cells {
    rows: [Vec<i64>; 2],
    hashers: [RandomState; 2],
    /// The most that any rate lets a cell be spoken for ahead. One for all: who shares a cell with somebody of a
    /// slower rate must not give them anything back.
    longest: i64,
}

/// Two rows of so many are 4 MiB.
const CELLS: usize = 1 << 18;

impl Cells {
    fn new(longest: i64) -> Self {
        Self {
            longest,
            rows: [vec![0; CELLS], vec![0; CELLS]],
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    fn of(&mut self, key: &Key) -> impl Iterator<Item = &mut i64> {
        let cells = self.rows.iter_mut().zip(&self.hashers);
        cells.filter_map(move |(row, hasher)| {
            let place = hasher.hash_one(key) as usize % row.len().max(1);
            row.get_mut(place)
        })
    }

    /// How long it takes until one more may be taken; nothing, if it may be now.
    fn wait(&mut self, key: &Key, rate: Rate, now: i64) -> Option<Duration> {
        let longest = self.longest;
        let spoken = self.of(key).map(|cell| level(*cell, now, longest)).min().unwrap_or(now);
        let over = spoken + rate.each - now - rate.most;
        u64::try_from(over).ok().filter(|over| *over > 0).map(Duration::from_nanos)
    }

    fn take(&mut self, key: &Key, rate: Rate, now: i64) {
        let longest = self.longest;
        for cell in self.of(key) {
            *cell = level(*cell, now, longest) + rate.each;
        }
    }
}

/// Until when a cell is spoken for. One that is so for longer than any could be was written before the clock was
/// set back: it is empty, and fills from now on.
fn level(cell: i64, now: i64, longest: i64) -> i64 {
    cell.clamp(now, now + longest)
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Person(Budget, UserId),
    Address(Budget, IpAddr),
}

/// What this replica has counted.
pub struct Budgets {
    hourly: Hourly,
    cells: Mutex<Cells>,
    refusals: [[AtomicU64; Spender::ALL.len()]; Budget::ALL.len()],
}

impl Budgets {
    pub(crate) fn new(hourly: Hourly) -> Self {
        let of_people = Budget::ALL.map(|budget| hourly.rate(budget).most);
        let longest = of_people.into_iter().max().unwrap_or(HOUR);
        let longest = longest.max(Rate::hourly(hourly.address).most);
        Self { hourly, cells: Mutex::new(Cells::new(longest)), refusals: Default::default() }
    }

    /// Takes one from the budgets of who asks: from all of them, or from none. The command line and the service
    /// itself have none.
    pub(crate) fn take(
        &self,
        budget: Budget,
        origin: &Origin,
        at: DateTime<Utc>,
    ) -> Result<(), OverBudget> {
        let person = match origin.by {
            By::User(id) => Some(id),
            By::Anonymous => None,
            By::System | By::Cli { .. } => return Ok(()),
        };
        let now = at.timestamp_nanos_opt().unwrap_or_default();
        let of_person =
            person.map(|id| (Spender::Person, Key::Person(budget, id), self.hourly.rate(budget)));
        let network = origin.narrowest_network().filter(|_| budget.is_shared());
        let of_address = network.map(|network| {
            (Spender::Address, Key::Address(budget, network), Rate::hourly(self.hourly.address))
        });
        let spenders: Vec<_> = of_person.into_iter().chain(of_address).collect();
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        for (spender, key, rate) in &spenders {
            if let Some(retry_after) = cells.wait(key, *rate, now) {
                drop(cells);
                return Err(self.refuse(budget, *spender, retry_after));
            }
        }
        for (_, key, rate) in &spenders {
            cells.take(key, *rate, now);
        }
        Ok(())
    }

    /// So many events of one stream in an hour are the most that one replica would have let a person append, so
    /// that more of them were let through by several.
    pub(crate) fn most_in_an_hour(&self) -> u64 {
        let hourly = u64::from(self.hourly.person);
        hourly + (hourly / u64::from(AT_ONCE)).max(1)
    }

    pub(crate) fn refuse(
        &self,
        budget: Budget,
        spender: Spender,
        retry_after: Duration,
    ) -> OverBudget {
        if let Some(count) =
            self.refusals.get(budget.index()).and_then(|row| row.get(spender as usize))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        OverBudget { budget, spender, retry_after }
    }

    /// How often each budget was found used up since the start.
    pub fn refusals(&self) -> impl Iterator<Item = (Budget, Spender, u64)> {
        let rows = Budget::ALL.into_iter().zip(&self.refusals);
        rows.flat_map(|(budget, row)| {
            let counts = Spender::ALL.into_iter().zip(row);
            counts.map(move |(spender, count)| (budget, spender, count.load(Ordering::Relaxed)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    fn origin(person: u128, address: &str) -> Origin {
        Origin {
            by: By::User(UserId(Uuid::from_u128(person))),
            address: address.parse().ok(),
            user_agent: None,
            request_id: String::new(),
        }
    }

    fn budgets(person: u32, address: u32) -> Budgets {
        Budgets::new(Hourly { person, address })
    }

    fn taken(budgets: &Budgets, budget: Budget, origin: &Origin, at: DateTime<Utc>) -> usize {
        (0..10_000).take_while(|_| budgets.take(budget, origin, at).is_ok()).count()
    }

    #[test]
    fn a_sixth_comes_at_once_and_the_rest_over_the_hour() {
        let budgets = budgets(360, 36_000);
        let ada = origin(1, "192.0.2.7");
        assert_eq!(taken(&budgets, Budget::Changes, &ada, at(0)), 60);
        let refused = budgets.take(Budget::Changes, &ada, at(3)).unwrap_err();
        let retry_after = Duration::from_secs(7);
        assert_eq!(
            refused,
            OverBudget { budget: Budget::Changes, spender: Spender::Person, retry_after }
        );
        assert_eq!(taken(&budgets, Budget::Changes, &ada, at(10)), 1);
        assert_eq!(taken(&budgets, Budget::Changes, &ada, at(3_600)), 60);
        assert_eq!(budgets.refusals().map(|(_, _, count)| count).sum::<u64>(), 4);
    }

    /// Somebody with a stolen session has used up all that a session alone can do.
    #[test]
    fn what_is_used_up_leaves_the_others_alone() {
        let budgets = budgets(6, 600);
        let thief = origin(1, "192.0.2.7");
        for budget in [Budget::Changes, Budget::Refreshes, Budget::SessionCuts] {
            assert!(taken(&budgets, budget, &thief, at(0)) > 0);
            assert!(budgets.take(budget, &thief, at(0)).is_err());
        }
        for budget in [Budget::SignIns, Budget::Passwords] {
            assert!(budgets.take(budget, &thief, at(0)).is_ok(), "{budget:?}");
        }
        assert!(budgets.take(Budget::Changes, &origin(2, "192.0.2.7"), at(0)).is_ok());
    }

    #[test]
    fn an_address_is_bounded_too_but_not_where_people_defend_themselves() {
        let budgets = budgets(60, 120);
        let from = |person, address| origin(person, address);
        let all = (0..10).map(|n| taken(&budgets, Budget::Changes, &from(n, "2001:db8::1"), at(0)));
        assert_eq!(all.sum::<usize>(), 20);
        // The same /64 is the same address.
        let ada = from(77, "2001:db8::2");
        let refused = budgets.take(Budget::Changes, &ada, at(0)).unwrap_err();
        assert_eq!(refused.spender, Spender::Address);
        // It cost the person nothing.
        let elsewhere = from(77, "2001:db8:0:1::2");
        assert_eq!(taken(&budgets, Budget::Changes, &elsewhere, at(0)), 10);
        for budget in [Budget::SessionCuts, Budget::Passwords, Budget::Administration] {
            assert!((0..100).any(|n| {
                let who = from(n, "2001:db8::1");
                taken(&budgets, budget, &who, at(0)) > 0
            }));
            assert!(budgets.take(budget, &ada, at(0)).is_ok(), "{budget:?}");
        }
    }

    #[test]
    fn the_command_line_and_the_service_have_no_budget() {
        let budgets = budgets(1, 1);
        let mut origin = Origin::system(String::new());
        assert_eq!(taken(&budgets, Budget::Administration, &origin, at(0)), 10_000);
        origin.by = By::Cli { os_user: "ada".into() };
        assert_eq!(taken(&budgets, Budget::Administration, &origin, at(0)), 10_000);
    }

    /// Whoever else comes, what somebody has spent stays spent: there is nothing that could be pushed out.
    #[test]
    fn a_flood_of_others_gives_nobody_a_fresh_budget() {
        let budgets = budgets(6, 1_000_000_000);
        let ada = origin(u128::MAX, "192.0.2.7");
        assert_eq!(taken(&budgets, Budget::Changes, &ada, at(0)), 1);
        let mut refused = 0;
        for person in 0..50_000 {
            let other = origin(person, "192.0.2.8");
            refused += u32::from(budgets.take(Budget::Changes, &other, at(0)).is_err());
        }
        assert!(budgets.take(Budget::Changes, &ada, at(0)).is_err());
        // Of those who came once, few met two others at once: at most (50,000 / 2^18)^2 = 3.6 %.
        assert!(refused < 50_000 / 20, "{refused}");
    }

    proptest! {
        /// Never more than what comes at once and what has filled up since, whatever the clock does.
        #[test]
        fn no_more_is_ever_taken_than_the_budget_and_the_time_give(
            person in 1_u32..2_000,
            steps in prop::collection::vec((-4_000_i64..4_000, 0_usize..80), 1..60),
        ) {
            let budgets = budgets(person, u32::MAX);
            let ada = origin(1, "192.0.2.7");
            let rate = Rate::hourly(person);
            let (mut now, mut forward, mut granted) = (0_i64, 0_i64, 0_i64);
            for (step, tries) in steps {
                now += step;
                forward += step.max(0);
                for _ in 0..tries {
                    match budgets.take(Budget::Changes, &ada, at(now)) {
                        Ok(()) => granted += 1,
                        Err(over) => {
                            prop_assert!(over.retry_after > Duration::ZERO);
                            prop_assert!(over.retry_after <= Duration::from_secs(2 * 3_600));
                        }
                    }
                }
                let most = rate.most / rate.each + forward * 1_000_000_000 / rate.each;
                prop_assert!(granted <= most, "{granted} of {most}");
            }
        }

        /// Whoever waits for as long as they are told is let in then.
        #[test]
        fn who_waits_as_told_is_let_in(person in 1_u32..100_000, spent in 1_usize..200) {
            let budgets = budgets(person, u32::MAX);
            let ada = origin(1, "192.0.2.7");
            let mut now = at(0);
            for _ in 0..spent {
                if let Err(over) = budgets.take(Budget::Changes, &ada, now) {
                    now += over.retry_after;
                    prop_assert!(budgets.take(Budget::Changes, &ada, now).is_ok());
                }
            }
        }
    }
}
