//! Handing a session over to an application behind the proxy, which has a host name of its own.
//!
//! The login's cookies never leave its host. A browser that is signed in there is sent to the application with a
//! code, which the application's host gives back here for a token of its own. A code is good once, for a minute, at
//! the application it was made for, and in the browser it was made for: there the application has left a random
//! cookie, whose hash came along. So a code that somebody reads is of no use to them, and nobody signs another
//! browser in as themselves.
//!
//! The code is `ebh_` and base64url of `random (32 bytes) ‖ MAC (16)`. The MAC covers everything that the code
//! stands for, so that a row which somebody else wrote into the table makes no code.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::{EndReason, SessionId, SessionRefusal, UserId};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Entrybook, StorageError, keyring::primitives, tokens::AccessToken};

/// Names the kind, for whoever finds one in a log.
const PREFIX: &str = "ebh_";
const RANDOM_BYTES: usize = 32;
const MAC_BYTES: usize = 16;
/// 48 bytes are 64 characters of base64.
const CHARACTERS: usize = PREFIX.len() + 64;
/// For how many seconds a code is good.
const SECONDS: f64 = 60.0;
/// So many of them one session has at most; tabs that are opened at once take one each.
const PER_SESSION: i64 = 20;

/// The SHA-256 of the cookie that a browser has at an application.
pub type BrowserHash = [u8; 32];

/// Why a code gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Unknown, used or expired; or of another application or another browser.
    #[error("the code is not good here")]
    Invalid,
    #[error("the session has ended")]
    Ended(EndReason),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<sqlx::Error> for HandOverError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

/// What a code stands for.
struct Terms<'a> {
    application: &'a str,
    browser: &'a BrowserHash,
    user: UserId,
    session: SessionId,
}

impl Terms<'_> {
    fn mac(&self, secret: &[u8; 32], random: &[u8]) -> [u8; MAC_BYTES] {
        // All but the last are of fixed length, so no two terms read alike.
        let tag = primitives::mac(
            secret,
            &[
                b"entrybook/hand-over/v1\0",
                random,
                self.browser,
                self.user.0.as_bytes(),
                self.session.0.as_bytes(),
                self.application.as_bytes(),
            ],
        );
        *tag.first_chunk().unwrap_or(&[0; MAC_BYTES])
    }
}

impl Entrybook {
    /// A code by which this browser is let in at the application, as this session.
    pub async fn hand_over(
        &self,
        application: &str,
        browser: &BrowserHash,
        user: UserId,
        session: SessionId,
    ) -> Result<Zeroizing<String>, StorageError> {
        self.forget_hand_overs().await?;
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        self.entropy().fill(random.as_mut_slice());
        let terms = Terms { application, browser, user, session };
        let mac = terms.mac(&self.hand_over_secret(), random.as_slice());
        sqlx::query(
            "WITH surplus AS (DELETE FROM hand_overs WHERE hash IN (
                 SELECT hash FROM hand_overs WHERE session_id = $5 ORDER BY made_at DESC OFFSET $6))
             INSERT INTO hand_overs (hash, application, browser, user_id, session_id) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(Sha256::digest(random.as_slice()).as_slice())
        .bind(application)
        .bind(browser.as_slice())
        .bind(user.0)
        .bind(session.0)
        .bind(PER_SESSION - 1)
        .execute(self.pool())
        .await?;
        let bytes = Zeroizing::new([random.as_slice(), &mac].concat());
        let mut code = Zeroizing::new(String::with_capacity(CHARACTERS));
        code.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut code);
        Ok(code)
    }

    /// Spends a code for the application's token. Whether or not that succeeds, the code is gone.
    pub async fn redeem_hand_over(
        &self,
        application: &str,
        browser: &BrowserHash,
        code: &str,
    ) -> Result<AccessToken, HandOverError> {
        let bytes = read(code).ok_or(HandOverError::Invalid)?;
        let (random, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(HandOverError::Invalid)?;
        let row: Option<(String, Vec<u8>, Uuid, Uuid, bool)> = sqlx::query_as(
            "DELETE FROM hand_overs WHERE hash = $1
             RETURNING application, browser, user_id, session_id,
                       made_at > clock_timestamp() - make_interval(secs => $2)",
        )
        .bind(Sha256::digest(random).as_slice())
        .bind(SECONDS)
        .fetch_optional(self.pool())
        .await?;
        let (made_for, made_in, user, session, fresh) = row.ok_or(HandOverError::Invalid)?;
        let (user, session) = (UserId(user), SessionId(session));
        let terms = Terms { application, browser, user, session };
        let genuine = terms.mac(&self.hand_over_secret(), random).ct_eq(mac);
        if !bool::from(genuine) || !fresh || made_for != application || made_in != browser {
            return Err(HandOverError::Invalid);
        }
        let live = self.session(session).await?;
        let at = self.clock().now();
        let started = live.live(at).map_err(|refusal| match refusal {
            SessionRefusal::Ended(reason) => HandOverError::Ended(reason),
            _ => HandOverError::Invalid,
        })?;
        let ends_at = self.session_ends_at(started.at);
        if at >= ends_at {
            return Err(HandOverError::Ended(EndReason::Expired));
        }
        let account = self.user(user).await?;
        if started.user_id != user || !account.keeps(session, started.user_version) {
            return Err(HandOverError::Invalid);
        }
        let until = ends_at.min(started.expires_at);
        self.tokens()
            .sign_for_application(
                application,
                user,
                session,
                account.version,
                &account.roles,
                until,
            )
            .map_err(|error| HandOverError::Storage(error.into()))
    }

    /// Deletes the codes that nobody has used in time.
    async fn forget_hand_overs(&self) -> Result<(), StorageError> {
        sqlx::query(
            "DELETE FROM hand_overs WHERE made_at < clock_timestamp() - make_interval(secs => $1)",
        )
        .bind(SECONDS)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    fn hand_over_secret(&self) -> Zeroizing<[u8; 32]> {
        self.keyring().service_secret("hand-over")
    }
}

/// The bytes of a code. Strict: there is one text for them.
fn read(code: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = code.strip_prefix(PREFIX).filter(|_| code.len() == CHARACTERS)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    (bytes.len() == RANDOM_BYTES + MAC_BYTES).then_some(bytes)
}
