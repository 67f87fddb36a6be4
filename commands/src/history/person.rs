//! Who lives in a made-up history: people, their devices, and who guesses.

use std::net::IpAddr;

use domain::{
    Email, FullName, GuardSubject, Session, SessionId, SignInGuard, TokenHash, User, UserId,
    Username,
};

use crate::{By, Origin, keyring::PersonKey, throttle::Bucket, tokens::RefreshToken};

/// A person with an account. Of what has happened it holds what the domain needs to decide the next.
pub(super) struct Person {
    pub(super) number: usize,
    pub(super) id: UserId,
    pub(super) key: PersonKey,
    pub(super) user: User,
    /// Failures at the front door, and inside a session.
    pub(super) sign_ins: Guarded,
    pub(super) proofs: Guarded,
    /// Failures under the e-mail address that this person mistypes.
    pub(super) mistyped: Guarded,
    pub(super) devices: Vec<Device>,
}

/// What a person is called.
pub(super) struct Names {
    pub(super) email: Email,
    pub(super) username: Username,
    pub(super) full_name: Option<FullName>,
}

impl Names {
    pub(super) fn of(username: &str) -> Result<Self, domain::InvalidValue> {
        Ok(Self {
            email: Email::parse(&format!("{username}@example.org"))?,
            username: Username::parse(username)?,
            full_name: FullName::parse(&format!("The one of {username}"))?,
        })
    }
}

/// A guard's state, and how many events its stream has.
#[derive(Default)]
pub(super) struct Guarded {
    pub(super) guard: SignInGuard,
    pub(super) sequence: u64,
}

/// A browser or a phone.
pub(super) struct Device {
    pub(super) address: IpAddr,
    pub(super) agent: &'static str,
    pub(super) remembers: bool,
    /// Somebody is at it.
    pub(super) busy: bool,
    pub(super) open: Option<Open>,
}

impl Device {
    pub(super) fn origin(&self, by: By) -> Origin {
        Origin {
            by,
            address: Some(self.address),
            user_agent: Some(self.agent.to_owned()),
            request_id: String::new(),
        }
    }
}

/// A session that has not ended.
pub(super) struct Open {
    pub(super) id: SessionId,
    pub(super) session: Session,
    pub(super) sequence: u64,
    pub(super) token: TokenHash,
    /// The token before.
    pub(super) spent: Option<TokenHash>,
    /// The token itself, where somebody wants it in the end.
    pub(super) kept: Option<RefreshToken>,
}

/// An identifier that guessers try and nobody has.
pub(super) struct Guess {
    pub(super) typed: String,
    pub(super) subject: GuardSubject,
    pub(super) guarded: Guarded,
}

/// An address that guesses come from.
pub(super) struct Guesser {
    pub(super) address: IpAddr,
    pub(super) subject: GuardSubject,
    /// What each replica counts in memory.
    pub(super) counted: Bucket,
    /// What is in the book.
    pub(super) guarded: Guarded,
}

impl Guesser {
    pub(super) fn origin(&self) -> Origin {
        Origin {
            by: By::Anonymous,
            address: Some(self.address),
            user_agent: Some("python-requests/2.32.5".to_owned()),
            request_id: String::new(),
        }
    }
}

/// Attempts that were turned away, and are posted once a minute.
pub(super) struct Turned {
    pub(super) at: Door,
    pub(super) count: u64,
    pub(super) from: chrono::DateTime<chrono::Utc>,
    pub(super) to: chrono::DateTime<chrono::Utc>,
}

/// Whose guard it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Door {
    Person(usize),
    Guess(usize),
    Guesser(usize),
}
