//! Retiring the keys that sign access tokens: what they signed is refused from then on, by every replica within a second.
//!
//! The event decides, not the table: whoever reads the keys asks the book whether one was retired, so nothing that is written
//! to `signing_keys` afterwards brings a key back. Replicas that run hear of it as they hear of sessions that ended.
//! Nobody is signed out: refresh tokens are opaque and not signed by these keys.

use std::collections::BTreeSet;

use domain::stream;

use crate::{Entrybook, Origin, StorageError, service_events::ServiceCommand, tokens::TokensError};

/// Which signing keys are to be retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that there are, and a new one signs.
    All,
    /// Those with these ids.
    Only(BTreeSet<String>),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredKeys {
    /// The ids of the keys that were retired now.
    pub retired: Vec<String>,
    /// The key that was made in their place, where the one that signed was among them.
    pub made: Option<String>,
}

/// Why no key was retired.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    #[error("there is no signing key {kid}; those that are accepted are {}", .present.join(", "))]
    Unknown { kid: String, present: Vec<String> },
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Entrybook {
    /// Retires signing keys. Of those that were retired before nothing is written again, so whatever breaks it off,
    /// doing it once more goes on.
    pub async fn retire_signing_keys(
        &self,
        which: &Which,
        origin: &Origin,
    ) -> Result<RetiredKeys, RetireError> {
        let keys = self.tokens().signing_keys().await?;
        if let Which::Only(kids) = which
            && let Some(kid) = kids.iter().find(|kid| !keys.iter().any(|key| key.kid == **kid))
        {
            let present = keys.iter().filter(|key| key.is_accepted).map(|key| key.kid.clone());
            return Err(RetireError::Unknown { kid: kid.clone(), present: present.collect() });
        }
        let is_chosen = |kid: &String| match which {
            Which::All => true,
            Which::Only(kids) => kids.contains(kid),
        };
        let chosen: Vec<_> =
            keys.iter().filter(|key| !key.is_retired && is_chosen(&key.kid)).collect();
        // First, so that there is always a key that signs. One that is to sign later is no help now.
        let made = if chosen.iter().any(|key| key.signs) {
            Some(self.tokens().make_key_at_once().await?)
        } else {
            None
        };
        let mut retired = Vec::with_capacity(chosen.len());
        for key in chosen {
            let command = ServiceCommand::RetireSigningKey(key.kid.clone());
            self.service(&stream::of_signing_key(&key.kid), command, origin).await?;
            self.tokens().retire(&key.kid).await;
            retired.push(key.kid.clone());
        }
        Ok(RetiredKeys { retired, made })
    }
}
