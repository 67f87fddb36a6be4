//! Keeping a session, and ending it.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    EndReason, Kept, Refresh, Session, SessionEvent, SessionId, SessionRefusal, User, UserId,
};

use crate::{
    CommandError, Entrybook, ExecuteError, LocalChange, Origin, Receipt, SessionAggregate,
    SessionCommand, SignedIn, StorageError, UserCommand, executor::Order, origin::By,
    service::count,
};

/// Why a refresh token gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error("this is not a refresh token of ours")]
    Invalid,
    #[error("the session has ended")]
    Ended(EndReason),
    #[error("the refresh token was used before, so its session was ended; sign in again")]
    Reused,
    #[error("the refresh token was used too many times at once")]
    TooManyInGrace,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A session that a refresh token proves to be live.
#[derive(Debug, Clone)]
pub struct LiveSession {
    pub session_id: SessionId,
    pub user_id: UserId,
    pub user: User,
    pub remember_me: bool,
    pub expires_at: DateTime<Utc>,
}

impl Entrybook {
    pub(crate) fn refresh_lifetime(&self, remember_me: bool) -> TimeDelta {
        if remember_me {
            self.settings().remember_lifetime
        } else {
            self.settings().refresh_lifetime
        }
    }

    /// When a session that started then is over, however often it is refreshed. Sessions that were started
    /// before there was this bound have it too, and a bound that is lowered holds for all.
    pub(crate) fn session_ends_at(&self, started_at: DateTime<Utc>) -> DateTime<Utc> {
        started_at
            .checked_add_signed(self.settings().session_lifetime)
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Spends a refresh token for a new pair.
    pub async fn refresh(&self, token: &str, origin: &Origin) -> Result<SignedIn, RefreshError> {
        let (session_id, presented) =
            self.tokens().read_refresh(token).map_err(|_| RefreshError::Invalid)?;
        let session = self.session(session_id).await?;
        let (user_id, remember_me, user_version, ends_at) = match &session.started {
            Some(started) => (
                started.user_id,
                started.remember_me,
                started.user_version,
                self.session_ends_at(started.at),
            ),
            None => return Err(RefreshError::Invalid),
        };
        let origin = origin.with(By::User(user_id));
        let user = self.user(user_id).await?;
        let at = self.clock().now();
        if let Err(SessionRefusal::Ended(reason)) = session.live(at) {
            return Err(RefreshError::Ended(reason));
        }
        if !user.keeps(session_id, user_version) {
            let reason = cut_reason(&user);
            self.end(user_id, session_id, reason, &origin).await?;
            return Err(RefreshError::Ended(reason));
        }
        if at >= ends_at {
            let lifetime = self.settings().session_lifetime;
            let command = SessionCommand::EndOutlived { lifetime, at };
            self.end_by(user_id, session_id, command, at, &origin).await?;
            return Err(RefreshError::Ended(EndReason::Expired));
        }
        let account = self.describe(user_id, &user).await?;
        let person = self.keyring().person(user_id).await.map_err(StorageError::from)?;
        let Some(person) = person else {
            return Err(RefreshError::Ended(EndReason::AccountErased));
        };
        let (refresh, next) = self.tokens().issue_refresh(session_id);
        let refresh_expires_at = ends_at.min(at + self.refresh_lifetime(remember_me));
        let grace = self.settings().refresh_grace;
        let facts = Refresh { presented, next, at, expires_at: refresh_expires_at, grace };
        let stream_id = session_id.to_string();
        let order = Order {
            stream_id: &stream_id,
            origin: &origin,
            person: Some(&person),
            new_key: None,
            at,
        };
        let done = self
            .execute::<SessionAggregate>(order, SessionCommand::Refresh(facts), &())
            .await
            .map_err(|error| match error {
                ExecuteError::Storage(error) => RefreshError::Storage(error),
                ExecuteError::Refused(SessionRefusal::Ended(reason)) => RefreshError::Ended(reason),
                ExecuteError::Refused(SessionRefusal::TooManyInGrace) => {
                    RefreshError::TooManyInGrace
                }
                ExecuteError::Refused(
                    SessionRefusal::AlreadyStarted
                    | SessionRefusal::NothingProved
                    | SessionRefusal::NotStarted,
                ) => RefreshError::Invalid,
            })?;
        if done.events.iter().any(|event| matches!(event, SessionEvent::Ended { .. })) {
            count(&self.counters().token_reuses);
            self.announce(LocalChange::SessionEnded { session: session_id, user: user_id });
            return Err(RefreshError::Reused);
        }
        count(&self.counters().refreshes);
        let access = self
            .tokens()
            .sign_until(user_id, session_id, user.version, &user.roles, ends_at)
            .map_err(StorageError::from)?;
        Ok(SignedIn {
            account,
            session_id,
            access,
            refresh,
            refresh_expires_at,
            remember_me,
            device: None,
            receipt: done.receipt.unwrap_or(Receipt { tx: 0, event_id: 0 }),
        })
    }

    /// The live session that a refresh token belongs to. Looking is not using: the token stays good.
    pub async fn session_of_refresh(&self, token: &str) -> Result<LiveSession, RefreshError> {
        let (session_id, presented) =
            self.tokens().read_refresh(token).map_err(|_| RefreshError::Invalid)?;
        let session = self.session(session_id).await?;
        let at = self.clock().now();
        let started = session.live(at).map_err(|refusal| match refusal {
            SessionRefusal::Ended(reason) => RefreshError::Ended(reason),
            _ => RefreshError::Invalid,
        })?;
        if at >= self.session_ends_at(started.at) {
            return Err(RefreshError::Ended(EndReason::Expired));
        }
        if !session.accepts(&presented, at) {
            return Err(RefreshError::Invalid);
        }
        let user = self.user(started.user_id).await?;
        if !user.keeps(session_id, started.user_version) {
            return Err(RefreshError::Ended(cut_reason(&user)));
        }
        Ok(LiveSession {
            session_id,
            user_id: started.user_id,
            remember_me: started.remember_me,
            expires_at: started.expires_at,
            user,
        })
    }

    /// Signs out the session of a refresh token. A token that is not ours has nothing to end.
    pub async fn sign_out_by_token(
        &self,
        token: &str,
        origin: &Origin,
    ) -> Result<Option<Receipt>, StorageError> {
        let Ok((session_id, _)) = self.tokens().read_refresh(token) else { return Ok(None) };
        let session = self.session(session_id).await?;
        let Some(started) = session.started else { return Ok(None) };
        let origin = origin.with(By::User(started.user_id));
        self.end(started.user_id, session_id, EndReason::SignedOut, &origin).await
    }

    /// Ends one session of `owner`; of anybody else's there is nothing to say. Ending it again
    /// changes nothing.
    pub async fn end_session(
        &self,
        owner: UserId,
        session_id: SessionId,
        reason: EndReason,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        let session = self.session(session_id).await?;
        match session.started {
            Some(started) if started.user_id == owner => {
                Ok(self.end(owner, session_id, reason, origin).await?)
            }
            _ => Err(CommandError::NotFound),
        }
    }

    /// Ends several sessions of `owner`, each in a commit of its own; the receipt is the last one's.
    pub async fn end_sessions(
        &self,
        owner: UserId,
        sessions: &[SessionId],
        reason: EndReason,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        let mut last = None;
        for session in sessions {
            last = last.max(self.end_session(owner, *session, reason, origin).await?);
        }
        Ok(last)
    }

    /// Ends all sessions of `owner` but one, whether or not any read table shows them: tokens and
    /// refreshes are refused from this commit on, and the ends are posted after it.
    pub async fn end_other_sessions(
        &self,
        owner: UserId,
        kept: Kept,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        self.administer(owner, UserCommand::EndSessions { kept: Some(kept) }, origin).await
    }

    /// The state of a session, folded from its stream.
    pub async fn session(&self, id: SessionId) -> Result<Session, StorageError> {
        Ok(self.store().load::<SessionAggregate>(&id.to_string()).await?.aggregate.0)
    }

    async fn end(
        &self,
        owner: UserId,
        session_id: SessionId,
        reason: EndReason,
        origin: &Origin,
    ) -> Result<Option<Receipt>, StorageError> {
        let at = self.clock().now();
        self.end_by(owner, session_id, SessionCommand::End { reason, at }, at, origin).await
    }

    async fn end_by(
        &self,
        owner: UserId,
        session_id: SessionId,
        command: SessionCommand,
        at: DateTime<Utc>,
        origin: &Origin,
    ) -> Result<Option<Receipt>, StorageError> {
        // Of somebody who is erased there is no key; their sessions end as well.
        let person = self.keyring().person(owner).await?;
        let stream_id = session_id.to_string();
        let person = person.as_ref();
        let order = Order { stream_id: &stream_id, origin, person, new_key: None, at };
        let ended = match self.execute::<SessionAggregate>(order, command, &()).await {
            Ok(executed) => executed.receipt,
            Err(ExecuteError::Refused(_)) => None,
            Err(ExecuteError::Storage(error)) => return Err(error),
        };
        self.announce(LocalChange::SessionEnded { session: session_id, user: owner });
        Ok(ended)
    }
}

/// Why an account keeps a session no more.
fn cut_reason(user: &User) -> EndReason {
    match user.cut {
        Some(cut) if user.erased || !user.disabled => cut.reason,
        _ => EndReason::AccountDisabled,
    }
}
