//! The key of a witness: made at its first start, in a file for its owner alone.

use std::{fs, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use commands::clock::Entropy;
use proof::{CosignatureSigner, CosignatureVerifier};
use zeroize::Zeroizing;

use super::{WitnessError, state::Directory};
use crate::bootstrap::secret_file;

const FILE: &str = "witness.key";
/// The type of cosignatures in C2SP signed-note.
const TYPE: u8 = 0x04;

/// The key of this directory. One is made where there is none, unless the witness has signed with one.
pub(super) fn find(
    directory: &Directory,
    name: Option<&str>,
    entropy: &dyn Entropy,
) -> Result<CosignatureSigner, WitnessError> {
    let path = directory.path().join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            if directory.has_memory()? {
                return Err(WitnessError::Key(path));
            }
            return make(directory, name, entropy);
        }
        Err(cause) => return Err(WitnessError::Io { path, cause }),
    };
    let signer = parse(&text).ok_or_else(|| WitnessError::Key(path.clone()))?;
    if secret_file::is_open_to_others(&path) {
        let shown = path.display();
        tracing::warn!("others may read the key of the witness, {shown}. Run: chmod 600 {shown}");
    }
    let found = signer.verifier().name();
    match name {
        Some(asked) if asked != found => Err(WitnessError::OtherName {
            directory: directory.path().to_owned(),
            found: found.to_owned(),
            asked: asked.to_owned(),
        }),
        _ => Ok(signer),
    }
}

/// What others verify with of the key in a directory, if there is one.
pub(super) fn shown(directory: &Path) -> Result<Option<CosignatureVerifier>, WitnessError> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => match parse(&text) {
            Some(signer) => Ok(Some(signer.verifier().clone())),
            None => Err(WitnessError::Key(path)),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(WitnessError::Io { path, cause }),
    }
}

fn make(
    directory: &Directory,
    name: Option<&str>,
    entropy: &dyn Entropy,
) -> Result<CosignatureSigner, WitnessError> {
    let host = || nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let name = name.map(str::to_owned).or_else(host).unwrap_or_else(|| "witness".to_owned());
    let mut seed = Zeroizing::new([0_u8; 32]);
    entropy.fill(&mut *seed);
    let signer = CosignatureSigner::from_seed(&name, &seed).map_err(WitnessError::Name)?;
    let path = directory.path().join(FILE);
    secret_file::create(&path, &text_of(&signer, &seed))
        .map_err(|cause| WitnessError::Io { path: path.clone(), cause })?;
    tracing::info!("a new witness was made: {}", signer.verifier());
    Ok(signer)
}

/// As Go's golang.org/x/mod/sumdb/note writes signer keys, with the type of cosignatures.
fn text_of(signer: &CosignatureSigner, seed: &[u8; 32]) -> Zeroizing<String> {
    let key = Zeroizing::new([&[TYPE][..], &seed[..]].concat());
    let key = Zeroizing::new(STANDARD.encode(&*key));
    Zeroizing::new(format!("PRIVATE+KEY+{}+{}", signer.verifier().short(), *key))
}

fn parse(text: &str) -> Option<CosignatureSigner> {
    let rest = text.trim_end_matches('\n').strip_prefix("PRIVATE+KEY+")?;
    let mut parts = rest.splitn(3, '+');
    let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
    let key = Zeroizing::new(STANDARD.decode(key).ok()?);
    let (kind, seed) = key.split_first()?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.try_into().ok()?);
    let signer = CosignatureSigner::from_seed(name, &seed).ok()?;
    (*kind == TYPE && signer.verifier().short() == format!("{name}+{id}")).then_some(signer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_nothing_else_is_one() {
        let signer = CosignatureSigner::from_seed("witness.example", &[7; 32]).unwrap();
        let text = text_of(&signer, &[7; 32]);
        assert_eq!(parse(&text).unwrap().verifier(), signer.verifier());
        assert_eq!(parse(&format!("{}\n", *text)).unwrap().verifier(), signer.verifier());
        let other = text.replace("witness.example", "witness.examplf");
        let cut = text[..text.len() - 4].to_owned();
        for wrong in [String::new(), other, cut, text.replace("+BA", "+AQ"), text[8..].to_owned()] {
            assert!(parse(&wrong).is_none(), "{wrong}");
        }
    }
}
