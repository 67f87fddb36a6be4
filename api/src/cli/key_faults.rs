//! What is wrong with the keys that seal, in words: for `audit verify` and `doctor`.

use projections::destroyed_keys::KeyFault;

/// The kind, for programs, and a sentence.
pub(super) fn told(fault: &KeyFault) -> (&'static str, String) {
    match fault {
        KeyFault::Missing(id) => (
            "key_missing",
            format!(
                "the key {id} is gone, and no event of the book destroys it: what it sealed can't be read. Restore its row of sealing_keys from \
                 a backup, and find out who deleted it"
            ),
        ),
        KeyFault::Returned(id) => (
            "key_returned",
            format!(
                "the key {id} is there, though an event of the book destroys it: what it sealed can be read again. {}",
                match id.strip_prefix("p:") {
                    Some(user) => format!("Run: entrybook users erase {user} --yes"),
                    None => "A server with ENTRYBOOK_RETENTION destroys it again at its start, and once an hour".to_owned(),
                }
            ),
        ),
    }
}
