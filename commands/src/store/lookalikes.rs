//! What the usernames of accounts look like: claimed beside the events, so that no two accounts have names that can
//! be taken for each other (`migrations/0012_lookalikes.sql`).

use domain::{Index, UserId};
use sqlx::Row;

use super::{Store, Stream};
use crate::StorageError;

impl Store {
    /// An account whose username has one of these looks.
    pub(crate) async fn find_lookalike(
        &self,
        looks: &[Index],
    ) -> Result<Option<UserId>, StorageError> {
        let query =
            sqlx::query("SELECT user_id FROM username_lookalikes WHERE look = ANY ($1) LIMIT 1")
                .bind(texts(looks));
        let found = self.connections.fetch_all(query).await?;
        Ok(found.first().map(|row| row.try_get(0)).transpose()?.map(UserId))
    }

    /// Claims what the username of an account looks like, for one that was made or renamed without that, and
    /// gives back what the account claimed for an earlier name. Looks that another account has stay its own.
    /// Does nothing if the account has gone on since it had `sequence` events: what it did then is looked at
    /// for itself.
    pub(crate) async fn claim_lookalikes<A: Stream>(
        &self,
        id: UserId,
        sequence: u64,
        looks: &[Index],
    ) -> Result<(), StorageError> {
        let query = sqlx::query(
            "WITH present AS (
                 SELECT WHERE NOT EXISTS (
                     SELECT FROM events
                      WHERE aggregate_type = $1 AND aggregate_id = $2 AND sequence > $3)
             ), unlike AS (
                 DELETE FROM username_lookalikes
                  WHERE EXISTS (SELECT FROM present) AND user_id = $4 AND look <> ALL ($5)
             )
             INSERT INTO username_lookalikes (look, user_id)
             SELECT claimed.look, $4 FROM unnest($5::text[]) AS claimed (look), present
             ON CONFLICT DO NOTHING",
        )
        .bind(A::TYPE)
        .bind(id.to_string())
        .bind(sequence as i64)
        .bind(id.0)
        .bind(texts(looks));
        self.connections.fetch_all(query).await?;
        Ok(())
    }
}

pub(super) fn texts(indexes: &[Index]) -> Vec<&str> {
    indexes.iter().map(|Index(text)| text.as_str()).collect()
}
