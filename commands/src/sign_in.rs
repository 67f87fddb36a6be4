//! Signing in with a password, and what is remembered of those who fail.
//!
//! An unknown identifier costs the same work and gets the same answer as a wrong password: a decoy
//! is hashed, a stream is loaded, a failure is posted.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{
    FailureReason, GuardSubject, Identifier, Kept, Password, SessionId, SignInMethod, Start,
    ThrottlePolicy, User, UserId,
};
use uuid::Uuid;

use crate::{
    Account, DeviceToken, Entrybook, ExecuteError, GuardAggregate, GuardCommand, Origin, Receipt,
    SessionAggregate, SessionCommand, StorageError, UserCommand,
    accounts::password_place,
    admission::Admitted,
    device::Lane,
    error::hashing,
    executor::Order,
    hashing::Verified,
    keyring::{KeyringError, Opened, PersonKey},
    origin::{By, Network},
    service::count,
    throttle::Blocked,
    tokens::{AccessToken, RefreshToken},
};

/// A session that was opened or refreshed, with its tokens.
#[derive(Debug)]
pub struct SignedIn {
    pub account: Account,
    pub session_id: SessionId,
    pub access: AccessToken,
    pub refresh: RefreshToken,
    pub refresh_expires_at: DateTime<Utc>,
    pub remember_me: bool,
    /// For the browser, where a password was proved.
    pub device: Option<DeviceToken>,
    pub receipt: Receipt,
}

impl SignedIn {
    /// This session, where all others of the account are to end.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept { session: self.session_id, version: self.account.version }
    }
}

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// An unknown identifier, a wrong password, or a disabled account: the caller can't tell which.
    #[error("the identifier or the password is wrong")]
    WrongCredentials,
    #[error("too many failed attempts")]
    Throttled { retry_after: Duration },
    #[error("too many people are signing in at this moment")]
    Overloaded,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How a guarded proof of a password came out.
pub(crate) enum Proof {
    Right {
        outdated: bool,
        /// Whether it came by the lane of its device.
        in_lane: bool,
    },
    Wrong,
}

/// Why a proof was not looked at.
pub(crate) enum Unproved {
    Throttled {
        retry_after: Duration,
    },
    Overloaded,
    /// The account's person was erased in this moment.
    Erased,
    Storage(StorageError),
}

impl<E: Into<StorageError>> From<E> for Unproved {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

impl From<Unproved> for SignInError {
    fn from(unproved: Unproved) -> Self {
        match unproved {
            Unproved::Throttled { retry_after } => Self::Throttled { retry_after },
            Unproved::Overloaded => Self::Overloaded,
            Unproved::Erased => Self::WrongCredentials,
            Unproved::Storage(error) => Self::Storage(error),
        }
    }
}

/// A password to be proved, and what to write if it is wrong.
pub(crate) struct Claim<'a> {
    pub(crate) subject: GuardSubject,
    /// The account, where there is one.
    pub(crate) account: Option<(UserId, &'a User)>,
    pub(crate) typed: Option<&'a Identifier>,
    pub(crate) password: Password,
    /// The lane that a device asks for.
    pub(crate) lane: Option<Lane>,
    pub(crate) origin: &'a Origin,
}

/// What somebody brings to sign in.
#[derive(Clone)]
struct Attempt<'a> {
    identifier: &'a Identifier,
    password: Password,
    remember_me: bool,
    device: Option<&'a str>,
    origin: &'a Origin,
}

impl Entrybook {
    /// Signs in with an e-mail address or a username.
    ///
    /// One commit when it succeeds (`SessionStarted`), and one more when failures are to be
    /// cleared or the password rehashed; one commit when it fails.
    pub async fn sign_in(
        &self,
        identifier: &Identifier,
        password: Password,
        remember_me: bool,
        origin: &Origin,
    ) -> Result<SignedIn, SignInError> {
        self.sign_in_with(identifier, password, remember_me, None, origin).await
    }

    /// The same from a browser that may have signed in before: `device` is the text that it keeps as its
    /// [`DeviceToken`].
    pub async fn sign_in_with(
        &self,
        identifier: &Identifier,
        password: Password,
        remember_me: bool,
        device: Option<&str>,
        origin: &Origin,
    ) -> Result<SignedIn, SignInError> {
        let attempt = Attempt { identifier, password, remember_me, device, origin };
        let index = self.keyring().index(identifier.kind(), &identifier.folded());
        let found = self.store().find(identifier.kind(), &index).await?;
        match self.sign_in_as(found, attempt.clone()).await? {
            Some(signed_in) => Ok(signed_in),
            // Whose name it was is erased, in this moment: now it is nobody's.
            None => {
                let done = self.sign_in_as(None, attempt).await?;
                done.ok_or(SignInError::WrongCredentials)
            }
        }
    }

    /// Signs in to an account, or to none. Nothing if its person is erased meanwhile.
    async fn sign_in_as(
        &self,
        found: Option<UserId>,
        attempt: Attempt<'_>,
    ) -> Result<Option<SignedIn>, SignInError> {
        let Attempt { identifier, password, remember_me, device, origin } = attempt;
        // A stream is loaded in either case: who is unknown takes no less time.
        let stream = found.unwrap_or(UserId(Uuid::nil()));
        let user = self.user(stream).await?;
        let found = found.filter(|id| self.still_holds(*id, &user, identifier));
        let subject = match found {
            Some(id) => GuardSubject::Account(id),
            None => GuardSubject::Identifier(self.keyring().unknown_index(&identifier.folded())),
        };
        let claim = Claim {
            subject: subject.clone(),
            account: found.map(|id| (id, &user)),
            typed: Some(identifier),
            password: password.clone(),
            lane: device
                .and_then(|token| self.lane(token, found.unwrap_or(UserId(Uuid::nil())), &user)),
            origin,
        };
        let proof = match self.prove(claim).await {
            Err(Unproved::Throttled { retry_after }) => {
                count(&self.counters().sign_ins_throttled);
                return Err(SignInError::Throttled { retry_after });
            }
            Err(Unproved::Erased) => return Ok(None),
            other => other?,
        };
        let (Some(id), Proof::Right { outdated, in_lane }) = (found, proof) else {
            count(&self.counters().sign_ins_failed);
            return Err(SignInError::WrongCredentials);
        };
        let origin = origin.with(By::User(id));
        let person = self.keyring().person(id).await.map_err(StorageError::from)?;
        let Some(person) = person else { return Ok(None) };
        // Who comes by a lane of their own says nothing of those who wait at the front door.
        if !in_lane {
            self.clear_failures(subject, &person, &origin).await?;
        }
        if outdated {
            self.rehash(id, &user, &person, password, &origin).await;
        }
        let account = self.describe(id, &user).await?;
        let mut signed_in = self
            .start_session(account, &person, SignInMethod::Password, remember_me, &origin)
            .await?;
        signed_in.device = Some(self.device_token(id, &user));
        count(&self.counters().sign_ins_succeeded);
        Ok(Some(signed_in))
    }

    /// Looks at one attempt: admitted by its guards, verified on the hash pool, remembered if wrong.
    pub(crate) async fn prove(&self, claim: Claim<'_>) -> Result<Proof, Unproved> {
        let Claim { subject, account, typed, password, lane, origin } = claim;
        let admitted = self.admit(&subject, lane, origin).await?;
        let stored = match account.and_then(|(id, user)| Some((id, user.profile.as_ref()?))) {
            Some((id, profile)) => {
                match self.keyring().open(&profile.password, &password_place(id)).await? {
                    Opened::Plain(hash) => Some(String::from_utf8_lossy(&hash).into_owned()),
                    Opened::Gone => return Err(Unproved::Erased),
                }
            }
            None if account.is_some_and(|(_, user)| user.erased) => return Err(Unproved::Erased),
            None => None,
        };
        let Verified { matches, outdated } =
            self.hasher().verify(password, stored).await.map_err(hashing(Unproved::Overloaded))?;
        let reason = match account {
            None => FailureReason::UnknownIdentifier,
            Some(_) if !matches => FailureReason::WrongPassword,
            Some((_, user)) if user.disabled => FailureReason::AccountDisabled,
            Some((id, _)) => {
                let now = self.clock().now();
                for (network, _) in &admitted.networks {
                    self.address_failures().succeed(network, id, now);
                }
                return Ok(Proof::Right { outdated, in_lane: admitted.is_lane });
            }
        };
        let person = match account {
            Some((id, _)) => Some(self.keyring().person(id).await?.ok_or(Unproved::Erased)?),
            None => None,
        };
        self.remember_failure(&subject, &admitted, person.as_ref(), typed, reason, origin).await?;
        let account = account.map(|(id, _)| id);
        self.count_address_failure(admitted.networks, account, person.as_ref(), origin).await?;
        Ok(Proof::Wrong)
    }

    async fn remember_failure(
        &self,
        subject: &GuardSubject,
        admitted: &Admitted,
        person: Option<&PersonKey>,
        typed: Option<&Identifier>,
        reason: FailureReason,
        origin: &Origin,
    ) -> Result<(), Unproved> {
        let at = self.clock().now();
        let Admitted { stream_id, policy, .. } = admitted;
        // What was typed is kept only where it is nobody's: there it may be a slip of the tongue, or
        // a password in the wrong field, so it goes with its month.
        let identifier = match (person, typed) {
            (None, Some(typed)) => {
                let place = format!("SignInGuard/{stream_id}/identifier");
                match self.keyring().month(at).await {
                    Err(KeyringError::MonthIsForgotten { .. }) => None,
                    month => Some(self.keyring().seal(&*month?, &place, typed.as_str().as_bytes())),
                }
            }
            _ => None,
        };
        let command = GuardCommand::Fail { subject: subject.clone(), reason, identifier, at };
        self.guard_by(policy, stream_id, command, person, origin, at).await?;
        Ok(())
    }

    /// `person` is whose account the last attempt was on: it may be they who failed, so that where from
    /// goes with them.
    async fn count_address_failure(
        &self,
        networks: Vec<(Network, GuardSubject)>,
        account: Option<UserId>,
        person: Option<&PersonKey>,
        origin: &Origin,
    ) -> Result<(), StorageError> {
        let at = self.clock().now();
        // Counted for all of them before any is posted, which may fail.
        let throttles: Vec<_> = networks
            .into_iter()
            .filter_map(|(network, subject)| {
                Some((subject, self.address_failures().count(&network, account, at)?))
            })
            .collect();
        for (subject, (failures, until)) in throttles {
            let stream_id = subject.stream_id();
            let command = GuardCommand::Throttle { subject, failures, at, until };
            self.guard(&stream_id, command, person, origin, at).await?;
        }
        Ok(())
    }

    pub(crate) async fn clear_failures(
        &self,
        subject: GuardSubject,
        person: &PersonKey,
        origin: &Origin,
    ) -> Result<(), StorageError> {
        let at = self.clock().now();
        let stream_id = subject.stream_id();
        self.guard(&stream_id, GuardCommand::Clear { subject, at }, Some(person), origin, at).await
    }

    /// Posts attempts that were turned away as what they are, an act of who made them, and with where
    /// the last one came from. It goes with the person, as that of a failure does.
    pub(crate) async fn post_blocked_on(&self, blocked: Blocked) -> Result<(), StorageError> {
        let Blocked { subject, count, from, to, last } = blocked;
        let person = match subject.user_id() {
            Some(id) => self.keyring().person(id).await?,
            None => None,
        };
        let last = match (subject.user_id(), &person) {
            // Erased meanwhile: nobody's address is kept under a key that stays.
            (Some(_), None) => Origin::system(last.request_id),
            (Some(_), Some(_)) | (None, _) => last,
        };
        let stream_id = subject.stream_id();
        let command = GuardCommand::PostBlocked { subject, count, from, to };
        self.guard(&stream_id, command, person.as_ref(), &last, self.clock().now()).await
    }

    pub(crate) async fn guard(
        &self,
        stream_id: &str,
        command: GuardCommand,
        person: Option<&PersonKey>,
        origin: &Origin,
        at: DateTime<Utc>,
    ) -> Result<(), StorageError> {
        self.guard_by(&self.settings().throttle, stream_id, command, person, origin, at).await
    }

    async fn guard_by(
        &self,
        policy: &ThrottlePolicy,
        stream_id: &str,
        command: GuardCommand,
        person: Option<&PersonKey>,
        origin: &Origin,
        at: DateTime<Utc>,
    ) -> Result<(), StorageError> {
        let order = Order { stream_id, origin, person, new_key: None, at };
        match self.execute::<GuardAggregate>(order, command, policy).await {
            Ok(_) => Ok(()),
            Err(ExecuteError::Refused(never)) => match never {},
            Err(ExecuteError::Storage(error)) => Err(error),
        }
    }

    /// Stores the password under the present parameters. The sign-in doesn't hang on it.
    async fn rehash(
        &self,
        id: UserId,
        user: &User,
        person: &PersonKey,
        password: Password,
        origin: &Origin,
    ) {
        let Some(profile) = &user.profile else { return };
        let Ok(hash) = self.hasher().hash(password).await else { return };
        let to = self.keyring().seal(person, &password_place(id), hash.as_bytes());
        let command = UserCommand::RehashPassword { from: profile.password.clone(), to };
        if let Err(error) = self.command_user(id, command, person, origin).await {
            tracing::warn!(user = %id, "the password of {id} keeps its older parameters: {error}");
        }
    }

    pub(crate) async fn start_session(
        &self,
        account: Account,
        person: &PersonKey,
        method: SignInMethod,
        remember_me: bool,
        origin: &Origin,
    ) -> Result<SignedIn, StorageError> {
        let session_id = self.ids().session();
        let at = self.clock().now();
        let ends_at = self.session_ends_at(at);
        let refresh_expires_at = ends_at.min(at + self.refresh_lifetime(remember_me));
        let (refresh, hash) = self.tokens().issue_refresh(session_id);
        let start = Start {
            user_id: account.id,
            user_version: account.version,
            methods: vec![method],
            refresh: hash,
            remember_me,
            at,
            expires_at: refresh_expires_at,
        };
        let stream_id = session_id.to_string();
        let order =
            Order { stream_id: &stream_id, origin, person: Some(person), new_key: None, at };
        let started = self
            .execute::<SessionAggregate>(order, SessionCommand::Start(start), &())
            .await
            .map_err(|error| match error {
                ExecuteError::Storage(error) => error,
                // The id is new, so only a broken random source can make this happen.
                ExecuteError::Refused(refusal) => StorageError::Unreadable {
                    stream: format!("Session {session_id}"),
                    cause: refusal.to_string(),
                },
            })?;
        let access = self.tokens().sign_until(
            account.id,
            session_id,
            account.version,
            &account.roles,
            ends_at,
        )?;
        Ok(SignedIn {
            session_id,
            access,
            refresh,
            refresh_expires_at,
            remember_me,
            device: None,
            receipt: started.receipt.unwrap_or(Receipt { tx: 0, event_id: 0 }),
            account,
        })
    }
}
