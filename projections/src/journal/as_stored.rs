//! Lines as they are stored, whatever is wrong with them: for whoever looks for damage.

use sqlx::{PgConnection, Row};

use super::{COLUMNS, JournalError, RecordedEvent, read_page};

/// What is found at a position: an event, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredLine {
    pub position: i64,
    pub event: Result<RecordedEvent, String>,
}

/// The lines after a position up to another. A position that has no line is passed by, and one that has
/// two is there twice.
pub async fn read_as_stored(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<StoredLine>, sqlx::Error> {
    let wanted = up_to.saturating_sub(after);
    match read_page(conn, after, wanted, &[]).await {
        Ok(events) if i64::try_from(events.len()).is_ok_and(|found| found == wanted) => {
            let whole =
                |event: RecordedEvent| StoredLine { position: event.position, event: Ok(event) };
            return Ok(events.into_iter().map(whole).collect());
        }
        Err(JournalError::Database(cause)) if !is_of_the_data(&cause) => return Err(cause),
        // Something of the page is wrong.
        Ok(_) | Err(_) => {}
    }
    match read_each(conn, after, up_to).await {
        Err(cause) if is_of_the_data(&cause) => {}
        other => return other,
    }
    // The database itself can't read a line of them: by themselves the others can be read.
    let mut lines = Vec::new();
    for position in after.saturating_add(1)..=up_to {
        match read_each(conn, position.saturating_sub(1), position).await {
            Ok(found) => lines.extend(found),
            Err(cause) if is_of_the_data(&cause) => {
                lines.push(StoredLine { position, event: Err(cause.to_string()) });
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(lines)
}

async fn read_each(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<StoredLine>, sqlx::Error> {
    let rows = sqlx::query(&format!(
        "SELECT {COLUMNS}, j.position
           FROM journal j LEFT JOIN events e ON e.tx = j.tx AND e.id = j.event_id
          WHERE j.position > $1 AND j.position <= $2 ORDER BY j.position"
    ))
    .bind(after)
    .bind(up_to)
    .bind(&[] as &[&str])
    .fetch_all(conn)
    .await?;
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let position = row.try_get("position")?;
        let event = RecordedEvent::from_row(&row, position).map_err(|error| match error {
            JournalError::EventMissing { .. } => "it names an event that is not there".to_owned(),
            JournalError::Unreadable { cause, .. } => cause.to_string(),
            other => other.to_string(),
        });
        lines.push(StoredLine { position, event });
    }
    Ok(lines)
}

/// Whether an error lies in what is stored, and not in the database's being away.
pub(crate) fn is_of_the_data(error: &sqlx::Error) -> bool {
    // Data exceptions, and "data corrupted" with its kind.
    let code =
        error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    code.is_some_and(|code| ["22", "XX"].iter().any(|class| code.starts_with(class)))
}
