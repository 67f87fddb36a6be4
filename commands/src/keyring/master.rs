//! The master key: the one secret that is not in the database. It wraps every other key, and does
//! nothing else.

use std::fmt;

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use zeroize::Zeroizing;

use super::primitives::{self, KEY_BYTES, KeyBytes, NotAuthentic};
use crate::clock::Entropy;

/// Padded or not: both are in use.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// The key that wraps all other keys: 32 random bytes.
pub struct MasterKey {
    bytes: KeyBytes,
    id: String,
}

/// The master key that wraps, and the one beside it while keys are wrapped anew: either opens.
pub struct MasterKeys {
    current: MasterKey,
    other: Option<MasterKey>,
}

impl MasterKeys {
    /// `other` opens what it has wrapped, and wraps nothing.
    #[must_use]
    pub fn new(current: MasterKey, other: Option<MasterKey>) -> Self {
        let other = other.filter(|other| other.id() != current.id());
        Self { current, other }
    }

    /// The id of the one that wraps.
    #[must_use]
    pub fn id(&self) -> &str {
        self.current.id()
    }

    pub(super) fn current(&self) -> &MasterKey {
        &self.current
    }

    /// The one of this id, if it was given.
    pub(super) fn of(&self, id: &str) -> Option<&MasterKey> {
        [Some(&self.current), self.other.as_ref()].into_iter().flatten().find(|key| key.id() == id)
    }

    /// The ids of what was given, the lesser first; twice the same where it is one.
    pub(super) fn in_order(&self) -> (&str, &str) {
        let current = self.current.id();
        let other = self.other.as_ref().map_or(current, MasterKey::id);
        if current <= other { (current, other) } else { (other, current) }
    }

    /// What was given, for messages.
    pub(super) fn ids(&self) -> String {
        match &self.other {
            Some(other) => format!("{} and {}", self.current.id(), other.id()),
            None => self.current.id().to_owned(),
        }
    }
}

impl From<MasterKey> for MasterKeys {
    fn from(key: MasterKey) -> Self {
        Self::new(key, None)
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.current, f)
    }
}

/// The text is no master key. The texts never repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMasterKey {
    #[error(
        "the master key is 32 random bytes, written as 43 or 44 characters of base64 or as 64 \
         hexadecimal digits, and this text of {characters} characters is neither; make one with \
         `openssl rand -base64 32`"
    )]
    Shape { characters: usize },
    #[error(
        "the master key is one byte repeated, so it is a placeholder and no secret; make one with \
         `openssl rand -base64 32`"
    )]
    Placeholder,
}

impl MasterKey {
    /// Reads base64 (standard or URL-safe, padded or not) or hexadecimal digits of 32 bytes.
    /// White space around it is ignored: files end in a line feed.
    pub fn parse(text: &str) -> Result<Self, InvalidMasterKey> {
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY_BYTES { from_hex(text) } else { from_base64(text) }
            .ok_or(InvalidMasterKey::Shape { characters: text.chars().count() })?;
        match bytes.first() {
            Some(first) if bytes.iter().all(|byte| byte == first) => {
                Err(InvalidMasterKey::Placeholder)
            }
            _ => Ok(Self::new(bytes)),
        }
    }

    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self::new(primitives::random_key(entropy))
    }

    fn new(bytes: KeyBytes) -> Self {
        let fingerprint = primitives::derive(bytes.as_slice(), &["entrybook/master-key-id/v1"]);
        let id = primitives::hex(fingerprint.first_chunk::<4>().unwrap_or(&[0; 4]));
        Self { bytes, id }
    }

    /// The text to keep: URL-safe base64, 43 characters. [`Self::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(general_purpose::URL_SAFE_NO_PAD.encode(self.bytes.as_slice()))
    }

    /// Eight hexadecimal digits to tell keys apart by, in messages and rows. Derived by HKDF: it
    /// gives nothing away.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn wrap(&self, entropy: &dyn Entropy, id: &str, plain: &[u8]) -> Vec<u8> {
        primitives::encrypt(&self.wrapping_key(), entropy, id.as_bytes(), plain)
    }

    pub(super) fn open(
        &self,
        id: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        primitives::decrypt(&self.wrapping_key(), id.as_bytes(), wrapped)
    }

    fn wrapping_key(&self) -> KeyBytes {
        primitives::derive(self.bytes.as_slice(), &["entrybook/wrap/v1"])
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}, …)", self.id)
    }
}

fn from_base64(text: &str) -> Option<KeyBytes> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    // One character of base64 is six bits: bound the text before reading it.
    if text.len() > 44 {
        return None;
    }
    let decoded = Zeroizing::new(GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()?);
    let bytes: &[u8; KEY_BYTES] = decoded.as_slice().try_into().ok()?;
    Some(Zeroizing::new(*bytes))
}

fn from_hex(text: &str) -> Option<KeyBytes> {
    let mut bytes = KeyBytes::default();
    let mut digits = text.chars().map(|digit| digit.to_digit(16));
    for byte in bytes.iter_mut() {
        *byte = u8::try_from(digits.next()?? * 16 + digits.next()??).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    const HEX: &str = "fbff00112233445566778899aabbccddeeff00112233445566778899aabbccdd";
    const STANDARD_TEXT: &str = "+/8AESIzRFVmd4iZqrvM3e7/ABEiM0RVZneImaq7zN0=";
    const URL_TEXT: &str = "-_8AESIzRFVmd4iZqrvM3e7_ABEiM0RVZneImaq7zN0";

    #[test]
    fn every_common_spelling_of_one_key_is_read() {
        let key = MasterKey::parse(HEX).unwrap();
        for text in [
            HEX.to_uppercase(),
            STANDARD_TEXT.to_owned(),
            STANDARD_TEXT.trim_end_matches('=').to_owned(),
            URL_TEXT.to_owned(),
            format!("{URL_TEXT}="),
            format!("  {URL_TEXT}\r\n"),
        ] {
            assert_eq!(MasterKey::parse(&text).unwrap().id(), key.id(), "{text}");
        }
        assert_eq!(key.to_text().as_str(), URL_TEXT);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for text in
            ["", "secret", &HEX[1..], &format!("{}é", &HEX[2..]), &"A".repeat(42), &"g".repeat(64)]
        {
            let refusal = MasterKey::parse(text).unwrap_err();
            assert_eq!(refusal, InvalidMasterKey::Shape { characters: text.chars().count() });
            assert!(text.is_empty() || !refusal.to_string().contains(&format!("`{text}`")));
        }
        assert_eq!(MasterKey::parse(&"A".repeat(43)).unwrap_err(), InvalidMasterKey::Placeholder);
        assert_eq!(MasterKey::parse(&"0".repeat(64)).unwrap_err(), InvalidMasterKey::Placeholder);
    }

    #[test]
    fn a_generated_key_is_read_back_and_never_printed() {
        let key = MasterKey::generate(&SeededEntropy::new(1));
        let text = key.to_text();
        assert_eq!(MasterKey::parse(&text).unwrap().id(), key.id());
        assert_eq!(format!("{key:?}"), format!("MasterKey({}, …)", key.id()));
        assert_eq!(key.id().len(), 8);
        assert!(!text.contains(key.id()));
    }
}
