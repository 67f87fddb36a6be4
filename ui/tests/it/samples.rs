//! Every page with invented data, for the tests and for the gallery (`examples/gallery`).

use chrono::{DateTime, Utc};
use ui::{
    Actor, Chrome, FormProblem, HistoryRow, Locale, Notice, Page, PersonRef, Problem, Role,
    SessionView, SignedIn, pages::*, paths,
};

// The gallery reads this file from elsewhere.
#[path = "samples/desk.rs"]
mod desk;

use desk::{holders, line_page, state_pages};

pub(crate) const FIREFOX: &str =
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
pub(crate) const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1";

/// What the samples are made of: who and how the texts read that people or clients choose.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    pub(crate) name: &'static str,
    pub(crate) username: &'static str,
    pub(crate) email: &'static str,
    pub(crate) user_agent: &'static str,
    pub(crate) address: &'static str,
    pub(crate) id: &'static str,
    pub(crate) note: &'static str,
}

pub(crate) const PLAIN: Words = Words {
    name: "Ada Example",
    username: "ada",
    email: "ada@example.org",
    user_agent: FIREFOX,
    address: "192.0.2.17",
    id: "0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d",
    note: "event 48211 of kind UserMerged is not known to this version",
};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or(DateTime::UNIX_EPOCH)
}

fn bare(words: Words, path: &str) -> Chrome {
    Chrome {
        path: path.into(),
        csrf: words.id.into(),
        request_id: "01J9Z3V7M2Q8".into(),
        ..Chrome::new(Locale::En)
    }
}

fn signed_in(words: Words, path: &str) -> Chrome {
    let person = SignedIn { display_name: words.name.into(), auditor: true, admin: true };
    Chrome { person: Some(person), ..bare(words, path) }
}

fn sessions(words: Words) -> Vec<SessionView> {
    let session =
        |user_agent: Option<&str>, address: Option<&str>, current: bool, day: &str| SessionView {
            id: words.id.into(),
            user_agent: user_agent.map(Into::into),
            address: address.map(Into::into),
            first_seen: at(&format!("{day}T08:14:02Z")),
            last_seen: at("2025-11-21T11:38:07.250Z"),
            expires: current.then(|| at("2025-12-21T11:38:07Z")),
            current,
        };
    vec![
        session(Some(words.user_agent), Some(words.address), true, "2025-11-21"),
        session(Some(SAFARI), Some("2001:db8:85a3::8a2e:370:7334"), false, "2025-11-02"),
        session(None, None, false, "2025-09-30"),
    ]
}

fn history(words: Words) -> Vec<HistoryRow> {
    let person = PersonRef { id: words.id.into(), label: Some(words.username.into()) };
    let nobody = PersonRef { id: words.id.into(), label: None };
    let row =
        |position, event_type: &str, detail: Option<&str>, person: Option<&PersonRef>, actor| {
            HistoryRow {
                position,
                time: at("2025-11-21T11:38:07.250Z"),
                event_type: event_type.into(),
                detail: detail.map(Into::into),
                person: person.cloned(),
                actor,
                address: Some(words.address.into()),
                user_agent: Some(words.user_agent.into()),
                session: Some(words.id.into()),
                identifier: None,
            }
        };
    let user = || Actor::User(person.clone());
    vec![
        row(None, "SessionStarted", None, Some(&person), user()),
        row(Some(48_211), "SignInFailed", Some("wrong_password"), Some(&person), Actor::Anonymous),
        row(Some(48_210), "SessionEnded", Some("token_reused"), Some(&person), Actor::System),
        HistoryRow {
            address: None,
            user_agent: None,
            session: None,
            ..row(
                Some(48_209),
                "UserRoleGranted",
                Some("auditor"),
                Some(&person),
                Actor::Cli(words.username.into()),
            )
        },
        HistoryRow {
            identifier: Some(words.note.into()),
            ..row(Some(48_206), "HistorySearched", None, None, Actor::Unknown)
        },
        row(Some(48_208), "SignInAttemptsBlocked", None, None, Actor::Anonymous),
        row(
            Some(48_207),
            "UserMerged",
            Some(words.note),
            Some(&nobody),
            Actor::User(nobody.clone()),
        ),
        row(Some(1), "UserRegistered", None, Some(&person), user()),
    ]
}

fn history_page(words: Words, scope: HistoryScope, path: &str) -> HistoryPage {
    HistoryPage {
        chrome: signed_in(words, path),
        scope,
        filter: HistoryFilter::default(),
        problems: HistoryFilterProblems::default(),
        rows: history(words),
        count: Some(HistoryCount { lines: 48_211, exact: true }),
        searched: None,
        broke_off: false,
        behind: None,
        holders: Vec::new(),
        older: Some(words.id.into()),
        newer: None,
    }
}

fn users(words: Words) -> Vec<UserRow> {
    let user = |username: &str, roles: &[Role], disabled, is_self| UserRow {
        id: words.id.into(),
        username: username.into(),
        email: if is_self { words.email.into() } else { format!("{username}@example.net") },
        full_name: is_self.then(|| words.name.into()),
        roles: roles.to_vec(),
        disabled,
        erased: username.is_empty(),
        registered: at("2025-03-04T16:20:00Z"),
        is_self,
    };
    vec![
        user(words.username, &[Role::User, Role::Auditor, Role::Admin], false, true),
        user("grace", &[Role::User, Role::Auditor], false, false),
        user("a-rather-long-username-that-somebody-has-chosen", &[Role::User], true, false),
        user("", &[], false, false),
    ]
}

fn erased(words: Words, done: bool) -> ErasedPage {
    ErasedPage {
        chrome: signed_in(words, paths::USERS),
        id: words.id.into(),
        line: done.then(|| (48_211, at("2025-11-21T11:38:07.250Z"))),
        has_receipt: done,
    }
}

fn build(state: BuildState) -> ProjectionBuild {
    ProjectionBuild {
        state,
        phase: BuildPhase::Folding,
        check_only: state == BuildState::Differs,
        events_done: 12_000,
        events_total: 48_211,
        events_per_second: 92_150,
        seconds_left: Some(4),
        seconds: 12,
        updated: at("2025-11-21T11:38:07Z"),
        detail: None,
    }
}

pub(crate) fn projections_page(words: Words) -> ProjectionsPage {
    let row = |name: &str, lag_events, lag_seconds, state| ProjectionRow {
        name: name.into(),
        version: 3,
        position: 48_211 - lag_events,
        lag_events,
        lag_seconds,
        state,
        built: matches!(state, ProjectionState::Live | ProjectionState::Stopped),
        stopped: None,
        build: None,
    };
    let rows = vec![
        ProjectionRow {
            build: Some(build(BuildState::Swapped)),
            ..row("audit_history", 0, 0, ProjectionState::Live)
        },
        ProjectionRow {
            build: Some(ProjectionBuild {
                detail: Some(words.note.into()),
                ..build(BuildState::Differs)
            }),
            ..row("login_lookup", 0, 0, ProjectionState::Live)
        },
        ProjectionRow {
            build: Some(build(BuildState::Running)),
            ..row("sessions", 41, 2, ProjectionState::Live)
        },
        row("transparency", 36_211, 9_000, ProjectionState::Building),
        row("login_guard", 48_211, 9_000, ProjectionState::Missing),
        ProjectionRow {
            stopped: Some(ProjectionStop {
                position: 48_211,
                stream: Some(format!("User {} number 4", words.id)),
                event: Some("UserMerged, version 2.0".into()),
                cause: words.note.into(),
                advice: words.note.into(),
            }),
            ..row("users", 1, 754, ProjectionState::Stopped)
        },
    ];
    ProjectionsPage { chrome: signed_in(words, paths::PROJECTIONS), head: 48_211, rows }
}

/// Each of the ways in which a build can end.
fn projections_at_rest(words: Words) -> ProjectionsPage {
    let mut page = projections_page(words);
    let ends = [
        BuildState::Built,
        BuildState::Swapped,
        BuildState::Compared,
        BuildState::Differs,
        BuildState::Failed,
        BuildState::Cancelled,
        BuildState::Interrupted,
    ];
    let row = ProjectionRow { built: true, ..page.rows.remove(0) };
    let rows = ends.into_iter().flat_map(|state| {
        [true, false].map(|check_only| {
            let build = ProjectionBuild { check_only, ..build(state) };
            let name = format!("{state:?}_{check_only}").to_lowercase();
            ProjectionRow { name, build: Some(build), ..row.clone() }
        })
    });
    page.rows = rows.collect();
    page
}

/// All forms that come back with something wrong.
fn refused(words: Words) -> Vec<(&'static str, Box<dyn Page>)> {
    vec![
        (
            "sign-in-refused",
            Box::new(SignInPage {
                chrome: bare(words, paths::SIGN_IN),
                identifier: words.email.into(),
                remember_me: true,
                return_to: Some(words.note.into()),
                problem: Some(FormProblem::WrongCredentials),
                problems: SignInProblems::default(),
            }),
        ),
        (
            "sign-in-throttled",
            Box::new(SignInPage {
                chrome: bare(words, paths::SIGN_IN),
                identifier: words.email.into(),
                problem: Some(FormProblem::Throttled { wait_seconds: 300 }),
                ..SignInPage::default()
            }),
        ),
        (
            "sign-in-over-budget",
            Box::new(SignInPage {
                chrome: bare(words, paths::SIGN_IN),
                identifier: words.email.into(),
                problem: Some(FormProblem::OverBudget { wait_seconds: 10 }),
                ..SignInPage::default()
            }),
        ),
        (
            "register-refused",
            Box::new(RegisterPage {
                chrome: bare(words, paths::REGISTER),
                email: words.email.into(),
                username: words.username.into(),
                full_name: words.name.into(),
                return_to: Some(words.note.into()),
                problem: None,
                problems: RegisterProblems {
                    email: Some(Problem::EmailTaken),
                    username: Some(Problem::UsernameLength),
                    full_name: None,
                    password: Some(Problem::PasswordTooShort),
                },
            }),
        ),
        (
            "password-refused",
            Box::new(PasswordPage {
                chrome: signed_in(words, paths::PASSWORD),
                username: words.username.into(),
                problem: None,
                problems: PasswordProblems {
                    current_password: Some(Problem::PasswordWrong),
                    new_password: None,
                },
            }),
        ),
        (
            "erase-refused",
            Box::new(ErasePage {
                chrome: signed_in(words, paths::USERS),
                id: words.id.into(),
                name: words.username.into(),
                is_self: true,
                typed: words.note.into(),
                problem: None,
                problems: EraseProblems {
                    username: Some(Problem::OtherUsername),
                    myself: Some(Problem::Myself),
                },
            }),
        ),
        (
            "history-broke-off",
            Box::new(HistoryPage {
                rows: Vec::new(),
                count: Some(HistoryCount { lines: 0, exact: false }),
                broke_off: true,
                ..history_page(words, HistoryScope::Everyone, paths::HISTORY)
            }),
        ),
        (
            "history-behind",
            Box::new(HistoryPage {
                count: Some(HistoryCount { lines: 7, exact: false }),
                behind: Some(HistoryBehind { reached: 5_000, head: 48_211 }),
                holders: holders(words).into_iter().map(|holder| ("user", holder)).collect(),
                ..history_page(words, HistoryScope::Everyone, paths::HISTORY)
            }),
        ),
        ("line", Box::new(line_page(words))),
        (
            "line-bare",
            Box::new(LinePage {
                line: 1,
                head: 1,
                changes: Vec::new(),
                fields: Vec::new(),
                ..line_page(words)
            }),
        ),
        (
            "history-refused",
            Box::new(HistoryPage {
                filter: HistoryFilter {
                    user: words.email.into(),
                    actor: words.note.into(),
                    session: words.id.into(),
                    address: words.address.into(),
                    event_type: words.note.into(),
                    outcome: words.note.into(),
                    from: words.note.into(),
                    to: "2025-01-01".into(),
                    newest_first: false,
                },
                problems: HistoryFilterProblems {
                    address: Some(Problem::Place),
                    event_type: Some(Problem::EventType),
                    from: Some(Problem::Time),
                    ..HistoryFilterProblems::default()
                },
                rows: Vec::new(),
                searched: Some(HistorySearched {
                    months: Some((words.note.into(), words.note.into())),
                    left_out: true,
                }),
                newer: Some(words.id.into()),
                ..history_page(words, HistoryScope::Everyone, paths::HISTORY)
            }),
        ),
    ]
}

fn errors(words: Words) -> Vec<(&'static str, Box<dyn Page>)> {
    let status = |status, wait_seconds| ErrorPage {
        chrome: bare(words, "/"),
        status,
        building: false,
        go_on: None,
        title: None,
        detail: None,
        wait_seconds,
    };
    vec![
        ("not-found", Box::new(NotFoundPage { chrome: bare(words, "/nowhere") })),
        ("forbidden", Box::new(ForbiddenPage { chrome: signed_in(words, paths::USERS) })),
        ("error-internal", Box::new(status(500, None))),
        ("error-throttled", Box::new(status(429, Some(40)))),
        ("error-building", Box::new(ErrorPage { building: true, ..status(503, Some(5)) })),
        (
            "error-elsewhere",
            Box::new(ErrorPage {
                chrome: signed_in(words, paths::HISTORY),
                go_on: Some(format!("{}?outcome={}", paths::HISTORY, words.name)),
                ..status(403, None)
            }),
        ),
        (
            "error-told",
            Box::new(ErrorPage {
                title: Some(words.name.into()),
                detail: Some(words.note.into()),
                ..status(409, None)
            }),
        ),
    ]
}

/// Every page, each with a name for its file.
pub(crate) fn all(words: Words) -> Vec<(&'static str, Box<dyn Page>)> {
    let with_notice = |path, notice| Chrome { notice: Some(notice), ..signed_in(words, path) };
    let mut pages: Vec<(&'static str, Box<dyn Page>)> = vec![
        (
            "sign-in",
            Box::new(SignInPage {
                chrome: Chrome { notice: Some(Notice::SignedOut), ..bare(words, paths::SIGN_IN) },
                ..SignInPage::default()
            }),
        ),
        (
            "register",
            Box::new(RegisterPage {
                chrome: bare(words, paths::REGISTER),
                ..RegisterPage::default()
            }),
        ),
        (
            "overview",
            Box::new(OverviewPage {
                chrome: signed_in(words, paths::OVERVIEW),
                account: Account {
                    email: words.email.into(),
                    username: words.username.into(),
                    full_name: Some(words.name.into()),
                    roles: vec![Role::User, Role::Auditor, Role::Admin],
                    registered: at("2025-03-04T16:20:00Z"),
                },
                sessions: sessions(words),
                session_count: 4,
                history: history(words).into_iter().take(5).collect(),
                sessions_building: false,
                history_building: false,
            }),
        ),
        (
            "overview-building",
            Box::new(OverviewPage {
                chrome: signed_in(words, paths::OVERVIEW),
                account: Account {
                    email: words.email.into(),
                    username: words.username.into(),
                    full_name: None,
                    roles: vec![Role::User],
                    registered: at("2025-03-04T16:20:00Z"),
                },
                sessions: Vec::new(),
                session_count: 0,
                history: Vec::new(),
                sessions_building: true,
                history_building: true,
            }),
        ),
        (
            "sessions",
            Box::new(SessionsPage {
                chrome: with_notice(paths::SESSIONS, Notice::SessionEnded),
                sessions: sessions(words),
            }),
        ),
        (
            "sessions-one",
            Box::new(SessionsPage {
                chrome: signed_in(words, paths::SESSIONS),
                sessions: sessions(words).into_iter().take(1).collect(),
            }),
        ),
        (
            "password",
            Box::new(PasswordPage {
                chrome: signed_in(words, paths::PASSWORD),
                username: words.username.into(),
                ..PasswordPage::default()
            }),
        ),
        (
            "profile",
            Box::new(ProfilePage {
                chrome: signed_in(words, paths::PROFILE),
                full_name: words.name.into(),
                username: words.username.into(),
                email: words.email.into(),
                problem: None,
                problems: ProfileProblems::default(),
            }),
        ),
        ("history", Box::new(history_page(words, HistoryScope::Everyone, paths::HISTORY))),
        ("my-history", Box::new(history_page(words, HistoryScope::Mine, paths::MY_HISTORY))),
        (
            "users",
            Box::new(UsersPage {
                chrome: with_notice(paths::USERS, Notice::NotYourself),
                search: words.note.into(),
                rows: users(words),
                is_first_page: false,
                next: Some(words.id.into()),
            }),
        ),
        (
            "erase",
            Box::new(ErasePage {
                chrome: signed_in(words, paths::USERS),
                id: words.id.into(),
                name: words.username.into(),
                ..ErasePage::default()
            }),
        ),
        ("erased", Box::new(erased(words, true))),
        ("erased-waiting", Box::new(erased(words, false))),
        ("projections", Box::new(projections_page(words))),
        ("projections-at-rest", Box::new(projections_at_rest(words))),
    ];
    pages.extend(state_pages(words));
    pages.extend(refused(words));
    pages.extend(errors(words));
    pages
}
