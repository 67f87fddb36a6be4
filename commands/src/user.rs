//! Commands on an account.

use cqrs_es::{Aggregate, event_sink::EventSink};
use domain::{
    IdentifierKind, Kept, ProfileChange, Registration, Role, Sealed, User, UserEvent, UserRefusal,
    stream,
};
use serde::{Deserialize, Serialize};

use crate::{
    Budget,
    store::{Claims, Stream},
};

/// What may be asked of an account. The facts come with it: hashed, sealed and indexed before.
#[derive(Debug, Clone)]
pub enum UserCommand {
    Register(Registration),
    ChangeProfile(ProfileChange),
    ChangePassword { proved: Option<Sealed>, password: Sealed, kept: Option<Kept> },
    RehashPassword { from: Sealed, to: Sealed },
    GrantRole(Role),
    RevokeRole(Role),
    EndSessions { kept: Option<Kept> },
    Disable,
    Enable,
}

/// `User` as cqrs-es wants it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserAggregate(pub User);

impl Aggregate for UserAggregate {
    const TYPE: &'static str = stream::USER;
    type Command = UserCommand;
    type Event = UserEvent;
    type Error = UserRefusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: UserCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), UserRefusal> {
        let user = &self.0;
        let events = match command {
            UserCommand::Register(facts) => user.register(facts),
            UserCommand::ChangeProfile(change) => user.change_profile(change),
            UserCommand::ChangePassword { proved, password, kept } => {
                user.change_password(proved.as_ref(), password, kept)
            }
            UserCommand::RehashPassword { from, to } => user.rehash_password(&from, to),
            UserCommand::GrantRole(role) => user.grant_role(role),
            UserCommand::RevokeRole(role) => user.revoke_role(role),
            UserCommand::EndSessions { kept } => user.end_sessions(kept),
            UserCommand::Disable => user.disable(),
            UserCommand::Enable => user.enable(),
        }?;
        for event in events {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: UserEvent) {
        self.0.apply(event);
    }
}

impl Stream for UserAggregate {
    const SHAPE: i32 = 3;

    fn budget(events: &[UserEvent]) -> Option<Budget> {
        events.iter().find_map(|event| match event {
            UserEvent::ProfileChanged { .. } => Some(Budget::Changes),
            UserEvent::PasswordChanged { .. } => Some(Budget::Passwords),
            UserEvent::SessionsEnded { .. } => Some(Budget::SessionCuts),
            UserEvent::RoleGranted { .. }
            | UserEvent::RoleRevoked { .. }
            | UserEvent::Disabled {}
            | UserEvent::Enabled {} => Some(Budget::Administration),
            // Registrations are counted by the hour, a password is rehashed once for new parameters, and nobody
            // is erased twice.
            UserEvent::Registered { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::Erased {} => None,
        })
    }

    fn claims(events: &[UserEvent]) -> Claims {
        let mut claims = Claims::default();
        for event in events {
            match event {
                UserEvent::Registered { email, username, .. } => {
                    claims.claimed.push((IdentifierKind::Email, email.index.clone()));
                    claims.claimed.push((IdentifierKind::Username, username.index.clone()));
                }
                UserEvent::ProfileChanged { email, username, full_name: _ } => {
                    let changes =
                        [(IdentifierKind::Email, email), (IdentifierKind::Username, username)];
                    for (kind, change) in changes {
                        if let Some(change) = change.as_ref().filter(|c| c.from.index != c.to.index)
                        {
                            claims.released.push((kind, change.from.index.clone()));
                            claims.claimed.push((kind, change.to.index.clone()));
                        }
                    }
                }
                UserEvent::PasswordChanged { .. }
                | UserEvent::PasswordRehashed { .. }
                | UserEvent::RoleGranted { .. }
                | UserEvent::RoleRevoked { .. }
                | UserEvent::SessionsEnded { .. }
                | UserEvent::Disabled {}
                | UserEvent::Enabled {}
                // It carries no names: what it frees is whatever the account holds.
                | UserEvent::Erased {} => {}
            }
        }
        claims
    }

    fn taken(kind: IdentifierKind) -> Option<UserRefusal> {
        Some(UserRefusal::IdentifierTaken(kind))
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;
    use domain::{Change, Index, SealedIdentifier};

    use super::*;

    type Framework = TestFramework<UserAggregate>;

    fn sealed(text: &str) -> Sealed {
        Sealed(format!("s1.test.{text}"))
    }

    fn identifier(text: &str) -> SealedIdentifier {
        SealedIdentifier { sealed: sealed(text), index: Index(text.to_lowercase()) }
    }

    fn registration() -> Registration {
        Registration {
            email: identifier("ada@example.org"),
            username: identifier("ada"),
            full_name: None,
            password: sealed("first"),
            roles: [Role::User].into(),
        }
    }

    fn registered() -> UserEvent {
        let Registration { email, username, full_name, password, roles } = registration();
        UserEvent::Registered { email, username, full_name, password, roles }
    }

    fn change_password(proved: Option<&str>) -> UserCommand {
        UserCommand::ChangePassword {
            proved: proved.map(sealed),
            password: sealed("second"),
            kept: None,
        }
    }

    #[test]
    fn a_registration_is_an_event_and_a_second_one_a_refusal() {
        let register = || UserCommand::Register(registration());
        Framework::with(())
            .given_no_previous_events()
            .when(register())
            .then_expect_events(vec![registered()]);
        Framework::with(())
            .given(vec![registered()])
            .when(register())
            .then_expect_error(UserRefusal::AlreadyRegistered);
    }

    #[test]
    fn every_command_on_nobody_is_refused() {
        for command in [
            change_password(None),
            UserCommand::ChangeProfile(ProfileChange::default()),
            UserCommand::RehashPassword { from: sealed("first"), to: sealed("second") },
            UserCommand::GrantRole(Role::Admin),
            UserCommand::RevokeRole(Role::Admin),
            UserCommand::EndSessions { kept: None },
            UserCommand::Disable,
            UserCommand::Enable,
        ] {
            Framework::with(())
                .given_no_previous_events()
                .when(command)
                .then_expect_error(UserRefusal::NotRegistered);
        }
    }

    #[test]
    fn a_disabled_account_changes_nothing_of_its_own() {
        for command in [
            change_password(None),
            UserCommand::ChangeProfile(ProfileChange::default()),
            UserCommand::RehashPassword { from: sealed("first"), to: sealed("second") },
        ] {
            Framework::with(())
                .given(vec![registered(), UserEvent::Disabled {}])
                .when(command)
                .then_expect_error(UserRefusal::Disabled);
        }
    }

    #[test]
    fn a_password_is_changed_only_from_the_one_that_was_proved() {
        let changed = UserEvent::PasswordChanged { password: sealed("second"), kept_session: None };
        Framework::with(())
            .given(vec![registered()])
            .when(change_password(Some("first")))
            .then_expect_events(vec![changed.clone()]);
        Framework::with(())
            .given(vec![registered(), changed])
            .when(change_password(Some("first")))
            .then_expect_error(UserRefusal::PasswordChangedMeanwhile);
    }

    #[test]
    fn a_name_is_changed_only_with_the_password_that_was_proved() {
        let rename = |proved: &str| {
            UserCommand::ChangeProfile(ProfileChange {
                proved: Some(sealed(proved)),
                username: Some(identifier("countess")),
                ..ProfileChange::default()
            })
        };
        let changed = UserEvent::PasswordChanged { password: sealed("second"), kept_session: None };
        Framework::with(())
            .given(vec![registered(), changed.clone()])
            .when(rename("first"))
            .then_expect_error(UserRefusal::PasswordChangedMeanwhile);
        Framework::with(())
            .given(vec![registered(), changed])
            .when(rename("second"))
            .then_expect_events(vec![UserEvent::ProfileChanged {
                email: None,
                username: Some(Change { from: identifier("ada"), to: identifier("countess") }),
                full_name: None,
            }]);
    }

    #[test]
    fn a_rehash_never_undoes_a_change() {
        let changed = UserEvent::PasswordChanged { password: sealed("second"), kept_session: None };
        Framework::with(())
            .given(vec![registered(), changed])
            .when(UserCommand::RehashPassword { from: sealed("first"), to: sealed("first again") })
            .then_expect_events(vec![]);
    }

    #[test]
    fn roles_and_standing_change_once() {
        let given = || vec![registered(), UserEvent::RoleGranted { role: Role::Auditor }];
        let when = |command| Framework::with(()).given(given()).when(command);
        when(UserCommand::GrantRole(Role::Auditor)).then_expect_events(vec![]);
        when(UserCommand::GrantRole(Role::Admin))
            .then_expect_events(vec![UserEvent::RoleGranted { role: Role::Admin }]);
        when(UserCommand::RevokeRole(Role::Auditor))
            .then_expect_events(vec![UserEvent::RoleRevoked { role: Role::Auditor }]);
        when(UserCommand::RevokeRole(Role::User)).then_expect_error(UserRefusal::RoleKept);
        when(UserCommand::Enable).then_expect_events(vec![]);
        when(UserCommand::Disable).then_expect_events(vec![UserEvent::Disabled {}]);
    }

    #[test]
    fn a_changed_name_is_claimed_and_the_old_one_released() {
        let change = |from: &str, to: &str| UserEvent::ProfileChanged {
            email: None,
            username: Some(Change { from: identifier(from), to: identifier(to) }),
            full_name: None,
        };
        let claims = UserAggregate::claims(&[change("ada", "countess")]);
        assert_eq!(claims.claimed, [(IdentifierKind::Username, Index("countess".into()))]);
        assert_eq!(claims.released, [(IdentifierKind::Username, Index("ada".into()))]);
        // Another case of the same name is the same name.
        assert_eq!(UserAggregate::claims(&[change("ada", "Ada")]), Claims::default());
    }
}
