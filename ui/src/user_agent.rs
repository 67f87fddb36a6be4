//! A user agent in few words: "Firefox on Linux".
//!
//! It is a help for people to know their devices again, and proves nothing: anybody may send any
//! user agent. The words are names of products, and not translated.

/// What a `User-Agent` header tells at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserAgent {
    pub browser: Option<&'static str>,
    pub system: Option<&'static str>,
}

/// What is searched for, and the name it stands for. The first that is found counts: browsers
/// name those they descend from, so descendants stand before ancestors.
const BROWSERS: [(&str, &str); 21] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Headless Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("HTTPie/", "HTTPie"),
    ("python-requests/", "Python"),
    ("python-httpx/", "Python"),
    ("Python-urllib/", "Python"),
    ("Go-http-client/", "Go"),
    ("okhttp/", "OkHttp"),
];

const SYSTEMS: [(&str, &str); 9] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
];

impl UserAgent {
    /// How much of a header is read; real ones are shorter.
    const MAX_BYTES: usize = 512;

    /// Reads a header, whatever it holds.
    #[must_use]
    pub fn read(header: &str) -> Self {
        let mut end = header.len().min(Self::MAX_BYTES);
        while !header.is_char_boundary(end) {
            end -= 1;
        }
        let header = header.get(..end).unwrap_or_default();
        Self { browser: first_of(&BROWSERS, header), system: first_of(&SYSTEMS, header) }
    }
}

fn first_of(known: &[(&str, &'static str)], header: &str) -> Option<&'static str> {
    known.iter().find(|(mark, _)| header.contains(mark)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_browsers_are_known() {
        let cases = [
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
                Some("Firefox"),
                Some("Linux"),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
                Some("Chrome"),
                Some("Windows"),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
                Some("Edge"),
                Some("Windows"),
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15",
                Some("Safari"),
                Some("macOS"),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1",
                Some("Safari"),
                Some("iPhone"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
                Some("Chrome"),
                Some("Android"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
                Some("Samsung Internet"),
                Some("Android"),
            ),
            ("curl/8.14.1", Some("curl"), None),
            ("my-own-client/1 (Linux)", None, Some("Linux")),
            ("", None, None),
        ];
        for (header, browser, system) in cases {
            assert_eq!(UserAgent::read(header), UserAgent { browser, system }, "{header}");
        }
    }

    #[test]
    fn a_long_or_odd_header_is_read_to_its_bound() {
        let long = format!("{}é Firefox/1 Linux", "x".repeat(UserAgent::MAX_BYTES - 1));
        assert_eq!(UserAgent::read(&long), UserAgent { browser: None, system: None });
    }
}
