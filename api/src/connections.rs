//! The connections of a server: how many there are, from where, and which one goes when there is no room.
//!
//! A connection costs whoever opens it nothing, so a full server doesn't wait until one ends: it closes the one
//! that has waited for its client for longest. Those that have never sent a whole head go first, then those that
//! are kept without a request, then those whose body is still to come. One address has a share at most, and then
//! it is one of its own that goes. Where all are being answered, who comes is *crowded*: on a few connections more, on
//! which only those are answered who ask how the server is, so that it can be watched whatever is done to it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

/// Connections beyond the bound, for who asks how the server is; and those that may still be closing.
const CROWDED: usize = 64;

/// How many connections there may be.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) most: usize,
    pub(crate) per_address: usize,
    /// Who has no bound of its own: everybody comes from a proxy.
    pub(crate) trusted: Vec<IpNet>,
}

/// All connections of one server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    open: Mutex<Open>,
    /// Orders what connections wait for.
    turns: AtomicU64,
    closed_for_room: AtomicU64,
    turned_away: AtomicU64,
}

/// What a connection waits for; in the order in which they are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    FirstHead,
    AnotherHead,
    Body,
}

impl Waits {
    /// As one number with the turn at which the waiting began: the least goes first.
    fn since(self, turn: u64) -> u64 {
        ((self as u64) << TURN_BITS) | (turn & ((1 << TURN_BITS) - 1))
    }
}

const TURN_BITS: u32 = 56;
/// A request is being answered.
const ANSWERING: u64 = u64::MAX;
/// Told to go, with nothing left to be sent; or with what was answered last.
const GOES_AT_ONCE: u64 = u64::MAX - 1;
const GOES: u64 = u64::MAX - 2;

#[derive(Debug, Default)]
struct Open {
    /// Numbers connections.
    counted: u64,
    all: HashMap<u64, Entry>,
    crowded: usize,
    addresses: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    /// None where it is not counted for its address.
    address: Option<IpAddr>,
    crowded: bool,
    signal: Arc<Signal>,
}

/// What a connection and who looks for room tell each other. A request costs two stores here, and no lock.
#[derive(Debug)]
struct Signal {
    closing: CancellationToken,
    /// Since when it waits for what ([`Waits::since`]), or one of the three beyond that.
    waiting: AtomicU64,
}

/// One connection, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Connection {
    number: u64,
    all: Connections,
    signal: Arc<Signal>,
    /// How many of its requests are being answered: one at most.
    answering: AtomicUsize,
    pub(crate) crowded: bool,
}

/// A request of a connection that is being answered; dropped when the answer is handed over.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Connection>);

/// How a server's connections are at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) open: usize,
    pub(crate) idle: usize,
    pub(crate) crowded: usize,
    /// Since the start.
    pub(crate) closed_for_room: u64,
    /// Since the start, without a word: there was no room even to say so.
    pub(crate) turned_away: u64,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            open: Mutex::default(),
            turns: AtomicU64::new(0),
            closed_for_room: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        }))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> u64 {
        self.0.turns.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> Counts {
        let open = self.open();
        let waiting = open.all.values().map(|entry| entry.signal.waiting.load(Ordering::Relaxed));
        Counts {
            open: open.all.len(),
            idle: waiting.filter(|waiting| *waiting < Waits::Body.since(0)).count(),
            crowded: open.crowded,
            closed_for_room: self.0.closed_for_room.load(Ordering::Relaxed),
            turned_away: self.0.turned_away.load(Ordering::Relaxed),
        }
    }

    /// Takes in a connection, and closes one that waits where that needs room. `None` where there is none: the
    /// new one is closed.
    pub(crate) fn admit(&self, peer: IpAddr) -> Option<Connection> {
        let address = self.bounded(peer);
        let mut open = self.open();
        let Limits { most, per_address, .. } = self.0.limits;
        let of_address = address.and_then(|address| open.addresses.get(&address)).copied();
        let mut crowded = of_address.is_some_and(|count| count >= per_address)
            && !self.close(&mut open, |entry| entry.address == address);
        if !crowded && open.all.len() - open.crowded >= most {
            crowded = !self.close(&mut open, |entry| !entry.crowded);
        }
        if crowded && open.crowded >= CROWDED && !self.close(&mut open, |entry| entry.crowded) {
            self.0.turned_away.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let signal = Arc::new(Signal {
            closing: CancellationToken::new(),
            waiting: AtomicU64::new(Waits::FirstHead.since(self.turn())),
        });
        open.counted += 1;
        let number = open.counted;
        // What is crowded has its own bound, and must not keep its address out for longer.
        let address = address.filter(|_| !crowded);
        open.crowded += usize::from(crowded);
        if let Some(address) = address {
            *open.addresses.entry(address).or_default() += 1;
        }
        open.all.insert(number, Entry { address, crowded, signal: signal.clone() });
        let answering = AtomicUsize::new(0);
        Some(Connection { number, all: self.clone(), signal, answering, crowded })
    }

    /// Closes the connection that has waited for longest, where the process may open no more files.
    pub(crate) fn make_room(&self) {
        let mut open = self.open();
        self.close(&mut open, |_| true);
    }

    /// Tells the connection that goes first to go, and counts it no more. Whether there was one.
    fn close(&self, open: &mut Open, among: impl Fn(&Entry) -> bool) -> bool {
        loop {
            let first = open
                .all
                .iter()
                .filter(|(_, entry)| among(entry))
                .map(|(number, entry)| (entry.signal.waiting.load(Ordering::Acquire), *number))
                .filter(|(waiting, _)| *waiting < GOES)
                .min();
            let Some((waiting, number)) = first else { return false };
            let Some(entry) = open.all.get(&number) else { return false };
            let kept = waiting >> TURN_BITS == Waits::AnotherHead as u64;
            let goes = if kept { GOES } else { GOES_AT_ONCE };
            let told = entry.signal.waiting.compare_exchange(
                waiting,
                goes,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            // Else its request came in this moment: the next one goes.
            if told.is_ok() {
                entry.signal.closing.cancel();
                open.remove(number);
                self.0.closed_for_room.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
    }

    /// What an address is counted as; `None` where it has no bound.
    fn bounded(&self, peer: IpAddr) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        if self.0.limits.trusted.iter().any(|network| network.contains(&peer)) {
            return None;
        }
        Some(match peer {
            IpAddr::V4(_) => peer,
            // Whoever has one address of a /64 has all of them (RFC 7421).
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
            }
        })
    }
}

impl Open {
    fn remove(&mut self, number: u64) {
        let Some(entry) = self.all.remove(&number) else { return };
        self.crowded -= usize::from(entry.crowded);
        if let Some(address) = entry.address
            && let Some(count) = self.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}

impl Connection {
    /// Resolves when the connection has to make room.
    pub(crate) async fn asked_to_go(&self) {
        self.signal.closing.cancelled().await;
    }

    /// Whether there is nothing to be sent on it any more.
    pub(crate) fn is_blank(&self) -> bool {
        self.signal.waiting.load(Ordering::Acquire) == GOES_AT_ONCE
    }

    pub(crate) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    /// The head has come, and a body is to come.
    pub(crate) fn receives(&self) {
        self.waits(Waits::Body);
    }

    /// The whole request has come: from now on the connection is not closed, until the answer was handed over.
    pub(crate) fn has_received(&self) {
        self.signal.waiting.store(ANSWERING, Ordering::Release);
    }

    /// A whole head has come.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::Relaxed);
        self.has_received();
        Answering(self.clone())
    }

    fn waits(&self, waits: Waits) {
        self.signal.waiting.store(waits.since(self.all.turn()), Ordering::Release);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.open().remove(self.number);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
        self.0.waits(Waits::AnotherHead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize, per_address: usize) -> Connections {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        Connections::new(Limits { most, per_address, trusted })
    }

    fn from(all: &Connections, peer: &str) -> Arc<Connection> {
        Arc::new(all.admit(peer.parse().unwrap()).unwrap())
    }

    fn goes(connection: &Connection) -> bool {
        connection.signal.closing.is_cancelled()
    }

    #[test]
    fn the_one_that_was_idle_for_longest_makes_room() {
        let all = connections(3, 3);
        let [first, second, third] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|peer| from(&all, peer));
        drop(first.answering());
        let busy = second.answering();
        // The third never sent a head, the first is of use to somebody, the second is being answered.
        let fourth = from(&all, "192.0.2.4");
        assert!(goes(&third) && third.is_blank() && !goes(&first) && !goes(&second));
        let _busy_too = fourth.answering();
        let fifth = from(&all, "192.0.2.5");
        assert!(goes(&first) && !first.is_blank());
        let _busy_as_well = fifth.answering();
        assert!(!fifth.crowded);
        // Nobody is idle.
        let crowded = from(&all, "192.0.2.6");
        assert!(crowded.crowded);
        drop(busy);
        let usual = from(&all, "192.0.2.7");
        assert!(!usual.crowded && goes(&second) && !second.is_blank());
        assert_eq!(all.counts().closed_for_room, 3);
    }

    #[test]
    fn one_whose_body_is_still_to_come_goes_last() {
        let all = connections(2, 2);
        let [slow, kept] = ["192.0.2.1", "192.0.2.2"].map(|peer| from(&all, peer));
        let answering = slow.answering();
        slow.receives();
        drop(kept.answering());
        assert_eq!(all.counts().idle, 1, "a body that comes is no idleness");
        let third = from(&all, "192.0.2.3");
        assert!(goes(&kept) && !goes(&slow));
        let _third = third.answering();
        let fourth = from(&all, "192.0.2.4");
        assert!(goes(&slow) && slow.is_blank() && !fourth.crowded);
        // It came to its end in the same moment: what it asks for is answered.
        slow.has_received();
        assert!(!slow.is_blank());
        drop(answering);
        let _fourth = fourth.answering();
        fourth.receives();
        fourth.has_received();
        assert!(from(&all, "192.0.2.5").crowded);
    }

    #[test]
    fn an_address_has_its_share_and_a_proxy_has_none() {
        let all = connections(100, 2);
        let held: Vec<_> = (0..3).map(|_| from(&all, "192.0.2.1")).collect();
        assert!(goes(&held[0]) && !goes(&held[1]) && !held[2].crowded);
        let busy: Vec<_> = held.iter().skip(1).map(Connection::answering).collect();
        assert!(from(&all, "192.0.2.1").crowded);
        assert!(!from(&all, "192.0.2.2").crowded, "another address");
        drop(busy);
        let of_one_network: Vec<_> =
            (1..=3).map(|n| from(&all, &format!("2001:db8::{n}"))).collect();
        assert!(goes(&of_one_network[0]));
        assert!(!goes(&from(&all, "2001:db8:0:1::1")));
        let proxied: Vec<_> = (0..50).map(|_| from(&all, "10.0.0.1")).collect();
        assert!(proxied.iter().all(|one| !goes(one) && !one.crowded));
        let mapped: Vec<_> = (0..3).map(|_| from(&all, "::ffff:192.0.2.9")).collect();
        assert!(goes(&mapped[0]));
    }

    #[test]
    fn there_is_a_little_room_when_all_is_taken_and_then_none() {
        let all = connections(1, 1);
        let busy = from(&all, "192.0.2.1");
        let _answering = busy.answering();
        let crowded: Vec<_> = (0..CROWDED).map(|n| from(&all, &format!("192.0.2.{n}"))).collect();
        assert!(crowded.iter().all(|one| one.crowded));
        let more = from(&all, "192.0.2.200");
        assert!(more.crowded && goes(&crowded[0]));
        let _all_answering: Vec<_> =
            crowded.iter().skip(1).chain([&more]).map(Connection::answering).collect();
        assert!(all.admit("192.0.2.201".parse().unwrap()).is_none());
        assert_eq!(all.counts().turned_away, 1);
    }

    #[test]
    fn what_has_ended_is_counted_no_more() {
        let all = connections(2, 2);
        let (one, other) = (from(&all, "192.0.2.1"), from(&all, "192.0.2.1"));
        let answering = one.answering();
        drop(one);
        assert_eq!(all.counts().open, 2, "it is still being answered");
        drop((answering, other));
        assert_eq!((all.counts().open, all.counts().idle), (0, 0));
        let open = all.open();
        assert!(open.addresses.is_empty() && open.crowded == 0);
    }

    #[test]
    fn an_answer_is_sent_to_its_end_though_the_connection_was_to_go() {
        let all = connections(1, 1);
        let first = from(&all, "192.0.2.1");
        let _second = from(&all, "192.0.2.1");
        assert!(goes(&first) && first.is_blank());
        // Its head came in the same moment.
        let _answering = first.answering();
        assert!(!first.is_blank());
    }
}
