//! One file per page, each with the template of its name.

mod erase;
mod errors;
mod history;
mod line;
mod overview;
mod password;
mod profile;
mod projections;
mod register;
mod sessions;
mod sign_in;
mod state;
mod users;

pub use erase::{ErasePage, EraseProblems, ErasedPage};
pub use errors::{ErrorPage, ForbiddenPage, NotFoundPage};
pub use history::{
    HistoryBehind, HistoryCount, HistoryFilter, HistoryFilterProblems, HistoryPage, HistoryScope,
    HistorySearched,
};
pub use line::{LineChange, LinePage};
pub use overview::{Account, OverviewPage};
pub use password::{PasswordPage, PasswordProblems};
pub use profile::{ProfilePage, ProfileProblems};
pub(crate) use projections::can_rebuild_all;
pub use projections::{
    BuildPhase, BuildState, ProjectionBuild, ProjectionRow, ProjectionState, ProjectionStop,
    ProjectionsPage,
};
pub use register::{RegisterPage, RegisterProblems};
pub use sessions::SessionsPage;
pub use sign_in::{SignInPage, SignInProblems};
pub use state::{
    AccountThen, Holder, PeopleThen, PersonThen, StateChange, StateDifference, StateForm,
    StatePage, StateProblems, StateShown,
};
pub use users::{UserRow, UsersPage};
