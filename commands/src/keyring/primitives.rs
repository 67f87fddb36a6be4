//! The three primitives that everything here is made of, each behind one function:
//!
//! - HKDF-SHA-256 (RFC 5869) makes a key for one purpose out of another; no key is used for two.
//! - HMAC-SHA-256 (RFC 2104) makes look-up values and tags.
//! - XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) seals. Its nonce of 24 bytes is drawn at random
//!   for each value, with no counter to keep and none to lose.

use chacha20poly1305::{AeadInOut, KeyInit as _, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::Entropy;

/// Keys are 32 bytes, all of them.
pub(crate) const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// A key, wiped from memory when it is dropped.
pub(crate) type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

/// The authentication tag does not fit: another key, another place, or bytes that were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

pub(crate) fn random_key(entropy: &dyn Entropy) -> KeyBytes {
    let mut key = KeyBytes::default();
    entropy.fill(key.as_mut_slice());
    key
}

/// The key for one purpose out of `secret`: HKDF-SHA-256 without salt, `info` being the parts.
///
/// At most the last part may vary in length, or hold what a caller chose; so two lists of parts
/// never give one `info`.
pub(crate) fn derive(secret: &[u8], info: &[&str]) -> KeyBytes {
    let info: Vec<&[u8]> = info.iter().map(|part| part.as_bytes()).collect();
    let mut key = KeyBytes::default();
    #[expect(clippy::expect_used, reason = "HKDF-SHA-256 gives up to 8,160 bytes; we take 32")]
    Hkdf::<Sha256>::new(None, secret)
        .expand_multi_info(&info, key.as_mut_slice())
        .expect("32 bytes are within HKDF's bounds");
    key
}

/// HMAC-SHA-256 over the parts, one behind the other.
pub(crate) fn mac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `nonce ‖ ciphertext ‖ tag`.
pub(crate) fn encrypt(
    key: &[u8; KEY_BYTES],
    entropy: &dyn Entropy,
    associated: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    let mut nonce = XNonce::default();
    entropy.fill(&mut nonce);
    let mut out = Vec::with_capacity(NONCE_BYTES + plain.len() + TAG_BYTES);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let body = out.get_mut(NONCE_BYTES..).unwrap_or_default();
    #[expect(clippy::expect_used, reason = "it refuses plain texts above 256 GiB only")]
    let tag = XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&nonce, associated, body.into())
        .expect("the plain text is shorter than 256 GiB");
    out.extend_from_slice(&tag);
    out
}

/// What [`encrypt`] was given, if the key and the associated data are the same and no bit changed.
pub(crate) fn decrypt(
    key: &[u8; KEY_BYTES],
    associated: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(NotAuthentic)?;
    let (body, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(NotAuthentic)?;
    let mut plain = Zeroizing::new(body.to_vec());
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), associated, plain.as_mut_slice().into(), tag.into())
        .map_err(|_| NotAuthentic)?;
    Ok(plain)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    /// RFC 5869, appendix A.3: SHA-256 with no salt and no info.
    #[test]
    fn keys_are_derived_as_in_rfc_5869() {
        let key = derive(&[0x0b; 22], &[]);
        assert_eq!(hex(&*key), "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
        assert_eq!(derive(b"k", &["a", "b"]), derive(b"k", &["ab"]), "the parts are joined");
    }

    /// RFC 4231, test case 1, its key of 20 bytes padded with zeros as HMAC itself does.
    #[test]
    fn tags_are_made_as_in_rfc_4231() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        assert_eq!(
            hex(&mac(&key, &[b"Hi ", b"There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn values_are_sealed_as_in_the_xchacha_draft() {
        struct Fixed;
        impl Entropy for Fixed {
            fn fill(&self, bytes: &mut [u8]) {
                for (i, byte) in (0x40..).zip(bytes) {
                    *byte = i;
                }
            }
        }
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + u8::try_from(i).unwrap());
        let associated = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plain: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let sealed = encrypt(&key, &Fixed, &associated, plain);
        assert_eq!(hex(&sealed[24..40]), "bd6d179d3e83d43b9576579493c0e939");
        assert_eq!(hex(&sealed[sealed.len() - 16..]), "c0875924c1c7987947deafd8780acf49");
        assert_eq!(*decrypt(&key, &associated, &sealed).unwrap(), plain);
    }

    #[test]
    fn no_changed_bit_and_no_cut_goes_unnoticed() {
        let entropy = SeededEntropy::new(1);
        let key = random_key(&entropy);
        let sealed = encrypt(&key, &entropy, b"place", b"value");
        assert_eq!(*decrypt(&key, b"place", &sealed).unwrap(), b"value");
        assert_eq!(decrypt(&key, b"other", &sealed), Err(NotAuthentic));
        assert_eq!(decrypt(&random_key(&entropy), b"place", &sealed), Err(NotAuthentic));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decrypt(&key, b"place", &changed), Err(NotAuthentic), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(decrypt(&key, b"place", &sealed[..length]), Err(NotAuthentic));
        }
    }
}
