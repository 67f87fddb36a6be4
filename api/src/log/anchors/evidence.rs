//! What others keep of our log, held against the book.
//!
//! Nobody else stops the log by his bare word: what he shows must be signed by a key of the log.

use proof::Checkpoint;

use super::super::{LogError, reading::root_within, signing::choices};
use crate::state::App;

/// What a checkpoint that somebody else keeps says of the book.
pub(super) enum Evidence {
    Agrees,
    /// Both can't be: the text for a refusal. It names nobody, because anybody may read it.
    Contradicts(String),
    /// Nothing: the tree is damaged, or not built so far. The signer says so.
    Nothing,
}

/// Weighs what the log has signed, as somebody else keeps it.
pub(super) async fn weigh(app: &App, theirs: &Checkpoint) -> Result<Evidence, LogError> {
    let origin = app.log().origin()?;
    if theirs.origin != origin {
        return Ok(Evidence::Nothing);
    }
    // After theirs was read: what anybody was shown was stored before.
    let latest = app.log().latest().await?;
    let lines = latest.as_ref().map_or(0, |latest| latest.size);
    let Some(latest) = latest.filter(|latest| theirs.size <= latest.size) else {
        return Ok(Evidence::Contradicts(format!(
            "The newest checkpoint of the log {origin} in the database has {lines} lines, and others keep one of {} lines, \
             with the root {}. The database was restored from an older backup: what was written after it is lost, and what \
             others were shown of it can't be taken back. {}",
            theirs.size,
            theirs.root,
            choices(&origin)
        )));
    };
    let mut connection = app.background().acquire().await?;
    let Some(root) = root_within(&mut connection, &latest, theirs.size).await? else {
        return Ok(Evidence::Nothing);
    };
    if root == theirs.root {
        return Ok(Evidence::Agrees);
    }
    Ok(Evidence::Contradicts(format!(
        "Others keep a checkpoint of the log {origin} with {} lines and the root {}, and the first {} lines of the book have the \
         root {root}. The database was restored from an older backup and written to since, or it is not the one that it was, \
         or lines of it were changed. {}",
        theirs.size,
        theirs.root,
        theirs.size,
        choices(&origin)
    )))
}

/// The text for a refusal where a file that only this service writes to holds what no key of the log has signed.
pub(super) fn of_another_key(theirs: &Checkpoint) -> String {
    format!(
        "The anchor file keeps a checkpoint of the log {} with {} lines that no key of this database has signed. The database was \
         restored from a backup that is older than the key, or it is a new one under an old name, which whoever verifies would take \
         for a forgery. {} If the file is of a log that nobody checks any more, move it away, and run `entrybook log resume`.",
        theirs.origin,
        theirs.size,
        choices(&theirs.origin)
    )
}
