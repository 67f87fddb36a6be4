//! Passwords: Argon2id (RFC 9106), on threads of its own.
//!
//! One hash takes 19 MiB and some 15 ms of a core. So there is a fixed number of threads, each with
//! memory that it uses again for every hash, and a bounded queue in front of them. When that is full
//! the answer is [`HashError::Full`] at once: a burst of sign-ins takes neither all memory nor the
//! async runtime with it. Whoever stopped waiting is not hashed for.
//!
//! Hashes are kept as PHC strings: `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`. Each is verified
//! with the parameters that it names, within bounds; [`Verified::outdated`] says that it should be
//! made anew. Where there is no hash to verify, the same work is done for nothing, so that the time
//! an answer takes doesn't say whether an account exists.
//!
//! A thread's memory holds, between two hashes, the last pass over its blocks. To try a password
//! against it costs what trying it against the hash costs, so it isn't wiped each time.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::phc::{Output, Salt},
};
use domain::Password;
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;

use crate::clock::Entropy;

const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

/// The most that a stored hash may ask for. It may come from a database that somebody else wrote to.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

/// What a decoy is salted with, and what it never yields.
const DECOY_SALT: [u8; SALT_BYTES] = *b"entrybook decoy.";
const DECOY_OUTPUT: [u8; OUTPUT_BYTES] = [0; OUTPUT_BYTES];

/// How passwords are hashed, and by how many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashSettings {
    /// Hashes at the same time. Each thread keeps `memory_kib` of memory.
    pub threads: usize,
    /// Hashes that may wait.
    pub queue: usize,
    pub memory_kib: u32,
    pub passes: u32,
}

impl Default for HashSettings {
    /// m = 19,456 KiB, t = 2, p = 1 (OWASP's first choice); a thread for each core, and a second's
    /// work waiting for each.
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            threads,
            queue: threads * 64,
            memory_kib: Params::DEFAULT_M_COST,
            passes: Params::DEFAULT_T_COST,
        }
    }
}

/// Why the pool did not start.
#[derive(Debug, thiserror::Error)]
pub enum HashPoolError {
    #[error("hashing needs at least one thread and room for one in its queue; set both above 0")]
    Empty,
    #[error(
        "Argon2id can't be run with {memory_kib} KiB and {passes} passes; choose 8 to 262,144 KiB \
         and 1 to 16 passes"
    )]
    Parameters { memory_kib: u32, passes: u32 },
    #[error("the system started no thread for hashing; check the limits of threads and memory")]
    Thread(#[source] std::io::Error),
}

/// Why a password was neither hashed nor verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("too many passwords are waiting to be hashed; try again in {} s", retry_after.as_secs())]
    Full { retry_after: Duration },
    #[error(
        "the stored password hash is none that Entrybook reads: an argon2id PHC string of version 19 \
         within bounds; reset the account's password"
    )]
    Unreadable,
    #[error("hashing the password failed; the log of this moment says why")]
    Failed,
}

/// What verifying a password found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub matches: bool,
    /// The hash was made with other parameters than today's: make it anew while the password is at
    /// hand.
    pub outdated: bool,
}

/// The threads that hash, and their queue. Dropping it ends them, each after the hash at hand.
pub struct HashPool {
    shared: Arc<Shared>,
    entropy: Arc<dyn Entropy>,
}

struct Shared {
    settings: HashSettings,
    params: Params,
    queue: Mutex<Queue>,
    arrived: Condvar,
    hashed: AtomicU64,
    /// A moving average of the time a hash takes.
    micros_each: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    closed: bool,
    #[cfg(test)]
    stalled: bool,
}

impl Queue {
    fn take(&mut self) -> Option<Job> {
        #[cfg(test)]
        if self.stalled {
            return None;
        }
        self.waiting.pop_front()
    }
}

enum Job {
    Hash {
        password: Password,
        salt: Salt,
        reply: oneshot::Sender<Result<String, HashError>>,
    },
    Verify {
        password: Password,
        /// Without one it is a decoy.
        stored: Option<Box<Stored>>,
        reply: oneshot::Sender<Result<Verified, HashError>>,
    },
    #[cfg(test)]
    Panic(oneshot::Sender<()>),
}

/// A hash as it was stored, taken apart.
struct Stored {
    params: Params,
    salt: Salt,
    output: Output,
}

impl HashPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the settings can't work, or the system has no thread to give.
    pub fn start(settings: HashSettings, entropy: Arc<dyn Entropy>) -> Result<Self, HashPoolError> {
        let HashSettings { threads, queue, memory_kib, passes } = settings;
        if threads == 0 || queue == 0 {
            return Err(HashPoolError::Empty);
        }
        let parameters = || HashPoolError::Parameters { memory_kib, passes };
        if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES {
            return Err(parameters());
        }
        let params =
            Params::new(memory_kib, passes, 1, Some(OUTPUT_BYTES)).map_err(|_| parameters())?;
        let pool = Self {
            shared: Arc::new(Shared {
                settings,
                params,
                queue: Mutex::default(),
                arrived: Condvar::new(),
                hashed: AtomicU64::new(0),
                micros_each: AtomicU64::new(15_000),
            }),
            entropy,
        };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            // If one can't be started, dropping the pool ends the others.
            thread::Builder::new()
                .name(format!("hash-{number}"))
                .spawn(move || shared.work())
                .map_err(HashPoolError::Thread)?;
        }
        Ok(pool)
    }

    /// The PHC string of a new password.
    ///
    /// # Errors
    /// [`HashError::Full`] at once, if too many are waiting.
    pub async fn hash(&self, password: Password) -> Result<String, HashError> {
        let mut salt = [0; SALT_BYTES];
        self.entropy.fill(&mut salt);
        let salt = Salt::new(&salt).map_err(|_| HashError::Failed)?;
        let (reply, answer) = oneshot::channel();
        self.shared.push(Job::Hash { password, salt, reply })?;
        answer.await.unwrap_or(Err(HashError::Failed))
    }

    /// Whether the password is the one of the hash. Without a hash it takes as long, and is not.
    ///
    /// # Errors
    /// [`HashError::Full`] at once, if too many are waiting; [`HashError::Unreadable`] for a hash
    /// that was not made here, or asks for too much.
    pub async fn verify(
        &self,
        password: Password,
        phc: Option<String>,
    ) -> Result<Verified, HashError> {
        let stored = phc.map(|phc| Stored::parse(&phc).map(Box::new)).transpose()?;
        let (reply, answer) = oneshot::channel();
        self.shared.push(Job::Verify { password, stored, reply })?;
        answer.await.unwrap_or(Err(HashError::Failed))
    }

    /// How many are waiting.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// How many may wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.settings.queue
    }

    /// How many were hashed or verified since the start.
    #[must_use]
    pub fn hashed_total(&self) -> u64 {
        self.shared.hashed.load(Ordering::Relaxed)
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.arrived.notify_all();
    }
}

impl fmt::Debug for HashPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashPool({:?})", self.shared.settings)
    }
}

impl Shared {
    /// The queue is whole even if a thread panicked while it held it: every change is one call.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), HashError> {
        let mut queue = self.lock();
        if queue.waiting.len() >= self.settings.queue {
            queue.waiting.retain(|job| !job.is_abandoned());
        }
        if queue.waiting.len() >= self.settings.queue {
            let retry_after = self.wait_for(queue.waiting.len());
            return Err(HashError::Full { retry_after });
        }
        queue.waiting.push_back(job);
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// How long so many hashes take: whole seconds, at least one.
    fn wait_for(&self, hashes: usize) -> Duration {
        let hashes = u64::try_from(hashes).unwrap_or(u64::MAX);
        let threads = u64::try_from(self.settings.threads).unwrap_or(u64::MAX).max(1);
        let micros = hashes.saturating_mul(self.micros_each.load(Ordering::Relaxed)) / threads;
        Duration::from_secs(micros.div_ceil(1_000_000).max(1))
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            match queue.take() {
                Some(job) if job.is_abandoned() => {}
                Some(job) => return Some(job),
                None => {
                    queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The life of one thread. A job that panics loses its own answer, and nothing else.
    fn work(&self) {
        let mut memory = Vec::new();
        while let Some(job) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| self.carry_out(job, &mut memory))).is_err() {
                tracing::error!("a hashing thread panicked; it goes on with the next password");
                memory = Vec::new();
                continue;
            }
            // What a rare hash with greater parameters took is given back.
            memory.truncate(self.params.block_count());
            memory.shrink_to(self.params.block_count());
        }
    }

    /// The caller may be gone by the time the answer is there: then nobody hears it.
    fn carry_out(&self, job: Job, memory: &mut Vec<Block>) {
        match job {
            Job::Hash { password, salt, reply } => {
                let _ = reply.send(self.hash(memory, &password, salt));
            }
            Job::Verify { password, stored, reply } => {
                let _ = reply.send(self.verify(memory, &password, stored.as_deref()));
            }
            #[cfg(test)]
            Job::Panic(_reply) => panic!("as the test asked"),
        }
    }

    fn hash(
        &self,
        memory: &mut Vec<Block>,
        password: &Password,
        salt: Salt,
    ) -> Result<String, HashError> {
        let mut output = [0; OUTPUT_BYTES];
        self.argon2id(memory, &self.params, password, &salt, &mut output)?;
        let failed = |_| HashError::Failed;
        let phc = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: (&self.params).try_into().map_err(|_| HashError::Failed)?,
            salt: Some(salt),
            hash: Some(Output::new(&output).map_err(failed)?),
        };
        Ok(phc.to_string())
    }

    fn verify(
        &self,
        memory: &mut Vec<Block>,
        password: &Password,
        stored: Option<&Stored>,
    ) -> Result<Verified, HashError> {
        let decoy_salt = Salt::new(&DECOY_SALT).map_err(|_| HashError::Failed)?;
        let (params, salt, expected) = match stored {
            Some(stored) => (&stored.params, &stored.salt, stored.output.as_bytes()),
            None => (&self.params, &decoy_salt, DECOY_OUTPUT.as_slice()),
        };
        let mut output = [0; Output::MAX_LENGTH];
        let output = output.get_mut(..expected.len()).ok_or(HashError::Unreadable)?;
        self.argon2id(memory, params, password, salt, output)?;
        let equal = bool::from(output.ct_eq(expected));
        let present = *params == self.params && salt.len() >= SALT_BYTES;
        Ok(Verified { matches: equal && stored.is_some(), outdated: stored.is_some() && !present })
    }
}

impl Shared {
    fn argon2id(
        &self,
        memory: &mut Vec<Block>,
        params: &Params,
        password: &Password,
        salt: &[u8],
        output: &mut [u8],
    ) -> Result<(), HashError> {
        let began = Instant::now();
        if memory.len() < params.block_count() {
            memory.resize(params.block_count(), Block::new());
        }
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
            .hash_password_into_with_memory(password.as_bytes(), salt, output, memory)
            .map_err(|error| {
                tracing::error!("hashing a password failed: {error}");
                HashError::Failed
            })?;
        self.hashed.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before = self.micros_each.load(Ordering::Relaxed);
        let average = before.saturating_mul(7).saturating_add(took) / 8;
        self.micros_each.store(average, Ordering::Relaxed);
        Ok(())
    }
}

impl Job {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Hash { reply, .. } => reply.is_closed(),
            Self::Verify { reply, .. } => reply.is_closed(),
            #[cfg(test)]
            Self::Panic(_) => false,
        }
    }
}

impl Stored {
    fn parse(phc: &str) -> Result<Self, HashError> {
        let unreadable = |_| HashError::Unreadable;
        let phc = PasswordHash::new(phc).map_err(unreadable)?;
        let version = phc.version.ok_or(HashError::Unreadable)?;
        let params = Params::try_from(&phc).map_err(|_| HashError::Unreadable)?;
        let known = phc.algorithm == Algorithm::Argon2id.ident()
            && version == u32::from(Version::V0x13)
            && params.keyid().is_empty()
            && params.data().is_empty();
        let bounded = params.m_cost() <= MAX_MEMORY_KIB
            && params.t_cost() <= MAX_PASSES
            && params.p_cost() <= MAX_LANES;
        let (true, true, Some(salt), Some(output)) = (known, bounded, phc.salt, phc.hash) else {
            return Err(HashError::Unreadable);
        };
        // A hash of few bytes would be found by chance.
        if output.len() < 16 || salt.len() < argon2::MIN_SALT_LEN {
            return Err(HashError::Unreadable);
        }
        Ok(Self { params, salt, output })
    }
}

#[cfg(test)]
mod tests;
