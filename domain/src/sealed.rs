//! Personal data as events hold it: ciphertext, and keyed hashes to look it up by.
//!
//! This module knows the shapes alone. Sealing and opening need keys, and live in `commands`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One personal value, encrypted: `s1.<key>.<base64url(nonce ‖ ciphertext)>`.
///
/// `<key>` names the key that opens it (`p:<user>`, `m:<month>`, or both), so that a reader needs
/// nothing but the value and where it stood.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

/// HMAC-SHA-256 of a normalised identifier under the index key, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub String);

/// An identifier (e-mail or username): sealed to be shown, keyed-hashed to be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedIdentifier {
    pub sealed: Sealed,
    pub index: Index,
}

/// SHA-256 of a refresh token, as 64 hexadecimal digits. The token has 256 random bits, so a bare
/// hash gives nothing away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(pub String);
