//! `entrybook admin`: accounts, from the command line.

use super::password::{NewPassword, PasswordChoice};
use super::table::table;
use super::{Out, Refused, origin, with_new_services, with_services};
use crate::bootstrap::Services;
use crate::config::Config;
use crate::routes::users::open_value;
use chrono::SecondsFormat;
use commands::NewAccount;
use domain::{Email, FullName, Identifier, Role, Roles, UserId, Username};
use projections::users;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make an account: an admin, unless other roles are given
    #[command(
        long_about = "Makes an account. Without --role it is an admin and an auditor. The password is asked for, or read from standard input, or \
            generated and printed once; it is never an argument, because every user of a machine may list those.",
        after_help = "Examples:\n  entrybook admin create --email ada@example.org --username ada\n  \
            entrybook admin create --email bob@example.org --username bob --role user --generate-password\n  \
            pass show bob | entrybook admin create --email bob@example.org --username bob --role auditor --password-stdin"
    )]
    Create(Create),
    /// Set a new password for an account, and end its sessions
    #[command(
        long_about = "Sets a new password for an account: for one that was lost. It ends all sessions of the account, and the waiting time that \
            failed sign-ins have earned it.",
        after_help = "Examples:\n  entrybook admin reset-password admin\n  entrybook admin reset-password ada@example.org --generate-password"
    )]
    ResetPassword(ResetPassword),
    /// List the admins, or all accounts
    #[command(
        after_help = "Examples:\n  entrybook admin list\n  entrybook admin list --all --json | jq '.[] | select(.disabled)'"
    )]
    List(List),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// E-mail address; nobody else may have it
    #[arg(long)]
    email: String,
    /// Username, 3 to 50 characters; nobody else may have it
    #[arg(long)]
    username: String,
    /// The name to show
    #[arg(long, value_name = "NAME")]
    full_name: Option<String>,
    /// user, auditor or admin; may be given several times. Everybody is a user
    #[arg(long = "role", value_name = "ROLE", value_parser = role)]
    roles: Vec<Role>,
    #[command(flatten)]
    password: PasswordChoice,
    /// Answer in JSON: {"id", "username", "email", "roles", "generated_password"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ResetPassword {
    /// Username, e-mail address or id of the account
    user: String,
    #[command(flatten)]
    password: PasswordChoice,
    /// Answer in JSON: {"id", "generated_password"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// All accounts, not just the admins
    #[arg(long)]
    all: bool,
    /// Answer in JSON: [{"id", "username", "email", "full_name", "roles", "disabled", "registered_at"}]
    #[arg(long)]
    json: bool,
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: domain::UnknownRole| error.to_string())
}

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    match arguments.verb {
        Verb::Create(create) => self::create(config, create, out).await,
        Verb::ResetPassword(reset) => reset_password(config, reset, out).await,
        Verb::List(list) => self::list(config, &list, out).await,
    }
}

async fn create(config: &Config, create: Create, out: &mut Out) -> anyhow::Result<()> {
    let mut roles: Roles = create.roles.iter().copied().chain([Role::User]).collect();
    if create.roles.is_empty() {
        roles.extend(Role::ALL);
    }
    let email =
        Email::parse(&create.email).map_err(|error| super::usage(format!("--email: {error}.")))?;
    let username = Username::parse(&create.username)
        .map_err(|error| super::usage(format!("--username: {error}.")))?;
    let full_name = FullName::parse(create.full_name.as_deref().unwrap_or_default())
        .map_err(|error| super::usage(format!("--full-name: {error}.")))?;
    let NewPassword { password, generated } = create.password.read()?;
    let new = NewAccount { email, username, full_name, password, roles };
    let account = with_new_services(config, async |services| {
        Ok(services.book.create_account(new, &origin(services)).await?.0)
    })
    .await?;

    if create.json {
        return Ok(out.json(&serde_json::json!({
            "id": account.id,
            "username": account.username,
            "email": account.email,
            "roles": account.roles,
            "generated_password": generated.as_deref(),
        }))?);
    }
    out.line(format!(
        "Made {} ({}), {}.",
        account.username,
        account.email,
        joined(&account.roles)
    ))?;
    if let Some(password) = generated {
        out.line(format!("Password, shown this once: {}", *password))?;
    }
    Ok(())
}

async fn reset_password(
    config: &Config,
    reset: ResetPassword,
    out: &mut Out,
) -> anyhow::Result<()> {
    let NewPassword { password, generated } = reset.password.read()?;
    let id = with_services(config, async |services| {
        let id = find(services, &reset.user).await?;
        services.book.reset_password(id, password, &origin(services)).await?;
        Ok(id)
    })
    .await?;

    if reset.json {
        return Ok(
            out.json(&serde_json::json!({ "id": id, "generated_password": generated.as_deref() }))?
        );
    }
    out.line(format!(
        "{} has a new password; all sessions of the account have ended.",
        reset.user
    ))?;
    if let Some(password) = generated {
        out.line(format!("Password, shown this once: {}", *password))?;
    }
    Ok(())
}

/// The account of a username, an e-mail address or an id.
pub(super) async fn find(services: &Services, typed: &str) -> anyhow::Result<UserId> {
    if let Ok(id) = typed.parse::<UserId>()
        && services.book.account(id).await?.is_some()
    {
        return Ok(id);
    }
    match services.book.find_account(&Identifier::typed(typed)).await? {
        Some(id) => Ok(id),
        None => Err(Refused(format!("There is no account {typed:?}.")).into()),
    }
}

#[derive(Serialize)]
struct Listed {
    id: UserId,
    username: String,
    email: String,
    full_name: Option<String>,
    roles: Roles,
    disabled: bool,
    erased: bool,
    registered_at: String,
}

async fn list(config: &Config, list: &List, out: &mut Out) -> anyhow::Result<()> {
    let accounts = with_services(config, async |services| {
        services.catch_up(&["users"]).await?;
        let mut accounts = Vec::new();
        let mut after = None;
        loop {
            let page = users::page(&services.pool, after, 500).await?;
            after = page.rows.last().map(users::Row::cursor);
            for row in page.rows {
                if list.all || row.roles.contains(&Role::Admin) {
                    accounts.push(open(services, row).await?);
                }
            }
            if !page.more || after.is_none() {
                return Ok(accounts);
            }
        }
    })
    .await?;

    if list.json {
        return Ok(out.json(&accounts)?);
    }
    if accounts.is_empty() {
        let hint = if list.all { "" } else { " Make one with: entrybook admin create" };
        return Ok(out.line(format!("None.{hint}"))?);
    }
    let mut lines = table(&["username", "e-mail", "roles", "state", "registered", "id"]);
    for account in accounts {
        lines.add_row([
            account.username,
            account.email,
            joined(&account.roles),
            match (account.erased, account.disabled) {
                (true, _) => "erased",
                (false, true) => "disabled",
                (false, false) => "active",
            }
            .to_owned(),
            account.registered_at,
            account.id.to_string(),
        ]);
    }
    Ok(out.table(&lines)?)
}

async fn open(services: &Services, row: users::Row) -> anyhow::Result<Listed> {
    let id = row.user_id;
    let book = &services.book;
    let username = row.username.map(|username| username.sealed);
    let email = row.email.map(|email| email.sealed);
    let username = open_value(book, id, "username", username).await?;
    let email = open_value(book, id, "email", email).await?;
    let full_name = open_value(book, id, "full_name", row.full_name).await?;
    Ok(Listed {
        id,
        username: username.unwrap_or_default(),
        email: email.unwrap_or_default(),
        full_name,
        roles: row.roles,
        disabled: row.disabled,
        erased: row.erased,
        registered_at: row.registered_at.to_rfc3339_opts(SecondsFormat::Secs, true),
    })
}

fn joined(roles: &Roles) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}
