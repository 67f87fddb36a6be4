//! Devices that signed in before: what gets a person past the throttle that somebody else has brought upon their account.
//!
//! After a right password a browser is given a token of its own, and brings it along at the next sign-in. Who has the
//! token of the account that they sign in to has a **lane** of their own: neither the throttle of the account nor that of
//! the network turns them away, and their failures are counted for this one device. When it has failed as often as is
//! free for an account, the lane is closed for as long as failures are remembered, and the device is a stranger like any
//! other. So a stolen token is worth a few guesses in a day. Each right password makes a new token, and the older one keeps
//! the count of its failures, so that an owner who signs in gives a thief nothing back. (OWASP, "Slow Down Online Guessing
//! Attacks with Device Cookies".)
//!
//! A token is `ebd_` and base64url of `random (16 bytes) ‖ last day (4) ‖ MAC (16)`. The MAC is over the account and its last
//! cut as well, neither of which is in the token: whoever reads a token learns neither whose it is nor whether two are of one
//! account, and changing the password, ending all other sessions, disabling and erasing make it void. It is no proof of who
//! somebody is, and opens nothing.
//!
//! An account that there is not costs the same: the MAC is made and the guard of a device is loaded whether or not the token
//! is one of the account. What a token tells, to who has it and has throttled an account from elsewhere, is whether it is of
//! that account: it was given to a browser that somebody had signed in with.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{SignInGuard, ThrottlePolicy, User, UserId};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    Entrybook, GuardAggregate, StorageError,
    clock::Entropy,
    keyring::{Keyring, primitives},
};

/// How long a token is good for: the longest that browsers keep a cookie (RFC 6265bis, 5.6.2).
pub const DEVICE_LIFETIME: TimeDelta = TimeDelta::days(400);
const PREFIX: &str = "ebd_";
const RANDOM_BYTES: usize = 16;
const DAY_BYTES: usize = 4;
const MAC_BYTES: usize = 16;
const SIGNED_BYTES: usize = RANDOM_BYTES + DAY_BYTES;
const BYTES: usize = SIGNED_BYTES + MAC_BYTES;
/// 36 bytes are 48 characters of base64, with none to spare: there is one spelling.
const CHARACTERS: usize = PREFIX.len() + 48;

/// What a browser is given after a right password. It prints itself nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceToken(Zeroizing<String>);

impl DeviceToken {
    /// The text, for the browser that signed in and for nobody else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceToken(…)")
    }
}

/// The lane that a token asks for.
pub(crate) struct Lane {
    /// The stream of its guard.
    pub(crate) stream_id: String,
    /// Whether the token is one of the account, and of now.
    is_good: bool,
}

fn day_of(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp().div_euclid(86_400)).unwrap_or_default()
}

fn tag(secret: &[u8; 32], account: Account, signed: &[u8]) -> [u8; MAC_BYTES] {
    let Account { id, cut } = account;
    let parts: [&[u8]; 4] = [b"entrybook/device/v1\0", id.0.as_bytes(), &cut.to_be_bytes(), signed];
    let tag = primitives::mac(secret, &parts);
    *tag.first_chunk().unwrap_or(&[0; MAC_BYTES])
}

/// What a token is bound to.
#[derive(Clone, Copy)]
struct Account {
    id: UserId,
    /// The version of the account at its last cut.
    cut: u64,
}

impl Account {
    fn of(id: UserId, user: &User) -> Self {
        Self { id, cut: user.cut.map_or(0, |cut| cut.version) }
    }
}

fn issue(
    secret: &[u8; 32],
    entropy: &dyn Entropy,
    account: Account,
    now: DateTime<Utc>,
) -> DeviceToken {
    let mut bytes = [0; BYTES];
    let (signed, mac) = bytes.split_at_mut(SIGNED_BYTES);
    let (random, day) = signed.split_at_mut(RANDOM_BYTES);
    entropy.fill(random);
    day.copy_from_slice(&day_of(now + DEVICE_LIFETIME).to_be_bytes());
    mac.copy_from_slice(&tag(secret, account, signed));
    let mut text = Zeroizing::new(String::with_capacity(CHARACTERS));
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
    DeviceToken(text)
}

/// A token that has the form of one.
#[derive(Clone, Copy)]
struct Presented([u8; BYTES]);

impl Presented {
    fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix(PREFIX).filter(|_| text.len() == CHARACTERS)?;
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (length == BYTES).then_some(Self(bytes))
    }

    /// The random part, and whether the token is one of the account that still holds.
    fn check(&self, secret: &[u8; 32], account: Account, now: DateTime<Utc>) -> (&[u8], bool) {
        let (signed, mac) = self.0.split_at(SIGNED_BYTES);
        let (random, day) = signed.split_at(RANDOM_BYTES);
        let is_authentic = bool::from(tag(secret, account, signed).ct_eq(mac));
        let last = day.first_chunk().map_or(0, |day| u32::from_be_bytes(*day));
        (random, is_authentic && day_of(now) <= last)
    }
}

/// Failures of a device throttle nobody: past those that are free, it is a stranger.
pub(crate) fn lane_policy(throttle: &ThrottlePolicy) -> ThrottlePolicy {
    ThrottlePolicy { free_failures: u32::MAX, ..*throttle }
}

fn secret(keyring: &Keyring) -> Zeroizing<[u8; 32]> {
    keyring.service_secret("device")
}

impl Entrybook {
    /// The token for a browser that has just proved the password of this account, as it was then.
    pub(crate) fn device_token(&self, id: UserId, user: &User) -> DeviceToken {
        let account = Account::of(id, user);
        issue(&secret(self.keyring()), self.entropy(), account, self.clock().now())
    }

    /// The lane that a token asks for; nothing for what has not the form of one.
    pub(crate) fn lane(&self, token: &str, id: UserId, user: &User) -> Option<Lane> {
        let presented = Presented::read(token)?;
        let account = Account::of(id, user);
        let now = self.clock().now();
        let (random, is_good) = presented.check(&secret(self.keyring()), account, now);
        let index = self.keyring().device_index(id, random);
        Some(Lane { stream_id: format!("device:{}", index.0), is_good })
    }

    /// Whether a lane is open: a good token, and a device that has not failed too often of late.
    pub(crate) async fn is_open(&self, lane: &Lane) -> Result<bool, StorageError> {
        let guard: SignInGuard =
            self.store().load::<GuardAggregate>(&lane.stream_id).await?.aggregate.0;
        let policy = &self.settings().throttle;
        let now = self.clock().now();
        let remembered = guard.last_failure.is_some_and(|at| now - at < policy.forgotten_after);
        Ok(lane.is_good && !(remembered && guard.failures >= policy.free_failures.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::clock::SeededEntropy;

    const SECRET: [u8; 32] = [7; 32];

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000, 0).unwrap() + TimeDelta::days(days)
    }

    fn account(id: u128, cut: u64) -> Account {
        Account { id: UserId(Uuid::from_u128(id)), cut }
    }

    fn issued() -> String {
        issue(&SECRET, &SeededEntropy::new(1), account(1, 4), at(0)).expose().to_owned()
    }

    fn is_good(text: &str, secret: &[u8; 32], account: Account, now: DateTime<Utc>) -> bool {
        Presented::read(text).is_some_and(|presented| presented.check(secret, account, now).1)
    }

    #[test]
    fn a_token_is_good_for_its_account_until_its_day_and_the_next_cut() {
        let text = issued();
        assert_eq!(text.len(), CHARACTERS);
        assert!(is_good(&text, &SECRET, account(1, 4), at(0)));
        assert!(is_good(&text, &SECRET, account(1, 4), at(400)), "its last day");
        assert!(!is_good(&text, &SECRET, account(1, 4), at(401)), "it has expired");
        assert!(!is_good(&text, &SECRET, account(1, 9), at(0)), "after a cut");
        assert!(!is_good(&text, &SECRET, account(2, 4), at(0)), "another account");
        assert!(!is_good(&text, &[8; 32], account(1, 4), at(0)), "another service");
    }

    #[test]
    fn no_changed_character_goes_unnoticed() {
        let text = issued();
        for at_character in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at_character] = if changed[at_character] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!is_good(&changed, &SECRET, account(1, 4), at(0)), "{at_character}");
        }
    }

    #[test]
    fn a_token_is_never_printed_and_tells_nothing_of_its_account() {
        let token = issue(&SECRET, &SeededEntropy::new(2), account(1, 4), at(0));
        assert_eq!(format!("{token:?}"), "DeviceToken(…)");
        let bytes = URL_SAFE_NO_PAD.decode(&token.expose()[PREFIX.len()..]).unwrap();
        let id = Uuid::from_u128(1);
        assert!(!bytes.windows(4).any(|four| id.as_bytes().windows(4).any(|own| own == four)));
        // Of one account and one day, two have the day alone in common.
        let other = issue(&SECRET, &SeededEntropy::new(3), account(1, 4), at(0));
        let other = URL_SAFE_NO_PAD.decode(&other.expose()[PREFIX.len()..]).unwrap();
        assert_ne!(bytes[..RANDOM_BYTES], other[..RANDOM_BYTES]);
        assert_ne!(bytes[SIGNED_BYTES..], other[SIGNED_BYTES..]);
    }

    proptest! {
        #[test]
        fn anything_may_come_and_is_not_good(text in "(ebd_)?[A-Za-z0-9_-]{0,60}|\\PC{0,60}") {
            prop_assert!(!is_good(&text, &SECRET, account(1, 4), at(0)));
        }
    }
}
