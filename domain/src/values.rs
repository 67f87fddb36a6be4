//! Values parsed once at the edge and right from then on: e-mail, username, full name, password.
//!
//! None of them prints itself: they are personal data or secrets, and reach events sealed.

use std::fmt;

use email_address::{EmailAddress, Options};
use unicode_normalization::UnicodeNormalization;
use zeroize::ZeroizeOnDrop;

use crate::characters;

/// Why a value was refused. The texts are for the person who typed it, and never repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("this is not an e-mail address; it should look like name@example.org")]
    Email,
    #[error("a username has 3 to 50 characters")]
    UsernameLength,
    #[error("a username has letters and digits, and inside it also . _ and -")]
    UsernameCharacters,
    #[error("a username does not mix letters of different scripts")]
    UsernameScripts,
    #[error("a full name has at most 200 characters")]
    FullNameLength,
    #[error(
        "a full name has no control characters, and none that cannot be seen or that turn the direction of the text"
    )]
    FullNameCharacters,
    #[error("a password has at least 8 characters")]
    PasswordTooShort,
    #[error("a password has at most 1,024 characters")]
    PasswordTooLong,
    #[error("a password has no NUL character")]
    PasswordNul,
}

macro_rules! personal_text {
    ($name:ident) => {
        impl $name {
            /// As the person wrote it (NFC, surrounding white space removed).
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

/// The form under which identifiers are compared: NFKC, lower case.
///
/// Lower-casing can undo normalisation (and the reverse), so it is done until nothing changes,
/// twice at most for any Unicode text.
fn folded(text: &str) -> String {
    let once: String = text.nfkc().collect::<String>().to_lowercase();
    once.nfkc().collect::<String>().to_lowercase()
}

/// An e-mail address (RFC 5321 and 6531, no quoted local part, no domain literal).
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);
personal_text!(Email);

impl Email {
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text: String = text.trim().nfc().collect();
        let options = Options::default().without_display_text().without_domain_literal();
        let sound = text.len() <= 254
            && !text.chars().any(|c| {
                c.is_control() || c.is_whitespace() || c == '"' || characters::is_unseen(c)
            })
            && EmailAddress::parse_with_options(&text, options).is_ok();
        if sound { Ok(Self(text)) } else { Err(InvalidValue::Email) }
    }

    /// The form under which it is unique.
    #[must_use]
    pub fn folded(&self) -> String {
        folded(&self.0)
    }
}

/// A username: 3 to 50 letters and digits of one script, with `.`, `_` and `-` inside.
///
/// The characters are those of the General Security Profile for identifiers (UTS 39, section 3.1), the
/// restriction level is Single Script (section 5.2), and the marks on one letter are bounded (section 5.4).
/// Names that were stored before this rule stay readable and can sign in: nothing that is stored is parsed
/// as a `Username` again.
#[derive(Clone, PartialEq, Eq)]
pub struct Username(String);
personal_text!(Username);

impl Username {
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text: String = text.trim().nfkc().collect();
        if !(3..=50).contains(&text.chars().count()) {
            return Err(InvalidValue::UsernameLength);
        }
        let outer = |c: Option<char>| c.is_some_and(|c| !matches!(c, '.' | '-'));
        if !text.chars().all(characters::is_in_usernames)
            || text.chars().next().is_some_and(characters::is_mark)
            || !outer(text.chars().next())
            || !outer(text.chars().next_back())
            || characters::has_piled_marks(&text)
        {
            return Err(InvalidValue::UsernameCharacters);
        }
        if !characters::is_of_one_script(&text) {
            return Err(InvalidValue::UsernameScripts);
        }
        Ok(Self(text))
    }

    /// The form under which it is unique.
    #[must_use]
    pub fn folded(&self) -> String {
        folded(&self.0)
    }

    /// What it looks like, as one text or two: names that have one of these in common can be taken for
    /// each other, and no two accounts have such names.
    #[must_use]
    pub fn lookalikes(&self) -> Vec<String> {
        lookalikes(&self.0)
    }
}

/// The looks of a name (UTS 39, section 4): as it is written, where `I` looks like `l`, and in lower case,
/// where it looks like `i`. Case is no difference between usernames, so it is taken from both skeletons; that
/// can bring out new look-alikes, so the skeleton is made once more.
///
/// For any text, so that a name that was stored before a rule came has its looks, too.
#[must_use]
pub fn lookalikes(username: &str) -> Vec<String> {
    let looks = |text: &str| characters::skeleton(&folded(&characters::skeleton(text)));
    let mut all = vec![looks(username), looks(&folded(username))];
    all.sort();
    all.dedup();
    all
}

/// What somebody typed to sign in with: an e-mail address or a username, or neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Identifier(String);
personal_text!(Identifier);

impl Identifier {
    /// The longest text taken for an identifier, in bytes: an e-mail address has 254 at most.
    pub const MAX_BYTES: usize = 320;

    /// Bounds what was typed; a text that can be no identifier is simply unknown.
    #[must_use]
    pub fn typed(text: &str) -> Self {
        let mut text: String = text.trim().nfc().filter(|c| *c != '\0').collect();
        let mut end = text.len().min(Self::MAX_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self(text)
    }

    /// Usernames have no `@`, so the two kinds can't be confused.
    #[must_use]
    pub fn kind(&self) -> IdentifierKind {
        if self.0.contains('@') { IdentifierKind::Email } else { IdentifierKind::Username }
    }

    #[must_use]
    pub fn folded(&self) -> String {
        folded(&self.0)
    }
}

/// The two kinds of identifiers; each is a name space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdentifierKind {
    Email,
    Username,
}

impl IdentifierKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Username => "username",
        }
    }
}

/// A full name: 1 to 200 characters of any scripts, of which something can be seen and nothing turns the
/// direction of the text around it.
#[derive(Clone, PartialEq, Eq)]
pub struct FullName(String);
personal_text!(FullName);

impl FullName {
    /// An empty text is no name: `Ok(None)`.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidValue> {
        let text: String = text.trim().nfc().collect();
        if text.is_empty() {
            return Ok(None);
        }
        if text.chars().count() > 200 {
            return Err(InvalidValue::FullNameLength);
        }
        if !characters::is_sound_text(&text) {
            return Err(InvalidValue::FullNameCharacters);
        }
        Ok(Some(Self(text)))
    }
}

/// A password, normalised (NFKC, NIST SP 800-63B section 5.1.1.2), never trimmed or cut.
///
/// The characters are counted as typed: 8 to 1,024 Unicode scalar values. Its memory is wiped when it
/// goes.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Password(String);

impl Password {
    pub const MIN_CHARS: usize = 8;
    pub const MAX_CHARS: usize = 1024;

    /// A password that somebody chooses.
    pub fn choose(typed: &str) -> Result<Self, InvalidValue> {
        if typed.chars().count() < Self::MIN_CHARS {
            return Err(InvalidValue::PasswordTooShort);
        }
        Self::present(typed)
    }

    /// A password that somebody presents: only bounded, so that a short one is wrong and not
    /// malformed.
    pub fn present(typed: &str) -> Result<Self, InvalidValue> {
        if typed.chars().count() > Self::MAX_CHARS {
            return Err(InvalidValue::PasswordTooLong);
        }
        if typed.contains('\0') {
            return Err(InvalidValue::PasswordNul);
        }
        Ok(Self(typed.nfkc().collect()))
    }

    /// The bytes to hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_compared_without_case_and_width() {
        assert_eq!(Email::parse(" Ada@Example.ORG ").unwrap().folded(), "ada@example.org");
        assert_eq!(Username::parse("Ａｄａ_1").unwrap().folded(), "ada_1");
        assert_eq!(Identifier::typed("STRASSE").folded(), "strasse");
    }

    #[test]
    fn folding_twice_changes_nothing_more() {
        for c in (0..=0x10_FFFF_u32).filter_map(char::from_u32) {
            let once = folded(&c.to_string());
            assert_eq!(folded(&once), once, "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn what_is_no_email_is_refused() {
        for text in [
            "",
            "a",
            "a@",
            "@b",
            "a b@c.org",
            "a@b@c",
            "\"a b\"@c.org",
            "Ada <a@b.org>",
            "a@[127.0.0.1]",
            "a\0@b.org",
        ] {
            assert_eq!(Email::parse(text), Err(InvalidValue::Email), "{text:?}");
        }
        assert!(Email::parse("ada+tag@mail.example.org").is_ok());
        assert!(Email::parse("ádá@exämple.org").is_ok());
        assert!(Email::parse("admin@localhost").is_ok());
    }

    #[test]
    fn usernames_have_bounds_and_one_script() {
        assert_eq!(Username::parse("ab"), Err(InvalidValue::UsernameLength));
        assert_eq!(Username::parse(&"a".repeat(51)), Err(InvalidValue::UsernameLength));
        assert_eq!(Username::parse("a@b.org"), Err(InvalidValue::UsernameCharacters));
        assert_eq!(Username::parse(".ada"), Err(InvalidValue::UsernameCharacters));
        assert_eq!(Username::parse("a da"), Err(InvalidValue::UsernameCharacters));
        assert_eq!(Username::parse("аdmin"), Err(InvalidValue::UsernameScripts), "a Cyrillic а");
        for good in ["ada", "ada.lovelace", "ada_l-1", "Жанна", "名前太郎", &"a".repeat(50)]
        {
            assert!(Username::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn passwords_are_counted_in_characters_and_never_trimmed() {
        assert!(Password::choose("пароль78").is_ok());
        assert_eq!(Password::choose("1234567").unwrap_err(), InvalidValue::PasswordTooShort);
        assert_eq!(Password::choose(&"x".repeat(1025)).unwrap_err(), InvalidValue::PasswordTooLong);
        assert!(Password::choose(&"é".repeat(1024)).is_ok());
        assert_eq!(Password::choose("  eight  ").unwrap().as_bytes(), b"  eight  ");
        assert_eq!(Password::choose("ﬁne words").unwrap().as_bytes(), b"fine words");
        assert_eq!(Password::choose("with\0 a NUL").unwrap_err(), InvalidValue::PasswordNul);
    }

    #[test]
    fn nothing_personal_prints_itself() {
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            Email::parse("ada@example.org"),
            Username::parse("ada"),
            FullName::parse("Ada"),
            Password::choose("ada ada ada")
        );
        assert!(!shown.to_lowercase().contains("ada"), "{shown}");
    }
}
