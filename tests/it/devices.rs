//! A device that signed in before gets past throttles that somebody else has brought about, and nothing else does.

use chrono::TimeDelta;
use commands::{
    ChangeProfileError, DEVICE_LIFETIME, Entrybook, NewProfile, Origin, RegisterError, SignInError,
    SignedIn, keyring::MasterKey,
};
use domain::{Identifier, IdentifierKind, Password, Username};

use crate::book::{Desk, account};

fn master() -> MasterKey {
    MasterKey::parse(&"0123456789abcdef".repeat(4)).unwrap()
}

fn from(address: &str) -> Origin {
    Origin { address: Some(address.parse().unwrap()), ..Origin::system("test-request".into()) }
}

const HOME: &str = "198.51.100.1";
const ELSEWHERE: &str = "203.0.113.9";

async fn sign_in(
    book: &Entrybook,
    name: &str,
    password: &str,
    device: Option<&str>,
    address: &str,
) -> Result<SignedIn, SignInError> {
    let (name, password) = (Identifier::typed(name), Password::present(password).unwrap());
    book.sign_in_with(&name, password, false, device, &from(address)).await
}

/// The token that a browser gets at a sign-in.
async fn device_of(book: &Entrybook, name: &str) -> String {
    let signed_in = sign_in(book, name, &password_of(name), None, HOME).await.unwrap();
    signed_in.device.unwrap().expose().to_owned()
}

fn password_of(name: &str) -> String {
    format!("the password of {name}")
}

/// Guesses from elsewhere, until the account is throttled.
async fn throttle(book: &Entrybook, name: &str) {
    for _ in 0..20 {
        match sign_in(book, name, "a guess", None, ELSEWHERE).await {
            Err(SignInError::WrongCredentials) => {}
            Err(SignInError::Throttled { .. }) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("twenty guesses, and no throttle");
}

fn is_throttled(answer: Result<SignedIn, SignInError>) -> bool {
    match answer {
        Err(SignInError::Throttled { .. }) => true,
        Ok(_) | Err(SignInError::WrongCredentials) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_owner_signs_in_on_her_device_while_others_throttle_her_account() {
    let desk = Desk::open_with(master()).await;
    let other = desk.replica(master()).await;
    desk.register("ada").await;
    let device = device_of(&desk.book, "ada").await;
    throttle(&desk.book, "ada").await;
    for book in [&desk.book, &other] {
        let right = password_of("ada");
        assert!(is_throttled(sign_in(book, "ada", &right, None, HOME).await), "a new device waits");
        let signed_in = sign_in(book, "ada", &right, Some(&device), HOME).await.unwrap();
        assert_ne!(signed_in.device.unwrap().expose(), device, "each success makes a new one");
    }
    // Nobody else is let in by that: the throttle stands, and what was failed is not forgiven.
    let again = sign_in(&other, "ada", &password_of("ada"), None, ELSEWHERE).await;
    assert!(is_throttled(again));
    assert_eq!(desk.count("SignInFailuresCleared").await, 0);
}

#[tokio::test]
async fn no_other_token_gets_past_the_throttle() {
    let desk = Desk::open_with(master()).await;
    for name in ["ada", "ben"] {
        desk.register(name).await;
    }
    let device = device_of(&desk.book, "ada").await;
    let bens = device_of(&desk.book, "ben").await;
    throttle(&desk.book, "ada").await;
    let try_with = async |device: String| {
        is_throttled(sign_in(&desk.book, "ada", &password_of("ada"), Some(&device), HOME).await)
    };
    let mut forged = device.clone().into_bytes();
    for last in forged.iter_mut().rev().take(3) {
        *last = if *last == b'A' { b'B' } else { b'A' };
    }
    assert!(try_with(String::from_utf8(forged).unwrap()).await, "a forged one");
    assert!(try_with(bens).await, "one of another account");
    assert!(try_with(String::new()).await && try_with("ebd_é".repeat(20)).await, "garbage");
    assert!(!try_with(device.clone()).await, "her own");

    // Her own, when its time is over.
    desk.clock.advance(DEVICE_LIFETIME + TimeDelta::days(1));
    throttle(&desk.book, "ada").await;
    assert!(try_with(device).await, "an expired one");
}

#[tokio::test]
async fn what_ends_all_sessions_makes_devices_strangers() {
    let desk = Desk::open_with(master()).await;
    let ada = desk.register("ada").await;
    let (id, origin) = (ada.account.id, desk.origin());
    let device = device_of(&desk.book, "ada").await;
    let present = Password::present(&password_of("ada")).unwrap();
    let next = Password::choose("another password").unwrap();
    let changed =
        desk.book.change_password(id, Some(ada.kept()), present, next, &origin).await.unwrap();
    throttle(&desk.book, "ada").await;
    let try_with = async |device: &str| {
        is_throttled(sign_in(&desk.book, "ada", "another password", Some(device), HOME).await)
    };
    assert!(try_with(&device).await, "it was given before the password was changed");
    let device = changed.device.expose();
    assert!(!try_with(device).await, "the browser that it was changed in has a new one");
    desk.book.end_other_sessions(id, ada.kept(), &origin).await.unwrap();
    assert!(try_with(device).await, "it was given before all others were ended");
}

/// A stolen token is worth a few guesses in a day.
#[tokio::test]
async fn a_device_that_fails_too_often_is_a_stranger() {
    let desk = Desk::open_with(master()).await;
    let other = desk.replica(master()).await;
    desk.register("ada").await;
    let device = device_of(&desk.book, "ada").await;
    throttle(&desk.book, "ada").await;
    // The owner has signed in since, and has another token.
    sign_in(&desk.book, "ada", &password_of("ada"), Some(&device), HOME).await.unwrap();
    let guess = async |book: &Entrybook| {
        is_throttled(sign_in(book, "ada", "a guess", Some(&device), ELSEWHERE).await)
    };
    let throttles = desk.count("SignInThrottled").await;
    let mut looked_at = 0;
    for n in 0..20 {
        looked_at += u32::from(!guess(if n % 2 == 0 { &desk.book } else { &other }).await);
    }
    assert_eq!(looked_at, 5, "as many as are free for an account, over all replicas");
    assert_eq!(desk.count("SignInThrottled").await, throttles, "and it throttles nobody else");
    let right = sign_in(&other, "ada", &password_of("ada"), Some(&device), HOME).await;
    assert!(is_throttled(right), "its lane is closed, and the account is throttled");
    // A day later it is open again.
    desk.clock.advance(TimeDelta::hours(25));
    throttle(&desk.book, "ada").await;
    sign_in(&other, "ada", &password_of("ada"), Some(&device), HOME).await.unwrap();
}

#[tokio::test]
async fn a_device_gets_past_a_throttled_address_and_puts_nothing_into_it() {
    let desk = Desk::open_with(master()).await;
    for name in ["ada", "ben"] {
        desk.register(name).await;
    }
    let device = device_of(&desk.book, "ada").await;
    for n in 0..100 {
        // A neighbour who guesses.
        let _ = sign_in(&desk.book, &format!("nobody{n}"), "a guess", None, HOME).await;
    }
    let ben = sign_in(&desk.book, "ben", &password_of("ben"), None, HOME).await;
    assert!(is_throttled(ben), "a new device waits");
    let slip = sign_in(&desk.book, "ada", "a slip", Some(&device), HOME).await;
    assert!(matches!(slip, Err(SignInError::WrongCredentials)));
    sign_in(&desk.book, "ada", &password_of("ada"), Some(&device), HOME).await.unwrap();
    // Six minutes later there is room for one.
    desk.clock.advance(TimeDelta::minutes(6));
    sign_in(&desk.book, "ben", &password_of("ben"), None, HOME).await.unwrap();
}

/// With names nobody has, so that no account's own throttle comes first.
#[tokio::test]
async fn what_one_replica_throttles_the_other_counts_on_from() {
    let desk = Desk::open_with(master()).await;
    let other = desk.replica(master()).await;
    let mut next = 0;
    let mut guess = async |book: &Entrybook| {
        next += 1;
        !is_throttled(sign_in(book, &format!("nobody{next}"), "a guess", None, HOME).await)
    };
    for _ in 0..100 {
        assert!(guess(&desk.book).await);
    }
    assert!(!guess(&other).await, "the throttle binds it");
    let mut looked_at = 0;
    for _ in 0..4 {
        desk.clock.advance(TimeDelta::minutes(6));
        for _ in 0..3 {
            looked_at += u32::from(guess(&other).await);
        }
    }
    assert_eq!(looked_at, 4, "one each six minutes: it begins with no empty bucket");
}

fn name(n: usize) -> Username {
    Username::parse(&format!("somebody{n}")).unwrap()
}

/// Whether a name is taken is told to who registers and to who changes theirs: no faster to one than to the other.
#[tokio::test]
async fn names_are_asked_for_no_faster_by_changing_them_than_by_registering() {
    let desk = Desk::open_with(master()).await;
    let taken = desk.register("taken").await;
    let eve = desk.register("eve").await;
    let probe = async |id, name: &str, origin: &Origin| {
        let new = NewProfile { username: Username::parse(name).ok(), ..NewProfile::default() };
        let password = if id == eve.account.id { "eve" } else { "taken" };
        let password = Password::present(&password_of(password)).ok();
        desk.book.change_profile(id, new, password, origin).await
    };
    let mut answers = 0;
    for n in 0..200 {
        // From wherever it comes, it is one account.
        match probe(eve.account.id, "taken", &from(&format!("198.51.100.{n}"))).await {
            Err(ChangeProfileError::IdentifierTaken(IdentifierKind::Username)) => answers += 1,
            Err(ChangeProfileError::TooManyNames { retry_after }) => {
                assert!((1..=3_600).contains(&retry_after.as_secs()), "{retry_after:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, 20);
    // A full name is nobody's, and is changed as before.
    let full_name = domain::FullName::parse("Eve").unwrap();
    let new = NewProfile { full_name: Some(full_name), ..NewProfile::default() };
    desk.book.change_profile(eve.account.id, new, None, &from(HOME)).await.unwrap();

    // It counts for the address as a registration does: a thousand in an hour, whichever they are.
    let here = from(ELSEWHERE);
    desk.clock.advance(TimeDelta::hours(1));
    for n in 0..20 {
        probe(eve.account.id, name(n).as_str(), &here).await.unwrap();
    }
    let mut registrations = 0;
    for _ in 0..1_000 {
        match desk.book.register(account("taken"), false, &here).await {
            Err(RegisterError::IdentifierTaken(_)) => registrations += 1,
            Err(RegisterError::TooMany { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(registrations, 980);
    let refused = probe(taken.account.id, "another", &here).await;
    assert!(matches!(refused, Err(ChangeProfileError::TooManyNames { .. })), "{refused:?}");
    assert_eq!(desk.count("RegistrationsThrottled").await, 1, "told once");
    probe(taken.account.id, "another", &from(HOME)).await.unwrap();
}
