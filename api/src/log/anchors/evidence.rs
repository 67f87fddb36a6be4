//! What others keep of our log, held against the book.
//!
//! Nobody else stops the log by his bare word: what he shows must be signed by a key of the log, or by the
//! witness that was chosen to be believed.

use proof::Checkpoint;

use super::super::{LogError, reading::root_within, signing::choices};
use crate::state::App;

/// What can't be, if both this checkpoint and the book are: the text for a refusal. It names nobody,
/// because anybody may read it. Nothing, where the tree is damaged: that tells nothing of the book.
pub(super) async fn contradiction(
    app: &App,
    theirs: &Checkpoint,
) -> Result<Option<String>, LogError> {
    let origin = app.log().origin()?;
    if theirs.origin != origin {
        return Ok(None);
    }
    // After theirs was read: what anybody was shown was stored before.
    let latest = app.log().latest().await?;
    let lines = latest.as_ref().map_or(0, |latest| latest.size);
    if theirs.size > lines {
        return Ok(Some(format!(
            "The newest checkpoint of the log {origin} in the database has {lines} lines, and others keep one of {} lines, \
             with the root {}. The database was restored from an older backup: what was written after it is lost, and what \
             others were shown of it can't be taken back. {}",
            theirs.size,
            theirs.root,
            choices(&origin)
        )));
    }
    let Some(latest) = latest else { return Ok(None) };
    let mut connection = app.background().acquire().await?;
    let Some(root) = root_within(&mut connection, &latest, theirs.size).await? else {
        return Ok(None);
    };
    if root == theirs.root {
        return Ok(None);
    }
    Ok(Some(format!(
        "Others keep a checkpoint of the log {origin} with {} lines and the root {}, and the first {} lines of the book have the \
         root {root}. The database was restored from an older backup and written to since, or it is not the one that it was, \
         or lines of it were changed. {}",
        theirs.size,
        theirs.root,
        theirs.size,
        choices(&origin)
    )))
}
