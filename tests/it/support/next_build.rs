//! A second build of this workspace, as the next version would be: one projection changed, one migration
//! more. For upgrades, and for going back.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Instant,
};

use super::server::{binary, building};

/// The version that the next build has. By it, Cargo tells its crates from those of this workspace in
/// the one target directory, where both find the crates of other people ready.
pub const NEXT_VERSION: &str = "0.9999.0";

/// What the next version changes: file, text, and what stands there instead. Each text must be there once.
const CHANGES: &[(&str, &str, &str)] = &[
    (
        "Cargo.toml",
        "[workspace.package]\nversion = \"0.1.0\"",
        "[workspace.package]\nversion = \"0.9999.0\"",
    ),
    ("api/Cargo.toml", "[[bin]]\nname = \"entrybook\"", "[[bin]]\nname = \"entrybook-next\""),
    // One more column of `sessions`, which the fold counts.
    ("projections/src/sessions.rs", "const VERSION: i32 = 2;", "const VERSION: i32 = 3;"),
    (
        "projections/src/sessions.rs",
        "                  position       bigint      NOT NULL\",",
        "                  lines          bigint      NOT NULL,\n                  position       bigint      NOT NULL\",",
    ),
    (
        "projections/src/sessions.rs",
        "    pub position: i64,\n}",
        "    pub lines: i64,\n    pub position: i64,\n}",
    ),
    (
        "projections/src/sessions.rs",
        "                position: 0,\n            },",
        "                lines: 0,\n                position: 0,\n            },",
    ),
    (
        "projections/src/sessions.rs",
        "        row.position = line.recorded.position;\n",
        "        row.lines += 1;\n        row.position = line.recorded.position;\n",
    ),
    (
        "projections/src/sessions.rs",
        "        fields.put(row.position);\n",
        "        fields.put(row.lines);\n        fields.put(row.position);\n",
    ),
    (
        "projections/src/sessions.rs",
        "        position: row.try_get(\"position\")?,\n",
        "        lines: row.try_get(\"lines\")?,\n        position: row.try_get(\"position\")?,\n",
    ),
    (
        "commands/src/database.rs",
        "    \"GRANT SELECT ON _sqlx_migrations TO entrybook_app\",\n",
        "    \"GRANT SELECT ON _sqlx_migrations TO entrybook_app\",\n    \"GRANT SELECT ON of_the_next TO entrybook_app\",\n",
    ),
];

/// A migration that this version has never heard of.
const MIGRATION: (&str, &str) =
    ("migrations/9999_of_the_next.sql", "CREATE TABLE of_the_next (id bigint PRIMARY KEY);\n");

/// The next version's binary, built once per run; little to do where nothing has changed.
pub fn next_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let next = binary().with_file_name("entrybook-next");
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("next");
        let mut written = HashSet::new();
        copy_changed(&workspace(), Path::new(""), &copy, &mut written);
        write_if_changed(&copy, Path::new(MIGRATION.0), MIGRATION.1.as_bytes(), &mut written);
        remove_others(&copy, Path::new(""), &written);

        let began = Instant::now();
        let target = next.ancestors().nth(2).unwrap();
        let built = Command::new(env!("CARGO"))
            .args(building("entrybook-next"))
            .arg("--target-dir")
            .arg(target)
            .current_dir(&copy)
            .status()
            .unwrap();
        assert!(built.success(), "the next version could not be built in {}", copy.display());
        println!("the next version was built in {:.0} s", began.elapsed().as_secs_f64());
        next
    })
}

fn workspace() -> PathBuf {
    fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap()
}

/// Writes the workspace to `to`, with the changes. Files that stay the same keep their time, so that
/// Cargo builds nothing twice.
fn copy_changed(from: &Path, folder: &Path, to: &Path, written: &mut HashSet<PathBuf>) {
    for entry in fs::read_dir(from.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = folder.join(&name);
        let kind = entry.file_type().unwrap();
        if name == "target" || (name.starts_with('.') && name != ".cargo") {
            continue;
        }
        if kind.is_dir() {
            copy_changed(from, &path, to, written);
        } else if kind.is_file() {
            write_if_changed(to, &path, &changed(&path, fs::read(entry.path()).unwrap()), written);
        }
    }
}

/// A file as the next version has it.
fn changed(path: &Path, content: Vec<u8>) -> Vec<u8> {
    let changes: Vec<_> = CHANGES.iter().filter(|(file, ..)| Path::new(file) == path).collect();
    let is_lock = path == Path::new("Cargo.lock");
    if changes.is_empty() && !is_lock {
        return content;
    }
    let mut text = String::from_utf8(content).unwrap();
    for (file, old, new) in changes {
        assert_eq!(text.matches(old).count(), 1, "{file} should have this once: {old:?}");
        text = text.replacen(old, new, 1);
    }
    if is_lock {
        text = of_next_version(&text);
    }
    text.into_bytes()
}

/// The lock file, with the next version for our own crates.
fn of_next_version(lock: &str) -> String {
    let mut ours = false;
    let lines = lock.lines().map(|line| {
        if let Some(name) = line.strip_prefix("name = ") {
            ours = name == "\"entrybook\"" || name.starts_with("\"entrybook-");
        }
        let is_version = ours && line.starts_with("version = ");
        if is_version { format!("version = \"{NEXT_VERSION}\"\n") } else { format!("{line}\n") }
    });
    lines.collect()
}

fn write_if_changed(root: &Path, path: &Path, content: &[u8], written: &mut HashSet<PathBuf>) {
    let full = root.join(path);
    if fs::read(&full).ok().as_deref() != Some(content) {
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, content).unwrap();
    }
    written.insert(path.to_owned());
}

/// Removes what the workspace has no more.
fn remove_others(root: &Path, folder: &Path, written: &HashSet<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            remove_others(root, &path, written);
        } else if !written.contains(&path) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}
