//! How many exports run at once: each holds a connection to a client for as long as that likes, and the
//! database for a part of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use domain::UserId;

use crate::problem::{ApiError, ApiResult, Kind};

/// Of one person.
const EACH: usize = 2;
/// Of all, on one replica.
const ALL: usize = 16;

/// The exports of this replica that are being sent.
#[derive(Debug, Clone, Default)]
pub struct Exports(Arc<Mutex<HashMap<UserId, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Running {
    exports: Exports,
    user: UserId,
}

impl Exports {
    /// One more, if it may be.
    pub fn start(&self, user: UserId) -> ApiResult<Running> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.values().sum::<usize>() >= ALL {
            return Err(ApiError::overloaded());
        }
        let own = running.entry(user).or_default();
        if *own >= EACH {
            let detail = format!(
                "You have {EACH} exports under way. Let one end, or break it off, then try again."
            );
            return Err(ApiError {
                retry_after: Some(10),
                ..ApiError::new(Kind::TooManyAttempts, detail)
            });
        }
        *own += 1;
        Ok(Running { exports: self.clone(), user })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.exports.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = running.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                running.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u128) -> UserId {
        UserId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn each_person_has_two_and_all_have_a_bound() {
        let exports = Exports::default();
        let first = exports.start(user(1)).unwrap();
        let _second = exports.start(user(1)).unwrap();
        assert_eq!(exports.start(user(1)).unwrap_err().kind, Kind::TooManyAttempts);
        drop(first);
        let _third = exports.start(user(1)).unwrap();
        let others: Vec<_> = (2..16).map(|number| exports.start(user(number)).unwrap()).collect();
        assert_eq!(exports.start(user(99)).unwrap_err().kind, Kind::Overloaded);
        drop(others);
        assert!(exports.start(user(99)).is_ok());
        assert_eq!(exports.0.lock().unwrap().len(), 1, "who has none is forgotten");
    }
}
