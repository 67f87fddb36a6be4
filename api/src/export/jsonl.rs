//! JSON Lines: the lines of the book as they are hashed, and hashes in place of what is left out.

use projections::{journal, transparency};
use proof::export::{RUN, Writer};

use super::{
    Asked, ExportError, Source,
    walker::{Walker, is_all},
};

pub(super) struct Lines {
    /// Nothing once it has ended.
    writer: Option<Writer>,
    header: Vec<u8>,
    written: u64,
    walker: Walker,
}

impl Lines {
    pub(super) fn new(source: &Source, asked: &Asked) -> Result<Self, ExportError> {
        let (writer, header) = Writer::new(&source.signed.origin, asked.named.clone())?;
        Ok(Self { writer: Some(writer), header, written: 0, walker: Walker::default() })
    }

    pub(super) fn resumed(writer: Writer) -> Self {
        let (written, walker) = (writer.lines(), Walker::default());
        Self { written, writer: Some(writer), header: Vec::new(), walker }
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Of all that was written; nothing once it has ended.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        self.writer.as_ref().map(Writer::digest)
    }

    pub(super) fn begin(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.header)
    }

    /// The next lines after a position, and up to which they go.
    pub(super) async fn next(
        &mut self,
        source: &Source,
        asked: &Asked,
        position: u64,
    ) -> Result<(Vec<u8>, u64), ExportError> {
        let size = source.signed.size;
        let (positions, reached) = if is_all(&asked.filter) {
            let last = size.min(position.saturating_add(RUN as u64));
            ((position + 1..=last).map(u64::cast_signed).collect::<Vec<_>>(), last)
        } else {
            let (rows, reached) = self.walker.next(source, &asked.filter, position).await?;
            (rows.iter().map(|row| row.position).collect(), reached)
        };
        let Some(writer) = &mut self.writer else { return Ok((Vec::new(), size)) };
        let mut part = Vec::new();
        let connection = &mut *source.pool.acquire().await?;
        let runs = runs(&positions);
        let gaps = gaps(writer.next(), &runs, reached);
        let mut gap_hashes =
            transparency::subtree_hashes_of(connection, &gaps).await?.into_iter().zip(&gaps);
        let places: Vec<_> =
            positions.iter().map(|position| (0, position.unsigned_abs() - 1)).collect();
        let mut hashes =
            transparency::read_nodes(connection, &places).await?.into_iter().map(|node| node.hash);
        let mut leaves = leaves(connection, &positions).await?.into_iter();
        for (first, last) in runs {
            if writer.next() < first
                && let Some((hashes, (_, to))) = gap_hashes.next()
            {
                part.extend(writer.gap(*to, &hashes)?);
            }
            let many = usize::try_from(last + 1 - first).unwrap_or(RUN);
            let (hashes, leaves): (Vec<_>, Vec<_>) =
                hashes.by_ref().zip(leaves.by_ref()).take(many).unzip();
            part.extend(writer.run(&hashes, &leaves)?);
        }
        if let Some((hashes, (_, to))) = gap_hashes.next() {
            part.extend(writer.gap(*to, &hashes)?);
        }
        self.written = writer.lines();
        Ok((part, reached))
    }

    pub(super) async fn end(
        &mut self,
        source: &Source,
        asked: &Asked,
    ) -> Result<Vec<u8>, ExportError> {
        let Some(writer) = self.writer.take() else { return Ok(Vec::new()) };
        let size = source.signed.size;
        if writer.next() != size + 1 || writer.root() != source.signed.root {
            return Err(ExportError::OtherRoot { size });
        }
        match asked.all(size) {
            Some(all) if all != writer.lines() => {
                return Err(ExportError::Incomplete { lines: writer.lines(), all });
            }
            // Each line proves itself.
            Some(_) => {}
            // Of what the filter has left out, only what was read tells that it was rightly left out.
            None if !self.walker.is_signed(source).await? => {
                return Err(ExportError::OtherRoot { size });
            }
            None => {}
        }
        let checkpoint = source.signed.with_cosignatures();
        Ok(writer.end(&source.signer, &checkpoint, &source.hand_overs)?)
    }
}

/// The canonical bytes of the lines at these positions.
async fn leaves(
    connection: &mut sqlx::PgConnection,
    positions: &[i64],
) -> Result<Vec<Vec<u8>>, ExportError> {
    let Some((first, last)) = positions.first().zip(positions.last()) else {
        return Ok(Vec::new());
    };
    let many = last - first + 1;
    if usize::try_from(many).is_ok_and(|many| many == positions.len()) {
        let (first, many) = (first.unsigned_abs() - 1, many.unsigned_abs());
        return Ok(transparency::leaves(connection, first, many).await?);
    }
    let mut leaves = Vec::with_capacity(positions.len());
    for event in journal::read_at(connection, positions).await? {
        let bytes = transparency::leaf(&event).to_bytes().map_err(|cause| ExportError::Row {
            position: event.position,
            cause: cause.to_string(),
        })?;
        leaves.push(bytes);
    }
    Ok(leaves)
}

/// Neighbours, from the first to the last of each run.
fn runs(positions: &[i64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for position in positions.iter().map(|position| position.unsigned_abs()) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => runs.push((position, position)),
        }
    }
    runs
}

/// What lies between the runs, before the first, and behind the last: from an index to before another.
fn gaps(next: u64, runs: &[(u64, u64)], reached: u64) -> Vec<(u64, u64)> {
    let mut from = next - 1;
    let mut gaps = Vec::new();
    for (first, last) in runs {
        gaps.push((from, first - 1));
        from = *last;
    }
    gaps.push((from, reached));
    gaps.retain(|(from, to)| from < to);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_lies_between_the_runs() {
        let found = runs(&[3, 4, 5, 9, 11, 12]);
        assert_eq!(found, [(3, 5), (9, 9), (11, 12)]);
        // Line 1 and 2 are the leaves 0 and 1.
        assert_eq!(gaps(1, &found, 20), [(0, 2), (5, 8), (9, 10), (12, 20)]);
        assert_eq!(gaps(3, &found, 12), [(5, 8), (9, 10)]);
        assert_eq!(gaps(7, &[], 6), []);
        assert_eq!(gaps(1, &[(1, 6)], 6), []);
    }
}
