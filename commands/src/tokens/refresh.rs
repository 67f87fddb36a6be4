//! Refresh tokens: `ebr_` and base64url of `session (16 bytes) ‖ random (32) ‖ MAC (16)`.
//!
//! The random part alone makes a token unguessable. The MAC makes it provable, without the database,
//! that a token was made here: with a session's id and garbage nobody gets a session ended as
//! "token reused".

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::{SessionId, TokenHash};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::TokenProblem;
use crate::{clock::Entropy, keyring::primitives};

/// Names the kind, for whoever finds one in a log: it is a secret of Entrybook.
const PREFIX: &str = "ebr_";
const SESSION_BYTES: usize = 16;
const RANDOM_BYTES: usize = 32;
const MAC_BYTES: usize = 16;
const BYTES: usize = SESSION_BYTES + RANDOM_BYTES + MAC_BYTES;
/// 64 bytes are 86 characters of base64.
const CHARACTERS: usize = PREFIX.len() + 86;

/// A refresh token. It prints itself nowhere; [`Self::expose`] gives the text to its holder.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken(Zeroizing<String>);

impl RefreshToken {
    /// The text, for the response to its holder and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

pub(super) fn issue(
    secret: &[u8; 32],
    entropy: &dyn Entropy,
    session: SessionId,
) -> (RefreshToken, TokenHash) {
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    entropy.fill(random.as_mut_slice());
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
    bytes.extend_from_slice(session.0.as_bytes());
    bytes.extend_from_slice(random.as_slice());
    let tag = tag(secret, &bytes);
    bytes.extend_from_slice(&tag);
    let mut text = Zeroizing::new(String::with_capacity(CHARACTERS));
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
    let hash = hash(&text);
    (RefreshToken(text), hash)
}

pub(super) fn read(secret: &[u8; 32], token: &str) -> Result<(SessionId, TokenHash), TokenProblem> {
    if token.len() != CHARACTERS {
        return Err(TokenProblem::Malformed);
    }
    let text = token.strip_prefix(PREFIX).ok_or(TokenProblem::Malformed)?;
    let mut bytes = Zeroizing::new([0; BYTES]);
    // Strict: there is one text for the bytes, or a token could be spent once for each spelling.
    let length = URL_SAFE_NO_PAD
        .decode_slice(text, bytes.as_mut_slice())
        .map_err(|_| TokenProblem::Malformed)?;
    let (signed, presented) =
        bytes.split_last_chunk::<MAC_BYTES>().ok_or(TokenProblem::Malformed)?;
    let session = signed.first_chunk::<SESSION_BYTES>().ok_or(TokenProblem::Malformed)?;
    if length != BYTES {
        return Err(TokenProblem::Malformed);
    }
    if !bool::from(tag(secret, signed).ct_eq(presented)) {
        return Err(TokenProblem::BadSignature);
    }
    Ok((SessionId(Uuid::from_bytes(*session)), hash(token)))
}

fn tag(secret: &[u8; 32], signed: &[u8]) -> [u8; MAC_BYTES] {
    let tag = primitives::mac(secret, &[b"entrybook/refresh/v1\0", signed]);
    *tag.first_chunk().unwrap_or(&[0; MAC_BYTES])
}

fn hash(token: &str) -> TokenHash {
    TokenHash(primitives::hex(&Sha256::digest(token)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SeededEntropy;

    const SECRET: [u8; 32] = [7; 32];

    fn issued() -> (SessionId, String, TokenHash) {
        let session = SessionId(Uuid::from_u128(42));
        let (token, hash) = issue(&SECRET, &SeededEntropy::new(1), session);
        (session, token.expose().to_owned(), hash)
    }

    #[test]
    fn a_token_is_read_back_and_never_printed() {
        let (session, text, hash) = issued();
        assert_eq!(text.len(), CHARACTERS);
        assert_eq!(read(&SECRET, &text), Ok((session, hash.clone())));
        assert_eq!(hash.0.len(), 64);
        let (token, other) = issue(&SECRET, &SeededEntropy::new(2), session);
        assert_ne!(other, hash);
        assert_eq!(format!("{token:?}"), "RefreshToken(…)");
    }

    #[test]
    fn no_changed_character_goes_unnoticed() {
        let (_, text, _) = issued();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(read(&SECRET, &changed).is_err(), "{at}");
        }
        assert_eq!(read(&[8; 32], &text), Err(TokenProblem::BadSignature));
    }

    /// The last character has four bits to spare: only one of sixteen spellings may be read.
    #[test]
    fn there_is_one_spelling() {
        let (_, text, _) = issued();
        let alphabet = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']);
        let read = alphabet
            .filter(|last| read(&SECRET, &format!("{}{last}", &text[..text.len() - 1])).is_ok())
            .count();
        assert_eq!(read, 1);
        for other in
            [format!("{text}="), format!("{text} "), format!(" {text}"), text.replace("ebr", "EBR")]
        {
            assert_eq!(super::read(&SECRET, &other), Err(TokenProblem::Malformed));
        }
    }

    #[test]
    fn a_session_and_garbage_make_no_token() {
        let (session, ..) = issued();
        let mut forged = session.0.as_bytes().to_vec();
        forged.resize(BYTES, 0x55);
        let forged = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(forged));
        assert_eq!(read(&SECRET, &forged), Err(TokenProblem::BadSignature));
    }

    proptest! {
        #[test]
        fn any_text_is_refused(text in any::<String>(), like in "ebr_[A-Za-z0-9_-]{86}") {
            prop_assert!(read(&SECRET, &text).is_err());
            prop_assert!(read(&SECRET, &like).is_err());
        }
    }
}
