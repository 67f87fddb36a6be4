//! OCSF events (schema.ocsf.io, version 1.3.0), one a line, for SIEMs. The mapping stands in
//! docs/export.md.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::opener::{Opened, Person};
use crate::log::Signed;

const VERSION: &str = "1.3.0";
/// How every line begins: the names of members are in their order.
const BEGIN: &[u8] = b"{\"activity_id\":";
/// Where the manifest stands in the last line. In a text it would have backslashes before its quotes.
const MANIFEST: &str = "entrybook_manifest";
const CHECKPOINT: &str = "entrybook_checkpoint";
/// The activity "Other" of every class.
const OTHER: i64 = 99;

/// A class of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Base,
    AccountChange,
    Authentication,
}

impl Class {
    fn parts(self) -> (i64, &'static str, i64, &'static str) {
        const IAM: &str = "Identity & Access Management";
        match self {
            Self::Base => (0, "Base Event", 0, "Uncategorized"),
            Self::AccountChange => (3001, "Account Change", 3, IAM),
            Self::Authentication => (3002, "Authentication", 3, IAM),
        }
    }
}

/// What a line of the history is in OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meaning {
    class: Class,
    activity: i64,
    name: &'static str,
    succeeded: bool,
    /// 1 informational, 2 low, 3 medium.
    severity: i64,
}

impl Meaning {
    fn of(event_type: &str, outcome: Option<&str>) -> Self {
        use Class::{AccountChange, Authentication, Base};
        let good =
            |class, activity, name| Self { class, activity, name, succeeded: true, severity: 1 };
        let bad = |activity, name, severity| Self {
            class: Authentication,
            activity,
            name,
            succeeded: false,
            severity,
        };
        match event_type {
            "SessionStarted" => good(Authentication, 1, "Logon"),
            // Somebody else may have had it.
            "SessionEnded" if outcome == Some("token_reused") => {
                Self { severity: 3, ..good(Authentication, 2, "Logoff") }
            }
            "SessionEnded" => good(Authentication, 2, "Logoff"),
            "SessionRefreshed" => good(Authentication, OTHER, "Session renewed"),
            "SignInFailed" => bad(1, "Logon", 2),
            "SignInThrottled" => bad(OTHER, "Sign-in throttled", 3),
            "SignInAttemptsBlocked" => bad(OTHER, "Sign-in attempts blocked", 3),
            "SignInFailuresCleared" => good(Authentication, OTHER, "Sign-in failures cleared"),
            "UserRegistered" => good(AccountChange, 1, "Create"),
            "UserEnabled" => good(AccountChange, 2, "Enable"),
            "UserPasswordChanged" => good(AccountChange, 3, "Password Change"),
            "UserDisabled" => good(AccountChange, 5, "Disable"),
            "UserErased" => good(AccountChange, 6, "Delete"),
            "UserRoleGranted" => good(AccountChange, 7, "Attach Policy"),
            "UserRoleRevoked" => good(AccountChange, 8, "Detach Policy"),
            "UserProfileChanged" => good(AccountChange, OTHER, "Profile changed"),
            "UserPasswordRehashed" => good(AccountChange, OTHER, "Password stored anew"),
            "UserSessionsEnded" => good(AccountChange, OTHER, "All other sessions ended"),
            _ => good(Base, OTHER, ""),
        }
    }

    /// What every event has.
    fn event(self, event_type: &str) -> Map<String, Value> {
        let (class, class_name, category, category_name) = self.class.parts();
        let name = if self.name.is_empty() { event_type } else { self.name };
        let severity = match self.severity {
            2 => "Low",
            3 => "Medium",
            _ => "Informational",
        };
        let (status, status_name) = if self.succeeded { (1, "Success") } else { (2, "Failure") };
        let type_name = if self.activity == OTHER { "Other" } else { name };
        Map::from_iter(
            [
                ("activity_id", json!(self.activity)),
                ("activity_name", json!(name)),
                ("category_name", json!(category_name)),
                ("category_uid", json!(category)),
                ("class_name", json!(class_name)),
                ("class_uid", json!(class)),
                ("severity", json!(severity)),
                ("severity_id", json!(self.severity)),
                ("status", json!(status_name)),
                ("status_id", json!(status)),
                ("type_name", json!(format!("{class_name}: {type_name}"))),
                ("type_uid", json!(class * 100 + self.activity)),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        )
    }
}

/// One line of the history.
pub(super) fn line(line: &Opened, origin: &str) -> serde_json::Result<Vec<u8>> {
    let meaning = Meaning::of(&line.event_type, line.outcome.as_deref());
    let mut event = meaning.event(&line.event_type);
    let mut set = |name: &str, value: Value| {
        event.insert(name.to_owned(), value);
    };
    set("time", json!(line.at.timestamp_millis()));
    let mut metadata = metadata(origin);
    for (name, value) in [
        ("correlation_uid", json!(line.request_id)),
        ("event_code", json!(line.event_type)),
        ("logged_time", json!(line.recorded_at.timestamp_millis())),
        // The place in the book.
        ("sequence", json!(line.position)),
        ("uid", json!(format!("{origin}/{}", line.position))),
    ] {
        metadata.insert(name.to_owned(), value);
    }
    set("metadata", Value::Object(metadata));
    if let Some(outcome) = &line.outcome {
        set("status_detail", json!(outcome));
    }
    if let Some(address) = &line.address {
        set("src_endpoint", json!({ "ip": address }));
    }
    if let Some(user_agent) = &line.user_agent {
        set("http_request", json!({ "user_agent": user_agent }));
    }
    let mut actor = Map::new();
    if let Some(doer) = &line.actor {
        actor.insert("user".to_owned(), user(doer));
    }
    if !matches!(line.actor_kind, "user" | "anonymous") {
        let name = if line.actor_kind == "cli" { "entrybook (command line)" } else { "entrybook" };
        actor.insert("app_name".to_owned(), json!(name));
    }
    if !actor.is_empty() {
        set("actor", Value::Object(actor));
    }
    if meaning.class != Class::Base {
        set(
            "user",
            match (&line.person, &line.identifier) {
                (Some(person), _) => user(person),
                (None, Some(typed)) => json!({ "name": typed, "type": "Unknown", "type_id": 0 }),
                (None, None) => json!({ "name": "(unknown)", "type": "Unknown", "type_id": 0 }),
            },
        );
    }
    if meaning.class == Class::Authentication {
        set("service", json!({ "name": "entrybook", "uid": origin }));
        if let Some(session) = line.session {
            set("session", json!({ "uid": session.to_string() }));
        }
    }
    let unmapped = json!({
        "actor_kind": line.actor_kind,
        "stream": line.stream,
        "stream_sequence": line.sequence,
    });
    set("unmapped", unmapped);
    written(&event)
}

/// The last line: an event of no class, so that whoever reads all lines as events may.
pub(super) fn end(
    manifest: &str,
    checkpoint: &str,
    signed: &Signed,
) -> serde_json::Result<Vec<u8>> {
    let meaning = Meaning::of("", None);
    let mut event = meaning.event("Export ended");
    event.insert("time".to_owned(), json!(signed.signed_at.timestamp_millis()));
    event.insert("metadata".to_owned(), Value::Object(metadata(&signed.origin)));
    event.insert("unmapped".to_owned(), json!({ MANIFEST: manifest, CHECKPOINT: checkpoint }));
    written(&event)
}

/// The manifest and the checkpoint, if this is the last line.
pub(super) fn read_end(record: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Last {
        unmapped: Notes,
    }
    #[derive(Deserialize)]
    struct Notes {
        entrybook_manifest: String,
        entrybook_checkpoint: String,
    }
    let mark = format!("\"{MANIFEST}\":");
    let has_mark = record.windows(mark.len()).any(|window| window == mark.as_bytes());
    if !has_mark {
        return None;
    }
    let Last { unmapped } = serde_json::from_slice(record).ok()?;
    Some((unmapped.entrybook_manifest, unmapped.entrybook_checkpoint))
}

/// The position of the line that a record is.
pub(super) fn position(record: &[u8]) -> Option<u64> {
    let event: Value = serde_json::from_slice(record).ok()?;
    event.get("metadata")?.get("sequence")?.as_u64()
}

/// Whether a file that begins with this line is of these.
pub(super) fn is_event(line: &[u8]) -> bool {
    line.starts_with(BEGIN)
}

fn metadata(origin: &str) -> Map<String, Value> {
    let product = json!({
        "name": "Entrybook",
        "vendor_name": "Entrybook",
        "version": env!("CARGO_PKG_VERSION"),
    });
    Map::from_iter([
        ("log_name".to_owned(), json!(origin)),
        ("product".to_owned(), product),
        ("version".to_owned(), json!(VERSION)),
    ])
}

fn user(person: &Person) -> Value {
    let mut user = Map::new();
    user.insert("name".to_owned(), json!(person.name));
    if let Some(id) = person.id {
        user.insert("uid".to_owned(), json!(id.to_string()));
    }
    user.insert("type".to_owned(), json!("User"));
    user.insert("type_id".to_owned(), json!(1));
    Value::Object(user)
}

fn written(event: &Map<String, Value>) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(event)?;
    bytes.push(b'\n');
    Ok(bytes)
}
