//! The guard of sign-in: failures are remembered, and slow down who goes on guessing.
//!
//! It is a stream apart from `User`, so that an attacker can neither slow down nor conflict with the
//! account's own. There is one per account, per identifier that is nobody's, per network, and per
//! account for proving a password again while signed in. A device that signed in to an account before has
//! one of its own, whose subject is the account and whose stream is the device's.

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::{Index, Sealed, StreamEvent, UserId, stream};

/// Whom a guard watches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardSubject {
    /// Sign-ins to an account.
    Account(UserId),
    /// Sign-ins with an identifier that is nobody's, under the index key.
    Identifier(Index),
    /// Sign-ins from an address (IPv6: from its /64), or from a wider network around it, under the
    /// index key of a month.
    Address(Index),
    /// Proofs of the current password from inside a session: kept apart, so that somebody guessing
    /// at the front door can't stop the person inside from changing the password.
    Reauthentication(UserId),
}

impl GuardSubject {
    /// The id of the guard's stream, where it is not that of a device.
    #[must_use]
    pub fn stream_id(&self) -> String {
        match self {
            Self::Account(id) => format!("account:{id}"),
            Self::Identifier(Index(index)) => format!("identifier:{index}"),
            Self::Address(Index(index)) => format!("address:{index}"),
            Self::Reauthentication(id) => format!("reauthentication:{id}"),
        }
    }

    /// The account concerned, where there is one.
    #[must_use]
    pub fn user_id(&self) -> Option<UserId> {
        match self {
            Self::Account(id) | Self::Reauthentication(id) => Some(*id),
            Self::Identifier(_) | Self::Address(_) => None,
        }
    }
}

/// Why a sign-in failed. The person is never told which; the auditor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    WrongPassword,
    UnknownIdentifier,
    AccountDisabled,
}

impl FailureReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong_password",
            Self::UnknownIdentifier => "unknown_identifier",
            Self::AccountDisabled => "account_disabled",
        }
    }
}

/// What a guard has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignInGuardEvent {
    #[serde(rename = "SignInFailed")]
    Failed {
        subject: GuardSubject,
        reason: FailureReason,
        /// What was typed, where it is nobody's identifier: sealed under the key of its month.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identifier: Option<Sealed>,
        at: DateTime<Utc>,
    },
    /// No attempt is looked at before `until`.
    #[serde(rename = "SignInThrottled")]
    Throttled { subject: GuardSubject, failures: u32, at: DateTime<Utc>, until: DateTime<Utc> },
    /// So many attempts came while throttled, in one window, on one replica.
    #[serde(rename = "SignInAttemptsBlocked")]
    AttemptsBlocked { subject: GuardSubject, count: u64, from: DateTime<Utc>, to: DateTime<Utc> },
    /// So many accounts were registered from an address within an hour that no more are before
    /// `until`. It is kept here, with what else an address was slowed down for.
    #[serde(rename = "RegistrationsThrottled")]
    RegistrationsThrottled {
        subject: GuardSubject,
        accounts: u32,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    },
    /// A sign-in succeeded, so the failures before it count no more.
    #[serde(rename = "SignInFailuresCleared")]
    FailuresCleared { subject: GuardSubject, at: DateTime<Utc> },
}

impl SignInGuardEvent {
    /// The names under which the events are stored. They never change.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "SignInFailed",
            Self::Throttled { .. } => "SignInThrottled",
            Self::AttemptsBlocked { .. } => "SignInAttemptsBlocked",
            Self::RegistrationsThrottled { .. } => "RegistrationsThrottled",
            Self::FailuresCleared { .. } => "SignInFailuresCleared",
        }
    }

    /// The version in which each is written.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self {
            Self::Failed { .. }
            | Self::Throttled { .. }
            | Self::AttemptsBlocked { .. }
            | Self::RegistrationsThrottled { .. }
            | Self::FailuresCleared { .. } => "1",
        }
    }

    #[must_use]
    pub fn subject(&self) -> &GuardSubject {
        match self {
            Self::Failed { subject, .. }
            | Self::Throttled { subject, .. }
            | Self::AttemptsBlocked { subject, .. }
            | Self::RegistrationsThrottled { subject, .. }
            | Self::FailuresCleared { subject, .. } => subject,
        }
    }
}

impl StreamEvent for SignInGuardEvent {
    const STREAM: &'static str = stream::SIGN_IN_GUARD;

    fn version_of(name: &str) -> Option<&'static str> {
        match name {
            "SignInFailed"
            | "SignInThrottled"
            | "SignInAttemptsBlocked"
            | "RegistrationsThrottled"
            | "SignInFailuresCleared" => Some("1"),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        self.name()
    }
}

impl DomainEvent for SignInGuardEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}

/// How failures slow down further attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottlePolicy {
    /// So many failures are free; the next one starts the delays.
    pub free_failures: u32,
    /// The first delay; each further failure doubles it …
    pub first_delay: TimeDelta,
    /// … up to the temporary block.
    pub longest_delay: TimeDelta,
    /// Failures count no more when none came for so long.
    pub forgotten_after: TimeDelta,
}

impl ThrottlePolicy {
    /// The delay after so many failures, if there is one.
    #[must_use]
    pub fn delay_after(&self, failures: u32) -> Option<TimeDelta> {
        let over = failures.checked_sub(self.free_failures.max(1))?;
        let doubled = self.first_delay.num_milliseconds().saturating_mul(1_i64 << over.min(32));
        Some(TimeDelta::milliseconds(doubled).min(self.longest_delay))
    }
}

/// Attempts must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many failed attempts")]
pub struct Throttled {
    pub until: DateTime<Utc>,
}

/// A guard, as its events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInGuard {
    pub failures: u32,
    pub last_failure: Option<DateTime<Utc>>,
    pub throttled_until: Option<DateTime<Utc>>,
}

impl SignInGuard {
    /// Whether an attempt may be looked at.
    pub fn admit(&self, at: DateTime<Utc>) -> Result<(), Throttled> {
        match self.throttled_until {
            Some(until) if at < until => Err(Throttled { until }),
            _ => Ok(()),
        }
    }

    /// Remembers a failed attempt, and throttles when there were too many. An attempt that was
    /// looked at while another one started the throttle counts as well: it was one guess more.
    #[must_use]
    pub fn fail(
        &self,
        subject: GuardSubject,
        reason: FailureReason,
        identifier: Option<Sealed>,
        at: DateTime<Utc>,
        policy: &ThrottlePolicy,
    ) -> Vec<SignInGuardEvent> {
        let remembered = self.last_failure.is_some_and(|last| at - last < policy.forgotten_after);
        let failures = if remembered { self.failures.saturating_add(1) } else { 1 };
        let mut events = Vec::with_capacity(3);
        if !remembered && self.failures > 0 {
            events.push(SignInGuardEvent::FailuresCleared { subject: subject.clone(), at });
        }
        events.push(SignInGuardEvent::Failed { subject: subject.clone(), reason, identifier, at });
        if let Some(delay) = policy.delay_after(failures) {
            events.push(SignInGuardEvent::Throttled { subject, failures, at, until: at + delay });
        }
        events
    }

    /// Throttles outright: what an address has earned by failures on many accounts.
    #[must_use]
    pub fn throttle(
        &self,
        subject: GuardSubject,
        failures: u32,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Vec<SignInGuardEvent> {
        if self.throttled_until.is_some_and(|standing| standing >= until) {
            return Vec::new();
        }
        vec![SignInGuardEvent::Throttled { subject, failures, at, until }]
    }

    /// Posts the attempts that were turned away in one window.
    #[must_use]
    pub fn post_blocked(
        &self,
        subject: GuardSubject,
        count: u64,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Vec<SignInGuardEvent> {
        if count == 0 {
            return Vec::new();
        }
        vec![SignInGuardEvent::AttemptsBlocked { subject, count, from, to }]
    }

    /// Posts that no more accounts may be registered from an address for a while.
    #[must_use]
    pub fn throttle_registrations(
        &self,
        subject: GuardSubject,
        accounts: u32,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Vec<SignInGuardEvent> {
        vec![SignInGuardEvent::RegistrationsThrottled { subject, accounts, at, until }]
    }

    /// Forgets the failures after a success.
    #[must_use]
    pub fn clear(&self, subject: GuardSubject, at: DateTime<Utc>) -> Vec<SignInGuardEvent> {
        if self.failures == 0 {
            return Vec::new();
        }
        vec![SignInGuardEvent::FailuresCleared { subject, at }]
    }

    /// Folds one event in. Total: no history that `decide` can write makes it fail.
    pub fn apply(&mut self, event: SignInGuardEvent) {
        match event {
            SignInGuardEvent::Failed { at, .. } => {
                self.failures = self.failures.saturating_add(1);
                self.last_failure = Some(at);
            }
            SignInGuardEvent::Throttled { until, .. } => self.throttled_until = Some(until),
            // The next registration is counted by the replica that is asked for it.
            SignInGuardEvent::AttemptsBlocked { .. }
            | SignInGuardEvent::RegistrationsThrottled { .. } => {}
            SignInGuardEvent::FailuresCleared { .. } => *self = Self::default(),
        }
    }
}
