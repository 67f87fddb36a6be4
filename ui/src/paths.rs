//! The addresses of the pages, as links and forms have them. A route that is mounted from these
//! constants can't drift from the page that leads to it.
//!
//! Constants with `{id}` are for the router; the function beside each fills it in.

use crate::query::encoded;

pub const OVERVIEW: &str = "/";
/// GET and POST `identifier`, `password`, `remember_me` (`on` or absent), `return_to`, `csrf`.
pub const SIGN_IN: &str = "/sign-in";
/// GET `application`, `return_to`, `browser`: a browser on its way from an application and back.
pub const HAND_OVER: &str = "/hand-over";
/// GET, at the host of an application alone: where that way begins, and where it ends with a `code`.
pub const HAND_OVER_START: &str = "/hand-over/start";
pub const HAND_OVER_CALLBACK: &str = "/hand-over/callback";
/// POST `csrf`.
pub const SIGN_OUT: &str = "/sign-out";
/// GET and POST `email`, `username`, `full_name`, `password`, `return_to`, `csrf`.
pub const REGISTER: &str = "/register";
pub const SESSIONS: &str = "/sessions";
/// POST `csrf`.
pub const SESSION_END: &str = "/sessions/{id}/end";
/// POST `csrf`.
pub const SESSIONS_END_OTHERS: &str = "/sessions/end-others";
/// GET and POST `current_password`, `new_password`, `csrf`.
pub const PASSWORD: &str = "/password";
/// GET and POST `full_name`, `username`, `email`, `csrf`.
pub const PROFILE: &str = "/profile";
/// GET `session`, `type`, `from`, `to`, `order` (`newest` or `oldest`), `cursor`; each may be empty.
pub const MY_HISTORY: &str = "/my-history";
/// GET as [`MY_HISTORY`], and `user`, `actor`.
pub const HISTORY: &str = "/history";
/// POST as [`HISTORY`]: the lines as a file, in the format `id` (`jsonl`, `csv` or `ocsf`).
pub const HISTORY_EXPORT: &str = "/history/export/{id}";
/// GET: one line of the book with all that it holds.
pub const HISTORY_LINE: &str = "/history/lines/{id}";
/// GET, answered outside of the pages: the proof that a line is in the newest signed checkpoint.
const LOG_PROOF: &str = "/log/proof/{id}";
/// GET `user`, `at` (a time, or the number of a line), `against` (likewise), `after` (an id, where there
/// is no `user`); each may be empty.
pub const AUDIT_STATE: &str = "/audit/state";
/// GET `q` (a whole e-mail or username), `cursor`; each may be empty.
pub const USERS: &str = "/users";
/// POST `csrf`.
pub const USER_DISABLE: &str = "/users/{id}/disable";
/// POST `csrf`.
pub const USER_ENABLE: &str = "/users/{id}/enable";
/// GET and POST `username`, `myself` (`on` or absent), `csrf`.
pub const USER_ERASE: &str = "/users/{id}/erase";
/// GET: the receipt for an erasure, as a file.
pub const USER_RECEIPT: &str = "/users/{id}/receipt";
/// POST `role` (`auditor` or `admin`), `csrf`.
pub const USER_ROLE_GRANT: &str = "/users/{id}/roles/grant";
/// POST `role` (`auditor` or `admin`), `csrf`.
pub const USER_ROLE_REVOKE: &str = "/users/{id}/roles/revoke";
pub const PROJECTIONS: &str = "/projections";
/// GET, as server-sent events: what changes on the page.
pub const PROJECTIONS_PROGRESS: &str = "/projections/progress";
/// POST `csrf`: all of them.
pub const PROJECTIONS_REBUILD: &str = "/projections/rebuild";
/// POST `csrf`: all of them.
pub const PROJECTIONS_CHECK: &str = "/projections/check";
/// POST `csrf`.
pub const PROJECTION_REBUILD: &str = "/projections/{id}/rebuild";
/// POST `csrf`.
pub const PROJECTION_CHECK: &str = "/projections/{id}/check";
/// POST `csrf`.
pub const PROJECTION_REPAIR: &str = "/projections/{id}/repair";
/// POST `csrf`.
pub const PROJECTION_CANCEL: &str = "/projections/{id}/cancel";
/// GET, answered by [`crate::static_asset`].
pub const STATIC: &str = "/static/{file}";

fn with_id(path: &str, id: &str) -> String {
    path.replace("{id}", &encoded(id))
}

#[must_use]
pub fn session_end(id: &str) -> String {
    with_id(SESSION_END, id)
}

#[must_use]
pub fn user_disable(id: &str) -> String {
    with_id(USER_DISABLE, id)
}

#[must_use]
pub fn user_enable(id: &str) -> String {
    with_id(USER_ENABLE, id)
}

#[must_use]
pub fn history_export(format: &str) -> String {
    with_id(HISTORY_EXPORT, format)
}

#[must_use]
pub fn history_line(position: &str) -> String {
    with_id(HISTORY_LINE, position)
}

#[must_use]
pub fn log_proof(position: &str) -> String {
    with_id(LOG_PROOF, position)
}

#[must_use]
pub fn user_erase(id: &str) -> String {
    with_id(USER_ERASE, id)
}

#[must_use]
pub fn user_receipt(id: &str) -> String {
    with_id(USER_RECEIPT, id)
}

#[must_use]
pub fn user_role_grant(id: &str) -> String {
    with_id(USER_ROLE_GRANT, id)
}

#[must_use]
pub fn user_role_revoke(id: &str) -> String {
    with_id(USER_ROLE_REVOKE, id)
}

#[must_use]
pub fn projection_rebuild(name: &str) -> String {
    with_id(PROJECTION_REBUILD, name)
}

#[must_use]
pub fn projection_check(name: &str) -> String {
    with_id(PROJECTION_CHECK, name)
}

#[must_use]
pub fn projection_repair(name: &str) -> String {
    with_id(PROJECTION_REPAIR, name)
}

#[must_use]
pub fn projection_cancel(name: &str) -> String {
    with_id(PROJECTION_CANCEL, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_not_leave_its_place() {
        assert_eq!(session_end("a/../b?c#d"), "/sessions/a%2F..%2Fb%3Fc%23d/end");
    }
}
