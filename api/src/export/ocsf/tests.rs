//! Every kind of line, held against the schema of OCSF 1.3.0.

use std::net::IpAddr;

use chrono::DateTime;
use domain::{SessionId, UserId};
use uuid::Uuid;

use super::*;

const ERASED: &str = "(erased)";

/// What `schema-1.3.0.json` says.
struct Schema(Value);

impl Schema {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("schema-1.3.0.json")).unwrap())
    }

    /// What is wrong with an event.
    fn judge(&self, event: &Value) -> Vec<String> {
        let class = event["class_uid"].as_i64().unwrap().to_string();
        let Some(class) = self.0["classes"].get(&class) else {
            return vec![format!("there is no class {class}")];
        };
        let mut wrong = Vec::new();
        let profiles = event["metadata"]["profiles"].as_array().cloned().unwrap_or_default();
        self.object(class, event, &profiles, "", &mut wrong);
        let (class, activity) = (&event["class_uid"], &event["activity_id"]);
        let type_uid = class.as_i64().unwrap() * 100 + activity.as_i64().unwrap();
        if event["type_uid"] != type_uid {
            wrong.push(format!("type_uid is not {type_uid}"));
        }
        wrong
    }

    fn object(
        &self,
        form: &Value,
        object: &Value,
        profiles: &[Value],
        path: &str,
        wrong: &mut Vec<String>,
    ) {
        let object = object.as_object().unwrap();
        let attributes = form["attributes"].as_object().unwrap();
        // An attribute of a profile is there if the event says that it has that profile.
        let is_there = |attribute: &Value| {
            attribute.get("profile").is_none_or(|profile| profiles.contains(profile))
        };
        for (name, attribute) in attributes {
            let is_required = attribute["requirement"] == "required" && is_there(attribute);
            if is_required && !object.contains_key(name) {
                wrong.push(format!("{path}{name} is required"));
            }
        }
        if let Some(names) = form["constraints"]["at_least_one"].as_array()
            && !names.iter().any(|name| object.contains_key(name.as_str().unwrap()))
        {
            wrong.push(format!("{path} has none of {names:?}"));
        }
        for (name, value) in object {
            let path = format!("{path}{name}");
            match attributes.get(name).filter(|attribute| is_there(attribute)) {
                Some(attribute) if attribute["is_array"] == true => {
                    for value in value.as_array().unwrap() {
                        self.value(attribute, value, profiles, &path, wrong);
                    }
                }
                Some(attribute) => self.value(attribute, value, profiles, &path, wrong),
                None => wrong.push(format!("{path} is no attribute")),
            }
        }
    }

    fn value(
        &self,
        attribute: &Value,
        value: &Value,
        profiles: &[Value],
        path: &str,
        wrong: &mut Vec<String>,
    ) {
        let named = attribute["type"].as_str().unwrap();
        let is_so = match self.0["types"].get(named).and_then(Value::as_str) {
            Some("string_t") if named == "ip_t" => {
                value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
            }
            Some("string_t") => value.as_str().is_some_and(|text| !text.is_empty()),
            Some("integer_t" | "long_t") => value.is_i64() || value.is_u64(),
            Some("boolean_t") => value.is_boolean(),
            Some("float_t") => value.is_number(),
            Some(_) => true,
            // Anything may stand in an object of no form.
            None if named == "object" => value.is_object(),
            None => match self.0["objects"].get(named) {
                Some(form) if value.is_object() => {
                    self.object(form, value, profiles, &format!("{path}."), wrong);
                    true
                }
                Some(_) | None => false,
            },
        };
        let is_among = attribute["values"].as_array().is_none_or(|values| values.contains(value));
        if !is_so || !is_among {
            wrong.push(format!("{path} is {value}"));
        }
    }
}

/// A line of this kind, with everything that one can have.
fn full(event_type: &str) -> Opened {
    let person = || Person { id: Some(UserId(Uuid::from_u128(7))), name: "ada".to_owned() };
    Opened {
        position: 42,
        at: DateTime::UNIX_EPOCH,
        recorded_at: DateTime::UNIX_EPOCH,
        event_type: event_type.to_owned(),
        outcome: Some("auditor".to_owned()),
        person: Some(person()),
        actor_kind: "user",
        actor: Some(person()),
        session: Some(SessionId(Uuid::from_u128(8))),
        address: Some("2001:db8::7".to_owned()),
        user_agent: Some("Mozilla/5.0".to_owned()),
        identifier: Some("adda".to_owned()),
        stream: "User/7".to_owned(),
        sequence: 3,
        request_id: "request".to_owned(),
    }
}

/// The same in all ways in which something of it can be missing or gone.
fn all_ways(event_type: &str) -> Vec<Opened> {
    let erased = || Person { id: Some(UserId(Uuid::from_u128(7))), name: ERASED.to_owned() };
    vec![
        full(event_type),
        Opened { outcome: Some("token_reused".to_owned()), ..full(event_type) },
        Opened {
            person: Some(erased()),
            actor: Some(erased()),
            address: Some(ERASED.to_owned()),
            user_agent: Some(ERASED.to_owned()),
            identifier: Some(ERASED.to_owned()),
            ..full(event_type)
        },
        Opened { person: None, ..full(event_type) },
        Opened {
            outcome: None,
            person: None,
            actor_kind: "anonymous",
            actor: None,
            session: None,
            address: None,
            user_agent: None,
            identifier: None,
            ..full(event_type)
        },
        Opened { actor_kind: "system", actor: None, ..full(event_type) },
        Opened {
            actor_kind: "cli",
            actor: Some(Person { id: None, name: "root".to_owned() }),
            ..full(event_type)
        },
    ]
}

#[test]
fn every_line_is_an_event_as_the_schema_has_them() {
    let schema = Schema::read();
    let mut classes = Vec::new();
    for event_type in ui::EVENT_TYPES {
        for opened in all_ways(event_type) {
            let written = line(&opened, "example.org/log").unwrap();
            assert!(is_event(&written), "{event_type}");
            let event: Value = serde_json::from_slice(&written).unwrap();
            assert_eq!(schema.judge(&event), [""; 0], "{event_type}: {event:#}");
            classes.push(event["class_uid"].as_i64().unwrap());
        }
    }
    classes.sort_unstable();
    classes.dedup();
    assert_eq!(classes, [3001, 3002, 3004, 3005]);
    let written = end(("a\n", "b\n", &[]), "example.org/log", DateTime::UNIX_EPOCH).unwrap();
    let event: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(schema.judge(&event), [""; 0], "{event:#}");
}

#[test]
fn nothing_that_is_known_is_lost() {
    for event_type in ui::EVENT_TYPES {
        let written = String::from_utf8(line(&full(event_type), "example.org/log").unwrap());
        let written = written.unwrap();
        for known in ["2001:db8::7", "Mozilla/5.0", "User/7", "request", "auditor", "ada"] {
            assert!(written.contains(known), "{event_type}: {known} in {written}");
        }
        let erased = Opened { address: Some(ERASED.to_owned()), ..full(event_type) };
        let event: Value =
            serde_json::from_slice(&line(&erased, "example.org/log").unwrap()).unwrap();
        assert_eq!(event["unmapped"]["address"], ERASED, "{event_type}");
        assert!(event.get("src_endpoint").is_none(), "{event_type}");
    }
}

/// The judge can say no.
#[test]
fn what_is_no_event_of_the_schema_is_told() {
    let schema = Schema::read();
    let event: Value =
        serde_json::from_slice(&line(&full("SessionStarted"), "example.org/log").unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut event = event.clone();
        change(event.as_object_mut().unwrap());
        schema.judge(&event)
    };
    assert_eq!(changed(&|event| drop(event.remove("user"))), ["user is required"]);
    assert_eq!(
        changed(&|event| drop(event.insert("usr".into(), json!({})))),
        ["usr is no attribute"]
    );
    assert_eq!(changed(&|event| event["severity_id"] = json!(9)), ["severity_id is 9"]);
    assert_eq!(changed(&|event| event["time"] = json!("now")), ["time is \"now\""]);
    let gone = json!({ "ip": ERASED });
    assert_eq!(
        changed(&|event| event["src_endpoint"] = gone.clone()),
        ["src_endpoint.ip is \"(erased)\""]
    );
    // As it was before: an event of no class has no actor and no address.
    let base = changed(&|event| {
        (event["class_uid"], event["category_uid"]) = (json!(0), json!(0));
        (event["activity_id"], event["type_uid"]) = (json!(99), json!(99));
    });
    assert!(base.contains(&"actor is no attribute".to_owned()), "{base:?}");
    assert!(base.contains(&"src_endpoint is no attribute".to_owned()), "{base:?}");
}
