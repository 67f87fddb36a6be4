//! A person's account: what may happen to it, and what has.

use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::{
    EndReason, IdentifierKind, Role, Roles, Sealed, SealedIdentifier, SessionId, StreamEvent,
    stream,
};

/// From one value to another; both sealed, so that the history can show either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    pub from: T,
    pub to: T,
}

/// What has happened to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserEvent {
    #[serde(rename = "UserRegistered")]
    Registered {
        email: SealedIdentifier,
        username: SealedIdentifier,
        full_name: Option<Sealed>,
        /// The password hash (PHC string), sealed: it goes when the person's key goes, and a stolen
        /// database without the master key gives nothing to guess against.
        password: Sealed,
        roles: Roles,
    },
    #[serde(rename = "UserProfileChanged")]
    ProfileChanged {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        email: Option<Change<SealedIdentifier>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<Change<SealedIdentifier>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        full_name: Option<Change<Option<Sealed>>>,
    },
    /// A new password. It ends every session but the one it was changed from.
    #[serde(rename = "UserPasswordChanged")]
    PasswordChanged { password: Sealed, kept_session: Option<SessionId> },
    /// The same password under newer hash parameters.
    #[serde(rename = "UserPasswordRehashed")]
    PasswordRehashed { password: Sealed },
    #[serde(rename = "UserRoleGranted")]
    RoleGranted { role: Role },
    #[serde(rename = "UserRoleRevoked")]
    RoleRevoked { role: Role },
    /// The person ended all their sessions but one, those included that no read table shows yet.
    #[serde(rename = "UserSessionsEnded")]
    SessionsEnded { kept_session: Option<SessionId> },
    /// Sign-in is refused and every session ends.
    #[serde(rename = "UserDisabled")]
    Disabled {},
    #[serde(rename = "UserEnabled")]
    Enabled {},
    /// The person's key is destroyed: nothing of theirs can be read any more, and nobody can sign in
    /// as them again. Their names are free.
    #[serde(rename = "UserErased")]
    Erased {},
}

impl UserEvent {
    /// The names under which the events are stored. They never change.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "UserRegistered",
            Self::ProfileChanged { .. } => "UserProfileChanged",
            Self::PasswordChanged { .. } => "UserPasswordChanged",
            Self::PasswordRehashed { .. } => "UserPasswordRehashed",
            Self::RoleGranted { .. } => "UserRoleGranted",
            Self::RoleRevoked { .. } => "UserRoleRevoked",
            Self::SessionsEnded { .. } => "UserSessionsEnded",
            Self::Disabled {} => "UserDisabled",
            Self::Enabled {} => "UserEnabled",
            Self::Erased {} => "UserErased",
        }
    }

    /// The version in which each is written.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self {
            Self::Registered { .. }
            | Self::ProfileChanged { .. }
            | Self::PasswordChanged { .. }
            | Self::PasswordRehashed { .. }
            | Self::RoleGranted { .. }
            | Self::RoleRevoked { .. }
            | Self::SessionsEnded { .. }
            | Self::Disabled {}
            | Self::Enabled {}
            | Self::Erased {} => "1",
        }
    }
}

impl StreamEvent for UserEvent {
    const STREAM: &'static str = stream::USER;

    fn version_of(name: &str) -> Option<&'static str> {
        match name {
            "UserRegistered"
            | "UserProfileChanged"
            | "UserPasswordChanged"
            | "UserPasswordRehashed"
            | "UserRoleGranted"
            | "UserRoleRevoked"
            | "UserSessionsEnded"
            | "UserDisabled"
            | "UserEnabled"
            | "UserErased" => Some("1"),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        self.name()
    }
}

impl DomainEvent for UserEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}

/// Why a command on an account was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserRefusal {
    #[error("this account is already registered")]
    AlreadyRegistered,
    #[error("there is no such account")]
    NotRegistered,
    #[error("this account is disabled")]
    Disabled,
    #[error("this account was erased")]
    Erased,
    #[error("every account keeps the role user")]
    RoleKept,
    /// Another account holds the e-mail address or the username.
    #[error("this {} is already taken", .0.as_str())]
    IdentifierTaken(IdentifierKind),
    /// The password that was proved is not the account's any more.
    #[error("the password was changed meanwhile")]
    PasswordChangedMeanwhile,
    /// The session that was to be kept had ended before.
    #[error("this session has ended")]
    SessionOver,
}

/// The one session that stays when the others of an account end: the one that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub session: SessionId,
    /// The version of the account that it was opened from.
    pub version: u64,
}

/// The sessions that an event of the account has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The version of the account that the event made. Sessions opened from an earlier one are over.
    pub version: u64,
    /// The one session that stays, if each cut since the version that it was opened from kept it.
    pub kept: Option<SessionId>,
    /// The version that the last cut made which did not keep that session: one that was opened from an earlier version
    /// was over already, whatever this cut says of it.
    pub kept_from: u64,
    /// What the end of the others is called.
    pub reason: EndReason,
}

impl Cut {
    /// The cut that follows another one.
    #[must_use]
    pub fn after(
        previous: Option<Self>,
        version: u64,
        kept: Option<SessionId>,
        reason: EndReason,
    ) -> Self {
        let kept_from = previous.map_or(0, |previous| {
            if kept.is_some() && previous.kept == kept {
                previous.kept_from
            } else {
                previous.version
            }
        });
        Self { version, kept, kept_from, reason }
    }

    /// Whether a session, opened from `version` of the account, stays. No cut brings back what an earlier one has ended.
    #[must_use]
    pub fn keeps(&self, session: SessionId, version: u64) -> bool {
        version >= self.version || (self.kept == Some(session) && version >= self.kept_from)
    }
}

/// An account, as its events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// How many events it has: the version that tokens and sessions are bound to.
    pub version: u64,
    pub profile: Option<Profile>,
    pub roles: Roles,
    pub disabled: bool,
    /// For good: it has no profile any more, and never gets another one.
    pub erased: bool,
    pub cut: Option<Cut>,
    /// The version that the last change of roles made.
    pub roles_version: u64,
}

/// What a registered account always has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub email: SealedIdentifier,
    pub username: SealedIdentifier,
    pub full_name: Option<Sealed>,
    pub password: Sealed,
}

/// The facts of a registration.
#[derive(Debug, Clone)]
pub struct Registration {
    pub email: SealedIdentifier,
    pub username: SealedIdentifier,
    pub full_name: Option<Sealed>,
    pub password: Sealed,
    pub roles: Roles,
}

/// What of a profile is to change; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct ProfileChange {
    /// The stored password that its owner has proved to know, where an e-mail address or a username
    /// changes.
    pub proved: Option<Sealed>,
    pub email: Option<SealedIdentifier>,
    pub username: Option<SealedIdentifier>,
    /// `Some(None)` removes the name.
    pub full_name: Option<Option<Sealed>>,
}

type Decision = Result<Vec<UserEvent>, UserRefusal>;

impl User {
    /// The profile of an account that exists.
    pub fn registered(&self) -> Result<&Profile, UserRefusal> {
        if self.erased {
            return Err(UserRefusal::Erased);
        }
        self.profile.as_ref().ok_or(UserRefusal::NotRegistered)
    }

    /// Whether a session, opened from `version` of this account, still stands by the account.
    #[must_use]
    pub fn keeps(&self, session: SessionId, version: u64) -> bool {
        !self.disabled && !self.erased && self.cut.is_none_or(|cut| cut.keeps(session, version))
    }

    pub fn register(&self, facts: Registration) -> Decision {
        if self.erased {
            return Err(UserRefusal::Erased);
        }
        if self.profile.is_some() {
            return Err(UserRefusal::AlreadyRegistered);
        }
        let mut roles = facts.roles;
        roles.insert(Role::User);
        Ok(vec![UserEvent::Registered {
            email: facts.email,
            username: facts.username,
            full_name: facts.full_name,
            password: facts.password,
            roles,
        }])
    }

    /// Identifiers are compared by their index, so a changed case alone is a change of what is
    /// shown and claims nothing new.
    pub fn change_profile(&self, change: ProfileChange) -> Decision {
        let profile = self.usable()?;
        if change.proved.is_some_and(|proved| proved != profile.password) {
            return Err(UserRefusal::PasswordChangedMeanwhile);
        }
        let email = change.email.map(|to| Change { from: profile.email.clone(), to });
        let username = change.username.map(|to| Change { from: profile.username.clone(), to });
        let full_name = change.full_name.map(|to| Change { from: profile.full_name.clone(), to });
        if email.is_none() && username.is_none() && full_name.is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![UserEvent::ProfileChanged { email, username, full_name }])
    }

    /// `proved` is the stored password that its owner has proved to know; `None` where an operator
    /// resets it.
    pub fn change_password(
        &self,
        proved: Option<&Sealed>,
        password: Sealed,
        kept: Option<Kept>,
    ) -> Decision {
        let profile = self.usable()?;
        if proved.is_some_and(|proved| *proved != profile.password) {
            return Err(UserRefusal::PasswordChangedMeanwhile);
        }
        let kept_session = self.keepable(kept)?;
        Ok(vec![UserEvent::PasswordChanged { password, kept_session }])
    }

    /// `from` is the stored password that was verified: if another took its place meanwhile, there
    /// is nothing to rehash.
    pub fn rehash_password(&self, from: &Sealed, to: Sealed) -> Decision {
        if self.usable()?.password != *from {
            return Ok(Vec::new());
        }
        Ok(vec![UserEvent::PasswordRehashed { password: to }])
    }

    pub fn grant_role(&self, role: Role) -> Decision {
        self.registered()?;
        if self.roles.contains(&role) {
            return Ok(Vec::new());
        }
        Ok(vec![UserEvent::RoleGranted { role }])
    }

    pub fn revoke_role(&self, role: Role) -> Decision {
        self.registered()?;
        if role == Role::User {
            return Err(UserRefusal::RoleKept);
        }
        if !self.roles.contains(&role) {
            return Ok(Vec::new());
        }
        Ok(vec![UserEvent::RoleRevoked { role }])
    }

    /// Ends every session but `kept`, in one event: whatever list the caller has may be behind.
    pub fn end_sessions(&self, kept: Option<Kept>) -> Decision {
        self.usable()?;
        let kept_session = self.keepable(kept)?;
        Ok(vec![UserEvent::SessionsEnded { kept_session }])
    }

    /// The session that a cut may keep. Only the last cut counts, so one that kept a session which an earlier cut has
    /// ended would bring that session back.
    fn keepable(&self, kept: Option<Kept>) -> Result<Option<SessionId>, UserRefusal> {
        match kept {
            Some(kept) if !self.keeps(kept.session, kept.version) => Err(UserRefusal::SessionOver),
            kept => Ok(kept.map(|kept| kept.session)),
        }
    }

    pub fn disable(&self) -> Decision {
        self.registered()?;
        Ok(if self.disabled { Vec::new() } else { vec![UserEvent::Disabled {}] })
    }

    pub fn enable(&self) -> Decision {
        self.registered()?;
        Ok(if self.disabled { vec![UserEvent::Enabled {}] } else { Vec::new() })
    }

    /// Erases the person. Erasing them again changes nothing, so that what was broken off goes on.
    pub fn erase(&self) -> Decision {
        if self.erased {
            return Ok(Vec::new());
        }
        self.registered()?;
        Ok(vec![UserEvent::Erased {}])
    }

    fn usable(&self) -> Result<&Profile, UserRefusal> {
        let profile = self.registered()?;
        if self.disabled { Err(UserRefusal::Disabled) } else { Ok(profile) }
    }

    /// Folds one event in. Total: no history that `decide` can write makes it fail.
    pub fn apply(&mut self, event: UserEvent) {
        self.version += 1;
        match event {
            UserEvent::Registered { email, username, full_name, password, roles } => {
                self.profile = Some(Profile { email, username, full_name, password });
                self.roles = roles;
                self.roles_version = self.version;
            }
            UserEvent::ProfileChanged { email, username, full_name } => {
                if let Some(profile) = &mut self.profile {
                    if let Some(change) = email {
                        profile.email = change.to;
                    }
                    if let Some(change) = username {
                        profile.username = change.to;
                    }
                    if let Some(change) = full_name {
                        profile.full_name = change.to;
                    }
                }
            }
            UserEvent::PasswordChanged { password, kept_session } => {
                self.set_password(password);
                self.cut(kept_session, EndReason::PasswordChanged);
            }
            UserEvent::PasswordRehashed { password } => self.set_password(password),
            UserEvent::RoleGranted { role } => {
                self.roles.insert(role);
                self.roles_version = self.version;
            }
            UserEvent::RoleRevoked { role } => {
                self.roles.remove(&role);
                self.roles_version = self.version;
            }
            UserEvent::SessionsEnded { kept_session } => {
                self.cut(kept_session, EndReason::EndedOthers);
            }
            UserEvent::Disabled {} => {
                self.disabled = true;
                self.cut(None, EndReason::AccountDisabled);
            }
            UserEvent::Enabled {} => self.disabled = false,
            UserEvent::Erased {} => {
                self.erased = true;
                self.profile = None;
                self.roles.clear();
                self.roles_version = self.version;
                self.cut(None, EndReason::AccountErased);
            }
        }
    }

    fn cut(&mut self, kept: Option<SessionId>, reason: EndReason) {
        self.cut = Some(Cut::after(self.cut, self.version, kept, reason));
    }

    fn set_password(&mut self, password: Sealed) {
        if let Some(profile) = &mut self.profile {
            profile.password = password;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> User {
        let mut user = User::default();
        let sealed = |text: &str| Sealed(text.to_owned());
        let identifier = |text: &str| SealedIdentifier {
            sealed: sealed(text),
            index: crate::Index(text.to_owned()),
        };
        let events = user.register(Registration {
            email: identifier("e"),
            username: identifier("u"),
            full_name: None,
            password: sealed("p"),
            roles: Roles::new(),
        });
        events.unwrap().into_iter().for_each(|event| user.apply(event));
        user
    }

    /// What an older build could store: of two requests that raced, the second kept a session that the first had cut.
    #[test]
    fn a_stored_cut_brings_no_session_back_that_an_earlier_one_has_ended() {
        let [first, second, later] = [0, 1, 2].map(|id| SessionId(uuid::Uuid::from_u128(id)));
        let mut user = account();
        let opened = user.version;
        user.apply(UserEvent::PasswordChanged {
            password: Sealed("q".to_owned()),
            kept_session: Some(second),
        });
        let renewed = user.version;
        assert_eq!((user.keeps(first, opened), user.keeps(second, opened)), (false, true));
        user.apply(UserEvent::SessionsEnded { kept_session: Some(first) });
        assert_eq!((user.keeps(first, opened), user.keeps(second, opened)), (false, false));
        user.apply(UserEvent::SessionsEnded { kept_session: Some(first) });
        assert!(!user.keeps(first, opened), "also not by asking twice");
        // One that was opened since may be kept, by one cut after the other.
        let mut user = account();
        user.apply(UserEvent::SessionsEnded { kept_session: Some(second) });
        user.apply(UserEvent::SessionsEnded { kept_session: Some(later) });
        user.apply(UserEvent::PasswordChanged {
            password: Sealed("r".to_owned()),
            kept_session: Some(later),
        });
        assert!(user.keeps(later, renewed) && !user.keeps(later, opened));
        assert!(!user.keeps(second, opened) && user.keeps(second, user.version));
    }

    proptest! {
        /// Whatever order requests of sessions come in, and from whichever version of the account these were opened.
        #[test]
        fn a_session_that_was_cut_never_comes_back(
            steps in prop::collection::vec((0_u128..4, any::<bool>(), any::<bool>()), 1..40),
        ) {
            let mut user = account();
            // The sessions, each with the version that it was opened from; and those that were cut once.
            let mut sessions: Vec<(SessionId, u64)> = Vec::new();
            let mut over = std::collections::BTreeSet::new();
            for (which, signs_in, by_password) in steps {
                if signs_in {
                    let id = SessionId(uuid::Uuid::from_u128(sessions.len() as u128));
                    sessions.push((id, user.version));
                }
                let asking = sessions.get(which as usize % sessions.len().max(1)).copied();
                let kept = asking.map(|(session, version)| Kept { session, version });
                let decided = match by_password {
                    true => user.change_password(None, Sealed("q".to_owned()), kept),
                    false => user.end_sessions(kept),
                };
                match (decided, kept) {
                    (Ok(events), _) => events.into_iter().for_each(|event| user.apply(event)),
                    (Err(refusal), kept) => {
                        prop_assert_eq!(refusal, UserRefusal::SessionOver);
                        prop_assert!(over.contains(&kept.unwrap().session));
                    }
                }
                for (session, version) in &sessions {
                    if !user.keeps(*session, *version) {
                        over.insert(*session);
                    }
                    prop_assert_eq!(user.keeps(*session, *version), !over.contains(session));
                }
            }
        }
    }
}
