//! Lines as COPY sends them (PostgreSQL's documentation of COPY, "Binary Format"), for whoever reads very
//! many of them to hash them: a page is one piece of memory, and nothing of it is decoded before it is asked for.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt as _;
use proof::Leaf;
use sqlx::PgConnection;

use super::{Listed, listed};

/// The signature, flags and the length of an extension.
const HEADER: usize = 19;
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// What jsonb is sent with in front: the version of its text form.
const JSONB: u8 = 1;
/// PostgreSQL counts microseconds from the beginning of the year 2000.
const EPOCH_2000: i64 = 946_684_800;

/// In the order in which they are asked for.
const COLUMNS: &str = "e.tx, e.id, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, \
     e.event_version, e.payload, e.metadata, e.recorded_at";
const FIELDS: usize = 10;

/// A page as it came.
#[derive(Debug)]
pub(crate) struct CopiedPage {
    bytes: Vec<u8>,
    after: i64,
    /// What the journal has there.
    listed: Vec<Listed>,
}

/// A line of a page.
#[derive(Debug, Clone)]
pub(crate) struct CopiedLine {
    pub(crate) position: i64,
    page: Arc<Vec<u8>>,
    /// Where its fields begin.
    begins: usize,
}

impl CopiedPage {
    /// Its lines; nothing where they are not those of the journal, or a field is NULL.
    pub(crate) fn lines(self) -> Option<Vec<CopiedLine>> {
        let Self { bytes, after, listed } = self;
        let lines = split(bytes, after)?;
        lines.iter().map(CopiedLine::event).eq(listed.into_iter().map(Some)).then_some(lines)
    }
}

impl CopiedLine {
    /// The leaf, were the line at this position; nothing where a field is not of its type.
    pub(crate) fn leaf_at(&self, position: u64) -> Option<Leaf<'_>> {
        let mut rest = self.page.get(self.begins..)?;
        let mut fields = [&[][..]; FIELDS];
        for field in &mut fields {
            *field = take(&mut rest)?;
        }
        let [
            _,
            _,
            stream_type,
            stream_id,
            sequence,
            event_type,
            event_version,
            payload,
            metadata,
            at,
        ] = fields;
        let recorded_at = i64::from_be_bytes(at.try_into().ok()?);
        let since = TimeDelta::try_seconds(EPOCH_2000)?
            .checked_add(&TimeDelta::microseconds(recorded_at))?;
        Some(Leaf {
            position,
            stream_type: str::from_utf8(stream_type).ok()?,
            stream_id: str::from_utf8(stream_id).ok()?,
            sequence: u64::try_from(i64::from_be_bytes(sequence.try_into().ok()?)).ok()?,
            event_type: str::from_utf8(event_type).ok()?,
            event_version: str::from_utf8(event_version).ok()?,
            recorded_at: DateTime::<Utc>::UNIX_EPOCH.checked_add_signed(since)?,
            payload: str::from_utf8(payload.strip_prefix(&[JSONB])?).ok()?,
            metadata: str::from_utf8(metadata.strip_prefix(&[JSONB])?).ok()?,
        })
    }

    fn event(&self) -> Option<Listed> {
        let mut rest = self.page.get(self.begins..)?;
        let tx = u64::from_be_bytes(take(&mut rest)?.try_into().ok()?);
        let id = i64::from_be_bytes(take(&mut rest)?.try_into().ok()?);
        Some(Listed { tx, id })
    }
}

/// The next field; nothing where it is NULL, or cut off.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    let (field, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(field)
}

/// The lines after a position up to another, if there seems to be a sound one at each: nothing where anything is
/// odd, and [`read_as_stored`](super::read_as_stored) tells what. After an error the connection is not to be used
/// again.
pub(crate) async fn copy_page(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Option<CopiedPage>, sqlx::Error> {
    let wanted = up_to.saturating_sub(after);
    let Some(listed) = listed(conn, after, wanted).await? else { return Ok(None) };
    let (Some(first), Some(last)) = (listed.first(), listed.last()) else { return Ok(None) };
    if i64::try_from(listed.len()).ok() != Some(wanted) {
        return Ok(None);
    }
    // COPY takes no parameters; these are numbers.
    let statement = format!(
        "COPY (SELECT {COLUMNS} FROM events e
                WHERE (e.tx, e.id) >= ('{}'::xid8, {}) AND (e.tx, e.id) <= ('{}'::xid8, {})
                ORDER BY e.tx, e.id LIMIT {}) TO STDOUT (FORMAT binary)",
        first.tx,
        first.id,
        last.tx,
        last.id,
        wanted.saturating_add(1)
    );
    let mut bytes = Vec::with_capacity(listed.len() * 1_200);
    let mut pieces = conn.copy_out_raw(&statement).await?;
    while let Some(piece) = pieces.try_next().await? {
        bytes.extend_from_slice(&piece);
    }
    drop(pieces);
    Ok(Some(CopiedPage { bytes, after, listed }))
}

/// The rows of a page; nothing where it is none, or a field is NULL.
fn split(page: Vec<u8>, after: i64) -> Option<Vec<CopiedLine>> {
    page.starts_with(SIGNATURE).then_some(())?;
    let page = Arc::new(page);
    let (mut lines, mut position) = (Vec::new(), after);
    let mut rest = page.get(HEADER..)?;
    loop {
        let (fields, behind) = rest.split_first_chunk()?;
        let fields = i16::from_be_bytes(*fields);
        if fields == -1 {
            return Some(lines);
        }
        (usize::try_from(fields).ok()? == FIELDS).then_some(())?;
        let begins = page.len() - behind.len();
        rest = behind;
        for _ in 0..FIELDS {
            take(&mut rest)?;
        }
        position += 1;
        lines.push(CopiedLine { position, page: page.clone(), begins });
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
        let (tx, id, sequence) = (9_u64.to_be_bytes(), 7_i64.to_be_bytes(), 3_i64.to_be_bytes());
        let at = 1_500_000_i64.to_be_bytes();
        let sound: Vec<Option<&[u8]>> = vec![
            Some(&tx),
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
        assert_eq!((line.position, line.event()), (42, Some(Listed { tx: 9, id: 7 })));
        let leaf = line.leaf_at(42).unwrap();
        assert_eq!((leaf.stream_type, leaf.sequence, leaf.metadata), ("User", 3, "{\"a\": 1}"));
        assert_eq!(leaf.recorded_at.to_rfc3339(), "2000-01-01T00:00:01.500+00:00");

        let with = |index: usize, field: Option<&'static [u8]>| {
            let mut fields = sound.clone();
            fields[index] = field;
            split(page(&fields), 0)
        };
        assert!(with(7, None).is_none(), "NULL");
        // Of a column that was made another type.
        for (index, field) in [(7, &b"{}"[..]), (4, b"12"), (9, &[0x7f; 8]), (2, b"\xff")] {
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
