//! Property tests: whatever is decided can be applied, stored, read back and picked up half-way.

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::DomainEvent;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
}

fn sealed(n: u8) -> Sealed {
    Sealed(format!("s1.test.{n}"))
}

fn identifier(n: u8) -> SealedIdentifier {
    SealedIdentifier { sealed: sealed(n), index: Index(n.to_string()) }
}

fn user_id() -> UserId {
    UserId(Uuid::from_u128(1))
}

/// The stored name is the serde tag, and what is stored reads back as it was.
fn stored_well<E: DomainEvent>(stream: &str, event: &E, read: impl Fn(Event) -> Option<E>) {
    let payload = serde_json::to_value(event).unwrap();
    let tags: Vec<_> = payload.as_object().unwrap().keys().cloned().collect();
    assert_eq!(tags, [event.event_type()]);
    let text = payload.to_string();
    let (name, version) = (event.event_type(), event.event_version());
    let back = Event::from_stored(stream, &name, &version, payload).unwrap();
    assert_eq!(Event::from_stored_text(stream, &name, &version, &text).unwrap(), back);
    assert_eq!(back.name(), event.event_type());
    assert_eq!(read(back).as_ref(), Some(event));
}

/// A state that went through a snapshot is the state.
fn through_snapshot<S: Serialize + DeserializeOwned>(state: &S) -> S {
    serde_json::from_slice(&serde_json::to_vec(state).unwrap()).unwrap()
}

fn decide_user(user: &User, n: u8, which: u8) -> Vec<UserEvent> {
    match which % 12 {
        0 => user.register(Registration {
            email: identifier(n),
            username: identifier(n),
            full_name: None,
            password: sealed(n),
            roles: Roles::new(),
        }),
        1 => user.change_profile(ProfileChange {
            proved: None,
            email: (n.is_multiple_of(2)).then(|| identifier(n)),
            username: (n.is_multiple_of(3)).then(|| identifier(n)),
            full_name: (n.is_multiple_of(5)).then(|| (n.is_multiple_of(2)).then(|| sealed(n))),
        }),
        2 => user.change_password(None, sealed(n), (n.is_multiple_of(2)).then(|| kept(user, n))),
        3 => user.rehash_password(&sealed(n), sealed(n)),
        4 => user.grant_role(Role::ALL[usize::from(n) % 3]),
        5 => user.revoke_role(Role::ALL[usize::from(n) % 3]),
        6 => user.disable(),
        // Seldom, for nothing comes after it.
        8 if n < 16 => user.erase(),
        7 => user.end_sessions(n.is_multiple_of(2).then(|| kept(user, n))),
        _ => user.enable(),
    }
    .unwrap_or_default()
}

/// A session that was opened from some version of the account.
fn kept(user: &User, n: u8) -> Kept {
    Kept {
        session: SessionId(Uuid::from_u128(n.into())),
        version: u64::from(n) % (user.version + 1),
    }
}

proptest! {
    #[test]
    fn accounts(steps in prop::collection::vec((any::<u8>(), any::<u8>()), 0..60)) {
        let mut user = User::default();
        let mut history = Vec::new();
        for (n, which) in steps {
            for event in decide_user(&user, n, which) {
                stored_well(stream::USER, &event, |e| if let Event::User(e) = e { Some(e) } else { None });
                user.apply(event.clone());
                user = through_snapshot(&user);
                history.push(event);
            }
            prop_assert_eq!(user.version, history.len() as u64);
            prop_assert!(user.profile.is_none() || user.roles.contains(&Role::User));
            prop_assert!(!user.erased || (user.profile.is_none() && user.roles.is_empty()));
            if let Some(cut) = user.cut {
                let other = SessionId(Uuid::from_u128(u128::MAX));
                prop_assert!(!user.keeps(other, cut.version - 1));
                prop_assert_eq!(user.keeps(other, cut.version), !user.disabled && !user.erased);
            }
        }
        let mut folded = User::default();
        history.into_iter().for_each(|event| folded.apply(event));
        prop_assert_eq!(folded, user);
    }

    #[test]
    fn sessions(steps in prop::collection::vec((0_u8..6, 0_u8..40, 0_i64..30), 0..80)) {
        let mut session = Session::default();
        let mut history = Vec::new();
        let mut now = 0;
        for (which, token, pass) in steps {
            now += pass;
            let was_over = session.ended;
            let decided = match which {
                0 => session.start(Start {
                    user_id: user_id(),
                    user_version: 1,
                    methods: vec![SignInMethod::Password],
                    refresh: TokenHash("0".into()),
                    remember_me: false,
                    at: at(now),
                    expires_at: at(now + 100),
                }),
                1 if token == 0 => session.end(EndReason::SignedOut, at(now)),
                2 if token == 0 => session.end_outlived(TimeDelta::seconds(200), at(now)),
                _ => session.refresh(Refresh {
                    presented: TokenHash((history.len() as u8).saturating_sub(token % 3).to_string()),
                    next: TokenHash((history.len() + 1).to_string()),
                    at: at(now),
                    expires_at: at(now + 100),
                    grace: TimeDelta::seconds(10),
                }),
            };
            for event in decided.unwrap_or_default() {
                stored_well(stream::SESSION, &event, |e| if let Event::Session(e) = e { Some(e) } else { None });
                prop_assert!(was_over.is_none(), "an ended session does nothing more");
                session.apply(event.clone());
                session = through_snapshot(&session);
                history.push(event);
            }
            prop_assert!(serde_json::to_vec(&session).unwrap().len() < 4_096, "a session stays small");
        }
        let mut folded = Session::default();
        history.into_iter().for_each(|event| folded.apply(event));
        prop_assert_eq!(folded, session);
    }

    #[test]
    fn guards(steps in prop::collection::vec((0_u8..8, 0_i64..100_000), 0..80)) {
        let policy = ThrottlePolicy {
            free_failures: 5,
            first_delay: TimeDelta::seconds(1),
            longest_delay: TimeDelta::minutes(15),
            forgotten_after: TimeDelta::hours(24),
        };
        let subject = || GuardSubject::Identifier(Index("x".into()));
        let mut guard = SignInGuard::default();
        let mut history = Vec::new();
        let mut now = 0;
        for (which, pass) in steps {
            now += pass / 50;
            let events = match which {
                0 => guard.clear(subject(), at(now)),
                1 => guard.post_blocked(subject(), 3, at(now), at(now)),
                2 => guard.throttle(subject(), 3, at(now), at(now + pass)),
                _ => guard.fail(subject(), FailureReason::UnknownIdentifier, Some(sealed(which)), at(now), &policy),
            };
            for event in events {
                stored_well(stream::SIGN_IN_GUARD, &event, |e| if let Event::SignInGuard(e) = e { Some(e) } else { None });
                guard.apply(event.clone());
                guard = through_snapshot(&guard);
                history.push(event);
            }
            if which > 2 && guard.failures >= policy.free_failures {
                prop_assert!(guard.admit(at(now)).is_err(), "a failure past the free ones throttles");
            }
        }
        let mut folded = SignInGuard::default();
        history.into_iter().for_each(|event| folded.apply(event));
        prop_assert_eq!(folded, guard);
    }
}

/// The stored names, written down a second time: renaming one breaks every book that has it.
#[test]
fn stored_names_never_change() {
    let names = [
        UserEvent::Erased {}.name(),
        UserEvent::Disabled {}.name(),
        UserEvent::Enabled {}.name(),
        UserEvent::SessionsEnded { kept_session: None }.name(),
        UserEvent::RoleGranted { role: Role::User }.name(),
        UserEvent::RoleRevoked { role: Role::User }.name(),
        UserEvent::PasswordRehashed { password: sealed(1) }.name(),
        UserEvent::PasswordChanged { password: sealed(1), kept_session: None }.name(),
        UserEvent::ProfileChanged { email: None, username: None, full_name: None }.name(),
    ];
    assert_eq!(
        names,
        [
            "UserErased",
            "UserDisabled",
            "UserEnabled",
            "UserSessionsEnded",
            "UserRoleGranted",
            "UserRoleRevoked",
            "UserPasswordRehashed",
            "UserPasswordChanged",
            "UserProfileChanged",
        ]
    );
}
