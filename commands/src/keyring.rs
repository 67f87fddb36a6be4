//! The keys under which personal data is sealed, and everything that is derived from them.
//!
//! ```text
//! master key                  outside the database; wraps, and does nothing else
//! └ sealing_keys, 32 random bytes each, wrapped with XChaCha20-Poly1305
//!   ├ p:<user>                a person's; destroyed by erasure (`crate::erasure`)
//!   ├ m:<YYYY-MM>             a month's; destroyed by retention (`crate::retention`)
//!   ├ s:operators             seals who acted on the command line
//!   ├ s:index                 look-up values of identifiers
//!   └ s:service               all other secrets of the service: [`Keyring::service_secret`]
//! ```
//!
//! A sealed value is `s1.<reference>.<base64url(nonce ‖ ciphertext ‖ tag)>`. Its associated data is
//! the format, the reference and the place where it stands, so it opens nowhere else.
//!
//! To destroy a key is to delete its row, and then `open` answers [`Opened::Gone`]. Keys are
//! remembered for [`REMEMBERED`] at most, so an erasure by another process takes effect here within
//! that time ([`Keyring::forget`] does it at once). That a key is missing is never remembered.
//!
//! The application's role may read keys. To add one, or to destroy one with `destroy_key`
//! (`migrations/0008_rights.sql`), it needs the permit of a process that has the master key as well; and
//! no key can be made again that was destroyed.
//!
//! While the master key is being changed, either of two opens ([`rewrap`]). Sources: RFC 5869 (HKDF),
//! RFC 2104 (HMAC), draft-irtf-cfrg-xchacha-03.

mod events;
mod master;
pub(crate) mod primitives;
mod remembered;
pub mod rewrap;
mod sealing;
mod service;

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use domain::{IdentifierKind, Index, Sealed, UserId};
use proof::EventAuthenticator;
use sqlx::{PgConnection, PgPool};
use zeroize::Zeroizing;

pub use self::{
    master::{InvalidMasterKey, MasterKey, MasterKeys},
    sealing::{Month, MonthKey, PersonKey, SealingKey},
};
use self::{
    primitives::{KEY_BYTES, KeyBytes},
    remembered::Remembered,
    sealing::{KeyRef, SealedParts},
    service::{ServiceKeys, admit_permit, make_service_keys, read_service_keys, refuse_others},
};
use crate::clock::Entropy;

/// How long a fetched key is used without asking the database again.
pub const REMEMBERED: Duration = Duration::from_secs(60);
const REMEMBERED_PEOPLE: usize = 10_000;
const REMEMBERED_MONTHS: usize = 240;

/// Why a key could not be had, or a value not be opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error(
        "keys in this database are wrapped by master key {expected}, and master key {given} was given; \
         start with the key that belongs to this database, or, while it is being changed, with both: \
         ENTRYBOOK_MASTER_KEY and ENTRYBOOK_PREVIOUS_MASTER_KEY"
    )]
    WrongMasterKey { expected: String, given: String },
    #[error(
        "the database has events or keys, but not the service keys {ids}; restore the table \
         sealing_keys from a backup: without them nobody is found by e-mail address or username"
    )]
    MissingServiceKeys { ids: String },
    #[error(
        "the key {id} was changed in the database and no longer unwraps; restore its row from a \
         backup"
    )]
    DamagedKey { id: String },
    #[error(
        "the sealed value of {place} was changed, or moved there from another place; compare the \
         event with a backup"
    )]
    Tampered { place: String },
    #[error("what stands in {place} is no sealed value; compare the event with a backup")]
    NotSealed { place: String },
    #[error(
        "the key of {month} was destroyed when its retention was over, and none is made again; check \
         the clock of this machine"
    )]
    MonthIsForgotten { month: Month },
    #[error(
        "the write permit in this database is not the one of its master key, so nobody can register and no key can be made; \
         run `entrybook migrate` as the owner of the database with the master key, and find out who put it there"
    )]
    ForeignPermit,
    #[error("the database lacks the table event_authentication; run `entrybook migrate`")]
    NotMigrated,
    #[error(
        "the row of event_authentication was changed, or put in place of another: by it, events that nobody \
         with the master key wrote would be believed. Restore the row from a backup of this database; its \
         transparency log and `entrybook audit verify` tell what else was changed"
    )]
    MovedBoundary,
    #[error("the keys could not be read; check that the database answers, and try again")]
    Database(#[from] sqlx::Error),
}

/// A row for `sealing_keys`. Without the master key it is worth nothing.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub id: String,
    pub wrapped: Vec<u8>,
    /// The id of the master key that wrapped it.
    pub master_key: String,
}

/// What became of a sealed value.
#[derive(Clone, PartialEq, Eq)]
pub enum Opened {
    Plain(Zeroizing<Vec<u8>>),
    /// Its key was destroyed; nobody can read it any more.
    Gone,
}

impl Opened {
    /// The text, or nothing if it is gone or no UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(bytes) => std::str::from_utf8(bytes).ok(),
            Self::Gone => None,
        }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Gone => "Gone",
        })
    }
}

/// All keys of this database, fetched as they are needed.
pub struct Keyring {
    pool: PgPool,
    entropy: Arc<dyn Entropy>,
    master: MasterKeys,
    service: ServiceKeys,
    events: EventAuthenticator,
    people: Remembered<UserId, PersonKey>,
    months: Remembered<Month, MonthKey>,
}

impl Keyring {
    /// Loads the service's keys, or makes them if this database is new. However many processes do
    /// so at once, they agree.
    ///
    /// # Errors
    /// [`KeyringError::WrongMasterKey`] if any key was wrapped by another master key. Nothing is
    /// written then.
    pub async fn load(
        pool: PgPool,
        master: impl Into<MasterKeys>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, KeyringError> {
        let master = master.into();
        let stored = read_service_keys(&mut *pool.acquire().await?, &master).await?;
        let service = match stored {
            Some(service) => service,
            None => make_service_keys(&pool, &master, entropy.as_ref()).await?,
        };
        refuse_others(&pool, &master).await?;
        if !admit_permit(&pool, &service).await? {
            tracing::error!("{}", KeyringError::ForeignPermit);
        }
        let secret = service.secret("events");
        let events = events::authenticator(&pool, &secret).await?;
        let keyring = Self {
            events,
            pool,
            entropy,
            master,
            service,
            people: Remembered::new(REMEMBERED_PEOPLE, REMEMBERED),
            months: Remembered::new(REMEMBERED_MONTHS, REMEMBERED),
        };
        Ok(keyring)
    }

    /// By which it is known what the service wrote, of a database that is only read. Nothing where the database is new, or
    /// nobody has signed yet from which event on codes are wanted.
    ///
    /// # Errors
    /// As [`Keyring::load`].
    pub async fn read_authenticator(
        pool: &PgPool,
        master: impl Into<MasterKeys>,
    ) -> Result<Option<EventAuthenticator>, KeyringError> {
        let stored = read_service_keys(&mut *pool.acquire().await?, &master.into()).await?;
        match stored {
            Some(service) => events::read_authenticator(pool, &service.secret("events")).await,
            None => Ok(None),
        }
    }

    /// The same keyring, remembering keys for another time than [`REMEMBERED`].
    #[must_use]
    pub fn remembering(mut self, at_most: Duration) -> Self {
        self.people = Remembered::new(REMEMBERED_PEOPLE, at_most);
        self.months = Remembered::new(REMEMBERED_MONTHS, at_most);
        self
    }

    /// A key for a person who registers now. Its row must be written with the registration, or
    /// nothing that it sealed will ever be read.
    #[must_use]
    pub fn new_person(&self, user: UserId) -> (PersonKey, NewKey) {
        let key = PersonKey::new(user, primitives::random_key(self.entropy.as_ref()));
        let row = self.wrap(key.id(), key.secret());
        (key, row)
    }

    /// A person's key, or nothing if it was destroyed or never was.
    pub async fn person(&self, user: UserId) -> Result<Option<PersonKey>, KeyringError> {
        if let Some(key) = self.people.get(&user) {
            return Ok(Some(key));
        }
        let asked = self.people.ask();
        let secret = self.stored(&KeyRef::Person(user).to_string()).await?;
        let key = secret.map(|secret| PersonKey::new(user, secret));
        if let Some(key) = &key {
            self.people.put(user, key.clone(), asked);
        }
        Ok(key)
    }

    /// Stops using a person's key at once. For whoever destroyed it, and learnt of that.
    pub fn forget(&self, user: UserId) {
        self.people.forget(&user);
    }

    /// The same for a month's.
    pub fn forget_month(&self, month: Month) {
        self.months.forget(&month);
    }

    /// The same for all that may have been destroyed.
    pub fn forget_all(&self) {
        self.people.forget_all();
        self.months.forget_all();
    }

    /// Destroys the key of a person whose erasure stands in the book; whether there was one.
    pub(crate) async fn destroy_person(&self, user: UserId) -> Result<bool, KeyringError> {
        let destroyed = self.destroy(&KeyRef::Person(user)).await;
        self.forget(user);
        destroyed
    }

    /// Destroys the key of a month whose end stands in the book; whether there was one.
    pub(crate) async fn destroy_month(&self, month: Month) -> Result<bool, KeyringError> {
        let destroyed = self.destroy(&KeyRef::Month(month)).await;
        self.forget_month(month);
        destroyed
    }

    /// The id of a person's key in the database.
    pub(crate) fn person_key_id(user: UserId) -> String {
        KeyRef::Person(user).to_string()
    }

    /// The id of a month's.
    pub(crate) fn month_key_id(month: Month) -> String {
        KeyRef::Month(month).to_string()
    }

    /// Whether a person's key is in the database, whatever is remembered here.
    pub(crate) async fn has_person(&self, user: UserId) -> Result<bool, KeyringError> {
        let there = sqlx::query_scalar("SELECT EXISTS (SELECT FROM sealing_keys WHERE id = $1)")
            .bind(Self::person_key_id(user))
            .fetch_one(&self.pool)
            .await?;
        Ok(there)
    }

    async fn destroy(&self, key: &KeyRef) -> Result<bool, KeyringError> {
        let destroyed = sqlx::query_scalar("SELECT destroy_key($1, $2)")
            .bind(key.to_string())
            .bind(self.permit().as_slice())
            .fetch_one(&self.pool)
            .await?;
        Ok(destroyed)
    }

    /// The key of the month of `at`, made if it is not there yet.
    ///
    /// # Errors
    /// [`KeyringError::MonthIsForgotten`] for a month whose key was destroyed: it is never made anew.
    pub async fn month(&self, at: DateTime<Utc>) -> Result<MonthKey, KeyringError> {
        let month = Month::of(at);
        if let Some(key) = self.stored_month(month).await? {
            return Ok(key);
        }
        let secret = primitives::random_key(self.entropy.as_ref());
        let row = self.wrap(KeyRef::Month(month).to_string(), secret.as_slice());
        sqlx::query(
            "INSERT INTO sealing_keys (id, wrapped, master_key, permit) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(&row.id)
        .bind(&row.wrapped)
        .bind(&row.master_key)
        .bind(self.permit().as_slice())
        .execute(&self.pool)
        .await
        .map_err(|error| {
            let constraint = error.as_database_error().and_then(|error| error.constraint());
            match constraint {
                Some("sealing_keys_forfeit") => KeyringError::MonthIsForgotten { month },
                _ => KeyringError::Database(error),
            }
        })?;
        // Another process may have been first, and then its key is the month's.
        let key = self.stored_month(month).await?;
        key.ok_or(KeyringError::Database(sqlx::Error::RowNotFound))
    }

    /// The keys of the months from one time to another, the oldest first: those that there are. Of a
    /// longer time than [`REMEMBERED_MONTHS`] it is the last of them.
    pub async fn months(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Vec<MonthKey>, KeyringError> {
        let asked: Vec<_> = Month::between(Month::of(from), Month::of(to), REMEMBERED_MONTHS);
        let there = self.with_key(asked).await?;
        let mut keys = Vec::with_capacity(there.len());
        for month in there {
            keys.extend(self.stored_month(month).await?);
        }
        Ok(keys)
    }

    /// The months up to this one that have a key, the oldest first. None has one from before 1970.
    pub(crate) async fn months_until(&self, last: Month) -> Result<Vec<Month>, KeyringError> {
        let first = Month::of(DateTime::UNIX_EPOCH);
        self.with_key(Month::between(first, last, usize::MAX)).await
    }

    /// Those of the months that have a key.
    async fn with_key(&self, mut months: Vec<Month>) -> Result<Vec<Month>, KeyringError> {
        let id = |month: &Month| KeyRef::Month(*month).to_string();
        let ids: Vec<_> = months.iter().map(id).collect();
        let there: Vec<String> =
            sqlx::query_scalar("SELECT id FROM sealing_keys WHERE id = ANY($1)")
                .bind(&ids)
                .fetch_all(&self.pool)
                .await?;
        months.retain(|month| there.contains(&id(month)));
        Ok(months)
    }

    async fn stored_month(&self, month: Month) -> Result<Option<MonthKey>, KeyringError> {
        if let Some(key) = self.months.get(&month) {
            return Ok(Some(key));
        }
        let asked = self.months.ask();
        let secret = self.stored(&KeyRef::Month(month).to_string()).await?;
        let key = secret.map(|secret| MonthKey::new(month, secret));
        if let Some(key) = &key {
            self.months.put(month, key.clone(), asked);
        }
        Ok(key)
    }

    /// Seals who acted on the command line: the operating system's user.
    #[must_use]
    pub fn operators(&self) -> SealingKey {
        self.service.operators.clone()
    }

    /// A key made of a person's and a month's: to destroy either makes unreadable what it sealed.
    #[must_use]
    pub fn both(&self, person: &PersonKey, month: &MonthKey) -> SealingKey {
        person.and(month)
    }

    /// Seals a value for one place: `<stream type>/<stream id>/<field>`.
    #[must_use]
    pub fn seal(&self, key: &SealingKey, place: &str, plain: &[u8]) -> Sealed {
        key.seal(self.entropy.as_ref(), place, plain)
    }

    /// Opens a value that stands in `place`.
    ///
    /// # Errors
    /// [`KeyringError::Tampered`] if its key is there and does not fit: it was changed, or moved.
    pub async fn open(&self, sealed: &Sealed, place: &str) -> Result<Opened, KeyringError> {
        let parts = SealedParts::parse(sealed)
            .map_err(|_| KeyringError::NotSealed { place: place.to_owned() })?;
        let Some(key) = self.key(&parts.reference).await? else { return Ok(Opened::Gone) };
        let plain = key
            .open(&parts, place)
            .map_err(|_| KeyringError::Tampered { place: place.to_owned() })?;
        Ok(Opened::Plain(plain))
    }

    async fn key(&self, reference: &KeyRef) -> Result<Option<SealingKey>, KeyringError> {
        match reference {
            KeyRef::Person(user) => Ok(self.person(*user).await?.map(|key| (*key).clone())),
            KeyRef::Month(month) => Ok(self.stored_month(*month).await?.map(|key| (*key).clone())),
            KeyRef::PersonAndMonth(user, month) => {
                let Some(person) = self.person(*user).await? else { return Ok(None) };
                let Some(month) = self.stored_month(*month).await? else { return Ok(None) };
                Ok(Some(person.and(&month)))
            }
            KeyRef::Service(name) if name == "operators" => Ok(Some(self.operators())),
            KeyRef::Service(_) => {
                let secret = self.stored(&reference.to_string()).await?;
                Ok(secret.map(|secret| SealingKey::new(reference.clone(), secret)))
            }
        }
    }

    /// The look-up value of an identifier in its folded form. The kinds never meet.
    #[must_use]
    pub fn index(&self, kind: IdentifierKind, folded: &str) -> Index {
        let purpose = match kind {
            IdentifierKind::Email => "entrybook/index/email/v1",
            IdentifierKind::Username => "entrybook/index/username/v1",
        };
        look_up(&self.service.index, purpose, folded)
    }

    /// The look-up values of what a username looks like, in the order in which they are claimed.
    #[must_use]
    pub fn lookalike_indexes(&self, username: &str) -> Vec<Index> {
        let looks = domain::lookalikes(username);
        let index = |look: &String| {
            look_up(&self.service.index, "entrybook/index/username-lookalike/v1", look)
        };
        let mut indexes: Vec<Index> = looks.iter().map(index).collect();
        indexes.sort_by(|one, other| one.0.cmp(&other.0));
        indexes
    }

    /// The look-up value of an identifier that no account has: the subject of its guard.
    #[must_use]
    pub fn unknown_index(&self, folded: &str) -> Index {
        look_up(&self.service.index, "entrybook/index/unknown/v1", folded)
    }

    /// What is written down of an identifier that a reader of the history looked for: equal for whoever
    /// looks for the same, and equal to nothing that stands in the event of an account, so that reading
    /// one's own lines tells nobody whose name it was.
    #[must_use]
    pub fn reading_index(&self, kind: IdentifierKind, folded: &str) -> Index {
        let purpose = match kind {
            IdentifierKind::Email => "entrybook/index/reading-email/v1",
            IdentifierKind::Username => "entrybook/index/reading-username/v1",
        };
        look_up(&self.service.index, purpose, folded)
    }

    /// The look-up value of an address in one month. It goes with the month's key: afterwards nobody
    /// can try addresses against it.
    #[must_use]
    pub fn address_index(&self, month: &MonthKey, address: &str) -> Index {
        look_up(month, "entrybook/index/address/v1", address)
    }

    /// The look-up value of a network in one month, written as `192.0.2.0/24`. It goes with the
    /// month's key, as that of an address does.
    #[must_use]
    pub fn network_index(&self, month: &MonthKey, network: &str) -> Index {
        look_up(month, "entrybook/index/network/v1", network)
    }

    /// The look-up value of a network in one month: the subject of its guard. There are few enough
    /// addresses to try them all, so it goes with the month's key as well. A guard of addresses
    /// begins anew at the turn of a month; what replicas count of a network goes on.
    #[must_use]
    pub fn guard_address_index(&self, month: &MonthKey, network: &str) -> Index {
        look_up(month, "entrybook/index/guard-address/v1", network)
    }

    /// The look-up value of a device that signed in to an account: the subject of its guard.
    #[must_use]
    pub(crate) fn device_index(&self, user: UserId, device: &[u8]) -> Index {
        let text = format!("{user}/{}", primitives::hex(device));
        look_up(&self.service.index, "entrybook/index/device/v1", &text)
    }

    /// A secret of the service for one purpose: `"csrf"`, `"refresh"`, …. Every replica derives the
    /// same one.
    #[must_use]
    pub fn service_secret(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        self.service.secret(purpose)
    }

    /// What the database wants to see before it takes a row that only a holder of the master key may write
    /// (`migrations/0008_rights.sql`). Rows have it in the column `permit`, where it is not kept.
    #[must_use]
    pub fn permit(&self) -> Zeroizing<[u8; 32]> {
        self.service.permit()
    }

    /// Whether the database has the hash of our permit.
    pub async fn permit_holds(&self) -> Result<bool, KeyringError> {
        let holds = sqlx::query_scalar("SELECT permit_holds($1)")
            .bind(self.permit().as_slice())
            .fetch_one(&self.pool)
            .await?;
        Ok(holds)
    }

    /// Puts the hash of our permit into the database, whatever stood there. `connection` is one of the owner.
    pub async fn correct_permit(&self, connection: &mut PgConnection) -> Result<(), KeyringError> {
        sqlx::query(
            "INSERT INTO write_permit (hash) VALUES ($1)
             ON CONFLICT (singleton) DO UPDATE SET hash = excluded.hash",
        )
        .bind(self.service.permit_hash())
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Tells the events that this service wrote from those that somebody else added.
    #[must_use]
    pub fn events(&self) -> &EventAuthenticator {
        &self.events
    }

    /// Wraps a secret under the master key. The id is authenticated, so a wrapped secret opens under
    /// its own id alone.
    pub(crate) fn wrap(&self, id: String, secret: &[u8]) -> NewKey {
        wrap(&self.master, self.entropy.as_ref(), id, secret)
    }

    /// Opens what [`Self::wrap`] made.
    pub(crate) fn unwrap_row(&self, row: &NewKey) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        open_row(&self.master, row)
    }

    async fn stored(&self, id: &str) -> Result<Option<KeyBytes>, KeyringError> {
        let row: Option<(String, Vec<u8>, String)> =
            sqlx::query_as("SELECT id, wrapped, master_key FROM sealing_keys WHERE id = $1")
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
        row.map(|row| data_key(&self.master, &NewKey::from(row))).transpose()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({:?})", self.master)
    }
}

impl From<(String, Vec<u8>, String)> for NewKey {
    fn from((id, wrapped, master_key): (String, Vec<u8>, String)) -> Self {
        Self { id, wrapped, master_key }
    }
}

fn look_up(key: &SealingKey, purpose: &str, text: &str) -> Index {
    Index(primitives::hex(&primitives::mac(&key.derive(&[purpose]), &[text.as_bytes()])))
}

fn wrap(master: &MasterKeys, entropy: &dyn Entropy, id: String, secret: &[u8]) -> NewKey {
    let master = master.current();
    let wrapped = master.wrap(entropy, &id, secret);
    NewKey { id, wrapped, master_key: master.id().to_owned() }
}

fn open_row(master: &MasterKeys, row: &NewKey) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let master = master.of(&row.master_key).ok_or_else(|| KeyringError::WrongMasterKey {
        expected: row.master_key.clone(),
        given: master.ids(),
    })?;
    master.open(&row.id, &row.wrapped).map_err(|_| KeyringError::DamagedKey { id: row.id.clone() })
}

fn data_key(master: &MasterKeys, row: &NewKey) -> Result<KeyBytes, KeyringError> {
    let secret = open_row(master, row)?;
    let bytes: &[u8; KEY_BYTES] = secret
        .as_slice()
        .try_into()
        .map_err(|_| KeyringError::DamagedKey { id: row.id.clone() })?;
    Ok(Zeroizing::new(*bytes))
}

#[cfg(test)]
pub(crate) mod tests;
