//! Signing keys: made, wrapped, read, and in what order they sign.
//!
//! The keys form one row in time. At any moment the one that began last signs; a newer one is
//! already published; an older one is published and accepted until the last token it can have signed
//! has expired. That is decided from `signs_from` alone, so no replica has to write anything for a
//! key to run out. A key that must not be accepted any longer is retired by an event of the book
//! ([`crate::retiring`]), which is asked for with each row: so no change of the table brings it back. `retired_at` does
//! the same by hand.
//!
//! Nothing public is read from the database: it is derived from the private half, which the master
//! key authenticates. Who can write to the table can take keys away, and add none.
//!
//! The id of a key is its thumbprint (RFC 7638, SHA-256). An HMAC secret has no public half, so it
//! gets an id derived by HKDF, and no place in the JWKS.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::stream;
use jsonwebtoken::{
    DecodingKey, EncodingKey,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use proof::EventAuthenticator;
use serde_json::{Value, json};
use sqlx::{PgConnection, Row};
use zeroize::Zeroizing;

use super::{Algorithm, TokensError};
use crate::{
    authentic::is_authentic,
    clock::Entropy,
    keyring::{Keyring, NewKey, primitives},
};

/// Clocks of replicas differ: how much later than by this one a key may have signed.
const CLOCKS_DIFFER_BY: TimeDelta = TimeDelta::minutes(1);

/// A key and everything that follows from it.
pub(super) struct Material {
    algorithm: Algorithm,
    /// PKCS #8, or the bytes of an HMAC secret.
    secret: Zeroizing<Vec<u8>>,
    encoding: EncodingKey,
    decoding: DecodingKey,
    kid: String,
    public: Option<Value>,
}

impl Material {
    /// Ed25519 and HMAC keys come from `entropy`; ECDSA and RSA keys from the library's own source,
    /// which is the system's.
    pub(super) fn generate(
        algorithm: Algorithm,
        entropy: &dyn Entropy,
    ) -> Result<Self, TokensError> {
        let failed = TokensError::Generation;
        let secret = match algorithm {
            Algorithm::EdDsa => {
                let seed = primitives::random_key(entropy);
                let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
                    .map_err(|_| failed("the seed was refused"))?;
                pair.to_pkcs8v1().map_err(|_| failed("it can't be written"))?.as_ref().to_vec()
            }
            Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .and_then(|pair| pair.to_pkcs8v1())
                .map_err(|_| failed("the system gave no key"))?
                .as_ref()
                .to_vec(),
            Algorithm::Rs256 => {
                let pair = RsaKeyPair::generate(rsa::KeySize::Rsa2048)
                    .map_err(|_| failed("the system gave no key"))?;
                let der: Pkcs8V1Der<'_> =
                    pair.as_der().map_err(|_| failed("it can't be written"))?;
                der.as_ref().to_vec()
            }
            Algorithm::Hs256 => primitives::random_key(entropy).to_vec(),
        };
        Self::of(algorithm, Zeroizing::new(secret))
            .map_err(|_| failed("the key that was made can't be read"))
    }

    fn of(algorithm: Algorithm, secret: Zeroizing<Vec<u8>>) -> jsonwebtoken::errors::Result<Self> {
        let encoding = match algorithm {
            Algorithm::EdDsa => EncodingKey::from_ed_der(&secret),
            Algorithm::Es256 => EncodingKey::from_ec_der(&secret),
            // The library wants PKCS #1, and takes it out of PKCS #8 in its PEM form alone.
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(pem(&secret).as_bytes())?,
            Algorithm::Hs256 => EncodingKey::from_secret(&secret),
        };
        if algorithm == Algorithm::Hs256 {
            let id = primitives::derive(&secret, &["entrybook/hs256-key-id/v1"]);
            return Ok(Self {
                algorithm,
                decoding: DecodingKey::from_secret(&secret),
                encoding,
                secret,
                kid: URL_SAFE_NO_PAD.encode(id.as_slice()),
                public: None,
            });
        }
        let mut jwk = Jwk::from_encoding_key(&encoding, jwt_algorithm(algorithm))?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            algorithm,
            secret,
            encoding,
            decoding: DecodingKey::from_jwk(&jwk)?,
            kid,
            public: Some(serde_json::to_value(&jwk)?),
        })
    }

    pub(super) fn wrapped(&self, keyring: &Keyring, signs_from: DateTime<Utc>) -> KeyRow {
        let NewKey { wrapped, master_key, .. } =
            keyring.wrap(wrapping_id(self.algorithm.as_str(), &self.kid), &self.secret);
        KeyRow {
            kid: self.kid.clone(),
            algorithm: self.algorithm.to_string(),
            public_jwk: self.public.clone(),
            wrapped,
            master_key,
            signs_from,
            retired_at: None,
        }
    }
}

/// What the wrapping authenticates beside the secret: no key can pass for one of another algorithm.
pub(crate) fn wrapping_id(algorithm: &str, kid: &str) -> String {
    format!("k:{algorithm}:{kid}")
}

fn jwt_algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
    }
}

fn pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(pkcs8));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 64));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    pem
}

/// A row of `signing_keys`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct KeyRow {
    pub(super) kid: String,
    pub(super) algorithm: String,
    /// For people who look. It is not read back.
    #[sqlx(skip)]
    pub(super) public_jwk: Option<Value>,
    pub(super) wrapped: Vec<u8>,
    pub(super) master_key: String,
    pub(super) signs_from: DateTime<Utc>,
    pub(super) retired_at: Option<DateTime<Utc>>,
}

impl KeyRow {
    /// All keys, the retirements that events say included: whatever stands in the table, a key that was retired stays so.
    /// Events that the service didn't write retire nothing.
    pub(super) async fn read(
        connection: &mut PgConnection,
        authenticator: &EventAuthenticator,
    ) -> sqlx::Result<Vec<Self>> {
        let mut keys: Vec<Self> = sqlx::query_as(
            "SELECT kid, algorithm, wrapped, master_key, signs_from, retired_at FROM signing_keys",
        )
        .fetch_all(&mut *connection)
        .await?;
        // The streams are named and not joined: without statistics PostgreSQL may plan a join as a scan of all events.
        let streams: Vec<String> =
            keys.iter().map(|key| stream::of_signing_key(&key.kid)).collect();
        let retirements = sqlx::query(
            "SELECT id, aggregate_id, sequence, event_type, event_version,
                    payload::text AS payload, metadata::text AS metadata
               FROM events
              WHERE aggregate_type = 'Service' AND aggregate_id = ANY ($1) AND event_type = 'SigningKeyRetired'",
        )
        .bind(&streams)
        .fetch_all(connection)
        .await?;
        for row in retirements {
            if !is_authentic(authenticator, stream::SERVICE, &row)? {
                continue;
            }
            let kid = stream::signing_key_of(row.try_get("aggregate_id")?).unwrap_or_default();
            for key in keys.iter_mut().filter(|key| key.kid == kid) {
                key.retired_at = Some(DateTime::UNIX_EPOCH);
            }
        }
        Ok(keys)
    }

    pub(super) async fn insert(
        &self,
        connection: &mut PgConnection,
        permit: &[u8],
    ) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO signing_keys (kid, algorithm, public_jwk, wrapped, master_key, signs_from, permit)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&self.kid)
        .bind(&self.algorithm)
        .bind(&self.public_jwk)
        .bind(&self.wrapped)
        .bind(&self.master_key)
        .bind(self.signs_from)
        .bind(permit)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// A key at its place in time.
pub(super) struct SigningKey {
    material: Arc<Material>,
    signs_from: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
}

impl SigningKey {
    pub(super) fn kid(&self) -> &str {
        &self.material.kid
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.material.algorithm
    }

    pub(super) fn jwt_algorithm(&self) -> jsonwebtoken::Algorithm {
        jwt_algorithm(self.material.algorithm)
    }

    pub(super) fn signs_from(&self) -> DateTime<Utc> {
        self.signs_from
    }

    pub(super) fn encoding(&self) -> &EncodingKey {
        &self.material.encoding
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.material.decoding
    }

    pub(super) fn is_withdrawn(&self, now: DateTime<Utc>) -> bool {
        self.retired_at.is_some_and(|at| at <= now)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {}, …)", self.algorithm(), self.kid())
    }
}

/// All signing keys, those that began first in front.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Arc<SigningKey>>,
}

impl KeySet {
    /// Opens the keys that `known` doesn't hold already.
    pub(super) fn of(
        rows: Vec<KeyRow>,
        keyring: &Keyring,
        known: &Self,
    ) -> Result<Self, TokensError> {
        let known: HashMap<&str, &Arc<Material>> =
            known.keys.iter().map(|key| (key.kid(), &key.material)).collect();
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            let material = match known.get(row.kid.as_str()) {
                Some(material) => Arc::clone(material),
                None => {
                    let Ok(algorithm) = row.algorithm.parse() else {
                        // A newer Entrybook may run beside this one.
                        tracing::warn!(
                            "the signing key {} has an algorithm unknown here; it is left out",
                            row.kid
                        );
                        continue;
                    };
                    Arc::new(open(algorithm, &row, keyring)?)
                }
            };
            keys.push(Arc::new(SigningKey {
                material,
                signs_from: row.signs_from,
                retired_at: row.retired_at,
            }));
        }
        keys.sort_by(|a, b| (a.signs_from, a.kid()).cmp(&(b.signs_from, b.kid())));
        Ok(Self { keys })
    }

    /// The same keys, of which these are retired, whatever the rows say.
    pub(super) fn without(&self, retired: &BTreeSet<String>) -> Self {
        let keys = self.keys.iter().map(|key| match retired.contains(key.kid()) {
            true => Arc::new(SigningKey {
                material: Arc::clone(&key.material),
                signs_from: key.signs_from,
                retired_at: Some(DateTime::UNIX_EPOCH),
            }),
            false => Arc::clone(key),
        });
        Self { keys: keys.collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.keys.iter()
    }

    fn not_withdrawn(
        &self,
        now: DateTime<Utc>,
    ) -> impl DoubleEndedIterator<Item = &Arc<SigningKey>> {
        self.keys.iter().filter(move |key| !key.is_withdrawn(now))
    }

    /// The key that signs: of those that have begun, the last. If none has, the first to begin: it
    /// is better than none, after the one before was withdrawn or where a clock is behind.
    pub(super) fn signer(&self, now: DateTime<Utc>) -> Option<&Arc<SigningKey>> {
        let begun = self.not_withdrawn(now).rfind(|key| key.signs_from <= now);
        begun.or_else(|| self.not_withdrawn(now).next())
    }

    /// The key that began last, or will.
    pub(super) fn newest(&self, now: DateTime<Utc>) -> Option<&Arc<SigningKey>> {
        self.not_withdrawn(now).next_back()
    }

    /// The keys whose tokens may still be alive, or will be.
    pub(super) fn accepted(
        &self,
        now: DateTime<Utc>,
        lifetime: TimeDelta,
    ) -> impl Iterator<Item = &Arc<SigningKey>> {
        let successors = self.not_withdrawn(now).skip(1).map(Some).chain([None]);
        self.not_withdrawn(now).zip(successors).filter_map(move |(key, successor)| {
            let over =
                successor.is_some_and(|next| next.signs_from + lifetime + CLOCKS_DIFFER_BY <= now);
            (!over).then_some(key)
        })
    }

    pub(super) fn accepts(
        &self,
        kid: &str,
        now: DateTime<Utc>,
        lifetime: TimeDelta,
    ) -> Option<Arc<SigningKey>> {
        self.accepted(now, lifetime).find(|key| key.kid() == kid).cloned()
    }

    /// RFC 7517, section 5.
    pub(super) fn jwks(&self, now: DateTime<Utc>, lifetime: TimeDelta) -> Value {
        let keys: Vec<&Value> =
            self.accepted(now, lifetime).filter_map(|key| key.material.public.as_ref()).collect();
        json!({ "keys": keys })
    }
}

fn open(algorithm: Algorithm, row: &KeyRow, keyring: &Keyring) -> Result<Material, TokensError> {
    let unusable = |cause| TokensError::UnusableKey { kid: row.kid.clone(), cause };
    let secret = keyring.unwrap_row(&NewKey {
        id: wrapping_id(&row.algorithm, &row.kid),
        wrapped: row.wrapped.clone(),
        master_key: row.master_key.clone(),
    })?;
    let material =
        Material::of(algorithm, secret).map_err(|_| unusable("its private half is unreadable"))?;
    if material.kid == row.kid { Ok(material) } else { Err(unusable("it has another id")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A.1 to A.3: an Ed25519 key and its thumbprint.
    #[test]
    fn an_ed25519_key_has_the_id_of_rfc_8037() {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let pkcs8 = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap().to_pkcs8v1().unwrap();
        let key = Material::of(Algorithm::EdDsa, Zeroizing::new(pkcs8.as_ref().to_vec())).unwrap();
        assert_eq!(key.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(
            key.public.unwrap(),
            json!({
                "kty": "OKP",
                "crv": "Ed25519",
                "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
                "use": "sig",
                "alg": "EdDSA",
            })
        );
    }
}
