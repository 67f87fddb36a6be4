//! The read side of Entrybook: it settles the order of the book, and posts read tables from it.
//!
//! The [`Sequencer`] gives every event its line in the journal. The [`Projector`] keeps each
//! [`Projection`] up with it; [`rebuild()`] and [`verify()`] use the same folds. A [`Follower`] delivers
//! lines to consumers in memory, such as [`Revocations`]. This crate knows the events and the tables
//! they are in, and nothing of commands, pages or requests, and no key but the one that tells events which
//! the service wrote from others ([`BookSource`]): what is sealed stays sealed.
//!
//! # How to add a projection
//!
//! One file: its tables, its fold, its queries. Then name it in [`all`]. The tables are made at the
//! next start, and it catches up with the book while everything else goes on. A change of its tables
//! or of its fold is a new `VERSION`.
//!
//! ```
//! use domain::{Event, SessionEvent, UserId, stream};
//! use projections::{CannotApply, Fields, Generation, Line, Projection, Table, View, table};
//! use sqlx::{Row as _, postgres::PgRow};
//!
//! /// How often each person has signed in.
//! struct SignIns;
//!
//! struct Row { user_id: UserId, count: i64, position: i64 }
//!
//! impl View for SignIns {
//!     const NAME: &'static str = "sign_ins";
//!     const VERSION: i32 = 1;
//!     const TABLES: &'static [Table] = &[Table {
//!         name: "sign_ins",
//!         columns: "user_id uuid NOT NULL, count bigint NOT NULL, position bigint NOT NULL",
//!         key: "user_id",
//!         masked: &[],
//!         indexes: &[],
//!     }];
//!
//!     type Key = UserId;
//!     type Row = Row;
//!
//!     fn concerns(aggregate_type: &str) -> bool {
//!         aggregate_type == stream::SESSION
//!     }
//!
//!     fn key(line: &Line<'_>) -> Result<UserId, CannotApply> {
//!         let Event::Session(event) = line.event else {
//!             return Err(line.cannot_apply("this is not an event of a session"));
//!         };
//!         match event {
//!             SessionEvent::Started { user_id, .. }
//!             | SessionEvent::Refreshed { user_id, .. }
//!             | SessionEvent::Ended { user_id, .. } => Ok(*user_id),
//!         }
//!     }
//!
//!     // Pure: the row and a line in, the row out. No `_ =>`, so that a new event asks to be dealt with.
//!     fn fold(row: Option<Row>, line: &Line<'_>) -> Result<Row, CannotApply> {
//!         let mut row = row.unwrap_or(Row { user_id: Self::key(line)?, count: 0, position: 0 });
//!         match line.event {
//!             Event::Session(SessionEvent::Started { .. }) => row.count += 1,
//!             Event::Session(SessionEvent::Refreshed { .. } | SessionEvent::Ended { .. }) => {}
//!             Event::User(_) | Event::SignInGuard(_) | Event::Service(_) | Event::Reading(_) => {}
//!         }
//!         row.position = line.recorded.position;
//!         Ok(row)
//!     }
//!
//!     fn key_of(row: &Row) -> UserId {
//!         row.user_id
//!     }
//!
//!     // A line is never folded into a row twice.
//!     fn position(row: &Row) -> i64 {
//!         row.position
//!     }
//!
//!     fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
//!         Ok(Row {
//!             user_id: UserId(row.try_get("user_id")?),
//!             count: row.try_get("count")?,
//!             position: row.try_get("position")?,
//!         })
//!     }
//!
//!     // One value for each column, in their order.
//!     fn write(row: &Row, fields: &mut Fields) {
//!         fields.put(row.user_id.0);
//!         fields.put(row.count);
//!         fields.put(row.position);
//!     }
//! }
//!
//! let added: &'static dyn Projection = &SignIns;
//! assert_eq!(table::<SignIns>("sign_ins", Generation::Live), "ledger.sign_ins_v1");
//! ```

pub mod audit_history;
pub mod book_audit;
mod book_source;
mod builder;
mod builds;
mod check_journal;
pub mod claims;
mod compare;
mod copy;
pub mod destroyed_keys;
mod ending;
mod first_build;
mod follower;
mod head;
mod held;
mod horizon;
mod identifiers;
pub mod journal;
pub mod not_authentic;
#[cfg(test)]
mod pinned_folds;
mod projection;
mod projector;
mod reach;
mod rebuild;
pub mod replay;
mod replicas;
mod restore;
mod revocations;
mod sequencer;
pub mod sessions;
mod sqlstate;
mod status;
mod stored;
mod tables;
pub mod transparency;
pub mod users;
mod view;

pub use book_source::BookSource;
pub use builds::{Build, BuildState, Phase, Progress, builds, cancel_build};
pub use check_journal::{JournalReport, check_journal};
pub use compare::{FoldState, RowDifference, TableDifference, Verified};
pub use copy::Fields;
pub use ending::end_with_us;
pub use follower::Follower;
pub use head::{Head, HeadWatch};
pub use held::{Held, HeldBy};
pub use horizon::{Holder, Horizon};
pub use identifiers::{IdentifierDifferences, RepairError, repair_identifiers, verify_identifiers};
pub use journal::{JournalError, RecordedEvent};
pub use projection::{
    ApplyError, CannotApply, Entry, Fingerprint, Folding, Generation, Index, Line, Page,
    Projection, Start, StopKind, Table,
};
pub use projector::{Projector, ProjectorError, Receipt};
pub use reach::Reach;
pub use rebuild::{Options, Outcome, RebuildError, Rebuilt, Unfinished, rebuild, verify};
pub use replicas::{Heartbeat, Identity, Pruned, Replica, prune, replicas};
pub use restore::{Adoption, adopt_cluster};
pub use revocations::{Destroyed, Revocations, Verdict};
pub use sequencer::{Batch, ControlRow, Sequencer, SequencerError};
pub use status::{ProjectionState, ProjectionStatus, Stopped, status};
pub use view::{Key, View, table};

/// The projections that this binary keeps.
#[must_use]
pub fn all() -> Vec<&'static dyn Projection> {
    vec![
        &users::Users,
        &sessions::Sessions,
        &audit_history::AuditHistory,
        &transparency::Transparency,
        &claims::Claims,
    ]
}

/// The projection of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Projection> {
    all().into_iter().find(|projection| projection.name() == name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::PgPool;

    use super::*;

    /// Handlers and tasks are moved between threads, so what they await must be.
    #[tokio::test]
    async fn every_future_can_be_spawned() {
        fn spawnable<F: Future + Send + 'static>(_never_run: F) {}
        let pool = PgPool::connect_lazy("postgres://nobody@localhost:1/none").unwrap();
        let sequencer = Sequencer::new(pool.clone());
        let key = proof::EventAuthenticator::new(&[0; 32], 0);
        let book = BookSource::new(pool.clone(), key);
        let projector = Projector::new(book.clone(), all(), sequencer.head());
        let revocations = Revocations::new(book.clone(), sequencer.head(), Duration::ZERO);
        let mut follower = Follower::new(pool.clone(), sequencer.head(), 0);
        let receipt = Receipt { tx: 0, event_id: 0 };
        let filter = audit_history::Filter::default();
        let cancel = tokio_util::sync::CancellationToken::new();
        spawnable(async move {
            let mut conn = pool.acquire().await.unwrap();
            let _ = adopt_cluster(&mut conn).await;
            let _ = sequencer.drain().await;
            sequencer.run(std::sync::Arc::default(), cancel.clone()).await;
            let _ = Horizon::read(&pool).await;
            let _ = check_journal(&pool).await;
            let _ = verify_identifiers(&book).await;
            let _ = journal::read_after(&mut conn, 0, 1).await;
            let _ = journal::read_one(&pool, 1).await;
            let _ = follower.next_batch().await;
            let _ = projector.ensure().await;
            let _ = projector.catch_up().await;
            let _ = projector.status().await;
            let _ = projector.wait_for(receipt, "users", Duration::ZERO).await;
            let _ = projector.reach(&pool, "users", None, Duration::ZERO).await;
            projector.run(cancel.clone()).await;
            let user = domain::UserId(uuid::Uuid::nil());
            let session = domain::SessionId(uuid::Uuid::nil());
            revocations.run(chrono::DateTime::UNIX_EPOCH, cancel.clone()).await;
            let _ = rebuild(&book, &all(), Options::default(), &cancel, &mut |_| {}).await;
            for projection in all() {
                let _ = verify(&book, projection).await;
            }
            let _ = users::get(&pool, user).await;
            let _ = users::page(&pool, None, 1).await;
            let _ = sessions::get(&pool, session).await;
            let _ = sessions::live_of_user(&pool, user, chrono::DateTime::UNIX_EPOCH, 1).await;
            let order = audit_history::Order::Newest;
            let _ = audit_history::page(&pool, &filter, order, None, 1).await;
            let _ = audit_history::count(&pool, &filter).await;
            let _ = audit_history::times_between(&pool, 0, 1).await;
            let _ = claims::holders(&pool, &domain::Index(String::new())).await;
            let _ = replay::state(&book, user, replay::AsOf::Position(1)).await;
            let _ = replay::signed_in(&book, chrono::DateTime::UNIX_EPOCH, None, 1).await;
            let _ = replay::whole(&book, replay::AsOf::Position(1)).await;
            let _ = transparency::size(&mut conn).await;
            let _ = transparency::root(&mut conn, 1).await;
            let _ = transparency::prove_inclusion(&mut conn, 1, 0).await;
            let _ = transparency::prove_consistency(&mut conn, 1, 1).await;
            let _ = transparency::subtree_hashes(&mut conn, 0, 1).await;
            let _ = transparency::tile(&mut conn, 0, 0, 1).await;
            let _ = transparency::leaves(&mut conn, 0, 1).await;
        });
    }
}
