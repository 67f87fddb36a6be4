//! The first admin, made when the book has no account yet.

use super::{Database, Services, login};
use crate::config::AdminSettings;
use anyhow::Context;
use commands::clock::Entropy;
use commands::{By, NewAccount, Origin};
use domain::{Password, Role};
use sqlx::Connection;
use zeroize::Zeroizing;

/// An admin that was made just now.
pub struct FirstAdmin {
    pub username: String,
    pub email: String,
    /// None: the one that was set.
    pub generated_password: Option<Zeroizing<String>>,
}

/// Makes the first admin where the book has no account at all; else does nothing.
///
/// The events that the service wrote decide, never a read table that may lag. An advisory lock makes replicas that start together take turns, so that one
/// makes the admin and the others find it. The account is one commit: after a crash it is there or its names are free.
pub async fn make_first_admin(
    services: &Services,
    database: &Database,
    settings: &AdminSettings,
) -> anyhow::Result<Option<FirstAdmin>> {
    let mut connection = login(database).await?;
    let mut turn = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('entrybook first admin'))")
        .execute(&mut *turn)
        .await?;
    let made = if services.book.has_account(&mut turn).await? {
        None
    } else {
        Some(make(services, settings).await?)
    };
    turn.commit().await?;
    connection.close().await?;
    Ok(made)
}

async fn make(services: &Services, settings: &AdminSettings) -> anyhow::Result<FirstAdmin> {
    let generated = match settings.password {
        Some(_) => None,
        None => Some(generate_password(services.entropy.as_ref())),
    };
    let password = match (&settings.password, &generated) {
        (Some(password), _) => password.clone(),
        (None, Some(text)) => Password::choose(text)?,
        (None, None) => anyhow::bail!("there is no password for the first admin"),
    };
    let new = NewAccount {
        email: settings.email.clone(),
        username: settings.username.clone(),
        full_name: None,
        password,
        roles: Role::ALL.into(),
    };
    let origin = Origin {
        by: By::System,
        address: None,
        user_agent: None,
        request_id: services.book.ids().uuid_v7().to_string(),
    };
    let (account, _) = services
        .book
        .create_account(new, &origin)
        .await
        .context("The first admin could not be made")?;
    tracing::info!(user = %account.id, "the first admin was made: account {}", account.id);
    Ok(FirstAdmin {
        username: account.username,
        email: account.email,
        generated_password: generated,
    })
}

/// Letters and digits that are not mistaken for each other when read aloud (Crockford's base 32).
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const GROUPS: usize = 5;
const GROUP: usize = 5;

/// A password to be read and typed once: 5 groups of 5 characters, 125 bits.
pub fn generate_password(entropy: &dyn Entropy) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0_u8; GROUPS * GROUP]);
    entropy.fill(bytes.as_mut_slice());
    let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
    for (n, byte) in bytes.iter().enumerate() {
        if n > 0 && n % GROUP == 0 {
            text.push('-');
        }
        // 256 is a multiple of 32, so every letter is as likely as every other.
        if let Some(letter) = LETTERS.get(usize::from(*byte) % LETTERS.len()) {
            text.push(char::from(*letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use commands::clock::SystemEntropy;

    #[test]
    fn generated_passwords_are_long_readable_and_new_each_time() {
        let one = generate_password(&SystemEntropy);
        assert_eq!(one.len(), 29);
        assert!(one.bytes().all(|byte| byte == b'-' || LETTERS.contains(&byte)), "{}", &*one);
        assert_ne!(*one, *generate_password(&SystemEntropy));
    }
}
