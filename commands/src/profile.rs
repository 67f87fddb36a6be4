//! Changing what an account says of itself: names and e-mail address, and what the username looks like.

use std::time::Duration;

use domain::{
    Email, FullName, GuardSubject, IdentifierKind, Password, ProfileChange, UserId, UserRefusal,
    Username,
};

use crate::{
    Account, Entrybook, ExecuteError, Origin, Receipt, StorageError, UserAggregate, UserCommand,
    sign_in::{Claim, Proof, Unproved},
};

/// What of a profile is to change.
#[derive(Debug, Clone, Default)]
pub struct NewProfile {
    pub email: Option<Email>,
    pub username: Option<Username>,
    /// `Some(None)` removes the name.
    pub full_name: Option<Option<FullName>>,
}

impl NewProfile {
    /// What of it changes something.
    fn without(&self, before: &Account) -> Self {
        let Self { email, username, full_name } = self.clone();
        Self {
            email: email.filter(|email| email.as_str() != before.email),
            username: username.filter(|username| username.as_str() != before.username),
            full_name: full_name
                .filter(|name| name.as_ref().map(FullName::as_str) != before.full_name.as_deref()),
        }
    }
}

/// Why a profile was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeProfileError {
    #[error("this {} is already taken", .0.as_str())]
    IdentifierTaken(IdentifierKind),
    /// An e-mail address or a username changes, and no password was given.
    #[error("the current password is required")]
    PasswordRequired,
    #[error("the current password is wrong")]
    WrongPassword,
    #[error("too many failed attempts")]
    Throttled { retry_after: Duration },
    /// The account, or the network it is used from, has asked for too many names.
    #[error("too many names were asked for")]
    TooManyNames { retry_after: Duration },
    #[error("too many people are signing in at this moment")]
    Overloaded,
    #[error("there is no such account")]
    NotFound,
    #[error("this account is disabled")]
    Disabled,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<Unproved> for ChangeProfileError {
    fn from(unproved: Unproved) -> Self {
        match unproved {
            Unproved::Throttled { retry_after } => Self::Throttled { retry_after },
            Unproved::Overloaded => Self::Overloaded,
            Unproved::Erased => Self::NotFound,
            Unproved::Storage(error) => Self::Storage(error),
        }
    }
}

impl Entrybook {
    /// Changes names and e-mail address; what is given as it is already stays as it is.
    ///
    /// Whoever may change the e-mail address or the username may take an account over, and a session alone
    /// may be stolen: for these the current password is asked for, and wrong ones are counted and throttled as
    /// for a change of the password.
    pub async fn change_profile(
        &self,
        id: UserId,
        new: NewProfile,
        current: Option<Password>,
        origin: &Origin,
    ) -> Result<(Account, Option<Receipt>), ChangeProfileError> {
        let person = self.keyring().person(id).await.map_err(StorageError::from)?;
        let Some(person) = person else { return Err(ChangeProfileError::NotFound) };
        // Twice: a rehash may come in between the proof and the change.
        let mut asked = false;
        for _ in 0..2 {
            let user = self.user(id).await?;
            let Ok(profile) = user.registered() else { return Err(ChangeProfileError::NotFound) };
            if user.disabled {
                return Err(ChangeProfileError::Disabled);
            }
            let new = new.without(&self.describe(id, &user).await?);
            let mut change = ProfileChange::default();
            if new.email.is_some() || new.username.is_some() {
                let claim = Claim {
                    subject: GuardSubject::Reauthentication(id),
                    account: Some((id, &user)),
                    typed: None,
                    password: current.clone().ok_or(ChangeProfileError::PasswordRequired)?,
                    lane: None,
                    origin,
                };
                if let Proof::Wrong = self.prove(claim).await? {
                    return Err(ChangeProfileError::WrongPassword);
                }
                change.proved = Some(profile.password.clone());
                if !asked {
                    self.ask_for_other_names(id, origin).await?;
                    asked = true;
                }
            }
            let proved = change.proved.is_some();
            let looks =
                new.username.as_ref().map(|name| self.keyring().lookalike_indexes(name.as_str()));
            change.email = new.email.map(|email| self.seal_email(id, &person, &email));
            change.username = new.username.map(|name| self.seal_username(id, &person, &name));
            change.full_name =
                new.full_name.map(|name| self.seal_full_name(id, &person, name.as_ref()));
            match self
                .name_user(id, UserCommand::ChangeProfile(change), looks, &person, origin)
                .await
            {
                Ok(done) => {
                    if proved {
                        let subject = GuardSubject::Reauthentication(id);
                        self.clear_failures(subject, &person, origin).await?;
                    }
                    return Ok((self.describe(id, &done.aggregate.0).await?, done.receipt));
                }
                Err(ExecuteError::Refused(UserRefusal::PasswordChangedMeanwhile)) => {}
                Err(ExecuteError::Refused(UserRefusal::IdentifierTaken(kind))) => {
                    return Err(ChangeProfileError::IdentifierTaken(kind));
                }
                Err(ExecuteError::Refused(UserRefusal::Disabled)) => {
                    return Err(ChangeProfileError::Disabled);
                }
                Err(ExecuteError::Refused(_)) => return Err(ChangeProfileError::NotFound),
                Err(ExecuteError::Storage(error)) => return Err(error.into()),
            }
        }
        Err(ChangeProfileError::WrongPassword)
    }

    /// Counts that an account asks for other names. The answer tells whether they are taken, as that of a registration
    /// does: so it counts for the network as one, and fewer are enough for one account from wherever.
    async fn ask_for_other_names(
        &self,
        id: UserId,
        origin: &Origin,
    ) -> Result<(), ChangeProfileError> {
        let now = self.clock().now();
        let asked = match self.registrations().take_of_account(id, now) {
            Ok(()) => self.ask_for_names(origin).await,
            Err(no_more) => Err((no_more.until - now).to_std().unwrap_or_default()),
        };
        asked.map_err(|retry_after| ChangeProfileError::TooManyNames { retry_after })
    }

    /// Claims what the username of an account looks like, and gives back what an earlier name of it looked
    /// like, where that was not done when the name was taken: by an older binary. For who follows the book.
    pub async fn claim_lookalikes(&self, id: UserId) -> Result<(), StorageError> {
        let loaded = self.store().load::<UserAggregate>(&id.to_string()).await?;
        let account = self.describe(id, &loaded.aggregate.0).await?;
        let looks = if account.username.is_empty() {
            Vec::new()
        } else {
            self.keyring().lookalike_indexes(&account.username)
        };
        self.store().claim_lookalikes::<UserAggregate>(id, loaded.sequence(), &looks).await
    }
}
