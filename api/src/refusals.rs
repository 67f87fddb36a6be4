//! What each refusal of a command is over HTTP.

use commands::{
    ChangePasswordError, ChangeProfileError, CommandError, RefreshError, RegisterError,
    SignInError, StorageError, keyring::KeyringError,
};
use domain::{EndReason, UserRefusal};

use crate::problem::{ApiError, FieldError, Kind};

impl From<KeyringError> for ApiError {
    fn from(error: KeyringError) -> Self {
        StorageError::from(error).into()
    }
}

impl From<SignInError> for ApiError {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::WrongCredentials => Self::new(
                Kind::WrongCredentials,
                "The e-mail or username and the password do not match an account that may sign in. Check both.",
            ),
            SignInError::Throttled { retry_after } => Self::throttled(retry_after),
            SignInError::Overloaded => Self::overloaded(),
            SignInError::Storage(error) => error.into(),
        }
    }
}

impl From<RegisterError> for ApiError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::IdentifierTaken(kind) => Self::taken(kind),
            RegisterError::TooMany { retry_after } => Self {
                detail:
                    "Too many accounts were registered from this address. Wait, then try again."
                        .into(),
                ..Self::throttled(retry_after)
            },
            RegisterError::Overloaded => Self::overloaded(),
            RegisterError::Storage(error) => error.into(),
        }
    }
}

impl From<RefreshError> for ApiError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Invalid => Self::new(
                Kind::InvalidRefreshToken,
                "This is no refresh token that is good now. Sign in again.",
            ),
            RefreshError::Ended(reason) => Self::new(
                Kind::SessionEnded,
                match reason {
                    EndReason::SignedOut => "The session was signed out. Sign in again.",
                    EndReason::EndedElsewhere | EndReason::EndedOthers => {
                        "The session was ended from another one. Sign in again."
                    }
                    EndReason::PasswordChanged => {
                        "The password was changed. Sign in with the new one."
                    }
                    EndReason::AccountDisabled => "The account is disabled. Ask an administrator.",
                    EndReason::EndedByAdmin => {
                        "The session was ended by an administrator. Sign in again."
                    }
                    EndReason::Expired => "The session has expired. Sign in again.",
                    EndReason::TokenReused => {
                        "A spent refresh token was used, so the session was ended. Sign in again."
                    }
                    EndReason::AccountErased => {
                        "The account was erased, and is not there any more."
                    }
                },
            ),
            RefreshError::Reused => Self::new(
                Kind::SessionEnded,
                "The refresh token was used before. Somebody else may have it, so the session is ended; sign in again.",
            ),
            RefreshError::TooManyInGrace => Self {
                detail: "The refresh token is being used many times at once. Use the newest one."
                    .into(),
                ..Self::throttled(std::time::Duration::from_secs(1))
            },
            RefreshError::Storage(error) => error.into(),
        }
    }
}

fn wrong_password() -> ApiError {
    let wrong = FieldError::new("current_password", "this is not the current password");
    ApiError {
        errors: vec![wrong],
        ..ApiError::new(Kind::WrongPassword, "Give the password that the account has now.")
    }
}

impl From<ChangePasswordError> for ApiError {
    fn from(error: ChangePasswordError) -> Self {
        match error {
            ChangePasswordError::WrongPassword => wrong_password(),
            ChangePasswordError::Throttled { retry_after } => Self::throttled(retry_after),
            ChangePasswordError::NotFound => {
                Self::invalid_token("the account of this token is gone")
            }
            ChangePasswordError::Disabled => disabled(),
            ChangePasswordError::SessionOver => session_over(),
            ChangePasswordError::Overloaded => Self::overloaded(),
            ChangePasswordError::Storage(error) => error.into(),
        }
    }
}

impl From<ChangeProfileError> for ApiError {
    fn from(error: ChangeProfileError) -> Self {
        match error {
            ChangeProfileError::IdentifierTaken(kind) => Self::taken(kind),
            ChangeProfileError::PasswordRequired => Self::invalid_field(
                "current_password",
                "the current password is required to change the e-mail address or the username",
            ),
            ChangeProfileError::WrongPassword => wrong_password(),
            ChangeProfileError::Throttled { retry_after } => Self::throttled(retry_after),
            ChangeProfileError::TooManyNames { retry_after } => Self {
                detail: "Too many names and e-mail addresses were asked for. Wait, then try again."
                    .into(),
                ..Self::throttled(retry_after)
            },
            ChangeProfileError::Overloaded => Self::overloaded(),
            ChangeProfileError::NotFound => {
                Self::invalid_token("the account of this token is gone")
            }
            ChangeProfileError::Disabled => disabled(),
            ChangeProfileError::Storage(error) => error.into(),
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotFound => Self::not_found(),
            CommandError::Refused(refusal) => match refusal {
                UserRefusal::NotRegistered | UserRefusal::Erased => Self::not_found(),
                UserRefusal::Disabled => disabled(),
                UserRefusal::SessionOver => session_over(),
                UserRefusal::RoleKept => Self::invalid_field("revoke", refusal),
                UserRefusal::IdentifierTaken(kind) => Self::taken(kind),
                UserRefusal::AlreadyRegistered | UserRefusal::PasswordChangedMeanwhile => {
                    Self::new(
                        Kind::Contended,
                        "The account was changed meanwhile. Look at it again.",
                    )
                }
            },
            CommandError::Overloaded => Self::overloaded(),
            CommandError::Storage(error) => error.into(),
        }
    }
}

/// As it would have been answered a moment later.
fn session_over() -> ApiError {
    ApiError::invalid_token("the session of this token has ended; sign in again")
}

fn disabled() -> ApiError {
    ApiError::new(
        Kind::AccountDisabled,
        "The account is disabled, so nothing of it can be changed. Ask an administrator.",
    )
}
