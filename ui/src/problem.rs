//! What is wrong with one field of a form, told beside it.

use crate::texts::MessageId;

/// Why a value was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    Missing,
    Email,
    EmailTaken,
    UsernameLength,
    UsernameCharacters,
    UsernameScripts,
    UsernameTaken,
    FullNameLength,
    FullNameCharacters,
    PasswordTooShort,
    PasswordTooLong,
    PasswordNul,
    /// The current password, asked for again, is another one.
    PasswordWrong,
    /// The current password, which was left out and is needed for what is to change.
    PasswordNeeded,
    /// The new password is the current one.
    PasswordUnchanged,
    /// Typed to confirm what is done to an account, and not its username.
    OtherUsername,
    /// It is one's own account, and that was not ticked.
    Myself,
    /// A time of a filter that [`crate::parse_filter_time`] refuses.
    Time,
    /// The end of a filter lies before its beginning.
    TimeOrder,
    UserUnknown,
    /// Nobody ever held this e-mail address or username.
    NeverHeld,
    /// Several did; which of them is asked.
    SeveralHeld,
    /// Neither a time nor a line of the book.
    Moment,
    /// A time or a line that is still to come.
    NotYet,
    /// Neither an address nor a network that can be searched for.
    Place,
    Session,
    EventType,
    Actor,
}

impl Problem {
    pub(crate) fn message(self) -> MessageId {
        match self {
            Self::Missing => MessageId("problem-missing"),
            Self::Email => MessageId("problem-email"),
            Self::EmailTaken => MessageId("problem-email-taken"),
            Self::UsernameLength => MessageId("problem-username-length"),
            Self::UsernameCharacters => MessageId("problem-username-characters"),
            Self::UsernameScripts => MessageId("problem-username-scripts"),
            Self::UsernameTaken => MessageId("problem-username-taken"),
            Self::FullNameLength => MessageId("problem-full-name-length"),
            Self::FullNameCharacters => MessageId("problem-full-name-characters"),
            Self::PasswordTooShort => MessageId("problem-password-too-short"),
            Self::PasswordTooLong => MessageId("problem-password-too-long"),
            Self::PasswordNul => MessageId("problem-password-nul"),
            Self::PasswordWrong => MessageId("problem-password-wrong"),
            Self::PasswordNeeded => MessageId("problem-password-needed"),
            Self::PasswordUnchanged => MessageId("problem-password-unchanged"),
            Self::OtherUsername => MessageId("problem-other-username"),
            Self::Myself => MessageId("problem-myself"),
            Self::Time => MessageId("problem-time"),
            Self::TimeOrder => MessageId("problem-time-order"),
            Self::UserUnknown => MessageId("problem-user-unknown"),
            Self::NeverHeld => MessageId("problem-never-held"),
            Self::SeveralHeld => MessageId("problem-several-held"),
            Self::Moment => MessageId("problem-moment"),
            Self::NotYet => MessageId("problem-not-yet"),
            Self::Place => MessageId("problem-place"),
            Self::Session => MessageId("problem-session"),
            Self::EventType => MessageId("problem-event-type"),
            Self::Actor => MessageId("problem-actor"),
        }
    }
}
