//! Backups as operators make them, with `pg_dump` and `psql`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

/// A program of PostgreSQL's own.
fn program(name: &str) -> Command {
    let bin = std::env::var_os("ENTRYBOOK_TEST_POSTGRES_BIN").map(PathBuf::from);
    let ours = bin.map(|bin| bin.join(name)).filter(|path| path.exists());
    Command::new(ours.unwrap_or_else(|| name.into()))
}

/// The same, on a database.
fn on(name: &str, url: &str) -> Command {
    with_connection(program(name), url)
}

/// A command with libpq's variables for a database, and PostgreSQL's programs on its PATH.
pub fn with_connection(mut command: Command, url: &str) -> Command {
    let options: PgConnectOptions = url.parse().unwrap();
    let password = reqwest::Url::parse(url).ok().and_then(|url| url.password().map(str::to_owned));
    let host = match options.get_socket() {
        Some(socket) => socket.to_str().unwrap().to_owned(),
        None => options.get_host().to_owned(),
    };
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("PG")) {
        command.env_remove(key);
    }
    command
        .env("PGHOST", host)
        .env("PGPORT", options.get_port().to_string())
        .env("PGUSER", options.get_username())
        .env("PGDATABASE", options.get_database().unwrap());
    if let Some(password) = password {
        let bytes = percent_decoded(&password);
        command.env("PGPASSWORD", bytes);
    }
    if let Some(bin) = std::env::var_os("ENTRYBOOK_TEST_POSTGRES_BIN") {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::iter::once(PathBuf::from(bin)).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(places).unwrap());
    }
    command
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            let digits = std::str::from_utf8(&digits).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Dumps a database, while servers run on it.
pub async fn dump(url: &str, file: &Path) {
    let mut command = on("pg_dump", url);
    command.arg("--file").arg(file);
    tokio::task::spawn_blocking(|| done(command)).await.unwrap();
}

/// Puts a dump in place of all that a database has. Roles are the cluster's and not in a dump; those
/// that it names are made where they are missing.
pub async fn restore(url: &str, file: &Path) {
    let options: PgConnectOptions = url.parse().unwrap();
    let mut owner: PgConnection = options.connect().await.unwrap();
    let dump = std::fs::read_to_string(file).unwrap();
    let owners = dump.lines().filter_map(|line| line.split_once(" OWNER TO ").map(|(_, who)| who));
    let mut roles: Vec<_> = owners.map(|who| who.trim_end_matches(';').to_owned()).collect();
    roles.push("entrybook_app".to_owned());
    roles.sort();
    roles.dedup();
    for role in roles {
        let make = format!(
            "DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        );
        sqlx::raw_sql(&make).execute(&mut owner).await.unwrap();
    }
    sqlx::raw_sql(
        "DROP SCHEMA IF EXISTS ledger CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    owner.close().await.unwrap();
    let mut command = on("psql", url);
    command.args(["--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(file);
    tokio::task::spawn_blocking(|| done(command)).await.unwrap();
}
