//! How it was with a person, opened and told in words: for the API, the pages and the command line.

use chrono::{DateTime, Utc};
use commands::{Entrybook, keyring::KeyringError};
use domain::{Role, SessionId, UserId, stream};
use projections::{
    replay::{self, ReplayError},
    sessions, users,
};

use crate::problem::ApiError;

pub use projections::replay::AsOf;

/// The most sessions that are told of one person.
const SESSIONS: usize = 200;

/// A person as they were.
#[derive(Debug, Clone)]
pub struct Then {
    pub user: UserId,
    pub at: DateTime<Utc>,
    /// The last line that has a part in it; 0 where there was none yet.
    pub position: i64,
    /// None before they registered.
    pub account: Option<Account>,
    /// The sessions that were good, the last begun first; not all, where there are very many.
    pub sessions: Vec<Session>,
    /// All of them.
    pub live: Vec<SessionId>,
    /// How many had begun by then; nothing where only those that were good are told.
    pub begun: Option<usize>,
}

/// An account as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What is sealed can't be read once its person is erased.
    pub email: Option<String>,
    pub username: Option<String>,
    pub full_name: Option<String>,
    pub roles: Vec<Role>,
    pub disabled: bool,
    pub erased: bool,
    pub registered_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// How many events it had.
    pub version: u64,
}

/// A session as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub method: String,
    pub remember_me: bool,
    pub started_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub refreshes: i64,
    /// From where it was last seen.
    pub address: Option<String>,
    pub user_agent: Option<String>,
}

/// Something that is one way in one state and another way in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub what: What,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// What may differ between two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Registered,
    Email,
    Username,
    FullName,
    Role,
    Disabled,
    Erased,
    Session,
}

impl What {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Email => "email",
            Self::Username => "username",
            Self::FullName => "full_name",
            Self::Role => "role",
            Self::Disabled => "disabled",
            Self::Erased => "erased",
            Self::Session => "session",
        }
    }
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Ahead { asked, reached } => {
                Self::projection_behind("audit_history", reached, asked)
            }
            ReplayError::Journal(projections::JournalError::Database(cause)) => cause.into(),
            ReplayError::LeftOut { .. } | ReplayError::Event(_) | ReplayError::Journal(_) => {
                Self::internal(error)
            }
        }
    }
}

/// Opens what is sealed in a state.
pub async fn open(book: &Entrybook, state: &replay::State) -> Result<Then, KeyringError> {
    let account = match &state.account {
        Some(row) => Some(open_account(book, row).await?),
        None => None,
    };
    let live: Vec<&sessions::Row> = state.live().collect();
    let mut sessions = Vec::with_capacity(live.len().min(SESSIONS));
    for row in live.iter().take(SESSIONS) {
        sessions.push(open_session(book, row).await?);
    }
    Ok(Then {
        user: state.user_id,
        at: state.at,
        position: state.position,
        account,
        sessions,
        live: live.iter().map(|row| row.session_id).collect(),
        begun: state.begun,
    })
}

async fn open_account(book: &Entrybook, row: &users::Row) -> Result<Account, KeyringError> {
    let id = row.user_id;
    let sealed = [
        ("email", row.email.as_ref().map(|email| &email.sealed)),
        ("username", row.username.as_ref().map(|username| &username.sealed)),
        ("full_name", row.full_name.as_ref()),
    ];
    let mut opened = Vec::with_capacity(sealed.len());
    for (field, sealed) in sealed {
        opened.push(match sealed {
            Some(sealed) => {
                book.open_text(sealed, &format!("{}/{id}/{field}", stream::USER)).await?
            }
            None => None,
        });
    }
    let mut opened = opened.into_iter().map(|text| text.filter(|text| !text.is_empty()));
    let mut next = || opened.next().flatten();
    Ok(Account {
        email: next(),
        username: next(),
        full_name: next(),
        roles: row.roles.iter().copied().collect(),
        disabled: row.disabled,
        erased: row.erased,
        registered_at: row.registered_at,
        updated_at: row.updated_at,
        version: row.version,
    })
}

async fn open_session(book: &Entrybook, row: &sessions::Row) -> Result<Session, KeyringError> {
    let source = match row.last_source.as_ref().or(row.started_source.as_ref()) {
        Some(sealed) => {
            book.open_source(sealed, stream::SESSION, &row.session_id.to_string()).await?
        }
        None => None,
    };
    let (address, user_agent) =
        source.map(|source| (source.address, source.user_agent)).unwrap_or_default();
    Ok(Session {
        id: row.session_id,
        method: row.method.clone(),
        remember_me: row.remember_me,
        started_at: row.started_at,
        last_seen_at: row.last_seen_at,
        expires_at: row.expires_at,
        refreshes: row.refreshes,
        address,
        user_agent,
    })
}

/// What differs between one state of a person and another.
#[must_use]
pub fn changes(from: &Then, to: &Then) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut differ = |what, from: Option<String>, to: Option<String>| {
        if from != to {
            changes.push(Change { what, from, to });
        }
    };
    let yes = |is_so: bool| is_so.then(|| "yes".to_owned());
    let (before, after) = (from.account.as_ref(), to.account.as_ref());
    differ(What::Registered, yes(before.is_some()), yes(after.is_some()));
    let text = |account: Option<&Account>, of: fn(&Account) -> &Option<String>| {
        account.and_then(|account| of(account).clone())
    };
    for (what, of) in [
        (What::Email, (|account| &account.email) as fn(&Account) -> &Option<String>),
        (What::Username, |account| &account.username),
        (What::FullName, |account| &account.full_name),
    ] {
        differ(what, text(before, of), text(after, of));
    }
    for role in [Role::User, Role::Auditor, Role::Admin] {
        let has = |account: Option<&Account>| {
            let has = account.is_some_and(|account| account.roles.contains(&role));
            has.then(|| role.as_str().to_owned())
        };
        differ(What::Role, has(before), has(after));
    }
    for (what, is) in [
        (What::Disabled, (|account| account.disabled) as fn(&Account) -> bool),
        (What::Erased, |account| account.erased),
    ] {
        differ(what, yes(before.is_some_and(is)), yes(after.is_some_and(is)));
    }
    let has = |then: &Then, id: SessionId| then.live.contains(&id).then(|| id.to_string());
    let begun = to.live.iter().filter(|id| !from.live.contains(id));
    for id in from.live.iter().chain(begun) {
        differ(What::Session, has(from, *id), has(to, *id));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn then(email: &str, roles: &[Role], sessions: &[u128]) -> Then {
        let session = |number: &u128| Session {
            id: SessionId(uuid::Uuid::from_u128(*number)),
            method: "password".into(),
            remember_me: false,
            started_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH,
            refreshes: 0,
            address: None,
            user_agent: None,
        };
        Then {
            user: UserId(uuid::Uuid::nil()),
            at: DateTime::UNIX_EPOCH,
            position: 1,
            account: Some(Account {
                email: Some(email.into()),
                username: Some("ada".into()),
                full_name: None,
                roles: roles.to_vec(),
                disabled: false,
                erased: false,
                registered_at: DateTime::UNIX_EPOCH,
                updated_at: DateTime::UNIX_EPOCH,
                version: 1,
            }),
            live: sessions.iter().map(|number| session(number).id).collect(),
            sessions: sessions.iter().map(session).collect(),
            begun: Some(sessions.len()),
        }
    }

    fn told(from: &Then, to: &Then) -> Vec<String> {
        let end = |text: Option<String>| {
            text.map_or("-".to_owned(), |text| {
                text.chars().skip(text.len().saturating_sub(5)).collect()
            })
        };
        changes(from, to)
            .into_iter()
            .map(|change| {
                format!("{} {} {}", change.what.as_str(), end(change.from), end(change.to))
            })
            .collect()
    }

    #[test]
    fn what_differs_is_told_and_nothing_else() {
        let before = then("a@a.a", &[Role::User, Role::Admin], &[1, 2]);
        assert_eq!(told(&before, &before), Vec::<String>::new());
        let after = then("b@b.b", &[Role::User, Role::Auditor], &[3, 2]);
        assert_eq!(
            told(&before, &after),
            [
                "email a@a.a b@b.b",
                "role - ditor",
                "role admin -",
                "session 00001 -",
                "session - 00003"
            ]
        );
        let nobody = Then { account: None, live: Vec::new(), ..before.clone() };
        assert_eq!(
            told(&nobody, &before),
            [
                "registered - yes",
                "email - a@a.a",
                "username - ada",
                "role - user",
                "role - admin",
                "session - 00001",
                "session - 00002"
            ]
        );
    }
}
