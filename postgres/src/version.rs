//! The version of a PostgreSQL, as its programs print it.

use std::fmt;

/// The oldest major version that Entrybook works with.
pub(crate) const OLDEST: u32 = 14;

/// For instance 15.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Data directories belong to one major version.
    pub major: u32,
    /// Zero for a development or beta version.
    pub minor: u32,
}

impl Version {
    /// Reads what `postgres --version` prints, such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    pub(crate) fn parse(printed: &str) -> Option<Self> {
        let number = printed.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
        let mut parts = number.split('.');
        let major = leading_number(parts.next()?)?;
        let minor = parts.next().and_then(leading_number).unwrap_or(0);
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_programs_print_them() {
        let parsed = |text| Version::parse(text).map(|v| (v.major, v.minor));
        assert_eq!(
            parsed("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some((15, 18))
        );
        assert_eq!(parsed("initdb (PostgreSQL) 18.6"), Some((18, 6)));
        assert_eq!(parsed("pg_ctl (PostgreSQL) 19beta2"), Some((19, 0)));
        assert_eq!(parsed("postgres (PostgreSQL) 20devel"), Some((20, 0)));
        assert_eq!(parsed("bash, version 5.2"), None);
        assert_eq!(parsed(""), None);
    }
}
