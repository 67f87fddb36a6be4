//! What reusing the memory of Argon2 is worth: hashes per second on every core, with the pool, with
//! memory that each thread keeps, and with memory allocated each time.
//!
//! `cargo run --release -p entrybook-commands --example hash_rate`
//!
//! The three take turns, so that whatever else the machine does strikes each alike. Only the ratio
//! means something on another machine.

use std::{
    io::Write as _,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use argon2::{Argon2, Block};
use commands::{
    clock::SystemEntropy,
    hashing::{HashPool, HashSettings},
};
use domain::Password;

const ROUNDS: u32 = 5;
const ROUND: Duration = Duration::from_secs(2);
const SALT: &[u8] = b"sixteen bytes of";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = HashSettings::default();
    let pool = HashPool::start(settings, Arc::new(SystemEntropy))?;
    let mut rates = [0.0; 3];
    for _ in 0..ROUNDS {
        let [pooled, reused, allocated] = &mut rates;
        *pooled += with_pool(&pool, settings.threads).await?;
        *reused += on_threads(settings.threads, || {
            let mut memory = vec![Block::new(); Argon2::default().params().block_count()];
            move |output: &mut [u8]| {
                Argon2::default().hash_password_into_with_memory(
                    b"password",
                    SALT,
                    output,
                    &mut memory,
                )
            }
        });
        *allocated += on_threads(settings.threads, || {
            |output: &mut [u8]| Argon2::default().hash_password_into(b"password", SALT, output)
        });
    }
    let [pooled, reused, allocated] = rates.map(|sum| sum / f64::from(ROUNDS));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} threads, argon2id m=19456 t=2 p=1, hashes/s:", settings.threads)?;
    writeln!(out, "  allocated each time  {allocated:6.1}  1.00")?;
    writeln!(out, "  memory reused        {reused:6.1}  {:.2}", reused / allocated)?;
    writeln!(out, "  the pool             {pooled:6.1}  {:.2}", pooled / allocated)?;
    Ok(())
}

async fn with_pool(pool: &HashPool, threads: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let (before, began) = (pool.hashed_total(), Instant::now());
    let clients = (0..threads * 2).map(|_| async {
        while began.elapsed() < ROUND {
            pool.hash(Password::present("password")?).await?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    futures_util::future::try_join_all(clients).await?;
    let hashes = u32::try_from(pool.hashed_total() - before)?;
    Ok(f64::from(hashes) / began.elapsed().as_secs_f64())
}

fn on_threads<H>(threads: usize, hasher: impl Fn() -> H + Sync) -> f64
where
    H: FnMut(&mut [u8]) -> argon2::Result<()>,
{
    let began = Instant::now();
    let hashes: u32 = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut hash = hasher();
                    let (mut output, mut hashes) = ([0; 32], 0);
                    while began.elapsed() < ROUND && hash(&mut output).is_ok() {
                        hashes += 1;
                    }
                    hashes
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    f64::from(hashes) / began.elapsed().as_secs_f64()
}
