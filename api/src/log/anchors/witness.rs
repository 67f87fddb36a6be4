//! A witness (C2SP tlog-witness) is given each new checkpoint, with the proof that it continues what the
//! witness has seen. What it cosigns is kept beside the checkpoint.

use std::str::FromStr;

use projections::transparency;
use proof::{AddCheckpoint, Checkpoint, Hash};

use super::{
    Anchor, AnchorError, WitnessAddress,
    client::{Answer, Client},
    evidence::{Evidence, weigh},
};
use crate::{log::Signed, state::App, witness::id_of};

/// The second try is with the size that the witness tells; one more, should another replica be at it too.
const TRIES: usize = 3;
/// The type of the body that tells a size.
const SIZE: &str = "text/x.tlog.size";

pub(super) struct Witness {
    app: App,
    client: Client,
    address: WitnessAddress,
    /// The log, and the size that it cosigned last, as far as we know.
    known: Option<(String, u64)>,
}

impl Witness {
    pub(super) fn new(app: &App, client: &Client, address: &WitnessAddress) -> Self {
        Self { app: app.clone(), client: client.clone(), address: address.clone(), known: None }
    }

    /// The size that it cosigned last, as far as we know; zero for none.
    async fn cosigned(&mut self, origin: &str) -> Result<u64, sqlx::Error> {
        if let Some((known, size)) = &self.known
            && known == origin
        {
            return Ok(*size);
        }
        let size: Option<i64> = sqlx::query_scalar(
            "SELECT max(size) FROM cosignatures WHERE origin = $1 AND witness = $2",
        )
        .bind(origin)
        .bind(self.address.key.short())
        .fetch_one(self.app.background())
        .await?;
        let size = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        self.known = Some((origin.to_owned(), size));
        Ok(size)
    }

    async fn prove(&self, size: u64, old: u64) -> Result<Vec<Hash>, AnchorError> {
        if old == 0 || old == size {
            return Ok(Vec::new());
        }
        let mut connection = self.app.background().acquire().await?;
        Ok(transparency::prove_consistency(&mut connection, size, old).await?)
    }

    async fn store(&self, signed: &Signed, answer: &Answer) -> Result<(), AnchorError> {
        // By their own words: the lines of others in the answer are passed over.
        let note = [&signed.note[..], &answer.body[..]].concat();
        let cosignature = self.address.key.find(&note).map_err(AnchorError::Cosignature)?;
        sqlx::query(
            "INSERT INTO cosignatures (origin, size, witness, line, permit) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(&signed.origin)
        .bind(i64::try_from(signed.size).map_err(|error| sqlx::Error::Encode(error.into()))?)
        .bind(self.address.key.short())
        .bind(cosignature.line.trim_end())
        .bind(self.app.book().keyring().permit().as_slice())
        .execute(self.app.background())
        .await?;
        self.app.log().heard().agreed();
        self.app.log().forget_recent();
        Ok(())
    }

    async fn shown(&self, origin: &str) -> Result<Checkpoint, String> {
        shown(&self.client, &self.address, origin, &self.app.log().verifier_keys()).await
    }

    /// Looks whether it knows better, before anything is signed; whether it keeps what the book agrees with.
    pub(super) async fn ask(&self) -> Result<bool, AnchorError> {
        let shown = self.shown(&self.app.log().origin()?).await;
        match weigh(&self.app, &shown.map_err(AnchorError::Shown)?).await? {
            Evidence::Agrees => Ok(true),
            Evidence::Nothing => Ok(false),
            Evidence::Contradicts(contradiction) => {
                contradiction.note(&self.app).await?;
                Err(AnchorError::Contradicted)
            }
        }
    }

    /// It refuses what we say. Whoever is wrong, it shows what it has cosigned.
    async fn refused(&self, signed: &Signed, answer: &Answer) -> AnchorError {
        let unproved = |cause: String| {
            AnchorError::Unproved(format!("{} {}; {cause}", answer.status.as_u16(), answer.shown()))
        };
        let theirs = match self.shown(&signed.origin).await {
            Ok(theirs) => theirs,
            Err(cause) => return unproved(cause),
        };
        match weigh(&self.app, &theirs).await {
            Ok(Evidence::Contradicts(contradiction)) => match contradiction.note(&self.app).await {
                Ok(()) => AnchorError::Contradicted,
                Err(error) => error.into(),
            },
            Ok(Evidence::Agrees) => {
                unproved(format!("the {} lines that it shows are ours", theirs.size))
            }
            Ok(Evidence::Nothing) => {
                unproved(format!("whether the {} lines are ours can't be told now", theirs.size))
            }
            Err(error) => error.into(),
        }
    }
}

#[async_trait::async_trait]
impl Anchor for Witness {
    fn name(&self) -> String {
        format!("the witness {} at {}", self.address.key.name(), self.address.url)
    }

    async fn take(&mut self, signed: &Signed) -> Result<(), AnchorError> {
        let mut old = self.cosigned(&signed.origin).await?;
        if old >= signed.size {
            return Ok(());
        }
        let url = format!("{}/add-checkpoint", self.address.url);
        for _ in 0..TRIES {
            let proof = self.prove(signed.size, old).await?;
            let request = AddCheckpoint { old, proof, checkpoint: signed.note.clone() };
            let answer = self.client.post(&url, request.to_bytes()).await?;
            match answer.status.as_u16() {
                200 => {
                    self.store(signed, &answer).await?;
                    self.known = Some((signed.origin.clone(), signed.size));
                    return Ok(());
                }
                403 => return Err(AnchorError::UnknownKey),
                404 => return Err(AnchorError::UnknownLog),
                409 => match size_told(&answer) {
                    Some(size) if size <= signed.size && size != old => old = size,
                    _ => return Err(self.refused(signed, &answer).await),
                },
                422 => return Err(self.refused(signed, &answer).await),
                status => return Err(AnchorError::Answered { status, text: answer.shown() }),
            }
        }
        Err(AnchorError::Answered { status: 409, text: "another size each time".to_owned() })
    }
}

/// What a witness has cosigned last of this log, if a key of the log has signed that. What bears its own
/// signature alone is its bare word.
pub(super) async fn shown(
    client: &Client,
    address: &WitnessAddress,
    origin: &str,
    keys: &[String],
) -> Result<Checkpoint, String> {
    let url = format!("{}/{}/checkpoint", address.url, id_of(origin));
    let shown = client.get(&url).await.map_err(|error| error.to_string())?;
    if !shown.status.is_success() {
        return Err(format!(
            "asked for the checkpoint that it keeps, it answered {}",
            shown.status
        ));
    }
    Checkpoint::verify(&shown.body, origin, keys).map_err(|error| {
        match (address.key.find(&shown.body), Checkpoint::read(&shown.body)) {
            (Ok(_), Ok(theirs)) => format!(
                "it shows a checkpoint of {} lines that it has cosigned itself and no key of this log has signed",
                theirs.size
            ),
            _ => format!("what it shows is signed neither by the log nor by itself: {error}"),
        }
    })
}

/// The size that the witness knows.
fn size_told(answer: &Answer) -> Option<u64> {
    let text = std::str::from_utf8(&answer.body).ok().filter(|_| answer.kind == SIZE)?;
    let number = text.strip_suffix('\n').unwrap_or(text);
    u64::from_str(number).ok().filter(|size| size.to_string() == number)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn a_size_is_told_as_c2sp_says_and_no_other_way() {
        let told = |kind: &str, body: &str| {
            let (kind, body) = (kind.to_owned(), body.as_bytes().to_vec());
            size_told(&Answer { status: StatusCode::CONFLICT, kind, body })
        };
        assert_eq!(told(SIZE, "20852163\n"), Some(20_852_163));
        assert_eq!(told(SIZE, "0\n"), Some(0));
        for wrong in ["", "\n", "07\n", "+7\n", "-7\n", "7\n\n", "7 \n", "x\n"] {
            assert_eq!(told(SIZE, wrong), None, "{wrong:?}");
        }
        assert_eq!(told("text/plain", "7\n"), None);
    }
}
