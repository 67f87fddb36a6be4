//! The tables of a projection: made, dropped, swapped. What is in them is the projection's affair.
//!
//! Names of tables and indexes are constants of this crate, a version and a generation, so that
//! putting them into the text of a statement is safe.

use sqlx::{PgConnection, types::Json};

use crate::projection::{Generation, Projection};

/// A table of so many rows gets its indexes in no time.
const FEW_ROWS: i64 = 10_000;
/// Serialises the making of tables. The second number is the projection's.
const ENSURE_LOCK: i32 = 0x0E17_B001;
/// Held, for as long as it takes, by a session that builds another generation of a projection.
pub(crate) const BUILD_LOCK: i32 = 0x0E17_B002;

/// Makes the live tables if they are not there, and registers the projection; `true` if it did.
pub(crate) async fn ensure(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<bool, sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))")
        .bind(ENSURE_LOCK)
        .bind(projection.name())
        .execute(&mut *conn)
        .await?;
    let registered: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM projections WHERE name = $1 AND version = $2)",
    )
    .bind(projection.name())
    .bind(projection.version())
    .fetch_one(&mut *conn)
    .await?;
    if registered {
        // What a crash of a rebuild left behind, unless one is under way or may go on with it.
        let idle = try_build_lock_here(conn, projection).await?;
        if idle && resumable(conn, projection).await?.is_none() {
            drop_tables(conn, projection, Generation::New).await?;
        }
        return Ok(false);
    }
    // Without its row a table tells nothing of how far it came.
    drop_tables(conn, projection, Generation::Live).await?;
    create_tables(conn, projection, Generation::Live).await?;
    sqlx::query(
        "INSERT INTO projections (name, version, state, fold, tables)
         VALUES ($1, $2, 'building', $3, $4)",
    )
    .bind(projection.name())
    .bind(projection.version())
    .bind(Json(projection.fingerprint()))
    .bind(
        projection
            .tables()
            .iter()
            .map(|t| t.relation(projection.version(), Generation::Live))
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// The line up to which new tables are built that somebody left behind, where a build may go on with
/// them: they are there, not old, made by the same fold, and no further than the live ones, with which
/// they are to be compared.
pub(crate) async fn resumable(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<Option<i64>, sqlx::Error> {
    let tables: Vec<String> = projection
        .tables()
        .iter()
        .map(|table| format!("ledger.{}", table.relation(projection.version(), Generation::New)))
        .collect();
    sqlx::query_scalar(
        "SELECT b.position FROM builds AS b JOIN projections AS p USING (name, version)
          WHERE name = $1 AND version = $2 AND b.state IN ('running', 'failed', 'cancelled')
            AND b.fold = $3 AND b.updated_at > clock_timestamp() - interval '1 day'
            AND b.position <= p.position
            AND NOT EXISTS (SELECT FROM unnest($4::text[]) AS needed (name)
                             WHERE to_regclass(needed.name) IS NULL)",
    )
    .bind(projection.name())
    .bind(projection.version())
    .bind(Json(projection.fingerprint()))
    .bind(tables)
    .fetch_optional(conn)
    .await
}

/// Takes the right to build another generation, for as long as the connection lives. `false`: somebody
/// else is at it.
pub(crate) async fn try_build_lock(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext($2))")
        .bind(BUILD_LOCK)
        .bind(projection.name())
        .fetch_one(conn)
        .await
}

/// The same until the transaction ends.
pub(crate) async fn try_build_lock_here(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1, hashtext($2))")
        .bind(BUILD_LOCK)
        .bind(projection.name())
        .fetch_one(conn)
        .await
}

/// Gives back all the rights that the connection has taken.
pub(crate) async fn build_unlock(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut *conn).await.map(drop)
}

/// Makes the tables with their keys alone: indexes are made when the rows are there.
pub(crate) async fn create_tables(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    generation: Generation,
) -> Result<(), sqlx::Error> {
    for table in projection.tables() {
        let relation = table.relation(projection.version(), generation);
        run(
            conn,
            &format!(
                "CREATE TABLE ledger.{relation} ({}, CONSTRAINT {relation}_pkey PRIMARY KEY ({}))",
                table.columns, table.key
            ),
        )
        .await?;
    }
    Ok(())
}

/// Makes the indexes, and lets the planner know the tables.
pub(crate) async fn create_indexes(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    generation: Generation,
) -> Result<(), sqlx::Error> {
    run(conn, "SET maintenance_work_mem = '128MB'").await?;
    for table in projection.tables() {
        let relation = table.relation(projection.version(), generation);
        // A transaction that writes holds back the order of the book until it ends. An index that is
        // made concurrently is made without one, in two passes: too much for a handful of rows.
        let large: bool = sqlx::query_scalar(&format!(
            "SELECT count(*) > {FEW_ROWS}
               FROM (SELECT FROM ledger.{relation} LIMIT {FEW_ROWS} + 1) AS first_rows"
        ))
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
        let concurrently = if large { "CONCURRENTLY " } else { "" };
        for index in table.indexes {
            let (name, on) = (format!("{relation}_{}", index.name), index.on);
            // Half made, by a build that was broken off.
            let invalid: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_index
                                 WHERE indexrelid = to_regclass($1) AND NOT indisvalid)",
            )
            .bind(format!("ledger.{name}"))
            .fetch_one(&mut *conn)
            .await?;
            if invalid {
                run(conn, &format!("DROP INDEX ledger.{name}")).await?;
            }
            let make = format!("CREATE INDEX {concurrently}IF NOT EXISTS {name}");
            run(conn, &format!("{make} ON ledger.{relation} {on}")).await?;
        }
        run(conn, &format!("ANALYZE ledger.{relation}")).await?;
    }
    run(conn, "RESET maintenance_work_mem").await
}

/// Whether there is no row yet.
pub(crate) async fn are_empty(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    generation: Generation,
) -> Result<bool, sqlx::Error> {
    for table in projection.tables() {
        let relation = table.relation(projection.version(), generation);
        let found: bool =
            sqlx::query_scalar(&format!("SELECT EXISTS (SELECT FROM ledger.{relation})"))
                .persistent(false)
                .fetch_one(&mut *conn)
                .await?;
        if found {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) async fn drop_tables(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    generation: Generation,
) -> Result<(), sqlx::Error> {
    for table in projection.tables() {
        let relation = table.relation(projection.version(), generation);
        run(conn, &format!("DROP TABLE IF EXISTS ledger.{relation}")).await?;
    }
    Ok(())
}

/// Autovacuum leaves a table to who waits for it longer than `deadlock_timeout`, a second. The swap
/// doesn't wait so long, for new readers wait behind it; this lock does, and nobody waits behind it.
/// The new tables are vacuumed for as long as they are large, for they have just been filled.
pub(crate) async fn send_vacuum_away(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<(), sqlx::Error> {
    run(conn, "SET LOCAL lock_timeout = '5s'").await?;
    for table in projection.tables() {
        for generation in [Generation::New, Generation::Live] {
            let relation = table.relation(projection.version(), generation);
            // A live one that is gone is made anew.
            if oid_of(conn, &relation).await?.is_none() {
                continue;
            }
            run(conn, &format!("LOCK TABLE ledger.{relation} IN SHARE UPDATE EXCLUSIVE MODE"))
                .await?;
        }
    }
    Ok(())
}

/// Puts the new tables in the place of the live ones.
pub(crate) async fn swap_tables(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<(), sqlx::Error> {
    drop_tables(conn, projection, Generation::Live).await?;
    for table in projection.tables() {
        let new = table.relation(projection.version(), Generation::New);
        let live = table.relation(projection.version(), Generation::Live);
        run(conn, &format!("ALTER TABLE ledger.{new} RENAME TO {live}")).await?;
        for index in table.indexes.iter().map(|index| index.name).chain(["pkey"]) {
            // A table that somebody has moved aside keeps the names of its indexes.
            if let Some(oid) = oid_of(conn, &format!("{live}_{index}")).await? {
                run(conn, &format!("ALTER INDEX ledger.{live}_{index} RENAME TO moved_{oid}"))
                    .await?;
            }
            run(conn, &format!("ALTER INDEX ledger.{new}_{index} RENAME TO {live}_{index}"))
                .await?;
        }
    }
    Ok(())
}

/// The number under which the catalogue has a table or an index of schema `ledger`, if it is there.
pub(crate) async fn oid_of(
    conn: &mut PgConnection,
    relation: &str,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regclass($1)::oid::bigint")
        .bind(format!("ledger.{relation}"))
        .fetch_one(conn)
        .await
}

async fn run(conn: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    // It runs once, so the connection need not remember it.
    sqlx::query(statement).persistent(false).execute(conn).await.map(drop)
}
