use proptest::prelude::*;

use super::*;
use crate::clock::SeededEntropy;

/// Small parameters: the tests are about the pool, not about the cost.
const SMALL: HashSettings = HashSettings { threads: 2, queue: 8, memory_kib: 64, passes: 1 };

/// Made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1`
/// (phc-winner-argon2, src/test.c).
const REFERENCE: &str =
    "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
/// Likewise, with two lanes.
const TWO_LANES: &str =
    "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";

fn pool(settings: HashSettings) -> HashPool {
    HashPool::start(settings, Arc::new(SeededEntropy::new(1))).unwrap()
}

fn password(text: &str) -> Password {
    Password::present(text).unwrap()
}

/// A pool whose only thread takes nothing until the guard is dropped.
fn busy_pool(queue: usize) -> (HashPool, Busy) {
    let pool = pool(HashSettings { threads: 1, queue, ..SMALL });
    pool.shared.lock().stalled = true;
    let busy = Busy(Arc::clone(&pool.shared));
    (pool, busy)
}

struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().stalled = false;
        self.0.arrived.notify_all();
    }
}

#[tokio::test]
async fn hashes_of_the_reference_implementation_are_verified() {
    let pool = pool(HashSettings { memory_kib: 65_536, passes: 2, ..SMALL });
    for phc in [REFERENCE, TWO_LANES] {
        let phc = Some(phc.to_owned());
        let right = pool.verify(password("password"), phc.clone()).await.unwrap();
        assert_eq!(right, Verified { matches: true, outdated: true }, "a salt of 8 bytes is short");
        let wrong = pool.verify(password("differentpassword"), phc).await.unwrap();
        assert!(!wrong.matches);
    }
}

#[tokio::test]
async fn a_hash_is_verified_by_its_password_alone() {
    let pool = pool(SMALL);
    let phc = pool.hash(password("correct horse")).await.unwrap();
    assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{phc}");
    assert_ne!(pool.hash(password("correct horse")).await.unwrap(), phc, "salted");
    let verified = pool.verify(password("correct horse"), Some(phc.clone())).await.unwrap();
    assert_eq!(verified, Verified { matches: true, outdated: false });
    let verified = pool.verify(password("correct horsf"), Some(phc)).await.unwrap();
    assert_eq!(verified, Verified { matches: false, outdated: false });
    assert_eq!(pool.hashed_total(), 4);
}

#[tokio::test]
async fn the_default_parameters_stand_in_the_hash() {
    let pool = pool(HashSettings { threads: 1, ..HashSettings::default() });
    let phc = pool.hash(password("correct horse")).await.unwrap();
    assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
    assert_eq!(phc.len(), 97);
}

#[tokio::test]
async fn other_parameters_are_honoured_and_said_to_be_outdated() {
    let phc = pool(SMALL).hash(password("correct horse")).await.unwrap();
    for settings in [
        HashSettings { memory_kib: 128, ..SMALL },
        HashSettings { memory_kib: 32, ..SMALL },
        HashSettings { passes: 2, ..SMALL },
    ] {
        let pool = pool(settings);
        for (text, matches) in [("correct horse", true), ("wrong horse", false)] {
            let verified = pool.verify(password(text), Some(phc.clone())).await.unwrap();
            assert_eq!(verified, Verified { matches, outdated: true });
        }
        // The memory is as great as before, or the next hash would be wrong.
        let own = pool.hash(password("correct horse")).await.unwrap();
        assert!(pool.verify(password("correct horse"), Some(own)).await.unwrap().matches);
    }
}

#[tokio::test]
async fn a_decoy_is_hashed_and_never_matches() {
    let pool = pool(SMALL);
    let verified = pool.verify(password("anything"), None).await.unwrap();
    assert_eq!(verified, Verified { matches: false, outdated: false });
    assert_eq!(pool.hashed_total(), 1, "it costs a hash");
}

#[tokio::test]
async fn a_hash_that_asks_for_too_much_or_is_none_is_refused() {
    let pool = pool(SMALL);
    let tail = "$c29tZXNhbHRzb21lc2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    for phc in [
        String::new(),
        "password".to_owned(),
        format!("$argon2id$v=19$m=4294967295,t=2,p=1{tail}"),
        format!("$argon2id$v=19$m=262145,t=2,p=1{tail}"),
        format!("$argon2id$v=19$m=64,t=4294967295,p=1{tail}"),
        format!("$argon2id$v=19$m=64,t=17,p=1{tail}"),
        format!("$argon2id$v=19$m=1024,t=1,p=17{tail}"),
        format!("$argon2id$v=19$m=64,t=1,p=4294967295{tail}"),
        format!("$argon2id$v=19$m=64,t=0,p=1{tail}"),
        format!("$argon2id$v=16$m=64,t=1,p=1{tail}"),
        format!("$argon2id$m=64,t=1,p=1{tail}"),
        format!("$argon2i$v=19$m=64,t=1,p=1{tail}"),
        format!("$scrypt$v=19$m=64,t=1,p=1{tail}"),
        "$argon2id$v=19$m=64,t=1,p=1".to_owned(),
        "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA".to_owned(),
        "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$CTFhFdXPJO1aFaM".to_owned(),
    ] {
        let refusal = pool.verify(password("password"), Some(phc.clone())).await;
        assert_eq!(refusal, Err(HashError::Unreadable), "{phc}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let (pool, busy) = busy_pool(2);
    let waiting = [pool.hash(password("one")), pool.hash(password("two"))];
    let mut waiting = waiting.map(Box::pin);
    for hash in &mut waiting {
        assert!(poll_once(hash.as_mut()).is_none());
    }
    assert_eq!((pool.queued(), pool.capacity()), (2, 2));
    let refusal = pool.hash(password("three")).await.unwrap_err();
    assert_eq!(refusal, HashError::Full { retry_after: Duration::from_secs(1) });

    drop(busy);
    for hash in waiting {
        hash.await.unwrap();
    }
}

#[tokio::test]
async fn whoever_went_away_is_not_hashed_for_and_takes_no_place() {
    let (pool, busy) = busy_pool(2);
    let mut gone = Box::pin(pool.hash(password("gone")));
    assert!(poll_once(gone.as_mut()).is_none());
    let mut stays = Box::pin(pool.verify(password("stays"), None));
    assert!(poll_once(stays.as_mut()).is_none());
    drop(gone);
    let mut late = Box::pin(pool.hash(password("late")));
    assert!(poll_once(late.as_mut()).is_none(), "the place of the one that is gone");
    let mut also_gone = late;
    assert!(poll_once(also_gone.as_mut()).is_none());
    drop(also_gone);

    drop(busy);
    stays.await.unwrap();
    pool.hash(password("last")).await.unwrap();
    assert_eq!(pool.hashed_total(), 2);
}

#[tokio::test]
async fn a_panic_loses_one_answer_and_no_thread() {
    let pool = pool(HashSettings { threads: 1, ..SMALL });
    for _ in 0..3 {
        let (reply, answer) = oneshot::channel();
        pool.shared.push(Job::Panic(reply)).unwrap();
        assert!(answer.await.is_err());
    }
    let phc = pool.hash(password("correct horse")).await.unwrap();
    assert!(pool.verify(password("correct horse"), Some(phc)).await.unwrap().matches);
}

#[tokio::test]
async fn dropping_the_pool_answers_those_who_wait_and_ends_the_threads() {
    let (pool, busy) = busy_pool(2);
    let (reply, answer) = oneshot::channel();
    pool.shared.push(Job::Verify { password: password("x"), stored: None, reply }).unwrap();
    let shared = Arc::downgrade(&pool.shared);
    drop(pool);
    assert!(answer.await.is_err());
    drop(busy);
    while shared.upgrade().is_some() {
        thread::yield_now();
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for settings in [
        HashSettings { threads: 0, ..SMALL },
        HashSettings { queue: 0, ..SMALL },
        HashSettings { memory_kib: 7, ..SMALL },
        HashSettings { memory_kib: 262_145, ..SMALL },
        HashSettings { passes: 0, ..SMALL },
        HashSettings { passes: 17, ..SMALL },
    ] {
        assert!(
            HashPool::start(settings, Arc::new(SeededEntropy::new(1))).is_err(),
            "{settings:?}"
        );
    }
}

fn poll_once<F: std::future::Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

proptest! {
    #[test]
    fn any_text_is_read_as_a_hash_or_refused(text in any::<String>()) {
        let _ = Stored::parse(&text);
    }

    #[test]
    fn near_misses_never_ask_for_too_much(m: u32, t: u32, p: u32, v: u32) {
        let text = format!("$argon2id$v={v}$m={m},t={t},p={p}$c29tZXNhbHRzb21lc2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        if let Ok(Stored { params, .. }) = Stored::parse(&text) {
            prop_assert!(params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES);
        }
    }
}
