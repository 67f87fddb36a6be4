//! What needs no database. The rest is in the integration tests, under `keys`.

use domain::UserId;
use uuid::Uuid;

use super::*;
use crate::clock::SeededEntropy;

/// A keyring whose pool connects to nothing.
pub(crate) fn keyring(seed: u64) -> Keyring {
    let entropy = Arc::new(SeededEntropy::new(seed));
    let master = MasterKey::generate(entropy.as_ref());
    let service = |name: &str| {
        SealingKey::new(KeyRef::Service(name.to_owned()), primitives::random_key(entropy.as_ref()))
    };
    let service = ServiceKeys {
        index: service("index"),
        operators: service("operators"),
        service: service("service"),
    };
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(1))
        .connect_lazy_with(
            sqlx::postgres::PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1),
        );
    Keyring {
        events: proof::EventAuthenticator::new(&[0; 32], 0),
        pool,
        entropy,
        master: master.into(),
        service,
        people: Remembered::new(10, REMEMBERED),
        months: Remembered::new(10, REMEMBERED),
    }
}

#[tokio::test]
async fn look_up_values_of_different_kinds_never_meet() {
    let keyring = keyring(1);
    let month = |text: &str| {
        MonthKey::new(text.parse().unwrap(), primitives::random_key(&SeededEntropy::new(9)))
    };
    let (january, other) =
        (month("2026-01"), MonthKey::new("2026-02".parse().unwrap(), Zeroizing::new([1; 32])));
    let mut values = vec![
        keyring.index(IdentifierKind::Email, "ada"),
        keyring.index(IdentifierKind::Username, "ada"),
        keyring.unknown_index("ada"),
        keyring.reading_index(IdentifierKind::Email, "ada"),
        keyring.reading_index(IdentifierKind::Username, "ada"),
        keyring.guard_address_index(&january, "ada"),
        keyring.guard_address_index(&other, "ada"),
        keyring.address_index(&january, "ada"),
        keyring.address_index(&other, "ada"),
        self::keyring(2).index(IdentifierKind::Email, "ada"),
    ];
    assert_eq!(keyring.index(IdentifierKind::Email, "ada"), values[0], "it is a function");
    assert!(values.iter().all(|Index(text)| text.len() == 64));
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 10);
}

#[tokio::test]
async fn secrets_differ_by_purpose_and_service() {
    let keyring = keyring(1);
    assert_eq!(keyring.service_secret("csrf"), keyring.service_secret("csrf"));
    assert_ne!(keyring.service_secret("csrf"), keyring.service_secret("refresh"));
    assert_ne!(keyring.service_secret("csrf"), self::keyring(2).service_secret("csrf"));
}

#[tokio::test]
async fn a_wrapped_secret_opens_under_its_own_id_and_master_key_alone() {
    let keyring = keyring(1);
    let row = keyring.wrap("p:1".to_owned(), b"secret");
    assert_eq!(keyring.unwrap_row(&row).unwrap().as_slice(), b"secret");

    let renamed = NewKey { id: "p:2".to_owned(), ..row.clone() };
    let refusal = keyring.unwrap_row(&renamed).unwrap_err();
    assert!(matches!(refusal, KeyringError::DamagedKey { id } if id == "p:2"));

    let other = self::keyring(2);
    let refusal = other.unwrap_row(&row).unwrap_err();
    let KeyringError::WrongMasterKey { expected, given } = refusal else { panic!("{refusal}") };
    assert_eq!((expected.as_str(), given.as_str()), (keyring.master.id(), other.master.id()));

    // A row that claims to be this master key's, and is not.
    let claimed = NewKey { master_key: other.master.id().to_owned(), ..row };
    assert!(matches!(other.unwrap_row(&claimed), Err(KeyringError::DamagedKey { .. })));
}

#[tokio::test]
async fn operators_are_sealed_without_the_database() {
    let keyring = keyring(1);
    let sealed = keyring.seal(&keyring.operators(), "cli/actor", b"root");
    assert!(sealed.0.starts_with("s1.s:operators."));
    assert_eq!(keyring.open(&sealed, "cli/actor").await.unwrap().text(), Some("root"));
    let refusal = keyring.open(&sealed, "User/1/email").await.unwrap_err();
    assert!(matches!(refusal, KeyringError::Tampered { place } if place == "User/1/email"));
    let refusal = keyring.open(&Sealed("root".to_owned()), "cli/actor").await.unwrap_err();
    assert!(matches!(refusal, KeyringError::NotSealed { .. }));
}

#[tokio::test]
async fn without_a_database_a_key_is_missing_and_not_gone() {
    let keyring = keyring(1);
    let (key, row) = keyring.new_person(UserId(Uuid::from_u128(1)));
    assert_eq!(row.id, "p:00000000-0000-0000-0000-000000000001");
    let sealed = keyring.seal(&key, "User/1/email", b"ada@example.org");
    let refusal = keyring.open(&sealed, "User/1/email").await.unwrap_err();
    assert!(matches!(refusal, KeyringError::Database(_)), "{refusal}");
}

#[tokio::test]
async fn nothing_opened_is_printed() {
    let opened = Opened::Plain(Zeroizing::new(b"ada".to_vec()));
    assert_eq!(format!("{opened:?}"), "Plain(…)");
    assert_eq!(Opened::Plain(Zeroizing::new(vec![0xff])).text(), None);
    assert_eq!(Opened::Gone.text(), None);
    let keyring = keyring(1);
    assert_eq!(format!("{keyring:?}"), format!("Keyring(MasterKey({}, …))", keyring.master.id()));
}
