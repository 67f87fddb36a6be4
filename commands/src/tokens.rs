//! Access tokens and refresh tokens: what a signed-in device holds.
//!
//! An **access token** is a JWT (RFC 7519), verified without the database. The rules of RFC 8725 are
//! held as follows: the key alone fixes the algorithm, and the header must agree, so `none` and a
//! public key taken for an HMAC secret get nowhere; header fields that point to keys (`jwk`, `jku`,
//! `x5u`) are never followed; issuer, audience and expiry are checked each time, with no leeway;
//! and nothing is parsed before its length is bounded.
//!
//! Its **signing keys** ([`keys`]) are in `signing_keys`, the private half wrapped by the master key.
//! All replicas read the same rows, and so agree which of them signs.
//!
//! An **application token** is the same for an application behind the proxy: of another type and with the
//! application's origin as its audience, so that neither is taken for the other.
//!
//! A **refresh token** ([`refresh`]) is opaque: the session, 256 random bits, and a MAC that lets
//! garbage be told apart without the database. Events know its hash alone.

mod access;
mod keys;
mod refresh;

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Roles, SessionId, TokenHash, UserId};
use quick_cache::sync::Cache;
use sqlx::{PgConnection, PgPool};
use zeroize::Zeroizing;

pub(crate) use self::keys::wrapping_id;
pub use self::{
    access::{AccessClaims, AccessToken},
    refresh::RefreshToken,
};
use self::{
    access::{For, Verified},
    keys::{KeyRow, KeySet, Material},
};
use crate::{
    clock::{Clock, Entropy},
    is_temporary,
    keyring::{Keyring, KeyringError},
};

/// How long a new key is published before it signs, so that whoever keeps the JWKS for a while has
/// it by then.
pub const OVERLAP: TimeDelta = TimeDelta::minutes(10);
/// The longest life an access token may be given.
pub const MAX_ACCESS_LIFETIME: TimeDelta = TimeDelta::hours(8);
const VERIFIED_TOKENS: usize = 10_000;
/// Unknown key ids make the keys be read again, at most this often and for so long.
const RELOAD_EVERY: Duration = Duration::from_secs(1);
const RELOAD_WITHIN: Duration = Duration::from_secs(2);
/// How long a retired key may wait for the next one to be read.
const RETIRE_WITHIN: Duration = Duration::from_millis(500);

/// How access tokens are signed (RFC 7518 and 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// Ed25519.
    #[default]
    EdDsa,
    /// ECDSA on P-256.
    Es256,
    /// RSA of 2,048 bits, PKCS #1 v1.5.
    Rs256,
    /// HMAC-SHA-256: no public key, so nobody but Entrybook verifies.
    Hs256,
}

/// The text names no algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no such signing algorithm here; choose EdDSA, ES256, RS256 or HS256")]
pub struct UnknownAlgorithm;

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::EdDsa, Self::Es256, Self::Rs256, Self::Hs256];

    /// The name in the header of a token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or(UnknownAlgorithm)
    }
}

/// What access tokens say, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// `iss`: the public URL of this service.
    pub issuer: String,
    /// `aud`: whom the tokens are for.
    pub audience: String,
    pub algorithm: Algorithm,
    /// At most [`MAX_ACCESS_LIFETIME`].
    pub access_lifetime: TimeDelta,
    /// When a signing key is followed by a new one.
    pub rotate_after: TimeDelta,
}

impl Default for TokenSettings {
    /// For a service on this machine, whose tokens are for itself.
    fn default() -> Self {
        Self::new("http://localhost:8080".to_owned(), "entrybook".to_owned())
    }
}

impl TokenSettings {
    /// EdDSA, 15 minutes, a new key every 90 days.
    #[must_use]
    pub fn new(issuer: String, audience: String) -> Self {
        Self {
            issuer,
            audience,
            algorithm: Algorithm::EdDsa,
            access_lifetime: TimeDelta::minutes(15),
            rotate_after: TimeDelta::days(90),
        }
    }

    fn check(&self) -> Result<(), TokensError> {
        let refused = |what| Err(TokensError::Settings(what));
        if self.issuer.is_empty() || self.audience.is_empty() {
            return refused("issuer and audience must not be empty");
        }
        // Both stand in each token, and a token must stay below the bound that is verified.
        if self.issuer.len() > 512 || self.audience.len() > 512 {
            return refused("issuer and audience have at most 512 bytes each");
        }
        if self.access_lifetime < TimeDelta::seconds(1)
            || self.access_lifetime > MAX_ACCESS_LIFETIME
        {
            return refused("an access token lives from 1 second to 8 hours");
        }
        if self.rotate_after < TimeDelta::hours(1) {
            return refused("signing keys are rotated after an hour at the earliest");
        }
        Ok(())
    }
}

/// How a signing key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyState {
    pub kid: String,
    pub algorithm: Algorithm,
    pub signs_from: DateTime<Utc>,
    pub is_retired: bool,
    /// Whether tokens that it signed are accepted.
    pub is_accepted: bool,
    /// Whether it signs now.
    pub signs: bool,
}

/// Why a token is not accepted. The texts are for the log and the `WWW-Authenticate` header; they
/// never repeat the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token names no key of this service")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    BadSignature,
    #[error("the token was issued by or for somebody else")]
    WrongAudience,
    #[error("the token has expired")]
    Expired,
}

/// Why tokens can't be signed, or their keys not be had.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("the settings of tokens can't work: {0}")]
    Settings(&'static str),
    #[error("the signing key {kid} can't be used ({cause}); restore its row from a backup")]
    UnusableKey { kid: String, cause: &'static str },
    #[error("there is no signing key; call refresh_keys, or look in the log why that failed")]
    NoKey,
    #[error("a signing key could not be made: {0}")]
    Generation(&'static str),
    #[error("the token could not be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error("the signing keys could not be read; check that the database answers, and try again")]
    Database(#[from] sqlx::Error),
}

impl TokensError {
    /// Whether trying again later may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Database(error) | Self::Keyring(KeyringError::Database(error)) => {
                is_temporary(error)
            }
            Self::NoKey => true,
            _ => false,
        }
    }
}

/// Signs and verifies tokens.
pub struct Tokens {
    pool: PgPool,
    keyring: Arc<Keyring>,
    settings: TokenSettings,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    keys: RwLock<Arc<KeySet>>,
    /// Keys that were retired while this process ran: what was read a moment before brings none of them back.
    retired: RwLock<BTreeSet<String>>,
    /// Tokens whose signature was found right, by their SHA-256. All else is checked each time.
    verified: Cache<[u8; 32], Arc<Verified>>,
    reloaded: tokio::sync::Mutex<Option<Instant>>,
    refresh_secret: Zeroizing<[u8; 32]>,
}

impl Tokens {
    /// Reads the signing keys, and makes the first. However many processes do so at once, they
    /// agree. A change of the configured algorithm makes a new key here, which signs after
    /// [`OVERLAP`].
    pub async fn load(
        pool: PgPool,
        keyring: Arc<Keyring>,
        settings: TokenSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TokensError> {
        settings.check()?;
        let tokens = Self::without_keys(pool, keyring, settings, clock, entropy);
        tokens.read_and_rotate(Occasion::Start).await?;
        Ok(tokens)
    }

    fn without_keys(
        pool: PgPool,
        keyring: Arc<Keyring>,
        settings: TokenSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            pool,
            refresh_secret: keyring.service_secret("refresh"),
            keyring,
            settings,
            clock,
            entropy,
            keys: RwLock::default(),
            retired: RwLock::default(),
            verified: Cache::new(VERIFIED_TOKENS),
            reloaded: tokio::sync::Mutex::default(),
        }
    }

    #[must_use]
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// An access token for a session.
    ///
    /// # Errors
    /// Only if there is no sound key, which [`Self::load`] rules out.
    pub fn sign(
        &self,
        user: UserId,
        session: SessionId,
        user_version: u64,
        roles: &Roles,
    ) -> Result<AccessToken, TokensError> {
        self.sign_until(user, session, user_version, roles, DateTime::<Utc>::MAX_UTC)
    }

    /// The same for a session that is over at that time, and its tokens with it.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_until(
        &self,
        user: UserId,
        session: SessionId,
        user_version: u64,
        roles: &Roles,
        until: DateTime<Utc>,
    ) -> Result<AccessToken, TokensError> {
        self.sign_for(For::Service, user, session, user_version, roles, until)
    }

    /// A token by which an application behind the proxy knows the session. Good there, and nowhere else.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_for_application(
        &self,
        application: &str,
        user: UserId,
        session: SessionId,
        user_version: u64,
        roles: &Roles,
        until: DateTime<Utc>,
    ) -> Result<AccessToken, TokensError> {
        let whom = For::Application(application);
        self.sign_for(whom, user, session, user_version, roles, until)
    }

    fn sign_for(
        &self,
        whom: For<'_>,
        user: UserId,
        session: SessionId,
        user_version: u64,
        roles: &Roles,
        until: DateTime<Utc>,
    ) -> Result<AccessToken, TokensError> {
        let now = self.clock.now();
        let keys = self.keys();
        let key = keys.signer(now).ok_or(TokensError::NoKey)?;
        let mut jti = [0; 16];
        self.entropy.fill(&mut jti);
        let mut claims =
            AccessClaims::new(&self.settings, user, session, user_version, roles, now, jti);
        claims.aud = whom.audience(&self.settings).to_owned();
        claims.exp = claims.exp.min(until.timestamp());
        access::sign(&claims, whom, key)
    }

    /// Whom the token speaks for.
    ///
    /// It reads the database only for a key id that is new to this process, and then at most once a
    /// second. Whether the session has ended since is not asked here.
    ///
    /// # Errors
    /// What is wrong with the token; nothing about it may be believed then.
    pub async fn verify(&self, token: &str) -> Result<AccessClaims, TokenProblem> {
        self.verify_for(For::Service, token).await
    }

    /// The same for a token of [`Self::sign_for_application`], at that application.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn verify_for_application(
        &self,
        application: &str,
        token: &str,
    ) -> Result<AccessClaims, TokenProblem> {
        self.verify_for(For::Application(application), token).await
    }

    async fn verify_for(&self, whom: For<'_>, token: &str) -> Result<AccessClaims, TokenProblem> {
        let now = self.clock.now();
        let digest = access::digest(token)?;
        if let Some(verified) = self.verified.get(&digest)
            && verified.is_for(whom, &self.settings)
            && self.accepted_key(&verified.kid, now).is_some()
        {
            return verified.claims.at(now, self.settings.access_lifetime);
        }
        let presented = access::Presented::read(token, whom)?;
        let key = match self.accepted_key(presented.kid(), now) {
            Some(key) => key,
            None => {
                self.reload().await;
                self.accepted_key(presented.kid(), now).ok_or(TokenProblem::UnknownKey)?
            }
        };
        let claims = presented.claims(&key, whom, &self.settings)?;
        let valid = claims.at(now, self.settings.access_lifetime)?;
        let kid = key.kid().to_owned();
        self.verified.insert(digest, Arc::new(Verified::new(kid, whom, claims)));
        Ok(valid)
    }

    /// The public keys (RFC 7517): those that sign, will sign, or have signed tokens still alive.
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        self.keys().jwks(self.clock.now(), self.settings.access_lifetime)
    }

    /// Reads the keys again, and makes a new one when it is time. To be called every minute.
    pub async fn refresh_keys(&self) -> Result<(), TokensError> {
        self.read_and_rotate(Occasion::Routine).await
    }

    /// Stops accepting a key whose retirement stands in the book. The keys are read first, so that whoever
    /// signs in meanwhile gets a token of the next key; where that takes too long, it goes without them.
    pub async fn retire(&self, kid: &str) {
        match tokio::time::timeout(RETIRE_WITHIN, self.refresh_keys()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the signing keys could not be read again: {error}"),
            Err(_) => tracing::warn!("the signing keys could not be read again in time"),
        }
        self.retired.write().unwrap_or_else(PoisonError::into_inner).insert(kid.to_owned());
        let keys = self.keys();
        self.use_keys(keys.without(&BTreeSet::from([kid.to_owned()])));
        tracing::info!("the signing key {kid} was retired, and is not accepted any longer");
    }

    /// The signing keys that the database has by now, the oldest first.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKeyState>, TokensError> {
        let keys = self.read_keys(&mut *self.pool.acquire().await?).await?;
        let (now, lifetime) = (self.clock.now(), self.settings.access_lifetime);
        let signer = keys.signer(now).map(|key| key.kid().to_owned());
        let accepted: BTreeSet<&str> = keys.accepted(now, lifetime).map(|key| key.kid()).collect();
        let states = keys.iter().map(|key| SigningKeyState {
            kid: key.kid().to_owned(),
            algorithm: key.algorithm(),
            signs_from: key.signs_from(),
            is_retired: key.is_withdrawn(now),
            is_accepted: accepted.contains(key.kid()),
            signs: signer.as_deref() == Some(key.kid()),
        });
        Ok(states.collect())
    }

    /// Makes a key that signs from now on, without the time in which it is only published.
    pub(crate) async fn make_key_at_once(&self) -> Result<String, TokensError> {
        let (algorithm, entropy) = (self.settings.algorithm, Arc::clone(&self.entropy));
        let making = move || Material::generate(algorithm, entropy.as_ref());
        let material = tokio::task::spawn_blocking(making)
            .await
            .map_err(|_| TokensError::Generation("its task ended early"))??;
        let row = material.wrapped(&self.keyring, self.clock.now());
        let permit = self.keyring.permit();
        row.insert(&mut *self.pool.acquire().await?, permit.as_slice()).await?;
        self.refresh_keys().await?;
        tracing::info!("made the {algorithm} signing key {}, which signs from now on", row.kid);
        Ok(row.kid)
    }

    /// A new refresh token for a session, and the hash that its event holds.
    #[must_use]
    pub fn issue_refresh(&self, session: SessionId) -> (RefreshToken, TokenHash) {
        refresh::issue(&self.refresh_secret, self.entropy.as_ref(), session)
    }

    /// The session of a refresh token that was made here, and its hash. Whether it is the session's
    /// present one, the session knows.
    pub fn read_refresh(&self, token: &str) -> Result<(SessionId, TokenHash), TokenProblem> {
        refresh::read(&self.refresh_secret, token)
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn use_keys(&self, keys: KeySet) {
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        let keys = if retired.is_empty() { keys } else { keys.without(&retired) };
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn accepted_key(&self, kid: &str, now: DateTime<Utc>) -> Option<Arc<keys::SigningKey>> {
        self.keys().accepts(kid, now, self.settings.access_lifetime)
    }

    /// Looks for keys that another process made. Those who ask meanwhile wait for the same answer.
    async fn reload(&self) {
        let mut reloaded = self.reloaded.lock().await;
        if reloaded.is_some_and(|at| at.elapsed() < RELOAD_EVERY) {
            return;
        }
        let reading = async {
            let keys = self.read_keys(&mut *self.pool.acquire().await?).await?;
            self.use_keys(keys);
            Ok::<_, TokensError>(())
        };
        match tokio::time::timeout(RELOAD_WITHIN, reading).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the signing keys could not be read again: {error}"),
            Err(_) => tracing::warn!("the signing keys could not be read again in time"),
        }
        *reloaded = Some(Instant::now());
    }

    async fn read_and_rotate(&self, occasion: Occasion) -> Result<(), TokensError> {
        let keys = self.read_keys(&mut *self.pool.acquire().await?).await?;
        if self.next_key_signs_from(&keys, occasion).is_none() {
            self.use_keys(keys);
            return Ok(());
        }
        // Making an RSA key takes long, so neither on the runtime nor under the lock.
        let (algorithm, entropy) = (self.settings.algorithm, Arc::clone(&self.entropy));
        let making = move || Material::generate(algorithm, entropy.as_ref());
        let material = tokio::task::spawn_blocking(making)
            .await
            .map_err(|_| TokensError::Generation("its task ended early"))??;

        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('entrybook/signing_keys', 0))")
            .execute(&mut *transaction)
            .await?;
        let mut keys = self.read_keys(&mut transaction).await?;
        // Another process may have made it before the lock was ours.
        if let Some(signs_from) = self.next_key_signs_from(&keys, occasion) {
            let row = material.wrapped(&self.keyring, signs_from);
            row.insert(&mut transaction, self.keyring.permit().as_slice()).await?;
            keys = self.read_keys(&mut transaction).await?;
            transaction.commit().await?;
            let kid = &row.kid;
            tracing::info!("made the {algorithm} signing key {kid}, which signs from {signs_from}");
        }
        self.use_keys(keys);
        Ok(())
    }

    fn next_key_signs_from(&self, keys: &KeySet, occasion: Occasion) -> Option<DateTime<Utc>> {
        let now = self.clock.now();
        let Some(newest) = keys.newest(now) else { return Some(now) };
        let old = newest.signs_from() + self.settings.rotate_after <= now;
        // Only at a start: while replicas with old and new settings run side by side, none of them
        // may undo what the other decided.
        let changed = occasion == Occasion::Start && newest.algorithm() != self.settings.algorithm;
        (old || changed).then(|| now + OVERLAP)
    }

    async fn read_keys(&self, connection: &mut PgConnection) -> Result<KeySet, TokensError> {
        let rows = KeyRow::read(connection, self.keyring.events()).await?;
        KeySet::of(rows, &self.keyring, &self.keys())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({:?})", self.settings)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Start,
    Routine,
}

#[cfg(test)]
mod tests;
