//! The shapes that several routes answer with, and the checks that several ask for.

use chrono::{DateTime, Utc};
use commands::{Account, SignedIn};
use domain::{Role, Roles, UserId};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Role)]
pub enum RoleName {
    User,
    Auditor,
    Admin,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::User => Self::User,
            Role::Auditor => Self::Auditor,
            Role::Admin => Self::Admin,
        }
    }
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::User => Self::User,
            RoleName::Auditor => Self::Auditor,
            RoleName::Admin => Self::Admin,
        }
    }
}

#[must_use]
pub fn role_names(roles: &Roles) -> Vec<RoleName> {
    roles.iter().copied().map(RoleName::from).collect()
}

/// An account.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserView {
    pub id: Uuid,
    #[schema(example = "ada@example.org")]
    pub email: String,
    #[schema(example = "ada")]
    pub username: String,
    #[schema(required, example = "Ada Lovelace")]
    pub full_name: Option<String>,
    pub roles: Vec<RoleName>,
    pub disabled: bool,
    /// Then nothing of it can be read any more: its texts are empty.
    pub erased: bool,
    pub registered_at: DateTime<Utc>,
}

impl From<Account> for UserView {
    fn from(account: Account) -> Self {
        Self {
            id: account.id.0,
            registered_at: registered_at(account.id),
            email: account.email,
            username: account.username,
            full_name: account.full_name,
            roles: role_names(&account.roles),
            disabled: account.disabled,
            // An account that is erased can't be described.
            erased: false,
        }
    }
}

/// When an account was registered: its id is made in that moment and holds it (RFC 9562, 5.7).
#[must_use]
pub fn registered_at(id: UserId) -> DateTime<Utc> {
    let made = id.0.get_timestamp().map(|stamp| stamp.to_unix());
    let made = made
        .and_then(|(seconds, nanos)| DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos));
    made.unwrap_or(DateTime::UNIX_EPOCH)
}

/// A session that was opened or refreshed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = SignedIn)]
pub struct SignedInView {
    pub user: UserView,
    /// Send it as `Authorization: Bearer …`. Left out where it goes as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub access_token: Option<String>,
    #[schema(pattern = "^bearer$")]
    pub token_type: &'static str,
    /// For how many seconds the access token is good.
    #[schema(minimum = 0)]
    pub expires_in: i64,
    /// For one use at `/auth/refresh`. Left out where it came and goes as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub refresh_token: Option<String>,
    /// For how many seconds the refresh token is good.
    #[schema(minimum = 0)]
    pub refresh_expires_in: i64,
    pub session_id: Uuid,
}

impl SignedInView {
    /// With both tokens in it.
    #[must_use]
    pub fn new(signed_in: SignedIn, now: DateTime<Utc>) -> Self {
        Self {
            expires_in: seconds_until(signed_in.access.expires_at, now),
            refresh_expires_in: seconds_until(signed_in.refresh_expires_at, now),
            refresh_token: Some(signed_in.refresh.expose().to_owned()),
            access_token: Some(signed_in.access.token),
            token_type: "bearer",
            session_id: signed_in.session_id.0,
            user: signed_in.account.into(),
        }
    }

    /// For a browser that has the tokens as cookies: a script of the page, or of anything else on this origin,
    /// would read them in the body.
    #[must_use]
    pub fn without_tokens(self) -> Self {
        Self { access_token: None, refresh_token: None, ..self }
    }
}

/// Counted in whole seconds of the clock, as tokens have them: what was made a moment ago for 900
/// seconds is good for 900.
fn seconds_until(moment: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (moment.timestamp() - now.timestamp()).max(0)
}

/// Tells `null` from a field that is not there: a `null` is `Some(None)`.
pub fn given<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_when_it_was_made() {
        let id = UserId("0199a0b5-6c00-7000-8000-000000000001".parse().unwrap());
        assert_eq!(registered_at(id).timestamp_millis(), 0x0199_a0b5_6c00);
        assert_eq!(registered_at(UserId(Uuid::nil())), DateTime::UNIX_EPOCH);
    }
}
