use std::sync::Arc;

use chrono::TimeDelta;
use commands::{
    clock::{Clock, ManualClock, SeededEntropy},
    keyring::KeyringError,
    tokens::{Algorithm, OVERLAP, TokenProblem, TokenSettings, Tokens, TokensError},
};
use domain::{Role, SessionId, UserId};
use futures_util::future::join_all;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Book, clock, load};

const LIFETIME: TimeDelta = TimeDelta::minutes(15);

fn settings(algorithm: Algorithm) -> TokenSettings {
    TokenSettings {
        algorithm,
        ..TokenSettings::new("https://id.example.org".to_owned(), "example".to_owned())
    }
}

async fn tokens(
    pool: &PgPool,
    seed: u64,
    clock: &Arc<ManualClock>,
    algorithm: Algorithm,
) -> Tokens {
    let keyring = Arc::new(load(pool, seed).await.unwrap());
    let entropy = Arc::new(SeededEntropy::new(seed + 1000));
    Tokens::load(pool.clone(), keyring, settings(algorithm), clock.clone(), entropy).await.unwrap()
}

fn sign(tokens: &Tokens) -> String {
    let (user, session) = (UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)));
    tokens.sign(user, session, 1, &[Role::User].into()).unwrap().token
}

fn kids(tokens: &Tokens) -> Vec<String> {
    let jwks = tokens.jwks();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The header of a token: the same for all that one key signed.
fn header(token: &str) -> &str {
    token.split('.').next().unwrap()
}

async fn rows(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM signing_keys").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn replicas_that_start_together_sign_with_one_key() {
    let book = Book::new().await;
    let (pool, clock) = (&book.app, clock());
    let replicas = join_all((0..6).map(|seed| tokens(pool, seed, &clock, Algorithm::EdDsa))).await;
    assert_eq!(rows(pool).await, 1);
    for one in &replicas {
        let token = sign(one);
        for other in &replicas {
            assert_eq!(other.jwks(), one.jwks());
            other.verify(&token).await.unwrap();
        }
    }
    let (refresh, hash) = replicas[0].issue_refresh(SessionId(Uuid::from_u128(7)));
    let read = replicas[1].read_refresh(refresh.expose()).unwrap();
    assert_eq!(read, (SessionId(Uuid::from_u128(7)), hash));
}

#[tokio::test]
async fn every_algorithm_survives_a_restart() {
    for algorithm in Algorithm::ALL {
        let book = Book::new().await;
        let (pool, clock) = (&book.app, clock());
        let token = sign(&tokens(pool, 1, &clock, algorithm).await);
        let restarted = tokens(pool, 2, &clock, algorithm).await;
        restarted.verify(&token).await.unwrap();
        assert_eq!(rows(pool).await, 1);
        assert_eq!(kids(&restarted).len(), usize::from(algorithm != Algorithm::Hs256));
    }
}

#[tokio::test]
async fn keys_rotate_with_overlap_and_no_token_dies_early() {
    let book = Book::new().await;
    let (pool, clock) = (&book.app, clock());
    let here = tokens(pool, 1, &clock, Algorithm::EdDsa).await;
    let there = tokens(pool, 2, &clock, Algorithm::EdDsa).await;
    let (old, olds) = (kids(&here), sign(&here));
    let refresh = || async {
        let (one, other) = tokio::join!(here.refresh_keys(), there.refresh_keys());
        one.and(other).unwrap();
    };

    clock.advance(TimeDelta::days(90) - TimeDelta::seconds(1));
    refresh().await;
    assert_eq!(rows(pool).await, 1, "not yet");

    clock.advance(TimeDelta::seconds(1));
    refresh().await;
    refresh().await;
    assert_eq!(rows(pool).await, 2, "one new key, however many ask");
    let both = kids(&here);
    assert_eq!((both.len(), &both[..1]), (2, &old[..]), "published beside the old one");
    assert_eq!(header(&sign(&here)), header(&olds), "and not signing yet");

    clock.advance(OVERLAP - TimeDelta::seconds(1));
    let last = sign(&there);
    assert_eq!(header(&last), header(&olds));
    clock.advance(TimeDelta::seconds(1));
    let first = sign(&here);
    assert_ne!(header(&first), header(&last), "from its moment on");

    clock.advance(LIFETIME - TimeDelta::seconds(2));
    refresh().await;
    for tokens in [&here, &there] {
        tokens.verify(&last).await.unwrap();
        tokens.verify(&first).await.unwrap();
        assert_eq!(kids(tokens), both);
    }
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(here.verify(&last).await, Err(TokenProblem::Expired));

    clock.advance(TimeDelta::minutes(2));
    assert_eq!(kids(&there), both[1..], "and then the old one is gone");
    assert_eq!(here.verify(&last).await, Err(TokenProblem::UnknownKey));
}

#[tokio::test]
async fn another_algorithm_gets_a_key_of_its_own() {
    let book = Book::new().await;
    let (pool, clock) = (&book.app, clock());
    let before = tokens(pool, 1, &clock, Algorithm::Hs256).await;
    let token = sign(&before);

    let after = tokens(pool, 2, &clock, Algorithm::Es256).await;
    assert_eq!(after.jwks()["keys"][0]["alg"], "ES256");
    after.verify(&token).await.unwrap();
    before.refresh_keys().await.unwrap();
    after.refresh_keys().await.unwrap();
    assert_eq!(rows(pool).await, 2, "neither undoes what the other decided");

    clock.advance(OVERLAP);
    let [one, other] = [sign(&before), sign(&after)];
    assert_ne!(header(&one), header(&token));
    assert_eq!(header(&one), header(&other), "all replicas sign with the same key");
    after.verify(&one).await.unwrap();
    before.verify(&other).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_new_to_a_replica_is_fetched() {
    let book = Book::new().await;
    let (pool, clock) = (&book.app, clock());
    let here = tokens(pool, 1, &clock, Algorithm::EdDsa).await;
    let there = tokens(pool, 2, &clock, Algorithm::EdDsa).await;
    clock.advance(TimeDelta::days(90));
    here.refresh_keys().await.unwrap();
    clock.advance(OVERLAP);
    // `there` never refreshed.
    there.verify(&sign(&here)).await.unwrap();
    assert_eq!(there.jwks(), here.jwks());
}

#[tokio::test]
async fn a_withdrawn_key_is_followed_at_once() {
    let book = Book::new().await;
    let (pool, clock) = (&book.app, clock());
    let tokens = tokens(pool, 1, &clock, Algorithm::EdDsa).await;
    let token = sign(&tokens);
    tokens.verify(&token).await.unwrap();
    sqlx::query("UPDATE signing_keys SET retired_at = $1")
        .bind(clock.now())
        .execute(book.owner())
        .await
        .unwrap();
    tokens.refresh_keys().await.unwrap();
    assert_eq!(tokens.verify(&token).await, Err(TokenProblem::UnknownKey), "cached or not");
    tokens.verify(&sign(&tokens)).await.unwrap();
    assert_eq!((rows(pool).await, kids(&tokens).len()), (2, 1));
}

#[tokio::test]
async fn a_key_planted_in_the_database_is_not_used() {
    let book = Book::new().await;
    let (pool, clock) = (&book.app, clock());
    let tokens = tokens(pool, 1, &clock, Algorithm::EdDsa).await;
    let before = tokens.jwks();
    sqlx::query(
        "INSERT INTO signing_keys (kid, algorithm, public_jwk, wrapped, master_key, signs_from)
         SELECT 'planted', 'EdDSA', '{}', '\\x00', master_key, signs_from FROM signing_keys",
    )
    .execute(book.owner())
    .await
    .unwrap();
    let refusal = tokens.refresh_keys().await.unwrap_err();
    let expected = matches!(refusal, TokensError::Keyring(KeyringError::DamagedKey { .. }));
    assert!(expected, "{refusal}");
    assert_eq!(tokens.jwks(), before, "the keys at hand go on");
    tokens.verify(&sign(&tokens)).await.unwrap();
}
