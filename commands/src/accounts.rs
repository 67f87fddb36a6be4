//! Accounts: registering, changing, disabling them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{
    Email, FullName, GuardSubject, Identifier, IdentifierKind, Index, Kept, Password, Registration,
    Role, Roles, SealedIdentifier, SignInMethod, User, UserId, UserRefusal, Username,
};

use crate::{
    DeviceToken, Entrybook, ExecuteError, Executed, GuardCommand, Origin, Receipt, SignedIn,
    StorageError, UserAggregate, UserCommand,
    error::hashing,
    executor::Order,
    keyring::PersonKey,
    origin::{By, Network},
    service::count,
    sign_in::{Claim, Proof, Unproved},
    throttle::NoMore,
};

/// An account with its personal data in the clear, for who may see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub id: UserId,
    pub version: u64,
    /// Empty once the person's key is destroyed, and so are the others.
    pub email: String,
    pub username: String,
    pub full_name: Option<String>,
    pub roles: Roles,
    pub disabled: bool,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a person brings to register.
#[derive(Debug, Clone)]
pub struct NewAccount {
    pub email: Email,
    pub username: Username,
    pub full_name: Option<FullName>,
    pub password: Password,
    pub roles: Roles,
}

/// A password that was changed.
#[derive(Debug)]
pub struct PasswordChanged {
    pub receipt: Receipt,
    /// For the browser that it was changed in: the one of before is void now.
    pub device: DeviceToken,
}

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("this {} is already taken", .0.as_str())]
    IdentifierTaken(IdentifierKind),
    #[error("too many accounts were registered from this address")]
    TooMany { retry_after: Duration },
    #[error("too many people are signing in at this moment")]
    Overloaded,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a password was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangePasswordError {
    #[error("the current password is wrong")]
    WrongPassword,
    #[error("too many failed attempts")]
    Throttled { retry_after: Duration },
    #[error("there is no such account")]
    NotFound,
    #[error("this account is disabled")]
    Disabled,
    /// The session that asks had ended before.
    #[error("this session has ended")]
    SessionOver,
    #[error("too many people are signing in at this moment")]
    Overloaded,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<Unproved> for ChangePasswordError {
    fn from(unproved: Unproved) -> Self {
        match unproved {
            Unproved::Throttled { retry_after } => Self::Throttled { retry_after },
            Unproved::Overloaded => Self::Overloaded,
            Unproved::Erased => Self::NotFound,
            Unproved::Storage(error) => Self::Storage(error),
        }
    }
}

/// Why another command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("there is no such account or session")]
    NotFound,
    #[error(transparent)]
    Refused(UserRefusal),
    #[error("too many people are signing in at this moment")]
    Overloaded,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ExecuteError<UserRefusal>> for CommandError {
    fn from(error: ExecuteError<UserRefusal>) -> Self {
        match error {
            ExecuteError::Refused(UserRefusal::NotRegistered) => Self::NotFound,
            ExecuteError::Refused(refusal) => Self::Refused(refusal),
            ExecuteError::Storage(error) => Self::Storage(error),
        }
    }
}

fn place(id: UserId, field: &str) -> String {
    format!("User/{id}/{field}")
}

/// Where the sealed password hash stands.
pub(crate) fn password_place(id: UserId) -> String {
    place(id, "password")
}

impl Entrybook {
    /// Registers a person and opens their first session.
    ///
    /// Two commits: an account whose session could not be opened is a whole account, and its owner
    /// signs in.
    pub async fn register(
        &self,
        new: NewAccount,
        remember_me: bool,
        origin: &Origin,
    ) -> Result<SignedIn, RegisterError> {
        self.ask_for_names(origin)
            .await
            .map_err(|retry_after| RegisterError::TooMany { retry_after })?;
        let (account, _) = self.create_account(new, origin).await?;
        let person = self.person(account.id).await?;
        let origin = origin.with(By::User(account.id));
        let device = self.device_token(account.id, &User::default());
        let mut signed_in = self
            .start_session(account, &person, SignInMethod::Registration, remember_me, &origin)
            .await?;
        signed_in.device = Some(device);
        Ok(signed_in)
    }

    /// Counts that names are asked for from where a request comes, whether or not they are taken: either answer tells. If
    /// there were too many, how long to wait.
    pub(crate) async fn ask_for_names(&self, origin: &Origin) -> Result<(), Duration> {
        let now = self.clock().now();
        let networks = origin.networks();
        let Err((network, no_more)) = self.registrations().take(&networks, now) else {
            return Ok(());
        };
        if no_more.is_news {
            self.post_no_more_registrations(network, no_more, origin, now).await;
        }
        Err((no_more.until - now).to_std().unwrap_or_default())
    }

    /// Posts that an address registers no more accounts for a while. Who is refused is refused
    /// whether or not that can be written down.
    async fn post_no_more_registrations(
        &self,
        network: &Network,
        no_more: NoMore,
        origin: &Origin,
        at: DateTime<Utc>,
    ) {
        let NoMore { made: accounts, until, is_news: _ } = no_more;
        let posted = async {
            let Some(subject) = self.guard_of(network).await? else { return Ok(()) };
            let stream_id = subject.stream_id();
            let command = GuardCommand::ThrottleRegistrations { subject, accounts, at, until };
            self.guard(&stream_id, command, None, origin, at).await.map(drop)
        };
        if let Err(error) = posted.await {
            tracing::warn!(
                "it could not be posted that an address registers no more accounts: {error}"
            );
            self.registrations().is_untold(network);
        }
    }

    /// Makes an account: one commit with its identifiers and its key, or nothing at all.
    pub async fn create_account(
        &self,
        new: NewAccount,
        origin: &Origin,
    ) -> Result<(Account, Receipt), RegisterError> {
        let id = self.ids().user();
        let (person, key) = self.keyring().new_person(id);
        let email = self.seal_email(id, &person, &new.email);
        let username = self.seal_username(id, &person, &new.username);
        // A name that is taken is refused before any work is spent on it, and who asks for one that
        // is being taken waits for the answer, e-mail before username, so that nobody waits in a
        // circle. The commit finds out about those that another replica takes in this moment.
        let _email_turn = self.names().take(&email.index.0).await;
        let _username_turn = self.names().take(&username.index.0).await;
        let lookalikes = self.keyring().lookalike_indexes(new.username.as_str());
        let mut _looks_turns = Vec::new();
        for look in &lookalikes {
            _looks_turns.push(self.names().take(&look.0).await);
        }
        for (kind, identifier) in
            [(IdentifierKind::Email, &email), (IdentifierKind::Username, &username)]
        {
            if self.store().find(kind, &identifier.index).await?.is_some() {
                return Err(RegisterError::IdentifierTaken(kind));
            }
        }
        if self.store().find_lookalike(&lookalikes).await?.is_some() {
            return Err(RegisterError::IdentifierTaken(IdentifierKind::Username));
        }
        let hash =
            self.hasher().hash(new.password).await.map_err(hashing(RegisterError::Overloaded))?;
        let facts = Registration {
            email,
            username,
            full_name: self.seal_full_name(id, &person, new.full_name.as_ref()),
            password: self.keyring().seal(&person, &password_place(id), hash.as_bytes()),
            roles: new.roles,
        };
        let origin =
            if origin.by == By::Anonymous { origin.with(By::User(id)) } else { origin.clone() };
        let stream_id = id.to_string();
        let order = Order {
            stream_id: &stream_id,
            origin: &origin,
            person: Some(&person),
            new_key: Some(&key),
            at: self.clock().now(),
        };
        let command = UserCommand::Register(facts);
        match self.execute_named::<UserAggregate>(order, Some(lookalikes), command, &()).await {
            Ok(Executed { aggregate, receipt, .. }) => {
                count(&self.counters().registrations);
                let account = Account {
                    id,
                    version: aggregate.0.version,
                    email: new.email.as_str().to_owned(),
                    username: new.username.as_str().to_owned(),
                    full_name: new.full_name.map(|name| name.as_str().to_owned()),
                    roles: aggregate.0.roles,
                    disabled: false,
                };
                Ok((account, receipt.unwrap_or(Receipt { tx: 0, event_id: 0 })))
            }
            Err(ExecuteError::Refused(UserRefusal::IdentifierTaken(kind))) => {
                Err(RegisterError::IdentifierTaken(kind))
            }
            // The id is new, so only a broken random source can make this happen.
            Err(ExecuteError::Refused(refusal)) => {
                Err(RegisterError::Storage(StorageError::Unreadable {
                    stream: format!("User {id}"),
                    cause: refusal.to_string(),
                }))
            }
            Err(ExecuteError::Storage(error)) => Err(error.into()),
        }
    }

    /// An account with its personal data in the clear, folded from its stream: never behind.
    pub async fn account(&self, id: UserId) -> Result<Option<Account>, StorageError> {
        let user = self.user(id).await?;
        if user.profile.is_none() {
            return Ok(None);
        }
        Ok(Some(self.describe(id, &user).await?))
    }

    /// The account that holds an e-mail address or a username.
    pub async fn find_account(
        &self,
        identifier: &Identifier,
    ) -> Result<Option<UserId>, StorageError> {
        let index = self.keyring().index(identifier.kind(), &identifier.folded());
        let Some(id) = self.store().find(identifier.kind(), &index).await? else { return Ok(None) };
        let user = self.user(id).await?;
        Ok(self.still_holds(id, &user, identifier).then_some(id))
    }

    /// Whether the account that the table of identifiers names holds this one by its own events. The table alone
    /// is not believed: a row that was changed would lead to somebody else's account.
    pub(crate) fn still_holds(&self, id: UserId, user: &User, identifier: &Identifier) -> bool {
        let Some(profile) = &user.profile else {
            // Erased, as whoever asks finds out, or none at all.
            return user.erased;
        };
        let held = match identifier.kind() {
            IdentifierKind::Email => &profile.email.index,
            IdentifierKind::Username => &profile.username.index,
        };
        let holds = *held == self.keyring().index(identifier.kind(), &identifier.folded());
        if !holds {
            tracing::error!(
                user = %id,
                "an identifier of the kind {} leads to the account {id}, whose events do not claim it: it was given up in this \
                 moment, or its row of the table identifiers was changed; `entrybook projections verify` names such rows",
                identifier.kind().as_str()
            );
        }
        holds
    }

    /// Changes the password of who knows the present one. It ends every session but `session`. The
    /// proofs are throttled apart from sign-ins to the account, so that somebody who guesses at the
    /// front door doesn't stand in the way; only a throttle of the person's own address does.
    pub async fn change_password(
        &self,
        id: UserId,
        session: Option<Kept>,
        current: Password,
        new: Password,
        origin: &Origin,
    ) -> Result<PasswordChanged, ChangePasswordError> {
        let subject = GuardSubject::Reauthentication(id);
        let person = self.keyring().person(id).await.map_err(StorageError::from)?;
        let Some(person) = person else { return Err(ChangePasswordError::NotFound) };
        // Twice: a rehash may come in between the proof and the change.
        for _ in 0..2 {
            let user = self.user(id).await?;
            let Ok(profile) = user.registered() else { return Err(ChangePasswordError::NotFound) };
            if user.disabled {
                return Err(ChangePasswordError::Disabled);
            }
            let claim = Claim {
                subject: subject.clone(),
                account: Some((id, &user)),
                typed: None,
                password: current.clone(),
                lane: None,
                origin,
            };
            if let Proof::Wrong = self.prove(claim).await? {
                return Err(ChangePasswordError::WrongPassword);
            }
            // Only who has proved themselves is worth the work.
            let hash = self.hasher().hash(new.clone()).await;
            let hash = hash.map_err(hashing(ChangePasswordError::Overloaded))?;
            let password = self.keyring().seal(&person, &password_place(id), hash.as_bytes());
            let command = UserCommand::ChangePassword {
                proved: Some(profile.password.clone()),
                password,
                kept: session,
            };
            match self.command_user(id, command, &person, origin).await {
                Ok(done) => {
                    self.clear_failures(subject, &person, origin).await?;
                    return Ok(PasswordChanged {
                        receipt: done.receipt.unwrap_or(Receipt { tx: 0, event_id: 0 }),
                        device: self.device_token(id, &done.aggregate.0),
                    });
                }
                Err(ExecuteError::Refused(UserRefusal::PasswordChangedMeanwhile)) => {}
                Err(ExecuteError::Refused(UserRefusal::Disabled)) => {
                    return Err(ChangePasswordError::Disabled);
                }
                Err(ExecuteError::Refused(UserRefusal::SessionOver)) => {
                    return Err(ChangePasswordError::SessionOver);
                }
                Err(ExecuteError::Refused(_)) => return Err(ChangePasswordError::NotFound),
                Err(ExecuteError::Storage(error)) => return Err(error.into()),
            }
        }
        Err(ChangePasswordError::WrongPassword)
    }

    /// Sets a password without knowing the present one: for operators. It ends every session.
    pub async fn reset_password(
        &self,
        id: UserId,
        new: Password,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        let person = self.known_person(id).await?;
        let hash = self.hasher().hash(new).await.map_err(hashing(CommandError::Overloaded))?;
        let password = self.keyring().seal(&person, &password_place(id), hash.as_bytes());
        let command = UserCommand::ChangePassword { proved: None, password, kept: None };
        let receipt = self.command_user(id, command, &person, origin).await?.receipt;
        // A person who was locked out by somebody else's guesses gets in with the new password.
        self.clear_failures(GuardSubject::Account(id), &person, origin).await?;
        Ok(receipt)
    }

    pub async fn grant_role(
        &self,
        id: UserId,
        role: Role,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        self.administer(id, UserCommand::GrantRole(role), origin).await
    }

    /// Takes a role away; tokens that are out already lose it at once.
    pub async fn revoke_role(
        &self,
        id: UserId,
        role: Role,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        self.administer(id, UserCommand::RevokeRole(role), origin).await
    }

    /// Disables an account: its sessions are over from this commit on, and their ends are posted
    /// after it ([`domain::EndReason::AccountDisabled`]).
    pub async fn disable(
        &self,
        id: UserId,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        self.administer(id, UserCommand::Disable, origin).await
    }

    /// Enables it again. Sessions that the disabling ended stay ended.
    pub async fn enable(
        &self,
        id: UserId,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        self.administer(id, UserCommand::Enable, origin).await
    }

    pub(crate) async fn administer(
        &self,
        id: UserId,
        command: UserCommand,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        let person = self.known_person(id).await?;
        Ok(self.command_user(id, command, &person, origin).await?.receipt)
    }

    pub(crate) async fn command_user(
        &self,
        id: UserId,
        command: UserCommand,
        person: &PersonKey,
        origin: &Origin,
    ) -> Result<Executed<UserAggregate>, ExecuteError<UserRefusal>> {
        self.name_user(id, command, None, person, origin).await
    }

    /// The same, where it gives the account a username that looks so.
    pub(crate) async fn name_user(
        &self,
        id: UserId,
        command: UserCommand,
        lookalikes: Option<Vec<Index>>,
        person: &PersonKey,
        origin: &Origin,
    ) -> Result<Executed<UserAggregate>, ExecuteError<UserRefusal>> {
        let stream_id = id.to_string();
        let at = self.clock().now();
        let order =
            Order { stream_id: &stream_id, origin, person: Some(person), new_key: None, at };
        let done = self.execute_named::<UserAggregate>(order, lookalikes, command, &()).await?;
        self.announce_user(id, &done.aggregate.0);
        Ok(done)
    }

    /// The key of a person who has an account.
    pub(crate) async fn person(&self, id: UserId) -> Result<PersonKey, StorageError> {
        self.keyring().person(id).await?.ok_or_else(|| StorageError::Unreadable {
            stream: format!("User {id}"),
            cause: "the person's key is gone".to_owned(),
        })
    }

    async fn known_person(&self, id: UserId) -> Result<PersonKey, CommandError> {
        self.keyring().person(id).await.map_err(StorageError::from)?.ok_or(CommandError::NotFound)
    }

    pub(crate) async fn describe(&self, id: UserId, user: &User) -> Result<Account, StorageError> {
        let (mut email, mut username, mut full_name) = (None, None, None);
        if let Some(profile) = &user.profile {
            email = self.open_text(&profile.email.sealed, &place(id, "email")).await?;
            username = self.open_text(&profile.username.sealed, &place(id, "username")).await?;
            if let Some(sealed) = &profile.full_name {
                full_name = self.open_text(sealed, &place(id, "full_name")).await?;
            }
        }
        Ok(Account {
            id,
            version: user.version,
            email: email.unwrap_or_default(),
            username: username.unwrap_or_default(),
            full_name,
            roles: user.roles.clone(),
            disabled: user.disabled,
        })
    }

    pub(crate) fn seal_email(
        &self,
        id: UserId,
        person: &PersonKey,
        email: &Email,
    ) -> SealedIdentifier {
        SealedIdentifier {
            sealed: self.keyring().seal(person, &place(id, "email"), email.as_str().as_bytes()),
            index: self.keyring().index(IdentifierKind::Email, &email.folded()),
        }
    }

    pub(crate) fn seal_username(
        &self,
        id: UserId,
        person: &PersonKey,
        username: &Username,
    ) -> SealedIdentifier {
        SealedIdentifier {
            sealed: self.keyring().seal(
                person,
                &place(id, "username"),
                username.as_str().as_bytes(),
            ),
            index: self.keyring().index(IdentifierKind::Username, &username.folded()),
        }
    }

    pub(crate) fn seal_full_name(
        &self,
        id: UserId,
        person: &PersonKey,
        name: Option<&FullName>,
    ) -> Option<domain::Sealed> {
        name.map(|name| {
            self.keyring().seal(person, &place(id, "full_name"), name.as_str().as_bytes())
        })
    }
}
