//! Who sent the request that this task answers, for the log.
//!
//! A refusal must say whom it was refused. Who it is becomes known deep inside, where the token is checked; the line is written outside,
//! around all routes. Accounts and sessions are told by their ids alone: no log line holds a name or an address.

use std::cell::OnceCell;
use std::fmt;

use domain::{SessionId, UserId};

tokio::task_local! {
    static ASKER: OnceCell<Asker>;
}

/// Somebody who proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub user: UserId,
    pub session: SessionId,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}, session {}", self.user, self.session)
    }
}

/// Runs what answers a request, which may say by [`is`] who asked.
pub async fn known_within<T>(answer: impl Future<Output = T>) -> T {
    ASKER.scope(OnceCell::new(), answer).await
}

/// Says who sent the request. Outside of a request nobody is told.
pub fn is(asker: Asker) {
    let _ = ASKER.try_with(|known| known.set(asker));
}

/// Who sent the request, as words for the log.
#[must_use]
pub fn in_words() -> String {
    let known = ASKER.try_with(|known| known.get().copied()).ok().flatten();
    known.map_or_else(|| "nobody who is signed in".to_owned(), |asker| asker.to_string())
}
