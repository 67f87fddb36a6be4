//! Where a browser goes after it has signed in: a path of this origin, and nothing else.
//!
//! Anything that a browser could read as another host is refused: `//host`, `/\host` (browsers take
//! a backslash for a slash), a scheme, and control characters, which browsers drop before they
//! read (WHATWG URL, 4.4).

/// The longest path that is taken along.
const MAX_LENGTH: usize = 2048;

/// The text as a local path with its query, if that is what it is.
#[must_use]
pub fn local_path(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('/')?;
    let sound = text.len() <= MAX_LENGTH
        && !rest.starts_with(['/', '\\'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>'));
    // A path that climbs (`/.//host`, `/a/..//host`) is normalised to `//host` by some.
    let climbs = text.split(['?', '#']).next().is_some_and(|path| {
        path.contains("//")
            || path.split('/').any(|segment| {
                let segment = segment.to_ascii_lowercase().replace("%2e", ".");
                segment == "." || segment == ".."
            })
    });
    (sound && !climbs).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_are_taken() {
        for path in ["/", "/sessions", "/history?user=1&type=a", "/app/#part", "/a%20b", "/a..b"] {
            assert_eq!(local_path(path), Some(path));
        }
    }

    #[test]
    fn nothing_leads_to_another_host() {
        for path in [
            "",
            "sessions",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "/\\/evil.example",
            "\\/evil.example",
            "http://evil.example",
            "https:evil.example",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/\n/evil.example",
            " //evil.example",
            "/ /evil.example",
            "/.//evil.example",
            "/a/..//evil.example",
            "/a/../evil",
            "/%2e%2E/evil",
            "/a\r\nSet-Cookie: a=b",
            "/é",
            "/\u{2044}evil",
        ] {
            assert_eq!(local_path(path), None, "{path:?}");
        }
        assert_eq!(local_path(&format!("/{}", "a".repeat(MAX_LENGTH))), None);
    }
}
