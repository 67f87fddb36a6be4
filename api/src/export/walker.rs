//! The lines of an export, read from the events themselves and held against the tree.
//!
//! The read tables can be changed by the role of the application, so nothing that is signed is made of them: every
//! line is read and hashed, also one that the filter leaves out, and the root over all of them must be the one that
//! was signed.

use projections::{
    audit_history::{self, Filter, Row, row_of, without_erased},
    journal, transparency,
};
use proof::{Tree, tree_places};
use sqlx::PgConnection;

use super::{ExportError, Source};

/// So many lines are read at once.
const PAGE: u64 = 256;

/// Reads the lines in their order.
#[derive(Default)]
pub(super) struct Walker {
    /// The tree over the lines up to the last that was read; before the first, over those that are left out in front.
    tree: Option<Tree>,
}

impl Walker {
    /// The next lines after a position that pass the filter, and the last line that was read.
    pub(super) async fn next(
        &mut self,
        source: &Source,
        filter: &Filter,
        position: u64,
    ) -> Result<(Vec<Row>, u64), ExportError> {
        let last = source.signed.size.min(position.saturating_add(PAGE));
        let connection = &mut *source.pool.acquire().await?;
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => none.insert(kept(connection, position).await?),
        };
        let mut rows = Vec::new();
        while tree.size() < last {
            let after = tree.size();
            let events =
                journal::read_after(connection, after.cast_signed(), (last - after).cast_signed());
            for event in events.await? {
                let failed = |cause: String| ExportError::Row { position: event.position, cause };
                let hash = transparency::leaf(&event).hash();
                tree.push(hash.map_err(|cause| failed(cause.to_string()))?, |_| {});
                let authenticator = source.book.keyring().events();
                let row =
                    row_of(&event, authenticator).map_err(|cause| failed(cause.to_string()))?;
                rows.extend(filter.passes(&row).then_some(row));
            }
            if tree.size() == after {
                return Err(ExportError::OtherRoot { size: source.signed.size });
            }
        }
        Ok((without_erased(connection, filter, rows).await?, last))
    }

    /// Whether the lines that were read are those that were signed.
    pub(super) async fn is_signed(&self, source: &Source) -> Result<bool, ExportError> {
        let size = source.signed.size;
        let root = match &self.tree {
            Some(tree) if tree.size() == size => tree.root(),
            Some(_) => return Ok(false),
            // Nothing was left to be read.
            None => transparency::root(&mut *source.pool.acquire().await?, size).await?,
        };
        Ok(root == source.signed.root)
    }
}

/// The tree over the lines up to a position, by the hashes that are kept of them: they are in the root.
async fn kept(connection: &mut PgConnection, size: u64) -> Result<Tree, ExportError> {
    let places: Vec<_> = tree_places(size).collect();
    let mut nodes = transparency::read_nodes(connection, &places).await?.into_iter();
    Tree::restore(size, |_, _| nodes.next().map(|node| node.hash))
        .map_err(|_| ExportError::OtherRoot { size })
}

/// Whether a filter leaves nothing out.
pub(super) fn is_all(filter: &Filter) -> bool {
    *filter == audit_history::Filter::default()
}
