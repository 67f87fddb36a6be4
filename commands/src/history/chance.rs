//! How often what happens in a made-up history.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, Exp1, Zipf};

/// How busy each hour of the day is (UTC): a night, two peaks, a lunch.
const HOURS: [f64; 24] = [
    0.06, 0.04, 0.03, 0.03, 0.04, 0.08, 0.20, 0.45, 0.80, 1.00, 0.98, 0.92, 0.75, 0.85, 0.95, 0.96,
    0.88, 0.72, 0.58, 0.50, 0.46, 0.38, 0.24, 0.12,
];
const WEEKEND: f64 = 0.4;
/// The mean of the above over a week.
const MEAN: f64 = 0.44;

/// What browsers and programs call themselves.
const AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36 Edg/143.0.0.0",
    "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "python-requests/2.32.5",
];

/// The one source of chance of a history, so that a seed makes it.
pub(super) struct Chance {
    random: StdRng,
    people: Zipf<f64>,
}

impl Chance {
    pub(super) fn new(seed: u64, people: u32) -> Self {
        // A Zipf distribution has at least one element and a positive exponent; so has this one.
        #[expect(clippy::expect_used, reason = "there is at least one of the people")]
        let people =
            Zipf::new(f64::from(people.max(1)), 1.0).expect("there is at least one of the people");
        Self { random: StdRng::seed_from_u64(seed), people }
    }

    /// One of the people, from 0: the first comes most often, the n-th an n-th as often.
    pub(super) fn person(&mut self) -> usize {
        // From 1.0 to their number, whole.
        self.people.sample(&mut self.random) as usize - 1
    }

    /// Whether something happens that happens so often.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    /// One of so many.
    pub(super) fn below(&mut self, many: usize) -> usize {
        self.random.random_range(0..many.max(1))
    }

    /// A time of so many seconds, at least and at most.
    pub(super) fn seconds(&mut self, least: f64, most: f64) -> TimeDelta {
        micros(self.random.random_range(least..=most))
    }

    /// A time of so many seconds on average, exponentially distributed.
    pub(super) fn about(&mut self, seconds: f64) -> TimeDelta {
        let one: f64 = Exp1.sample(&mut self.random);
        micros(one * seconds)
    }

    /// When the next visit comes, if there are so many a second over the week (a Poisson process
    /// whose rate follows the hours, by thinning).
    pub(super) fn next_visit(&mut self, mut at: DateTime<Utc>, per_second: f64) -> DateTime<Utc> {
        loop {
            at += self.about(MEAN / per_second);
            if self.random.random::<f64>() < busy(at) {
                return at;
            }
        }
    }

    /// An address of nobody: of 10.0.0.0/8, or of the documentation's 2001:db8::/32 (RFC 3849).
    pub(super) fn address(&mut self) -> IpAddr {
        if self.happens(0.6) {
            let [a, b, c]: [u8; 3] = self.random.random();
            IpAddr::V4(Ipv4Addr::new(10, a, b, c))
        } else {
            let low: u64 = self.random.random();
            let high: u32 = self.random.random();
            IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(high) << 64 | u128::from(low)))
        }
    }

    pub(super) fn agent(&mut self) -> &'static str {
        let agent = self.below(AGENTS.len());
        AGENTS.get(agent).copied().unwrap_or_default()
    }
}

fn micros(seconds: f64) -> TimeDelta {
    TimeDelta::microseconds((seconds * 1e6) as i64)
}

fn busy(at: DateTime<Utc>) -> f64 {
    let hour = HOURS.get(at.hour() as usize).copied().unwrap_or(1.0);
    if at.weekday().number_from_monday() > 5 { hour * WEEKEND } else { hour }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_come_as_often_as_asked_and_seldom_at_night() {
        let mut chance = Chance::new(1, 100);
        let begin = super::super::beginning();
        let (mut at, mut visits, mut at_night) = (begin, 0, 0);
        while at < begin + TimeDelta::days(28) {
            at = chance.next_visit(at, 0.01);
            visits += 1;
            at_night += usize::from(at.hour() < 5);
        }
        let expected = 28.0 * 86_400.0 * 0.01;
        assert!((f64::from(visits) / expected - 1.0).abs() < 0.1, "{visits} of {expected}");
        assert!(at_night * 20 < visits as usize, "{at_night} of {visits} at night");
    }

    #[test]
    fn the_first_comes_twice_as_often_as_the_second() {
        let mut chance = Chance::new(1, 1_000);
        let mut times = [0_i32; 1_000];
        for _ in 0..100_000 {
            times[chance.person()] += 1;
        }
        let ratio = f64::from(times[0]) / f64::from(times[1]);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
        assert!(times[999] < 100);
    }
}
