//! What the last request did, told once on the page that follows it.

use crate::texts::MessageId;

/// A notice. It travels to the next page as its [`code`](Notice::code), so that a link can't put
/// words of its own on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    SignedOut,
    SignInFirst,
    Registered,
    PasswordChanged,
    ProfileChanged,
    SessionEnded,
    OtherSessionsEnded,
    UserDisabled,
    UserEnabled,
    OneselfErased,
    RoleGranted,
    RoleRevoked,
    NothingChanged,
    SessionUnknown,
    UserUnknown,
    NotYourself,
    LastAdmin,
    RebuildBegun,
    CheckBegun,
    BuildCancelled,
    BuildUnderWay,
    NoBuild,
    FormExpired,
    Unavailable,
}

impl Notice {
    pub const ALL: [Self; 24] = [
        Self::SignedOut,
        Self::SignInFirst,
        Self::Registered,
        Self::PasswordChanged,
        Self::ProfileChanged,
        Self::SessionEnded,
        Self::OtherSessionsEnded,
        Self::UserDisabled,
        Self::UserEnabled,
        Self::OneselfErased,
        Self::RoleGranted,
        Self::RoleRevoked,
        Self::NothingChanged,
        Self::SessionUnknown,
        Self::UserUnknown,
        Self::NotYourself,
        Self::LastAdmin,
        Self::RebuildBegun,
        Self::CheckBegun,
        Self::BuildCancelled,
        Self::BuildUnderWay,
        Self::NoBuild,
        Self::FormExpired,
        Self::Unavailable,
    ];

    /// The stable name under which it travels.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.message().0.trim_start_matches("notice-")
    }

    /// The notice of this name, if there is one.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|notice| notice.code() == code)
    }

    pub(crate) fn message(self) -> MessageId {
        match self {
            Self::SignedOut => MessageId("notice-signed-out"),
            Self::SignInFirst => MessageId("notice-sign-in-first"),
            Self::Registered => MessageId("notice-registered"),
            Self::PasswordChanged => MessageId("notice-password-changed"),
            Self::ProfileChanged => MessageId("notice-profile-changed"),
            Self::SessionEnded => MessageId("notice-session-ended"),
            Self::OtherSessionsEnded => MessageId("notice-other-sessions-ended"),
            Self::UserDisabled => MessageId("notice-user-disabled"),
            Self::UserEnabled => MessageId("notice-user-enabled"),
            Self::OneselfErased => MessageId("notice-oneself-erased"),
            Self::RoleGranted => MessageId("notice-role-granted"),
            Self::RoleRevoked => MessageId("notice-role-revoked"),
            Self::NothingChanged => MessageId("notice-nothing-changed"),
            Self::SessionUnknown => MessageId("notice-session-unknown"),
            Self::UserUnknown => MessageId("notice-user-unknown"),
            Self::NotYourself => MessageId("notice-not-yourself"),
            Self::LastAdmin => MessageId("notice-last-admin"),
            Self::RebuildBegun => MessageId("notice-rebuild-begun"),
            Self::CheckBegun => MessageId("notice-check-begun"),
            Self::BuildCancelled => MessageId("notice-build-cancelled"),
            Self::BuildUnderWay => MessageId("notice-build-under-way"),
            Self::NoBuild => MessageId("notice-no-build"),
            Self::FormExpired => MessageId("notice-form-expired"),
            Self::Unavailable => MessageId("notice-unavailable"),
        }
    }

    /// Whether it tells of something that did not work.
    pub(crate) fn is_problem(self) -> bool {
        match self {
            Self::SessionUnknown
            | Self::UserUnknown
            | Self::NotYourself
            | Self::LastAdmin
            | Self::BuildUnderWay
            | Self::NoBuild
            | Self::FormExpired
            | Self::Unavailable => true,
            Self::SignedOut
            | Self::SignInFirst
            | Self::Registered
            | Self::PasswordChanged
            | Self::ProfileChanged
            | Self::SessionEnded
            | Self::OtherSessionsEnded
            | Self::UserDisabled
            | Self::UserEnabled
            | Self::OneselfErased
            | Self::RoleGranted
            | Self::RoleRevoked
            | Self::RebuildBegun
            | Self::CheckBegun
            | Self::BuildCancelled
            | Self::NothingChanged => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_comes_back_from_its_code() {
        for notice in Notice::ALL {
            assert_eq!(Notice::from_code(notice.code()), Some(notice));
        }
        assert_eq!(Notice::SessionEnded.code(), "session-ended");
        assert_eq!(Notice::from_code("<b>"), None);
    }
}
