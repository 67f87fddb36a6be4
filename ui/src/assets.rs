//! The static files, part of the binary.
//!
//! A file's address holds a hash of its bytes, so that browsers may keep it for ever and still get
//! a new one at once. Another hash gets the file too, uncached: during an upgrade a page of one
//! replica may ask another for its stylesheet, and an unstyled page is worse than a slightly
//! older one.

use std::sync::LazyLock;

/// A static file, and how to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    pub bytes: &'static [u8],
    pub content_type: &'static str,
    /// The value for the `ETag` header, with its quotes.
    pub etag: String,
    /// The value for the `Cache-Control` header.
    pub cache_control: &'static str,
}

pub(crate) struct File {
    stem: &'static str,
    extension: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    hash: u64,
    url: String,
}

const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

pub(crate) static STYLESHEET: LazyLock<File> = LazyLock::new(|| {
    File::new(
        "entrybook",
        "css",
        "text/css; charset=utf-8",
        include_bytes!("../static/entrybook.css"),
    )
});

/// Of the one page that changes while somebody looks at it.
pub(crate) static PROJECTIONS_SCRIPT: LazyLock<File> = LazyLock::new(|| {
    File::new(
        "projections",
        "js",
        "text/javascript; charset=utf-8",
        include_bytes!("../static/projections.js"),
    )
});

pub(crate) static LOGO: LazyLock<File> = LazyLock::new(|| {
    File::new("entrybook", "svg", "image/svg+xml", include_bytes!("../static/entrybook.svg"))
});

impl File {
    fn new(
        stem: &'static str,
        extension: &'static str,
        content_type: &'static str,
        bytes: &'static [u8],
    ) -> Self {
        let hash = fnv1a(bytes);
        let url = format!("/static/{stem}.{hash:016x}.{extension}");
        Self { stem, extension, content_type, bytes, hash, url }
    }

    /// The address under which it never changes.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether this is its name: `entrybook.css`, or with any hash in the middle.
    fn has_name(&self, name: &str) -> bool {
        let middle =
            name.strip_prefix(self.stem).and_then(|rest| rest.strip_suffix(self.extension));
        match middle {
            Some(".") => true,
            Some(middle) => {
                middle.strip_prefix('.').and_then(|hash| hash.strip_suffix('.')).is_some_and(
                    |hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
                )
            }
            None => false,
        }
    }
}

/// The static file at this path (`/static/…`, as asked for), if there is one.
#[must_use]
pub fn static_asset(path: &str) -> Option<Asset> {
    let name = path.strip_prefix("/static/")?;
    let file = [&*STYLESHEET, &*PROJECTIONS_SCRIPT, &*LOGO]
        .into_iter()
        .find(|file| file.has_name(name))?;
    Some(Asset {
        bytes: file.bytes,
        content_type: file.content_type,
        etag: format!("\"{:016x}\"", file.hash),
        cache_control: if path == file.url { FOR_EVER } else { ASK_AGAIN },
    })
}

/// FNV-1a, 64 bits (RFC 9923): the same on every build and machine. Not a defence, just a name.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_file_is_kept_for_ever_under_its_own_hash_alone() {
        let own = static_asset(STYLESHEET.url()).unwrap();
        assert_eq!(own.cache_control, FOR_EVER);
        assert_eq!(own.content_type, "text/css; charset=utf-8");
        let of_another_version = static_asset("/static/entrybook.0123456789abcdef.css").unwrap();
        assert_eq!(of_another_version.cache_control, ASK_AGAIN);
        assert_eq!(static_asset("/static/entrybook.css").unwrap().etag, own.etag);
        assert_eq!(static_asset(LOGO.url()).unwrap().content_type, "image/svg+xml");
    }

    #[test]
    fn there_is_nothing_else() {
        for path in [
            "/static/",
            "/static/entrybook",
            "/static/entrybook..css",
            "/static/entrybookcss",
            "/static/entrybook.zz.css",
            "/static/../Cargo.toml",
            "/static/entrybook.css/",
            "entrybook.css",
        ] {
            assert_eq!(static_asset(path), None, "{path}");
        }
    }
}
