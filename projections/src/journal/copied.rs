//! Lines as COPY sends them (PostgreSQL's documentation of COPY, "Binary Format"), for whoever reads very
//! many of them to hash them: a page is one piece of memory, and nothing of it is decoded before it is asked for.

use std::{ops::Range, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt as _;
use proof::Leaf;
use sqlx::PgConnection;

use super::range_of;

/// The signature, flags and the length of an extension.
const HEADER: usize = 19;
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// What jsonb is sent with in front: the version of its text form.
const JSONB: u8 = 1;
/// PostgreSQL counts microseconds from the beginning of the year 2000.
const EPOCH_2000: i64 = 946_684_800;

/// A line of a page.
#[derive(Debug, Clone)]
pub(crate) struct CopiedLine {
    pub(crate) position: i64,
    page: Arc<Vec<u8>>,
    fields: [Range<usize>; FIELDS],
}

/// In the order in which they are asked for.
const COLUMNS: &str = "e.id, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, \
     e.event_version, e.payload, e.metadata, e.recorded_at";
const FIELDS: usize = 9;

impl CopiedLine {
    /// The leaf, were the line at this position; nothing where a field is not of its type.
    pub(crate) fn leaf_at(&self, position: u64) -> Option<Leaf<'_>> {
        let [_, stream_type, stream_id, sequence, event_type, event_version, payload, metadata, at] =
            &self.fields;
        let recorded_at = i64::from_be_bytes(self.field(at)?.try_into().ok()?);
        let since = TimeDelta::try_seconds(EPOCH_2000)?
            .checked_add(&TimeDelta::microseconds(recorded_at))?;
        Some(Leaf {
            position,
            stream_type: self.text(stream_type)?,
            stream_id: self.text(stream_id)?,
            sequence: u64::try_from(i64::from_be_bytes(self.field(sequence)?.try_into().ok()?))
                .ok()?,
            event_type: self.text(event_type)?,
            event_version: self.text(event_version)?,
            recorded_at: DateTime::<Utc>::UNIX_EPOCH.checked_add_signed(since)?,
            payload: self.json(payload)?,
            metadata: self.json(metadata)?,
        })
    }

    fn id(&self) -> Option<i64> {
        let [id, ..] = &self.fields;
        Some(i64::from_be_bytes(self.field(id)?.try_into().ok()?))
    }

    fn field(&self, place: &Range<usize>) -> Option<&[u8]> {
        self.page.get(place.clone())
    }

    fn text(&self, place: &Range<usize>) -> Option<&str> {
        str::from_utf8(self.field(place)?).ok()
    }

    fn json(&self, place: &Range<usize>) -> Option<&str> {
        str::from_utf8(self.field(place)?.strip_prefix(&[JSONB])?).ok()
    }
}

/// The lines after a position up to another, if there is a sound one at each: nothing where anything is odd,
/// and [`read_as_stored`](super::read_as_stored) tells what. After an error the connection is not to be used again.
pub(crate) async fn copy_page(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Option<Vec<CopiedLine>>, sqlx::Error> {
    let wanted = up_to.saturating_sub(after);
    let Some(range) = range_of(conn, after, wanted).await? else { return Ok(None) };
    let (Some(first), Some(last)) = (range.ids.first(), range.ids.last()) else { return Ok(None) };
    if i64::try_from(range.ids.len()).ok() != Some(wanted) {
        return Ok(None);
    }
    // COPY takes no parameters; these are numbers.
    let (Ok(first_tx), Ok(last_tx)) = (range.first_tx.parse::<u64>(), range.last_tx.parse::<u64>())
    else {
        return Ok(None);
    };
    let statement = format!(
        "COPY (SELECT {COLUMNS} FROM events e
                WHERE (e.tx, e.id) >= ('{first_tx}'::xid8, {first}) AND (e.tx, e.id) <= ('{last_tx}'::xid8, {last})
                ORDER BY e.tx, e.id LIMIT {}) TO STDOUT (FORMAT binary)",
        wanted.saturating_add(1)
    );
    let mut page = Vec::with_capacity(range.ids.len() * 800);
    let mut pieces = conn.copy_out_raw(&statement).await?;
    while let Some(piece) = pieces.try_next().await? {
        page.extend_from_slice(&piece);
    }
    drop(pieces);
    let Some(lines) = split(page, after) else { return Ok(None) };
    let is_so = lines.iter().map(CopiedLine::id).eq(range.ids.iter().copied().map(Some))
        && lines.iter().all(|line| line.leaf_at(1).is_some());
    Ok(is_so.then_some(lines))
}

/// The rows of a page; nothing where it is none, or a field is NULL.
fn split(page: Vec<u8>, after: i64) -> Option<Vec<CopiedLine>> {
    page.starts_with(SIGNATURE).then_some(())?;
    let page = Arc::new(page);
    let (mut at, mut lines, mut position) = (HEADER, Vec::new(), after);
    loop {
        let fields = i16::from_be_bytes(*page.get(at..)?.first_chunk()?);
        at += 2;
        if fields == -1 {
            return Some(lines);
        }
        (usize::try_from(fields).ok()? == FIELDS).then_some(())?;
        let mut places = [const { 0..0 }; FIELDS];
        for place in &mut places {
            let length = i32::from_be_bytes(*page.get(at..)?.first_chunk()?);
            let begins = at + 4;
            at = begins.checked_add(usize::try_from(length).ok()?)?;
            page.get(begins..at)?;
            *place = begins..at;
        }
        position += 1;
        lines.push(CopiedLine { position, page: page.clone(), fields: places });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fields: &[Option<&[u8]>]) -> Vec<u8> {
        let mut page = [SIGNATURE, &[0; 8]].concat();
        page.extend(i16::try_from(fields.len()).unwrap().to_be_bytes());
        for field in fields {
            match field {
                Some(field) => {
                    page.extend(i32::try_from(field.len()).unwrap().to_be_bytes());
                    page.extend(*field);
                }
                None => page.extend((-1_i32).to_be_bytes()),
            }
        }
        page.extend((-1_i16).to_be_bytes());
        page
    }

    #[test]
    fn a_row_is_taken_apart_and_what_is_none_is_not() {
        let (id, sequence) = (7_i64.to_be_bytes(), 3_i64.to_be_bytes());
        let at = 1_500_000_i64.to_be_bytes();
        let sound: Vec<Option<&[u8]>> = vec![
            Some(&id),
            Some(b"User"),
            Some(b"u"),
            Some(&sequence),
            Some(b"UserEnabled"),
            Some(b"1"),
            Some(b"\x01{}"),
            Some(b"\x01{\"a\": 1}"),
            Some(&at),
        ];
        let lines = split(page(&sound), 41).unwrap();
        let [line] = &lines[..] else { panic!("one line") };
        assert_eq!((line.position, line.id()), (42, Some(7)));
        let leaf = line.leaf_at(42).unwrap();
        assert_eq!((leaf.stream_type, leaf.sequence, leaf.metadata), ("User", 3, "{\"a\": 1}"));
        assert_eq!(leaf.recorded_at.to_rfc3339(), "2000-01-01T00:00:01.500+00:00");

        let with = |index: usize, field: Option<&'static [u8]>| {
            let mut fields = sound.clone();
            fields[index] = field;
            split(page(&fields), 0)
        };
        assert!(with(6, None).is_none(), "NULL");
        // Of a column that was made another type.
        for (index, field) in [(6, &b"{}"[..]), (3, b"12"), (8, &[0x7f; 8]), (1, b"\xff")] {
            let lines = with(index, Some(field)).unwrap();
            assert_eq!(lines[0].leaf_at(1), None, "{index}");
        }
        let whole = page(&sound);
        for length in 0..whole.len() {
            assert!(split(whole[..length].to_vec(), 0).is_none(), "{length}");
        }
        assert!(split(page(&sound[1..]), 0).is_none(), "a column less");
    }
}
