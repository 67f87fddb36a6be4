//! The tables of a projection: made, dropped, swapped. What is in them is the projection's affair.
//!
//! Names of tables and indexes are constants of this crate, a version and a generation, so that
//! putting them into the text of a statement is safe.

use sqlx::PgConnection;

use crate::projection::{Generation, Projection};

/// Serialises the making of tables. The second number is the projection's.
const ENSURE_LOCK: i32 = 0x0E17_B001;
/// Held, for as long as it takes, by a session that builds another generation of a projection.
const BUILD_LOCK: i32 = 0x0E17_B002;

/// Makes the live tables if they are not there, and registers the projection.
pub(crate) async fn ensure(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<(), sqlx::Error> {
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
        // What a crash of a rebuild left behind, unless one is under way.
        let idle: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1, hashtext($2))")
            .bind(BUILD_LOCK)
            .bind(projection.name())
            .fetch_one(&mut *conn)
            .await?;
        if idle {
            drop_tables(conn, projection, Generation::New).await?;
            drop_tables(conn, projection, Generation::Check).await?;
        }
        return Ok(());
    }
    // Without its row a table tells nothing of how far it came.
    drop_tables(conn, projection, Generation::Live).await?;
    create_tables(conn, projection, Generation::Live).await?;
    sqlx::query("INSERT INTO projections (name, version, state) VALUES ($1, $2, 'building')")
        .bind(projection.name())
        .bind(projection.version())
        .execute(conn)
        .await?;
    Ok(())
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

/// Gives the right back.
pub(crate) async fn build_unlock(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_unlock($1, hashtext($2))")
        .bind(BUILD_LOCK)
        .bind(projection.name())
        .execute(conn)
        .await
        .map(drop)
}

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
        for index in table.indexes {
            run(
                conn,
                &format!(
                    "CREATE INDEX {relation}_{} ON ledger.{relation} {}",
                    index.name, index.on
                ),
            )
            .await?;
        }
    }
    Ok(())
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
            run(conn, &format!("ALTER INDEX ledger.{new}_{index} RENAME TO {live}_{index}"))
                .await?;
        }
    }
    Ok(())
}

async fn run(conn: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    // It runs once, so the connection need not remember it.
    sqlx::query(statement).persistent(false).execute(conn).await.map(drop)
}
