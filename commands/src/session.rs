//! Commands on a session.

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use domain::{
    EndReason, Refresh, Session, SessionEvent, SessionRefusal, SignInMethod, Start, stream,
};
use serde::{Deserialize, Serialize};

use crate::{Budget, store::Stream};

/// What may be asked of a session.
#[derive(Debug, Clone)]
pub enum SessionCommand {
    Start(Start),
    Refresh(Refresh),
    End {
        reason: EndReason,
        at: DateTime<Utc>,
    },
    /// Ends a session that has lasted for so long.
    EndOutlived {
        lifetime: TimeDelta,
        at: DateTime<Utc>,
    },
}

/// `Session` as cqrs-es wants it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionAggregate(pub Session);

impl Aggregate for SessionAggregate {
    const TYPE: &'static str = stream::SESSION;
    type Command = SessionCommand;
    type Event = SessionEvent;
    type Error = SessionRefusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: SessionCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), SessionRefusal> {
        let events = match command {
            SessionCommand::Start(facts) => self.0.start(facts),
            SessionCommand::Refresh(facts) => self.0.refresh(facts),
            SessionCommand::End { reason, at } => self.0.end(reason, at),
            SessionCommand::EndOutlived { lifetime, at } => self.0.end_outlived(lifetime, at),
        }?;
        for event in events {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: SessionEvent) {
        self.0.apply(event);
    }
}

impl Stream for SessionAggregate {
    const SHAPE: i32 = 1;

    fn budget(events: &[SessionEvent]) -> Option<Budget> {
        events.iter().find_map(|event| match event {
            // A registration opens one, and is counted itself.
            SessionEvent::Started { methods, .. }
                if methods.contains(&SignInMethod::Registration) =>
            {
                None
            }
            SessionEvent::Started { .. } => Some(Budget::SignIns),
            SessionEvent::Refreshed { .. } => Some(Budget::Refreshes),
            // A session ends once.
            SessionEvent::Ended { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;
    use domain::{SignInMethod, TokenHash, UserId};
    use uuid::Uuid;

    use super::*;

    type Framework = TestFramework<SessionAggregate>;

    fn user_id() -> UserId {
        UserId(Uuid::from_u128(1))
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    fn token(name: &str) -> TokenHash {
        TokenHash(name.to_owned())
    }

    fn start() -> Start {
        Start {
            user_id: user_id(),
            user_version: 1,
            methods: vec![SignInMethod::Password],
            refresh: token("a"),
            remember_me: false,
            at: at(0),
            expires_at: at(86_400),
        }
    }

    fn started() -> SessionEvent {
        let Start { user_id, user_version, methods, refresh, remember_me, at, expires_at } =
            start();
        SessionEvent::Started {
            user_id,
            user_version,
            methods,
            refresh,
            remember_me,
            at,
            expires_at,
        }
    }

    fn refresh(presented: &str, next: &str, seconds: i64) -> SessionCommand {
        SessionCommand::Refresh(Refresh {
            presented: token(presented),
            next: token(next),
            at: at(seconds),
            expires_at: at(seconds + 86_400),
            grace: TimeDelta::seconds(10),
        })
    }

    fn refreshed(next: &str, in_grace: bool, seconds: i64) -> SessionEvent {
        SessionEvent::Refreshed {
            user_id: user_id(),
            refresh: token(next),
            in_grace,
            at: at(seconds),
            expires_at: at(seconds + 86_400),
        }
    }

    fn ended(reason: EndReason, seconds: i64) -> SessionEvent {
        SessionEvent::Ended { user_id: user_id(), reason, at: at(seconds) }
    }

    #[test]
    fn a_session_starts_once() {
        let command = || SessionCommand::Start(start());
        Framework::with(())
            .given_no_previous_events()
            .when(command())
            .then_expect_events(vec![started()]);
        Framework::with(())
            .given(vec![started()])
            .when(command())
            .then_expect_error_message(&SessionRefusal::AlreadyStarted.to_string());
    }

    #[test]
    fn a_session_starts_with_something_proved() {
        Framework::with(())
            .given_no_previous_events()
            .when(SessionCommand::Start(Start { methods: Vec::new(), ..start() }))
            .then_expect_error_message(&SessionRefusal::NothingProved.to_string());
    }

    #[test]
    fn what_was_never_started_is_neither_refreshed_nor_ended() {
        for command in
            [refresh("a", "b", 1), SessionCommand::End { reason: EndReason::SignedOut, at: at(1) }]
        {
            Framework::with(())
                .given_no_previous_events()
                .when(command)
                .then_expect_error_message(&SessionRefusal::NotStarted.to_string());
        }
    }

    #[test]
    fn a_refresh_spends_the_token() {
        Framework::with(())
            .given(vec![started()])
            .when(refresh("a", "b", 5))
            .then_expect_events(vec![refreshed("b", false, 5)]);
    }

    #[test]
    fn a_second_use_in_the_grace_window_gets_a_token_beside_the_first() {
        Framework::with(())
            .given(vec![started(), refreshed("b", false, 5)])
            .when(refresh("a", "c", 15))
            .then_expect_events(vec![refreshed("c", true, 15)]);
        // Both of that generation go on …
        for current in ["b", "c"] {
            Framework::with(())
                .given(vec![started(), refreshed("b", false, 5), refreshed("c", true, 15)])
                .when(refresh(current, "d", 100))
                .then_expect_events(vec![refreshed("d", false, 100)]);
        }
        // … until one is spent: then the other is a second use too.
        Framework::with(())
            .given(vec![
                started(),
                refreshed("b", false, 5),
                refreshed("c", true, 15),
                refreshed("d", false, 100),
            ])
            .when(refresh("c", "e", 200))
            .then_expect_events(vec![ended(EndReason::TokenReused, 200)]);
    }

    #[test]
    fn a_use_after_the_grace_window_ends_the_session() {
        Framework::with(())
            .given(vec![started(), refreshed("b", false, 5)])
            .when(refresh("a", "c", 16))
            .then_expect_events(vec![ended(EndReason::TokenReused, 16)]);
        // A token of two generations ago has no grace at all.
        Framework::with(())
            .given(vec![started(), refreshed("b", false, 5), refreshed("c", false, 6)])
            .when(refresh("a", "d", 7))
            .then_expect_events(vec![ended(EndReason::TokenReused, 7)]);
    }

    #[test]
    fn one_generation_is_bounded() {
        let mut history = vec![started(), refreshed("b", false, 5)];
        history.extend((0..15).map(|n| refreshed(&format!("c{n}"), true, 6)));
        Framework::with(())
            .given(history)
            .when(refresh("a", "d", 7))
            .then_expect_error_message(&SessionRefusal::TooManyInGrace.to_string());
    }

    #[test]
    fn an_ended_or_expired_session_refreshes_no_more() {
        let refusal = SessionRefusal::Ended(EndReason::SignedOut).to_string();
        Framework::with(())
            .given(vec![started(), ended(EndReason::SignedOut, 3)])
            .when(refresh("a", "b", 5))
            .then_expect_error_message(&refusal);
        Framework::with(())
            .given(vec![started()])
            .when(refresh("a", "b", 86_400))
            .then_expect_error_message(&refusal);
    }

    #[test]
    fn ending_twice_is_ending_once() {
        let end = || SessionCommand::End { reason: EndReason::EndedElsewhere, at: at(9) };
        Framework::with(())
            .given(vec![started()])
            .when(end())
            .then_expect_events(vec![ended(EndReason::EndedElsewhere, 9)]);
        Framework::with(())
            .given(vec![started(), ended(EndReason::SignedOut, 3)])
            .when(end())
            .then_expect_events(vec![]);
    }

    /// Its tokens may have been issued under a longer bound, or under none.
    #[test]
    fn a_session_that_has_lasted_too_long_is_ended_whatever_its_tokens_say() {
        let outlived = |seconds| SessionCommand::EndOutlived {
            lifetime: TimeDelta::seconds(1_000),
            at: at(seconds),
        };
        Framework::with(()).given(vec![started()]).when(outlived(999)).then_expect_events(vec![]);
        Framework::with(())
            .given(vec![started(), refreshed("b", false, 900)])
            .when(outlived(1_000))
            .then_expect_events(vec![ended(EndReason::Expired, 1_000)]);
        Framework::with(())
            .given(vec![started(), ended(EndReason::SignedOut, 3)])
            .when(outlived(1_000))
            .then_expect_events(vec![]);
        Framework::with(())
            .given_no_previous_events()
            .when(outlived(1_000))
            .then_expect_error(SessionRefusal::NotStarted);
    }

    #[test]
    fn an_expiry_that_is_not_due_changes_nothing() {
        let expire = |seconds| SessionCommand::End { reason: EndReason::Expired, at: at(seconds) };
        Framework::with(()).given(vec![started()]).when(expire(86_399)).then_expect_events(vec![]);
        // It was refreshed after whoever asks has looked.
        Framework::with(())
            .given(vec![started(), refreshed("b", false, 86_000)])
            .when(expire(86_400))
            .then_expect_events(vec![]);
        Framework::with(())
            .given(vec![started()])
            .when(expire(86_400))
            .then_expect_events(vec![ended(EndReason::Expired, 86_400)]);
    }
}
