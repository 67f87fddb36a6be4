//! One file per page, each with the template of its name.

mod errors;
mod history;
mod overview;
mod password;
mod profile;
mod projections;
mod register;
mod sessions;
mod sign_in;
mod users;

pub use errors::{ErrorPage, ForbiddenPage, NotFoundPage};
pub use history::{HistoryFilter, HistoryFilterProblems, HistoryPage, HistoryScope};
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
pub use users::{UserRow, UsersPage};
