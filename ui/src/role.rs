//! The roles as pages show and send them.

use crate::texts::MessageId;

/// A role. Everybody has `User`; the others are granted and revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    User,
    Auditor,
    Admin,
}

impl Role {
    /// Those that are granted and revoked.
    pub(crate) const GRANTABLE: [Self; 2] = [Self::Auditor, Self::Admin];

    /// The name that forms send.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn message(self) -> MessageId {
        match self {
            Self::User => MessageId("role-user"),
            Self::Auditor => MessageId("role-auditor"),
            Self::Admin => MessageId("role-admin"),
        }
    }
}
