//! `entrybook keys list` and `keys retire`: the keys that sign access tokens.

use super::super::{Out, Refused, origin, table::table};
use crate::bootstrap::Services;
use commands::tokens::SigningKeyState;
use commands::{Origin, RetireError, RetiredKeys, Which};
use serde_json::{Value, json};

pub(super) fn list(keys: &[SigningKeyState], json: bool, out: &mut Out) -> anyhow::Result<()> {
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "kid": key.kid,
                    "algorithm": key.algorithm.as_str(),
                    "signs_from": key.signs_from,
                    "state": state(key),
                })
            })
            .collect();
        return Ok(out.json(&keys)?);
    }
    let mut lines = table(&["key", "algorithm", "signs from", "state"]);
    for key in keys {
        lines.add_row([
            key.kid.clone(),
            key.algorithm.to_string(),
            key.signs_from.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            state(key).to_owned(),
        ]);
    }
    Ok(out.table(&lines)?)
}

fn state(key: &SigningKeyState) -> &'static str {
    match (key.is_retired, key.signs, key.is_accepted) {
        (true, ..) => "retired",
        (false, true, _) => "signs",
        (false, false, true) => "accepted",
        (false, false, false) => "expired",
    }
}

pub(super) async fn retire(services: &Services, which: &Which) -> anyhow::Result<RetiredKeys> {
    let book = &services.book;
    let done = match book.retire_signing_keys(which, &origin(services)).await {
        Err(error @ RetireError::Unknown { .. }) => {
            return Err(Refused(format!("Nothing was retired: {error}.")).into());
        }
        done => done?,
    };
    if done.made.is_some() {
        let system = Origin::system(book.ids().uuid_v7().to_string());
        book.record_signing_keys(&system).await?;
    }
    Ok(done)
}

pub(super) fn told(done: &RetiredKeys) -> Value {
    json!({ "retired": done.retired, "made": done.made })
}

pub(super) fn say(done: &RetiredKeys, out: &mut Out) -> anyhow::Result<()> {
    if done.retired.is_empty() {
        return Ok(out.line("These keys were retired before; there was nothing to do.")?);
    }
    for kid in &done.retired {
        out.line(format!("The signing key {kid} is retired."))?;
    }
    if let Some(kid) = &done.made {
        out.line(format!("The signing key {kid} was made, and signs from now on."))?;
    }
    Ok(out.line(
        "Every server refuses what a retired key has signed within a second. People stay signed in: they get new access tokens with their \
         refresh tokens.",
    )?)
}
