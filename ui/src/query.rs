//! Links with a query, percent-encoded.

use std::fmt::Write;

/// The text with everything but unreserved characters percent-encoded (RFC 3986, section 2).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A path with those of the parameters that hold something.
pub(crate) fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(separator);
        out.push_str(name);
        out.push('=');
        out.push_str(&encoded(value));
        separator = '&';
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_what_holds_something() {
        assert_eq!(link("/users", &[("q", ""), ("cursor", "")]), "/users");
        assert_eq!(
            link("/users", &[("q", "ada@example.org"), ("cursor", "a=b&c")]),
            "/users?q=ada%40example.org&cursor=a%3Db%26c"
        );
        assert_eq!(link("/users", &[("q", "é \"")]), "/users?q=%C3%A9%20%22");
    }
}
