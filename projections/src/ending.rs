//! Connections that hold a lock, and must not outlive who holds it.

use sqlx::PgConnection;

/// Has the database end a connection, and give back its locks, soon after the process or the machine at
/// its other end is gone. Left to itself it waits two hours for a machine that went without a word.
pub async fn end_with_us(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // So that a long statement doesn't outlive a process that was killed, with the locks that it holds.
    // There are systems where it can't be had; there it does.
    let _ = sqlx::query("SELECT set_config('client_connection_check_interval', '1s', false)")
        .execute(&mut *conn)
        .await;
    // Nor a machine that is gone.
    sqlx::query(
        "SELECT set_config('tcp_keepalives_idle', '5', false),
                set_config('tcp_keepalives_interval', '2', false),
                set_config('tcp_keepalives_count', '3', false),
                set_config('tcp_user_timeout', '10s', false)",
    )
    .execute(conn)
    .await?;
    Ok(())
}
