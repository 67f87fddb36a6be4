//! The usernames of people, for whoever opens many lines one after the other.
//!
//! What is remembered is the sealed name, of so many people and not for long. It is opened each time: who
//! is erased has no name from the moment on in which the keyring forgets their key.

use std::{collections::HashMap, time::Instant};

use commands::{
    Entrybook, StorageError,
    keyring::{KeyringError, REMEMBERED},
};
use domain::{Sealed, UserId, stream};
use futures_util::{StreamExt, TryStreamExt, stream::iter};

/// So many names are remembered.
const MOST: usize = 10_000;
/// People that are looked up side by side.
const LOOKUPS: usize = 4;

#[derive(Default)]
pub(crate) struct Names(HashMap<UserId, Known>);

struct Known {
    username: Option<Sealed>,
    since: Instant,
}

impl Names {
    /// Looks up those of these people whom it doesn't know. To be done before their names are told.
    pub(crate) async fn look_up(
        &mut self,
        book: &Entrybook,
        people: Vec<UserId>,
    ) -> Result<(), StorageError> {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let is_known =
            |id: &UserId| self.0.get(id).is_some_and(|known| known.since.elapsed() < REMEMBERED);
        let mut unknown: Vec<UserId> = people.into_iter().filter(|id| !is_known(id)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        let found: Vec<(UserId, Known)> = iter(unknown)
            .map(|id| async move {
                let since = Instant::now();
                let user = book.user(id).await?;
                let username = user.profile.map(|profile| profile.username.sealed);
                Ok::<_, StorageError>((id, Known { username, since }))
            })
            .buffer_unordered(LOOKUPS)
            .try_collect()
            .await?;
        self.0.extend(found);
        Ok(())
    }

    /// The username of somebody who was looked up; nothing once they are erased.
    pub(crate) async fn of(
        &self,
        book: &Entrybook,
        id: UserId,
    ) -> Result<Option<String>, KeyringError> {
        match self.0.get(&id).and_then(|known| known.username.as_ref()) {
            Some(sealed) => {
                book.open_text(sealed, &format!("{}/{id}/username", stream::USER)).await
            }
            None => Ok(None),
        }
    }
}
