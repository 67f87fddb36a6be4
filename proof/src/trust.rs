//! Which keys are believed for which sizes of a log: those that were given, and those to which these have handed
//! over.

use signed_note::{StandardVerifier, Verifier};

use crate::{
    Checkpoint, CheckpointError, HandOver,
    checkpoint::{believe, verifiers},
};

/// Keys that are believed, of one log or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    keys: Vec<Trusted>,
}

/// A key, and the sizes of the checkpoints that it may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trusted {
    key: String,
    first: u64,
    /// Nothing until it has handed over.
    last: Option<u64>,
    /// The key that it has handed over to.
    next: Option<String>,
}

/// What following hand-overs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// Those that are believed, in the order in which one key followed the other.
    pub believed: Vec<HandOver>,
    /// The notes of these.
    pub notes: Vec<String>,
    /// Why each of the others is not.
    pub ignored: Vec<String>,
}

impl From<Vec<String>> for Trust {
    /// Trusts these verifier keys without a bound, until they hand over.
    fn from(keys: Vec<String>) -> Self {
        let trusted = |key| Trusted { key, first: 0, last: None, next: None };
        Self { keys: keys.into_iter().map(trusted).collect() }
    }
}

impl Trust {
    /// The verifier keys, those that were given in front.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.keys.iter().map(|trusted| trusted.key.clone()).collect()
    }

    /// The smallest size that a key may sign, if it is trusted.
    #[must_use]
    pub fn first_of(&self, key: &str) -> Option<u64> {
        self.keys.iter().find(|trusted| trusted.key == key).map(|trusted| trusted.first)
    }

    /// Whether a key of this log is trusted.
    #[must_use]
    pub fn knows(&self, origin: &str) -> bool {
        self.keys.iter().any(|trusted| trusted.key.split('+').next() == Some(origin))
    }

    /// Believes the hand-overs of keys that are trusted, and of those that are then. Their order matters where one
    /// key has signed two that differ: the first of them counts, and the other is ignored.
    pub fn follow<'a>(&mut self, notes: impl IntoIterator<Item = &'a str>) -> Followed {
        let mut followed = Followed::default();
        let mut waiting = Vec::new();
        for note in notes {
            match HandOver::read(note) {
                Ok(says) => waiting.push((note, says)),
                Err(error) => followed.ignored.push(error.to_string()),
            }
        }
        loop {
            let before = waiting.len();
            waiting.retain(|(note, says)| {
                let Some(old) = self.keys.iter().position(|trusted| says.is_of(&trusted.key))
                else {
                    return true;
                };
                match self.take(old, note) {
                    Ok(true) => {
                        followed.believed.push(says.clone());
                        followed.notes.push((*note).to_owned());
                    }
                    Ok(false) => {}
                    Err(why) => {
                        followed.ignored.push(format!("the hand-over to {}: {why}", says.key));
                    }
                }
                false
            });
            if waiting.len() == before {
                break;
            }
        }
        followed.ignored.extend(waiting.into_iter().map(|(_, says)| {
            format!(
                "the hand-over to {}: the key {} that it is said to be by is not trusted",
                says.key, says.old_id
            )
        }));
        followed
    }

    /// Believes one, if it is right; `false` where it says what is known.
    fn take(&mut self, old: usize, note: &str) -> Result<bool, String> {
        let Some(from) = self.keys.get(old).cloned() else { return Ok(false) };
        let says = HandOver::verify(note, &from.key).map_err(|error| error.to_string())?;
        if let Some(next) = &from.next {
            return if *next == says.key {
                Ok(false)
            } else {
                Err(format!("the key {} had handed over to {next} before", says.old_id))
            };
        }
        if says.first < from.first {
            return Err(format!(
                "it begins at {}, and the key {} itself at {}",
                says.first, says.old_id, from.first
            ));
        }
        match self.keys.iter_mut().find(|trusted| trusted.key == says.key) {
            Some(known) if known.last.is_some() || known.first > 0 => {
                return Err("that key was handed over to before, or has handed over itself".into());
            }
            Some(known) => known.first = says.first,
            None => self.keys.push(Trusted {
                key: says.key.clone(),
                first: says.first,
                last: None,
                next: None,
            }),
        }
        if let Some(from) = self.keys.get_mut(old) {
            from.last = Some(says.last);
            from.next = Some(says.key);
        }
        Ok(true)
    }

    /// The key at the end of the chain of hand-overs that begins with this one.
    #[must_use]
    pub fn current(&self, first: &str) -> String {
        let mut key = first;
        // There are no more steps than keys.
        for _ in &self.keys {
            let found = self.keys.iter().find(|trusted| trusted.key == key);
            match found.and_then(|trusted| trusted.next.as_deref()) {
                Some(next) => key = next,
                None => break,
            }
        }
        key.to_owned()
    }

    /// Reads a checkpoint, and believes it if a key has signed it that may sign one of its size.
    pub fn checkpoint(&self, note: &[u8], origin: &str) -> Result<Checkpoint, CheckpointError> {
        let says = Checkpoint::read(note)?;
        let may = |trusted: &&Trusted| {
            says.size >= trusted.first && trusted.last.is_none_or(|last| says.size <= last)
        };
        self.hold(note, origin, says.size, may, |keys| Checkpoint::verify(note, origin, keys))
    }

    /// The text of another note of the log about a book of this size, such as the manifest of an export, if a key
    /// has signed it that had not handed over at an earlier size. Such a note may be younger than the checkpoint, so
    /// it may be by a key that signs larger ones alone.
    pub fn signed(&self, note: &str, origin: &str, size: u64) -> Result<Vec<u8>, CheckpointError> {
        let may = |trusted: &&Trusted| trusted.last.is_none_or(|last| size <= last);
        self.hold(note.as_bytes(), origin, size, may, |keys| {
            let note = believe(note.as_bytes(), &verifiers(origin, keys)?)?;
            Ok(note.text().to_owned())
        })
    }

    fn hold<T>(
        &self,
        note: &[u8],
        origin: &str,
        size: u64,
        may: impl Fn(&&Trusted) -> bool,
        believed: impl Fn(&[String]) -> Result<T, CheckpointError>,
    ) -> Result<T, CheckpointError> {
        let keys: Vec<_> = self.keys.iter().filter(&may).map(|key| key.key.clone()).collect();
        let error = match believed(&keys) {
            Err(error @ CheckpointError::Unsigned) => error,
            other => return other,
        };
        for trusted in self.keys.iter().filter(|trusted| !may(trusted)) {
            let verifiers = verifiers(origin, std::slice::from_ref(&trusted.key))?;
            if believe(note, &verifiers).is_ok() {
                let id = StandardVerifier::new(&trusted.key)
                    .map(|key| format!("{:08x}", key.key_id()))
                    .unwrap_or_default();
                let (first, last) = (trusted.first, trusted.last);
                return Err(CheckpointError::OutOfTurn { id, size, first, last });
            }
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests;
