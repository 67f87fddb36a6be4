//! Names that look like another or like nothing, and those of all the world's scripts that must be taken.

use proptest::prelude::*;

use super::{Email, FullName, InvalidValue, Username, lookalikes};

#[test]
fn a_username_holds_no_character_that_cannot_be_seen() {
    for text in [
        "admin\u{34f}",
        "adm\u{34f}in",
        "admin\u{fe0f}",
        "\u{3164}\u{3164}\u{3164}",
        "admin\u{115f}",
        "ad\u{200d}min",
        "ad\u{200c}min",
        "ad\u{ad}min",
        "ad\u{2060}min",
        "ad\u{202e}min",
        "admin\u{e0041}",
        "ad\u{180b}min",
    ] {
        assert_eq!(Username::parse(text), Err(InvalidValue::UsernameCharacters), "{text:?}");
    }
}

#[test]
fn a_username_is_made_of_the_characters_for_identifiers() {
    // Restricted by UTS 39: technical, obsolete, excluded and uncommon ones.
    for text in ["ʘada", "adaꞟ", "𐌀𐌁𐌂", "ⴰⴱⴲ", "ada\u{345}\u{345}", "\u{301}ada"]
    {
        assert!(Username::parse(text).is_err(), "{text:?}");
    }
    assert!(Username::parse("a\u{300}\u{301}\u{302}\u{303}\u{304}da").is_err(), "piled up marks");
}

#[test]
fn usernames_of_all_living_scripts_are_taken() {
    for text in [
        "ada",
        "Łukasz",
        "søren",
        "Zoë",
        "naïve",
        "straße",
        "Жанна",
        "Ελένη",
        "名前太郎",
        "さくら_1",
        "김민준",
        "नरेन्द्र",
        "தமிழ்",
        "محمد",
        "שלמה",
        "สมชาย",
        "ግርማ",
        "Նարեկ",
        "გიორგი",
        "ada.lovelace-1",
    ] {
        assert!(Username::parse(text).is_ok(), "{text:?}: {:?}", Username::parse(text));
    }
}

fn look_alike(one: &str, other: &str) -> bool {
    let other = lookalikes(other);
    lookalikes(one).iter().any(|look| other.contains(look))
}

#[test]
fn names_that_can_be_taken_for_each_other_have_a_look_in_common() {
    for (one, other) in [
        ("paypal", "раураӏ"),
        ("admin", "ADMIN"),
        ("admin1", "adminl"),
        ("admin1", "adminI"),
        ("ada10", "ada1O"),
        ("modern", "modem"),
        ("ivan", "ıvan"),
        ("Ivan", "ıvan"),
        ("Ivan", "lvan"),
        ("АВС", "ABC"),
        ("AВС", "abc"),
        ("scope", "ѕсоре"),
        ("admin", "adm\u{34f}in"),
        ("admin", "admin\u{fe0f}"),
    ] {
        assert!(look_alike(one, other), "{one} {other}");
        assert!(look_alike(other, one), "{other} {one}");
    }
    for (one, other) in
        [("ada", "ben"), ("person-1", "person-10"), ("admin1", "admin2"), ("ada", "ada_")]
    {
        assert!(!look_alike(one, other), "{one} {other}");
    }
}

#[test]
fn an_email_address_holds_no_character_that_cannot_be_seen() {
    for text in [
        "a\u{34f}da@example.org",
        "ada@exam\u{200b}ple.org",
        "ad\u{202e}a@example.org",
        "ada\u{2066}@example.org",
        "ada\u{200f}@example.org",
        "ad\u{ad}a@example.org",
        "ada\u{3164}@example.org",
        "ad\u{a0}a@example.org",
        "ad\u{3000}a@example.org",
        "ada@example\u{2028}.org",
    ] {
        assert_eq!(Email::parse(text), Err(InvalidValue::Email), "{text:?}");
    }
}

#[test]
fn a_full_name_turns_no_text_and_shows_something() {
    for text in [
        "Ada\u{202e}nimda",
        "Ada \u{202a}x",
        "Ada\u{202d}",
        "\u{2066}Ada\u{2069}",
        "Ada\u{200e}x",
        "Ada\u{200f}x",
        "Ada\u{61c}x",
        "Ada\u{9b}31m",
        "Ada\u{7}x",
        "Ada\nAdmin",
        "Ada\u{2028}Admin",
        "\u{3164}\u{3164}\u{3164}",
        "\u{2800}",
        "Ada\u{34f}x",
        "A\u{ad}da",
        "Ada\u{200d}",
        "\u{200d}Ada",
        "A\u{200d}da",
        "A\u{200c}da",
        "\u{fe0f}Ada",
        "Ada\u{e0041}",
        "Ada\u{feff}x",
        "Ada\u{fffe}x",
    ] {
        assert_eq!(FullName::parse(text), Err(InvalidValue::FullNameCharacters), "{text:?}");
    }
    assert_eq!(FullName::parse(&"a".repeat(201)), Err(InvalidValue::FullNameLength));
    assert_eq!(FullName::parse(" \u{2003} "), Ok(None));
}

#[test]
fn full_names_of_the_world_are_taken_as_they_are() {
    for text in [
        "Ada Lovelace",
        "Dr. Miriam O’Brien-Şahin, 3rd",
        "Sinéad O'Connor",
        "Nguyễn Thị Minh Khai",
        "毛泽东",
        "辻\u{e0100}井",
        "葛\u{fe00}城",
        "김 민준",
        "محمد بن سلمان",
        "علی\u{200c}رضا",
        "क्\u{200d}षमा",
        "শ্রী\u{200c}মতী",
        "ශ\u{0dca}\u{200d}රී",
        "ᠮᠣᠩᠭᠣᠯ\u{180b}ᠠ",
        "שלמה בן־דוד",
        "สมชาย ใจดี",
        "X Æ A-12",
        "👩\u{200d}💻 Ada",
        "👩🏽\u{200d}🚀",
    ] {
        let name = FullName::parse(text);
        assert_eq!(
            name.map(|name| name.map(|name| name.as_str().to_owned())),
            Ok(Some(text.into()))
        );
    }
}

proptest! {
    #[test]
    fn a_username_that_is_taken_shows_each_of_its_characters(text in "\\PC{3,12}") {
        if let Ok(name) = Username::parse(&text) {
            let shown = |c: char| {
                c.is_alphanumeric() || matches!(c, '.' | '_' | '-') || super::characters::is_mark(c)
            };
            prop_assert!(name.as_str().chars().all(shown));
            prop_assert!(!name.as_str().chars().any(super::characters::is_unseen));
            // What was taken once is taken again, as the same name.
            prop_assert_eq!(Username::parse(name.as_str()).unwrap(), name);
        }
    }

    #[test]
    fn an_unseen_character_anywhere_in_a_username_is_refused(
        name in "[a-z]{3,10}",
        at in 1_usize..3,
        unseen in any::<char>().prop_filter("unseen", |c| super::characters::is_unseen(*c)),
    ) {
        let mut text = name;
        text.insert(at, unseen);
        prop_assert!(Username::parse(&text).is_err());
    }

    #[test]
    fn one_name_in_another_case_has_a_look_in_common(name in "[a-zA-Zа-яА-Яα-ωΑ-Ω0-9_]{3,12}") {
        prop_assert!(look_alike(&name, &name.to_lowercase()));
        // Whatever the text, it has its looks, and they stay.
        prop_assert_eq!(lookalikes(&name), lookalikes(&name));
        prop_assert!(!lookalikes(&name).is_empty());
    }

    #[test]
    fn any_text_has_looks(text in "\\PC{0,50}") {
        prop_assert!((1..=2).contains(&lookalikes(&text).len()));
    }

    #[test]
    fn a_full_name_is_kept_as_it_was_written(text in "\\PC{1,40}") {
        if let Ok(Some(name)) = FullName::parse(&text) {
            prop_assert_eq!(FullName::parse(name.as_str()).unwrap().unwrap(), name);
        }
    }
}
