//! The accounts, for admins.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::{Chrome, Role, paths, person::short_id, query::link};

#[derive(Clone, Default, askama::Template)]
#[template(path = "users.html")]
pub struct UsersPage {
    pub chrome: Chrome,
    /// The e-mail or username that was searched for, or an empty text.
    pub search: String,
    pub rows: Vec<UserRow>,
    /// Whether these are the first.
    pub is_first_page: bool,
    /// The cursor of the next page, if there is one.
    pub next: Option<String>,
}

/// One account.
#[derive(Clone)]
pub struct UserRow {
    pub id: String,
    pub username: String,
    pub email: String,
    pub full_name: Option<String>,
    pub roles: Vec<Role>,
    pub disabled: bool,
    /// Then its texts are empty.
    pub erased: bool,
    pub registered: DateTime<Utc>,
    /// Whether it is the account of the admin who asks.
    pub is_self: bool,
}

/// A button that grants or revokes a role.
struct RoleButton<'a> {
    action: String,
    role: &'static str,
    label: Cow<'a, str>,
}

impl UsersPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("users-title")
    }

    fn next_link(&self) -> Option<String> {
        self.next
            .as_ref()
            .map(|cursor| link(paths::USERS, &[("q", &self.search), ("cursor", cursor)]))
    }

    fn first_link(&self) -> String {
        link(paths::USERS, &[("q", &self.search)])
    }
}

impl UserRow {
    /// The username, or what is left to name somebody by.
    fn name(&self, chrome: &Chrome) -> Cow<'_, str> {
        if self.erased {
            chrome.t_with("person-erased", "id", short_id(&self.id))
        } else {
            Cow::Borrowed(&self.username)
        }
    }

    fn erase_link(&self) -> String {
        paths::user_erase(&self.id)
    }

    fn history_link(&self) -> String {
        link(paths::HISTORY, &[("user", &self.id)])
    }

    fn role_buttons(&self, chrome: &Chrome) -> Vec<RoleButton<'static>> {
        let button = |role: Role| {
            let name = chrome.message(role.message());
            if self.roles.contains(&role) {
                let label = chrome.t_with("users-revoke", "role", &name);
                RoleButton { action: paths::user_role_revoke(&self.id), role: role.as_str(), label }
            } else {
                let label = chrome.t_with("users-grant", "role", &name);
                RoleButton { action: paths::user_role_grant(&self.id), role: role.as_str(), label }
            }
        };
        Role::GRANTABLE.into_iter().map(button).collect()
    }
}
