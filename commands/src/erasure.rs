//! Erasing a person: what is theirs can't be read again by anybody, and the history stays whole.
//!
//! One commit holds all of it: the event `UserErased`, the end of their key, their identifiers given
//! back, their snapshot dropped. Everything else that is theirs is sealed under that key: in events, in
//! read tables, wherever it was copied. The event cuts their sessions as a disabled account does; the
//! ends are posted after it.
//!
//! What races with it loses: a command that was decided before finds another event in its place, and is
//! refused when it is decided anew. One that only seals under the key (a sign-in, a refresh) may still
//! be written, and nobody can read what it sealed.

use std::sync::atomic::Ordering;

use cqrs_es::Aggregate as _;
use domain::{IdentifierKind, Index, User, UserId};

use crate::{
    CommandError, Entrybook, ExecuteError, Origin, Receipt, StorageError, UserAggregate,
    executor::ATTEMPTS,
    keyring::Keyring,
    store::{AppendError, Loaded, Stream},
};

impl Entrybook {
    /// Erases a person. Nothing, where they were erased before: then what was broken off is finished.
    pub async fn erase(
        &self,
        id: UserId,
        origin: &Origin,
    ) -> Result<Option<Receipt>, CommandError> {
        let stream_id = id.to_string();
        for attempt in 0..ATTEMPTS {
            let mut loaded = self.store().load::<UserAggregate>(&stream_id).await?;
            let held = held(&loaded.aggregate.0);
            let decided = loaded.aggregate.0.erase().map_err(ExecuteError::Refused)?;
            let Some(event) = decided.into_iter().next() else {
                self.finish_erasure(id).await?;
                return Ok(None);
            };
            let key = Keyring::person_key_id(id);
            match self.append_destroying(&loaded, &event, &key, &held, origin).await {
                Ok(receipt) => {
                    self.keyring().forget(id);
                    loaded.aggregate.apply(event);
                    self.announce_user(id, &loaded.aggregate.0);
                    return Ok(Some(receipt));
                }
                Err(AppendError::Conflict) => self.pause(attempt).await,
                Err(AppendError::Taken(_)) => return Err(StorageError::Contended.into()),
                Err(AppendError::Storage(error)) => return Err(error.into()),
            }
        }
        Err(StorageError::Contended.into())
    }

    /// Appends an event that destroys a key, and the end of the key with it.
    pub(crate) async fn append_destroying<A: Stream>(
        &self,
        loaded: &Loaded<A>,
        event: &A::Event,
        key: &str,
        held: &[(IdentifierKind, Index)],
        origin: &Origin,
    ) -> Result<Receipt, AppendError> {
        let (stream, at) = ((A::TYPE, loaded.id()), self.clock().now());
        let metadata = origin.seal(self.keyring(), stream, None, at).await;
        let metadata = metadata.map_err(StorageError::from)?;
        let done = self.store().append_destroying(loaded, event, key, held, &metadata).await;
        match &done {
            Ok(_) => {
                self.counters().appends.fetch_add(1, Ordering::Relaxed);
                self.appended().notify_one();
            }
            Err(AppendError::Conflict) => {
                self.counters().conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Err(AppendError::Taken(_) | AppendError::Storage(_)) => {}
        }
        done
    }

    /// Destroys what the book says is erased, and is still there: a part of a backup that was brought
    /// back, or an event that another program has written. For who follows the book.
    pub async fn finish_erasure(&self, id: UserId) -> Result<(), StorageError> {
        if self.user(id).await?.erased && self.keyring().has_person(id).await? {
            tracing::warn!(
                user = %id,
                "{id} was erased, and their key was there again; it is destroyed once more"
            );
            self.store().clear_erased::<UserAggregate>(&id.to_string()).await?;
            self.keyring().destroy_person(id).await?;
        }
        // Whoever sealed with it a moment ago may have remembered it here.
        self.keyring().forget(id);
        Ok(())
    }
}

/// The identifiers that an account holds.
fn held(user: &User) -> Vec<(IdentifierKind, Index)> {
    user.profile.iter().fold(Vec::new(), |mut held, profile| {
        held.push((IdentifierKind::Email, profile.email.index.clone()));
        held.push((IdentifierKind::Username, profile.username.index.clone()));
        held
    })
}
