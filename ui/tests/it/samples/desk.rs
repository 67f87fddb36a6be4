//! What auditors see of one line, and of how it was.

use super::{Words, at, history, sessions, signed_in};
use ui::{Page, PersonRef, Problem, Role, pages::*, paths};

/// Somebody at a moment, compared with another, in the midst of their events.
pub(super) fn state_page(words: Words) -> StatePage {
    let change = |what, from: Option<&str>, to: Option<&str>| StateChange {
        what,
        from: from.map(Into::into),
        to: to.map(Into::into),
    };
    let then = PersonThen {
        person: PersonRef { id: words.id.into(), label: Some(words.username.into()) },
        at: at("2025-11-21T11:38:07.250Z"),
        line: 48_209,
        head: 48_211,
        behind: Some(HistoryBehind { reached: 48_210, head: 48_211 }),
        account: Some(AccountThen {
            email: Some(words.email.into()),
            username: Some(words.username.into()),
            full_name: Some(words.name.into()),
            roles: vec![Role::User, Role::Auditor],
            disabled: false,
            erased: false,
            registered: at("2025-03-04T16:20:00Z"),
            version: 7,
        }),
        sessions: sessions(words),
        session_count: 4,
        changes: Some((
            at("2025-03-04T16:20:00Z"),
            vec![
                change(StateDifference::Registered, None, Some("yes")),
                change(StateDifference::Email, Some(words.note), Some(words.email)),
                change(StateDifference::Username, Some("ada-then"), Some(words.username)),
                change(StateDifference::FullName, None, Some(words.name)),
                change(StateDifference::Role, None, Some("auditor")),
                change(StateDifference::Disabled, Some("yes"), None),
                change(StateDifference::Erased, Some("yes"), None),
                change(StateDifference::Session, None, Some(words.id)),
            ],
        )),
        steps: history(words).into_iter().skip(1).collect(),
        previous: Some(48_208),
        next: Some(48_210),
        first: Some(1),
    };
    StatePage {
        chrome: signed_in(words, paths::AUDIT_STATE),
        form: StateForm { user: words.id.into(), at: "48209".into(), against: words.note.into() },
        problems: StateProblems::default(),
        holders: holders(words),
        shown: Some(StateShown::Person(Box::new(then))),
    }
}

/// Two who held the same, one after the other.
pub(super) fn holders(words: Words) -> Vec<Holder> {
    let person =
        |label: Option<&str>| PersonRef { id: words.id.into(), label: label.map(Into::into) };
    vec![
        Holder { person: person(Some(words.username)), from: 3, to: Some(90) },
        Holder { person: person(None), from: 95, to: None },
    ]
}

pub(super) fn line_page(words: Words) -> LinePage {
    LinePage {
        chrome: signed_in(words, paths::HISTORY),
        line: 48_209,
        head: 48_211,
        row: history(words).swap_remove(1),
        recorded: at("2025-11-21T11:38:07.251Z"),
        version: "1".into(),
        stream: format!("User/{}", words.id),
        sequence: 7,
        request_id: words.id.into(),
        changes: vec![
            LineChange {
                name: "email".into(),
                from: Some(words.note.into()),
                to: Some(words.email.into()),
            },
            LineChange { name: "full_name".into(), from: None, to: Some(words.name.into()) },
        ],
        fields: vec![("kept_session".into(), words.id.into()), (words.note.into(), "–".into())],
    }
}

pub(super) fn state_pages(words: Words) -> Vec<(&'static str, Box<dyn Page>)> {
    let empty = || StatePage {
        form: StateForm::default(),
        holders: Vec::new(),
        shown: None,
        ..state_page(words)
    };
    let person = PersonRef { id: words.id.into(), label: Some(words.username.into()) };
    let nobody = |shown: Option<StateShown>| {
        let Some(StateShown::Person(then)) = shown else { return None };
        let (account, sessions, steps) = (None, Vec::new(), Vec::new());
        Some(StateShown::Person(Box::new(PersonThen {
            account,
            sessions,
            steps,
            session_count: 0,
            changes: Some((at("2025-03-04T16:20:00Z"), Vec::new())),
            previous: None,
            next: None,
            first: None,
            ..*then
        })))
    };
    vec![
        ("state", Box::new(state_page(words))),
        ("state-nobody", Box::new(StatePage { shown: nobody(state_page(words).shown), ..empty() })),
        (
            "state-people",
            Box::new(StatePage {
                shown: Some(StateShown::People(PeopleThen {
                    at: at("2025-11-21T11:38:07.250Z"),
                    people: vec![(person.clone(), sessions(words)), (person, Vec::new())],
                    next: Some(words.id.into()),
                })),
                ..empty()
            }),
        ),
        (
            "state-refused",
            Box::new(StatePage {
                form: StateForm {
                    user: words.email.into(),
                    at: words.note.into(),
                    against: words.note.into(),
                },
                problems: StateProblems {
                    user: Some(Problem::NeverHeld),
                    at: Some(Problem::Moment),
                    against: Some(Problem::NotYet),
                },
                ..empty()
            }),
        ),
    ]
}
