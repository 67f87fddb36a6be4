//! OCSF events (schema.ocsf.io, version 1.3.0), one a line, for SIEMs. The mapping stands in
//! docs/export.md.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    opener::{Opened, Person},
    table::Notes,
};

const VERSION: &str = "1.3.0";
/// How every line begins: the names of members are in their order.
const BEGIN: &[u8] = b"{\"activity_id\":";
/// Where the manifest stands in the last line. In a text it would have backslashes before its quotes.
const MANIFEST: &str = "entrybook_manifest";
const CHECKPOINT: &str = "entrybook_checkpoint";
const HAND_OVERS: &str = "entrybook_hand_overs";
/// The activity "Other" of every class.
const OTHER: i64 = 99;

/// A class of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Of no activity of anybody: it can't say who or from where.
    Base,
    AccountChange,
    Authentication,
    /// Of something that is no account: the service, or the history.
    EntityManagement,
    UserAccess,
}

impl Class {
    fn parts(self) -> (i64, &'static str, i64, &'static str) {
        const IAM: &str = "Identity & Access Management";
        match self {
            Self::Base => (0, "Base Event", 0, "Uncategorized"),
            Self::AccountChange => (3001, "Account Change", 3, IAM),
            Self::Authentication => (3002, "Authentication", 3, IAM),
            Self::EntityManagement => (3004, "Entity Management", 3, IAM),
            Self::UserAccess => (3005, "User Access Management", 3, IAM),
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
        use Class::{AccountChange, Authentication, EntityManagement, UserAccess};
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
            "UserRoleGranted" => good(UserAccess, 1, "Assign Privileges"),
            "UserRoleRevoked" => good(UserAccess, 2, "Revoke Privileges"),
            "UserProfileChanged" => good(AccountChange, OTHER, "Profile changed"),
            "UserPasswordRehashed" => good(AccountChange, OTHER, "Password stored anew"),
            "RegistrationsThrottled" => {
                Self { class: AccountChange, ..bad(OTHER, "Registrations throttled", 3) }
            }
            "UserSessionsEnded" => good(AccountChange, OTHER, "All other sessions ended"),
            "HistorySearched" | "HistoryExported" | "HistoryReplayed" | "HistoryFollowed" => {
                good(EntityManagement, 2, "Read")
            }
            // Somebody else has added it to the database.
            "EventNotAuthentic" => {
                Self { class: EntityManagement, ..bad(OTHER, "Event without effect", 3) }
            }
            "SettingsChanged" => good(EntityManagement, 3, "Update"),
            _ => good(EntityManagement, OTHER, ""),
        }
    }

    /// Of no line of the book.
    const NONE: Self =
        Self { class: Class::Base, activity: OTHER, name: "", succeeded: true, severity: 1 };

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
    // In classes of their own, OCSF has the actor only where this is said.
    let is_of_host = matches!(meaning.class, Class::EntityManagement | Class::UserAccess);
    if is_of_host {
        metadata.insert("profiles".to_owned(), json!(["host"]));
    }
    set("metadata", Value::Object(metadata));
    if let Some(outcome) = &line.outcome {
        set("status_detail", json!(outcome));
    }
    let mut unmapped = Map::from_iter([
        ("actor_kind".to_owned(), json!(line.actor_kind)),
        ("stream".to_owned(), json!(line.stream)),
        ("stream_sequence".to_owned(), json!(line.sequence)),
    ]);
    match &line.address {
        Some(address) if address.parse::<IpAddr>().is_ok() => {
            set("src_endpoint", json!({ "ip": address }));
        }
        // One that was erased is no address.
        Some(other) => drop(unmapped.insert("address".to_owned(), json!(other))),
        None => {}
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
    let whom = || match (&line.person, &line.identifier) {
        (Some(person), _) => user(person),
        (None, Some(typed)) => json!({ "name": typed, "type": "Unknown", "type_id": 0 }),
        (None, None) => json!({ "name": "(unknown)", "type": "Unknown", "type_id": 0 }),
    };
    match meaning.class {
        Class::Base => {}
        Class::AccountChange => set("user", whom()),
        Class::Authentication => {
            set("user", whom());
            set("service", json!({ "name": "entrybook", "uid": origin }));
            if let Some(session) = line.session {
                set("session", json!({ "uid": session.to_string() }));
            }
        }
        Class::UserAccess => {
            set("user", whom());
            set("privileges", json!([line.outcome.as_deref().unwrap_or("(unknown)")]));
        }
        Class::EntityManagement => {
            let name = if line.event_type.starts_with("History") { "history" } else { "service" };
            set("entity", json!({ "name": name, "type": "Entrybook", "uid": line.stream }));
            // What a reader looked for.
            if let Some(typed) = &line.identifier {
                unmapped.insert("identifier".to_owned(), json!(typed));
            }
        }
    }
    set("unmapped", Value::Object(unmapped));
    written(&event)
}

/// The last line: an event of no class, so that whoever reads all lines as events may. All of it follows
/// from what is signed, so that it can be told whether anything of it was changed; the version of the
/// product, which does not, is left out.
pub(super) fn end(
    (manifest, checkpoint, hand_overs): (&str, &str, &[String]),
    origin: &str,
    made_at: DateTime<Utc>,
) -> serde_json::Result<Vec<u8>> {
    let mut event = Meaning::NONE.event("Export ended");
    let mut metadata = metadata(origin);
    if let Some(product) = metadata.get_mut("product").and_then(Value::as_object_mut) {
        product.remove("version");
    }
    event.insert("time".to_owned(), json!(made_at.timestamp_millis()));
    event.insert("metadata".to_owned(), Value::Object(metadata));
    let mut notes = json!({ MANIFEST: manifest, CHECKPOINT: checkpoint });
    if let (Some(notes), false) = (notes.as_object_mut(), hand_overs.is_empty()) {
        notes.insert(HAND_OVERS.to_owned(), json!(hand_overs));
    }
    event.insert("unmapped".to_owned(), notes);
    written(&event)
}

/// What stands in it, if this says that it is the last line. It is that if it is [`end`] of these.
pub(super) fn read_end(record: &[u8]) -> Option<Notes> {
    #[derive(Deserialize)]
    struct Last {
        unmapped: Unmapped,
    }
    #[derive(Deserialize)]
    struct Unmapped {
        entrybook_manifest: String,
        entrybook_checkpoint: String,
        #[serde(default)]
        entrybook_hand_overs: Vec<String>,
    }
    let mark = format!("\"{MANIFEST}\":");
    let has_mark = record.windows(mark.len()).any(|window| window == mark.as_bytes());
    if !has_mark {
        return None;
    }
    let Last { unmapped } = serde_json::from_slice(record).ok()?;
    Some(Notes {
        manifest: unmapped.entrybook_manifest,
        checkpoint: unmapped.entrybook_checkpoint,
        hand_overs: unmapped.entrybook_hand_overs,
    })
}

/// The line of the book that a record is of.
pub(super) fn position(record: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Event {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        sequence: u64,
    }
    serde_json::from_slice(record).ok().map(|event: Event| event.metadata.sequence)
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

#[cfg(test)]
mod tests;
