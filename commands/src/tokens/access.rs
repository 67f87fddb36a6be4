//! The access token itself: its claims, signing, and verifying.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Role, Roles, SessionId, UserId};
use jsonwebtoken::{Header, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{TokenProblem, TokenSettings, TokensError, keys::SigningKey};

/// The longest text taken for an access token. Those issued here have some 600 characters.
const MAX_BYTES: usize = 4096;

/// What an access token says (RFC 7519, section 4.1, and three claims of our own).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    pub iss: String,
    pub aud: String,
    pub sub: UserId,
    pub sid: SessionId,
    /// The version of the account when it was signed: what the account changed later may have ended
    /// this token.
    pub uv: u64,
    pub role: Vec<Role>,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970; at that second it is over.
    pub exp: i64,
    pub jti: String,
}

/// A signed access token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    pub token: String,
    pub expires_at: DateTime<Utc>,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken(…, expires {})", self.expires_at)
    }
}

/// Whom a token is for. The kind stands in its header (RFC 8725, section 3.11), so that none passes for one of the
/// other, whatever the audiences are set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For<'a> {
    /// This service and whoever shares its audience.
    Service,
    /// An application behind the proxy, named by its origin.
    Application(&'a str),
}

impl<'a> For<'a> {
    pub(super) fn audience(self, settings: &'a TokenSettings) -> &'a str {
        match self {
            Self::Service => &settings.audience,
            Self::Application(origin) => origin,
        }
    }

    fn typ(self) -> &'static str {
        match self {
            Self::Service => "JWT",
            Self::Application(_) => "entrybook-app+jwt",
        }
    }

    /// Whether a header with this type may be a token of this kind. Most who sign leave `JWT` out.
    fn has_typ(self, typ: Option<&str>) -> bool {
        match self {
            Self::Service => typ.is_none_or(|typ| typ == self.typ()),
            Self::Application(_) => typ == Some(self.typ()),
        }
    }
}

/// A token whose signature was found right.
pub(super) struct Verified {
    pub(super) kid: String,
    /// The type of its header.
    pub(super) typ: &'static str,
    pub(super) claims: AccessClaims,
}

impl Verified {
    pub(super) fn new(kid: String, whom: For<'_>, claims: AccessClaims) -> Self {
        Self { kid, typ: whom.typ(), claims }
    }

    /// Whether that is what it was found right for.
    pub(super) fn is_for(&self, whom: For<'_>, settings: &TokenSettings) -> bool {
        self.typ == whom.typ() && self.claims.aud == whom.audience(settings)
    }
}

impl AccessClaims {
    pub(super) fn new(
        settings: &TokenSettings,
        user: UserId,
        session: SessionId,
        user_version: u64,
        roles: &Roles,
        now: DateTime<Utc>,
        jti: [u8; 16],
    ) -> Self {
        let iat = now.timestamp();
        Self {
            iss: settings.issuer.clone(),
            aud: settings.audience.clone(),
            sub: user,
            sid: session,
            uv: user_version,
            role: roles.iter().copied().collect(),
            iat,
            exp: iat.saturating_add(settings.access_lifetime.num_seconds()),
            jti: crate::keyring::primitives::hex(&jti),
        }
    }

    /// The claims, if they hold at that time.
    pub(super) fn at(&self, now: DateTime<Utc>, lifetime: TimeDelta) -> Result<Self, TokenProblem> {
        // By its own word and by today's lifetime: ends are remembered for that long, so a token that
        // was made under a longer one must not outlive them.
        let expires = self.exp.min(self.iat.saturating_add(lifetime.num_seconds()));
        if now.timestamp() < expires { Ok(self.clone()) } else { Err(TokenProblem::Expired) }
    }
}

pub(super) fn sign(
    claims: &AccessClaims,
    whom: For<'_>,
    key: &SigningKey,
) -> Result<AccessToken, TokensError> {
    let mut header = Header::new(key.jwt_algorithm());
    header.typ = Some(whom.typ().to_owned());
    header.kid = Some(key.kid().to_owned());
    let token =
        jsonwebtoken::encode(&header, claims, key.encoding()).map_err(TokensError::Signing)?;
    let expires_at = DateTime::from_timestamp(claims.exp, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    Ok(AccessToken { token, expires_at })
}

/// The SHA-256 of a text that is short enough to be a token.
pub(super) fn digest(token: &str) -> Result<[u8; 32], TokenProblem> {
    if token.len() > MAX_BYTES {
        return Err(TokenProblem::Malformed);
    }
    Ok(Sha256::digest(token).into())
}

/// A text that has the shape of a token. Nothing about it is believed yet.
pub(super) struct Presented<'a> {
    token: &'a str,
    kid: String,
    header: Header,
}

impl<'a> Presented<'a> {
    pub(super) fn read(token: &'a str, whom: For<'_>) -> Result<Self, TokenProblem> {
        // An algorithm that the library doesn't know, `none` among them, is no header to it.
        let mut header = jsonwebtoken::decode_header(token).map_err(|_| TokenProblem::Malformed)?;
        // RFC 7515, section 4.1.11: what is critical and not understood makes a token invalid.
        if header.crit.is_some() || !whom.has_typ(header.typ.as_deref()) {
            return Err(TokenProblem::Malformed);
        }
        let kid = header.kid.take().ok_or(TokenProblem::UnknownKey)?;
        Ok(Self { token, kid, header })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// The claims, once the signature, the issuer and the audience are right. The time is not
    /// looked at: the library would ask the system's clock.
    pub(super) fn claims(
        &self,
        key: &SigningKey,
        whom: For<'_>,
        settings: &TokenSettings,
    ) -> Result<AccessClaims, TokenProblem> {
        let algorithm = key.jwt_algorithm();
        if self.header.alg != algorithm {
            return Err(TokenProblem::BadSignature);
        }
        let mut validation = jsonwebtoken::Validation::new(algorithm);
        validation.leeway = 0;
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[whom.audience(settings)]);
        let decoded: jsonwebtoken::TokenData<AccessClaims> =
            jsonwebtoken::decode(self.token, key.decoding(), &validation).map_err(|error| {
                match error.kind() {
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => {
                        TokenProblem::BadSignature
                    }
                    ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => {
                        TokenProblem::WrongAudience
                    }
                    _ => TokenProblem::Malformed,
                }
            })?;
        Ok(decoded.claims)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_of_a_longer_lifetime_lives_no_longer_than_todays() {
        let claims = AccessClaims {
            iss: String::new(),
            aud: String::new(),
            sub: domain::UserId(Uuid::nil()),
            sid: domain::SessionId(Uuid::nil()),
            uv: 1,
            role: Vec::new(),
            iat: 1_760_000_000,
            exp: 1_760_000_000 + 8 * 3_600,
            jti: String::new(),
        };
        let at = |seconds: i64, lifetime| {
            let now = DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap();
            claims.at(now, lifetime).is_ok()
        };
        assert!(at(59, TimeDelta::minutes(1)));
        assert!(!at(60, TimeDelta::minutes(1)));
        assert!(at(8 * 3_600 - 1, TimeDelta::hours(8)));
        assert!(!at(8 * 3_600, TimeDelta::days(1)));
    }
}
