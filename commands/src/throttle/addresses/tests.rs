use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::Origin;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
}

fn policy() -> AddressPolicy {
    AddressPolicy { free_failures: 100, forget_each: TimeDelta::minutes(6) }
}

fn networks(address: &str) -> Vec<Network> {
    Origin { address: Some(address.parse().unwrap()), ..Origin::system(String::new()) }.networks()
}

/// The account of this name; there is none where it begins with a #.
fn account(name: &str) -> Option<UserId> {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (!name.starts_with('#')).then(|| UserId(Uuid::from_u128(hasher.finish().into())))
}

/// What a replica does with an attempt.
struct Replica(AddressFailures);

impl Replica {
    fn new(policy: AddressPolicy) -> Self {
        Self(AddressFailures::new(policy))
    }

    /// A wrong password; whether it was looked at.
    fn fails(&self, from: &str, name: &str, second: i64) -> bool {
        let networks = networks(from);
        let looked_at = self.admits(from, second);
        if looked_at {
            for network in &networks {
                self.0.count(network, account(name), at(second));
            }
        }
        looked_at
    }

    fn admits(&self, from: &str, second: i64) -> bool {
        networks(from).iter().all(|network| self.0.wait(network, None, at(second)).is_none())
    }

    fn succeeds(&self, from: &str, name: &str, second: i64) -> bool {
        let admitted = self.admits(from, second);
        if admitted {
            for network in &networks(from) {
                self.0.succeed(network, account(name).unwrap(), at(second));
            }
        }
        admitted
    }
}

const OFFICE: &str = "192.0.2.7";
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY_SECONDS: i64 = 24 * HOUR;

#[test]
fn a_failure_within_each_half_hour_for_a_year_never_throttles() {
    let replica = Replica::new(policy());
    for number in 0..365 * 48 {
        // Less than half an hour: what was counted used to be forgotten after half an hour without any.
        assert!(replica.fails(OFFICE, "somebody", number * 29 * MINUTE), "after {number}");
    }
    assert!(replica.admits(OFFICE, 365 * DAY_SECONDS));
}

#[test]
fn an_office_with_a_hundred_typos_a_day_waits_for_nobody() {
    let replica = Replica::new(policy());
    for day in 0..7 {
        // Sixty in the first ten minutes, and the others until the evening.
        let morning = day * DAY_SECONDS + 9 * HOUR;
        let typos = (0..60).map(|n| n * 10).chain((0..40).map(|n| 10 * MINUTE + n * 11 * MINUTE));
        for (number, second) in typos.enumerate() {
            let who = format!("#{number}");
            assert!(replica.fails(OFFICE, &who, morning + second), "day {day}, typo {number}");
        }
    }
}

#[test]
fn a_guesser_is_held_to_what_runs_out() {
    let replica = Replica::new(policy());
    let guesses = |from: i64, to: i64| {
        (from..to).filter(|second| replica.fails(OFFICE, "victim", *second)).count()
    };
    assert_eq!(guesses(0, DAY_SECONDS), 100 + 240 - 1, "one each second, for a day");
    assert_eq!(guesses(DAY_SECONDS, 2 * DAY_SECONDS), 240);
}

#[test]
fn a_person_who_mistyped_and_then_got_it_right_has_put_nothing_in() {
    let replica = Replica::new(policy());
    // Far more than run out: five people in a minute, for an hour, with two slips each.
    for number in 0..300 {
        let (who, second) = (format!("account:{number}"), number * 12);
        assert!(replica.fails(OFFICE, &who, second), "{number}");
        assert!(replica.fails(OFFICE, &who, second + 1), "{number}");
        assert!(replica.succeeds(OFFICE, &who, second + 2), "{number}");
    }
}

/// A neighbour in the same office fills what the office has, and typos that were put right are not among it: those who are
/// let in are let in as before, and the neighbour gains nothing by their successes.
#[test]
fn a_neighbour_who_guesses_gains_nothing_by_the_successes_of_others() {
    let replica = Replica::new(policy());
    let mut guesses = 0;
    for second in 0..DAY_SECONDS {
        guesses += i64::from(replica.fails(OFFICE, "victim", second));
        let who = format!("account:{}", second % 50);
        if second % 600 == 0 && replica.fails(OFFICE, &who, second) {
            replica.succeeds(OFFICE, &who, second);
        }
    }
    assert!(guesses <= 100 + 240, "{guesses}");
}

#[test]
fn an_own_account_gives_no_guesses_at_others() {
    let replica = Replica::new(policy());
    let mut guesses = 0;
    for second in 0..10 * HOUR {
        guesses += i64::from(replica.fails(OFFICE, "victim", second));
        // It fails and succeeds with its own account whenever it may.
        replica.fails(OFFICE, "own", second);
        replica.succeeds(OFFICE, "own", second);
    }
    assert!(guesses <= 100 + 100, "{guesses}");
}

#[test]
fn guessers_who_change_their_network_share_the_wide_ones() {
    for (bits, share) in [(56, 4), (48, 16)] {
        let replica = Replica::new(policy());
        let mut guesses = 0;
        for second in 0..DAY_SECONDS {
            let subnet = if bits == 56 { second % 256 } else { second % 65_536 };
            let from = format!("2001:db8:7:{subnet:x}::{:x}", second % 9_999);
            guesses += i64::from(replica.fails(&from, "victim", second));
        }
        assert!(guesses <= share * (100 + 240), "/{bits}: {guesses}");
        assert!(guesses >= share * 240, "/{bits}: {guesses}");
        assert!(replica.admits("2001:db8:8::1", DAY_SECONDS), "the next holder is not concerned");
    }
    let replica = Replica::new(policy());
    let guesses = (0..DAY_SECONDS)
        .filter(|second| replica.fails(&format!("192.0.2.{}", second % 256), "victim", *second));
    assert!(guesses.count() <= 16 * (100 + 240), "a /24 of IPv4");
}

/// The neighbours of one address don't feel it.
#[test]
fn one_full_network_leaves_room_in_the_wider_ones() {
    let replica = Replica::new(policy());
    for (guesser, neighbour) in [("192.0.2.7", "192.0.2.8"), ("2001:db8:0:7::1", "2001:db8:0:8::1")]
    {
        for second in 0..DAY_SECONDS {
            replica.fails(guesser, "victim", second);
        }
        assert!(!replica.admits(guesser, DAY_SECONDS - 1));
        assert!(replica.admits(neighbour, DAY_SECONDS - 1));
    }
}

#[test]
fn a_replica_learns_from_a_throttle_that_another_one_has_posted() {
    let (one, other) = (Replica::new(policy()), Replica::new(policy()));
    let network = &networks(OFFICE)[0];
    let mut until = None;
    for _ in 0..100 {
        until = one.0.count(network, account("victim"), at(0)).map(|(_, until)| until);
    }
    let until = until.unwrap();
    assert_eq!(until, at(6 * MINUTE));
    // It had not been asked before, and is now as full.
    assert_eq!(other.0.wait(network, Some(until), at(0)), Some(until));
    let guesses = (6 * MINUTE..6 * MINUTE + DAY_SECONDS)
        .filter(|second| other.fails(OFFICE, "victim", *second));
    assert_eq!(guesses.count(), 240, "what runs out, and no bucket more");
    // What it has learned once, it does not learn again.
    let other = Replica::new(policy());
    let ada = account("ada");
    for _ in 0..3 {
        other.0.count(network, ada, at(0));
    }
    assert!(other.0.wait(network, Some(until), at(0)).is_some());
    other.0.succeed(network, ada.unwrap(), at(6 * MINUTE));
    let free = (0..10).filter(|_| {
        let free = other.0.wait(network, Some(until), at(6 * MINUTE)).is_none();
        other.0.count(network, account("victim"), at(6 * MINUTE));
        free
    });
    assert_eq!(free.count(), 1 + 3);
    // A throttle of long ago tells nothing.
    assert_eq!(Replica::new(policy()).0.wait(network, Some(at(0)), at(2 * DAY_SECONDS)), None);
}

#[derive(Debug, Clone)]
enum Step {
    Guess(u8),
    Slip(u8),
    Right(u8),
}

fn steps() -> impl Strategy<Value = Vec<(i64, Step)>> {
    let step = prop_oneof![
        4 => (0..5_u8).prop_map(Step::Guess),
        2 => (0..3_u8).prop_map(Step::Slip),
        2 => (0..3_u8).prop_map(Step::Right),
    ];
    prop::collection::vec((0..400_i64, step), 0..400)
}

proptest! {
    /// From when there were none, and in any time, there are no more guesses at accounts that nobody signs in to than
    /// are free, and run out meanwhile. What runs out of an own account's slips before they are taken back is the least
    /// of it: three of them in a day.
    #[test]
    fn guesses_are_bounded_by_what_is_free_and_runs_out(
        steps in steps(),
        free_failures in 1..20_u32,
        minutes in 1..10_i64,
    ) {
        let policy = AddressPolicy { free_failures, forget_each: TimeDelta::minutes(minutes) };
        let replica = Replica::new(policy);
        let mut second = 0;
        let mut guesses = Vec::new();
        for (pause, step) in steps {
            second += pause;
            match step {
                Step::Guess(who) => {
                    if replica.fails(OFFICE, &format!("victim:{who}"), second) {
                        guesses.push(second);
                    }
                }
                Step::Slip(who) => drop(replica.fails(OFFICE, &format!("own:{who}"), second)),
                Step::Right(who) => drop(replica.succeeds(OFFICE, &format!("own:{who}"), second)),
            }
        }
        let own = 3 * i64::from(TYPOS) * (1 + second / DAY_SECONDS);
        for (first, from) in guesses.iter().enumerate() {
            for (last, to) in guesses.iter().enumerate().skip(first) {
                let bound = i64::from(free_failures) + (to - from) / (minutes * MINUTE);
                prop_assert!(((last - first) as i64) < bound + own, "{from} to {to}");
            }
        }
        for (number, to) in guesses.iter().enumerate() {
            let bound = i64::from(free_failures) + to / (minutes * MINUTE);
            prop_assert!((number as i64) < bound, "until {to}");
        }
    }

    /// Whatever was put in, it has run out after as long as a full bucket takes.
    #[test]
    fn what_was_put_in_runs_out(steps in steps(), free_failures in 1..20_u32) {
        let policy = AddressPolicy { free_failures, forget_each: TimeDelta::minutes(6) };
        let mut bucket = Bucket::default();
        let mut second = 0;
        for (pause, _) in steps {
            second += pause;
            if bucket.full(at(second), &policy).is_none() {
                bucket.add(at(second), &policy);
            }
        }
        let later = second + i64::from(free_failures) * 6 * MINUTE;
        prop_assert!(bucket.is_empty(at(later)));
        prop_assert_eq!(bucket.full(at(later), &policy), None);
    }

    /// The clock of a machine may be set back; nobody gains by it, and nothing breaks.
    #[test]
    fn a_clock_that_is_set_back_empties_nothing(seconds in prop::collection::vec(-10_000..10_000_i64, 1..50)) {
        let mut bucket = Bucket::default();
        for second in &seconds {
            bucket.add(at(*second), &policy());
        }
        let earliest = seconds.iter().min().copied().unwrap_or_default();
        prop_assert!(!bucket.is_empty(at(earliest + seconds.len() as i64 * 6 * MINUTE - 1)));
    }
}
