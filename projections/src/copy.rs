//! Rows, written in bulk: PostgreSQL's binary COPY (documentation of COPY, "Binary Format").

use sqlx::{
    Encode, PgConnection, Postgres, encode::IsNull, error::BoxDynError, postgres::PgArgumentBuffer,
};

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
/// So many bytes go out at once.
const PIECE: usize = 256 * 1024;

/// The fields of rows, each as its column's type sends it.
#[derive(Default)]
pub struct Fields {
    buffer: PgArgumentBuffer,
    /// Of the row that is being written.
    fields: i16,
    row_at: usize,
    failed: Option<BoxDynError>,
}

impl Fields {
    /// The next column's value; `None` is NULL. Its type must be the column's.
    pub fn put<'q, T: Encode<'q, Postgres>>(&mut self, value: T) {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&NULL);
        self.fields += 1;
        match value.encode(&mut self.buffer) {
            Ok(IsNull::Yes) => {}
            Ok(IsNull::No) => {
                let length = self.buffer.len() - at - NULL.len();
                // A value of 2 GiB has no place in PostgreSQL either.
                let length = i32::try_from(length).unwrap_or(i32::MAX);
                self.patch(at, &length.to_be_bytes());
            }
            Err(cause) => self.failed = self.failed.take().or(Some(cause)),
        }
    }

    fn begin_row(&mut self) {
        self.row_at = self.buffer.len();
        self.fields = 0;
        self.buffer.extend_from_slice(&self.fields.to_be_bytes());
    }

    fn end_row(&mut self) {
        self.patch(self.row_at, &self.fields.to_be_bytes());
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn check(&mut self) -> Result<(), sqlx::Error> {
        self.failed.take().map_or(Ok(()), |cause| Err(sqlx::Error::Encode(cause)))
    }

    /// One row, alone, as bytes: equal rows give equal bytes.
    pub(crate) fn of(write: impl FnOnce(&mut Self)) -> Result<Vec<u8>, sqlx::Error> {
        let mut fields = Self::default();
        write(&mut fields);
        fields.check()?;
        Ok(fields.buffer.to_vec())
    }
}

/// Writes rows into a table, all of them or none.
pub(crate) async fn copy_in<R>(
    conn: &mut PgConnection,
    table: &str,
    rows: impl Iterator<Item = R>,
    write: impl Fn(&R, &mut Fields),
) -> Result<(), sqlx::Error> {
    let mut copy = conn.copy_in_raw(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await?;
    let mut fields = Fields::default();
    fields.buffer.extend_from_slice(HEADER);
    let mut count = 0_u64;
    for row in rows {
        fields.begin_row();
        write(&row, &mut fields);
        fields.end_row();
        count += 1;
        if fields.buffer.len() >= PIECE {
            fields.check()?;
            copy.send(fields.buffer.as_slice()).await?;
            fields.buffer.clear();
        }
    }
    fields.check()?;
    fields.buffer.extend_from_slice(&TRAILER);
    copy.send(fields.buffer.as_slice()).await?;
    let written = copy.finish().await?;
    if written != count {
        return Err(sqlx::Error::Protocol(format!(
            "{written} of {count} rows were written to {table}"
        )));
    }
    Ok(())
}
