//! Checkpoints in a file: one, or many, one after the other.

/// How the line of a signature begins (C2SP signed-note).
const SIGNATURE: &[u8] = "— ".as_bytes();

/// The notes of a file, each from its first line to its last signature.
pub(super) fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut notes, mut note) = (Vec::new(), Vec::new());
    let mut is_signed = false;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if is_signed && !line.starts_with(SIGNATURE) {
            notes.push(std::mem::take(&mut note));
            is_signed = false;
        }
        // Between them there may be empty lines.
        if note.is_empty() && line.trim_ascii().is_empty() {
            continue;
        }
        is_signed |= line.starts_with(SIGNATURE);
        note.extend_from_slice(line);
    }
    if is_signed {
        notes.push(note);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_told_apart() {
        let one = "a\n1\nx=\n\n— a s\n";
        let two = "a\n2\ny=\n\n— a s\n— w t\n";
        for between in ["", "\n", "\n\n\n"] {
            let file = format!("{between}{one}{between}{two}{between}");
            assert_eq!(split(file.as_bytes()), [one.as_bytes(), two.as_bytes()], "{between:?}");
        }
        assert!(split(b"").is_empty() && split(b"a\n1\nx=\n").is_empty());
    }
}
