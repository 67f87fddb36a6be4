//! One sign-in on one device: its refresh tokens, and its end.

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

use crate::{StreamEvent, TokenHash, UserId, stream};

/// One way in which the person proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignInMethod {
    Password,
    /// The session that a registration opens.
    Registration,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The person signed out on this device.
    SignedOut,
    /// The person ended it from another of their devices.
    EndedElsewhere,
    /// The person ended all their other sessions.
    EndedOthers,
    PasswordChanged,
    AccountDisabled,
    EndedByAdmin,
    Expired,
    /// A refresh token was used again after the grace window: one of its two users is a thief.
    TokenReused,
    /// The person was erased.
    AccountErased,
}

impl EndReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::EndedElsewhere => "ended_elsewhere",
            Self::EndedOthers => "ended_others",
            Self::PasswordChanged => "password_changed",
            Self::AccountDisabled => "account_disabled",
            Self::EndedByAdmin => "ended_by_admin",
            Self::Expired => "expired",
            Self::TokenReused => "token_reused",
            Self::AccountErased => "account_erased",
        }
    }
}

/// What has happened to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEvent {
    #[serde(rename = "SessionStarted")]
    Started {
        user_id: UserId,
        /// The version of the account whose credentials were verified. What changed the account
        /// since then can end the session, however the two writes raced.
        user_version: u64,
        /// The ways in which the person proved who they are, in the order in which they were proved
        /// (RFC 8176 has the idea). There is always one. Version 1 had one alone, as `method`.
        #[serde(deserialize_with = "at_least_one")]
        methods: Vec<SignInMethod>,
        refresh: TokenHash,
        remember_me: bool,
        at: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    },
    #[serde(rename = "SessionRefreshed")]
    Refreshed {
        user_id: UserId,
        refresh: TokenHash,
        /// A second use of a spent token inside the grace window: the new token stands beside the
        /// others of its generation instead of spending them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_grace: bool,
        at: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    },
    /// Version 1 had no `account_erased`.
    #[serde(rename = "SessionEnded")]
    Ended { user_id: UserId, reason: EndReason, at: DateTime<Utc> },
}

impl SessionEvent {
    /// The names under which the events are stored. They never change.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "SessionStarted",
            Self::Refreshed { .. } => "SessionRefreshed",
            Self::Ended { .. } => "SessionEnded",
        }
    }

    /// The version in which each is written.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self {
            Self::Started { .. } | Self::Ended { .. } => "2",
            Self::Refreshed { .. } => "1",
        }
    }
}

impl StreamEvent for SessionEvent {
    const STREAM: &'static str = stream::SESSION;

    fn version_of(name: &str) -> Option<&'static str> {
        match name {
            "SessionStarted" | "SessionEnded" => Some("2"),
            "SessionRefreshed" => Some("1"),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        self.name()
    }
}

impl DomainEvent for SessionEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}

/// `SessionStarted` from version 1 to 2: its one `method` becomes a list of one. A payload of any
/// other form comes out as one that can't be read.
pub(crate) fn method_to_methods(mut payload: Value) -> Value {
    if let Some(started) = payload.get_mut("SessionStarted").and_then(Value::as_object_mut) {
        match started.remove("method") {
            Some(method) => started.insert("methods".to_owned(), Value::Array(vec![method])),
            None => started.remove("methods"),
        };
    }
    payload
}

/// `SessionEnded` from version 1 to 2: one reason came, and nothing else changed. A payload that has
/// it already was never of version 1, and comes out as one that can't be read.
pub(crate) fn before_erasure(mut payload: Value) -> Value {
    if let Some(ended) = payload.get_mut("SessionEnded").and_then(Value::as_object_mut)
        && ended.get("reason").and_then(Value::as_str) == Some(EndReason::AccountErased.as_str())
    {
        ended.remove("reason");
    }
    payload
}

fn at_least_one<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SignInMethod>, D::Error> {
    let methods = Vec::deserialize(from)?;
    if methods.is_empty() {
        Err(D::Error::invalid_length(0, &"at least one way"))
    } else {
        Ok(methods)
    }
}

/// Why a command on a session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefusal {
    #[error("this session has already been started")]
    AlreadyStarted,
    #[error("a session starts with a proof of who it is for")]
    NothingProved,
    #[error("there is no such session")]
    NotStarted,
    #[error("this session has ended")]
    Ended(EndReason),
    #[error("this refresh token was used too many times at once; wait a moment")]
    TooManyInGrace,
}

/// The facts of a sign-in.
#[derive(Debug, Clone)]
pub struct Start {
    pub user_id: UserId,
    pub user_version: u64,
    pub methods: Vec<SignInMethod>,
    pub refresh: TokenHash,
    pub remember_me: bool,
    pub at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// The facts of a refresh. The caller has checked that the token was issued by us.
#[derive(Debug, Clone)]
pub struct Refresh {
    pub presented: TokenHash,
    pub next: TokenHash,
    pub at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub grace: TimeDelta,
}

/// A session, as its events tell. It stays small however often it is refreshed: of the tokens it
/// keeps the current generation and the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub started: Option<Started>,
    pub ended: Option<EndReason>,
}

/// What a started session always has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub user_id: UserId,
    pub user_version: u64,
    pub remember_me: bool,
    pub at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    current: Vec<TokenHash>,
    spent: Vec<TokenHash>,
    rotated_at: DateTime<Utc>,
}

/// How many tokens one generation may have: tabs that refresh in the same moment.
const MAX_GENERATION: usize = 16;

type Decision = Result<Vec<SessionEvent>, SessionRefusal>;

impl Session {
    /// The session, if it was started and has neither ended nor expired.
    pub fn live(&self, at: DateTime<Utc>) -> Result<&Started, SessionRefusal> {
        let started = self.started.as_ref().ok_or(SessionRefusal::NotStarted)?;
        match self.ended {
            Some(reason) => Err(SessionRefusal::Ended(reason)),
            None if at >= started.expires_at => Err(SessionRefusal::Ended(EndReason::Expired)),
            None => Ok(started),
        }
    }

    /// Whether `token` is one that would refresh the session now.
    #[must_use]
    pub fn accepts(&self, token: &TokenHash, at: DateTime<Utc>) -> bool {
        self.live(at).is_ok_and(|started| started.current.contains(token))
    }

    pub fn start(&self, facts: Start) -> Decision {
        if self.started.is_some() {
            return Err(SessionRefusal::AlreadyStarted);
        }
        let Start { user_id, user_version, methods, refresh, remember_me, at, expires_at } = facts;
        if methods.is_empty() {
            return Err(SessionRefusal::NothingProved);
        }
        Ok(vec![SessionEvent::Started {
            user_id,
            user_version,
            methods,
            refresh,
            remember_me,
            at,
            expires_at,
        }])
    }

    /// Spends the presented token for the next one (RFC 9700 section 4.14.2). A spent token is
    /// answered once more inside the grace window, and ends the session after it.
    pub fn refresh(&self, facts: Refresh) -> Decision {
        let started = self.live(facts.at)?;
        let user_id = started.user_id;
        let Refresh { presented, next, at, expires_at, grace } = facts;
        if started.current.contains(&presented) {
            return Ok(vec![SessionEvent::Refreshed {
                user_id,
                refresh: next,
                in_grace: false,
                at,
                expires_at,
            }]);
        }
        if started.spent.contains(&presented) && at - started.rotated_at <= grace {
            if started.current.len() >= MAX_GENERATION {
                return Err(SessionRefusal::TooManyInGrace);
            }
            return Ok(vec![SessionEvent::Refreshed {
                user_id,
                refresh: next,
                in_grace: true,
                at,
                expires_at,
            }]);
        }
        Ok(vec![SessionEvent::Ended { user_id, reason: EndReason::TokenReused, at }])
    }

    /// Ends the session. Ending it again changes nothing, and neither does an expiry that is not due:
    /// who asks may have read a table that is behind.
    pub fn end(&self, reason: EndReason, at: DateTime<Utc>) -> Decision {
        let started = self.started.as_ref().ok_or(SessionRefusal::NotStarted)?;
        let not_due = reason == EndReason::Expired && at < started.expires_at;
        if self.ended.is_some() || not_due {
            return Ok(Vec::new());
        }
        Ok(vec![SessionEvent::Ended { user_id: started.user_id, reason, at }])
    }

    /// Ends a session that was started longer ago than a session may last, whatever its tokens say: they may
    /// have been issued when it might last longer. One that may still last is left as it is.
    pub fn end_outlived(&self, lifetime: TimeDelta, at: DateTime<Utc>) -> Decision {
        let started = self.started.as_ref().ok_or(SessionRefusal::NotStarted)?;
        if self.ended.is_some() || at - started.at < lifetime {
            return Ok(Vec::new());
        }
        let reason = EndReason::Expired;
        Ok(vec![SessionEvent::Ended { user_id: started.user_id, reason, at }])
    }

    /// Folds one event in. Total: no history that `decide` can write makes it fail.
    pub fn apply(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Started {
                user_id,
                user_version,
                methods: _,
                refresh,
                remember_me,
                at,
                expires_at,
            } => {
                self.started = Some(Started {
                    user_id,
                    user_version,
                    remember_me,
                    at,
                    expires_at,
                    current: vec![refresh],
                    spent: Vec::new(),
                    rotated_at: at,
                });
            }
            SessionEvent::Refreshed { user_id: _, refresh, in_grace, at, expires_at } => {
                if let Some(started) = &mut self.started {
                    if !in_grace {
                        started.spent = std::mem::take(&mut started.current);
                        started.rotated_at = at;
                    }
                    started.current.push(refresh);
                    started.expires_at = expires_at;
                }
            }
            SessionEvent::Ended { user_id: _, reason, at: _ } => self.ended = Some(reason),
        }
    }
}
