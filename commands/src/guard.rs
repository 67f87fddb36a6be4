//! Commands on a guard of sign-in.

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use domain::{
    FailureReason, GuardSubject, Sealed, SignInGuard, SignInGuardEvent, ThrottlePolicy, stream,
};
use serde::{Deserialize, Serialize};

use crate::{Budget, store::Stream};

/// What may be asked of a guard.
#[derive(Debug, Clone)]
pub enum GuardCommand {
    Fail {
        subject: GuardSubject,
        reason: FailureReason,
        identifier: Option<Sealed>,
        at: DateTime<Utc>,
    },
    Throttle {
        subject: GuardSubject,
        failures: u32,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    },
    PostBlocked {
        subject: GuardSubject,
        count: u64,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    },
    ThrottleRegistrations {
        subject: GuardSubject,
        accounts: u32,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
    },
    Clear {
        subject: GuardSubject,
        at: DateTime<Utc>,
    },
}

/// A guard refuses nothing: it only remembers. Whether an attempt is admitted is asked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuardRefusal {}

/// `SignInGuard` as cqrs-es wants it; its service is the policy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuardAggregate(pub SignInGuard);

impl Aggregate for GuardAggregate {
    const TYPE: &'static str = stream::SIGN_IN_GUARD;
    type Command = GuardCommand;
    type Event = SignInGuardEvent;
    type Error = GuardRefusal;
    type Services = ThrottlePolicy;

    async fn handle(
        &mut self,
        command: GuardCommand,
        policy: &ThrottlePolicy,
        sink: &EventSink<Self>,
    ) -> Result<(), GuardRefusal> {
        let events = match command {
            GuardCommand::Fail { subject, reason, identifier, at } => {
                self.0.fail(subject, reason, identifier, at, policy)
            }
            GuardCommand::Throttle { subject, failures, at, until } => {
                self.0.throttle(subject, failures, at, until)
            }
            GuardCommand::PostBlocked { subject, count, from, to } => {
                self.0.post_blocked(subject, count, from, to)
            }
            GuardCommand::ThrottleRegistrations { subject, accounts, at, until } => {
                self.0.throttle_registrations(subject, accounts, at, until)
            }
            GuardCommand::Clear { subject, at } => self.0.clear(subject, at),
        };
        for event in events {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: SignInGuardEvent) {
        self.0.apply(event);
    }
}

impl Stream for GuardAggregate {
    const SHAPE: i32 = 1;

    /// Failures are what the throttles are about: they are not punished twice.
    fn budget(_events: &[SignInGuardEvent]) -> Option<Budget> {
        None
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use cqrs_es::test::TestFramework;
    use domain::UserId;
    use uuid::Uuid;

    use super::*;

    fn policy() -> ThrottlePolicy {
        ThrottlePolicy {
            free_failures: 3,
            first_delay: TimeDelta::seconds(1),
            longest_delay: TimeDelta::minutes(15),
            forgotten_after: TimeDelta::hours(24),
        }
    }

    fn subject() -> GuardSubject {
        GuardSubject::Account(UserId(Uuid::from_u128(1)))
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    fn failed(seconds: i64) -> SignInGuardEvent {
        SignInGuardEvent::Failed {
            subject: subject(),
            reason: FailureReason::WrongPassword,
            identifier: None,
            at: at(seconds),
        }
    }

    fn throttled(failures: u32, seconds: i64, delay: i64) -> SignInGuardEvent {
        SignInGuardEvent::Throttled {
            subject: subject(),
            failures,
            at: at(seconds),
            until: at(seconds + delay),
        }
    }

    fn fail(seconds: i64) -> GuardCommand {
        GuardCommand::Fail {
            subject: subject(),
            reason: FailureReason::WrongPassword,
            identifier: None,
            at: at(seconds),
        }
    }

    fn given(
        events: Vec<SignInGuardEvent>,
    ) -> cqrs_es::test::AggregateTestExecutor<GuardAggregate> {
        TestFramework::<GuardAggregate>::with(policy()).given(events)
    }

    #[test]
    fn the_first_failures_are_free_and_the_next_start_growing_delays() {
        given(vec![failed(0)]).when(fail(1)).then_expect_events(vec![failed(1)]);
        given(vec![failed(0), failed(1)])
            .when(fail(2))
            .then_expect_events(vec![failed(2), throttled(3, 2, 1)]);
        given(vec![failed(0), failed(1), failed(2), throttled(3, 2, 1)])
            .when(fail(4))
            .then_expect_events(vec![failed(4), throttled(4, 4, 2)]);
    }

    #[test]
    fn delays_end_at_the_longest() {
        assert_eq!(policy().delay_after(2), None);
        assert_eq!(policy().delay_after(3), Some(TimeDelta::seconds(1)));
        assert_eq!(policy().delay_after(12), Some(TimeDelta::seconds(512)));
        assert_eq!(policy().delay_after(13), Some(TimeDelta::minutes(15)));
        assert_eq!(policy().delay_after(u32::MAX), Some(TimeDelta::minutes(15)));
    }

    #[test]
    fn failures_of_long_ago_are_forgotten() {
        let day = 86_400;
        given(vec![failed(0), failed(1), failed(2)]).when(fail(day + 2)).then_expect_events(vec![
            SignInGuardEvent::FailuresCleared { subject: subject(), at: at(day + 2) },
            failed(day + 2),
        ]);
    }

    #[test]
    fn a_success_clears_what_there_is_to_clear() {
        let clear = || GuardCommand::Clear { subject: subject(), at: at(9) };
        given(vec![]).when(clear()).then_expect_events(vec![]);
        given(vec![failed(0)]).when(clear()).then_expect_events(vec![
            SignInGuardEvent::FailuresCleared { subject: subject(), at: at(9) },
        ]);
    }

    #[test]
    fn a_throttled_guard_admits_nobody_until_its_time() {
        let mut guard = SignInGuard::default();
        guard.apply(throttled(3, 0, 30));
        assert!(guard.admit(at(29)).is_err());
        assert!(guard.admit(at(30)).is_ok());
    }

    #[test]
    fn an_address_that_registers_no_more_is_posted_and_signs_in_as_before() {
        let throttle = GuardCommand::ThrottleRegistrations {
            subject: subject(),
            accounts: 1_000,
            at: at(1),
            until: at(3_600),
        };
        let posted = SignInGuardEvent::RegistrationsThrottled {
            subject: subject(),
            accounts: 1_000,
            at: at(1),
            until: at(3_600),
        };
        given(vec![]).when(throttle).then_expect_events(vec![posted.clone()]);
        let mut guard = SignInGuard::default();
        guard.apply(failed(0));
        let before = guard.clone();
        guard.apply(posted);
        assert_eq!(guard, before);
    }

    #[test]
    fn blocked_attempts_are_posted_as_one() {
        let post = |count| GuardCommand::PostBlocked {
            subject: subject(),
            count,
            from: at(0),
            to: at(60),
        };
        given(vec![]).when(post(0)).then_expect_events(vec![]);
        given(vec![]).when(post(1_000)).then_expect_events(vec![
            SignInGuardEvent::AttemptsBlocked {
                subject: subject(),
                count: 1_000,
                from: at(0),
                to: at(60),
            },
        ]);
    }
}
