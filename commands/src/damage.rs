//! What of the sealed data was changed in the database, and can't be read.
//!
//! One such value must not keep the rest from being shown, nor a person from being erased. So whoever
//! shows values shows [`DAMAGED`] in its place, and the log is told once of each. What is wrong with the
//! book as a whole is for `entrybook audit verify` to say.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::keyring::KeyringError;

/// What is shown in place of a value that can't be read. No username can be that.
pub const DAMAGED: &str = "unreadable (damaged)";

/// Of so many it is remembered that the log was told.
const TOLD: usize = 1_000;

#[derive(Default)]
pub(crate) struct Damage(Mutex<HashSet<String>>);

impl Damage {
    /// Whether a value or its key is damaged. Any other failure is one of the whole service.
    pub(crate) fn is(&self, error: &KeyringError) -> bool {
        match error {
            KeyringError::DamagedKey { .. }
            | KeyringError::Tampered { .. }
            | KeyringError::NotSealed { .. } => {}
            KeyringError::WrongMasterKey { .. }
            | KeyringError::MissingServiceKeys { .. }
            | KeyringError::NotMigrated
            | KeyringError::MovedBoundary
            | KeyringError::MonthIsForgotten { .. }
            | KeyringError::ForeignPermit
            | KeyringError::Database(_) => return false,
        }
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD {
            told.clear();
        }
        let text = error.to_string();
        if !told.contains(&text) {
            tracing::error!("{text}");
            told.insert(text);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_once_and_not_for_ever_remembered() {
        let damage = Damage::default();
        let of = |place: usize| KeyringError::Tampered { place: place.to_string() };
        assert!(damage.is(&of(0)) && damage.is(&of(0)));
        assert_eq!(damage.0.lock().unwrap().len(), 1);
        for place in 0..3 * TOLD {
            assert!(damage.is(&of(place)));
        }
        assert!(damage.0.lock().unwrap().len() <= TOLD);
        assert!(!damage.is(&KeyringError::Database(sqlx::Error::PoolClosed)));
    }
}
