//! A person as a line of a table names them.

use std::borrow::Cow;

use crate::Chrome;

/// Somebody's account.
#[derive(Clone, PartialEq, Eq)]
pub struct PersonRef {
    pub id: String,
    /// The username, say; none where it is not known or was erased.
    pub label: Option<String>,
}

impl PersonRef {
    pub(crate) fn text(&self, chrome: &Chrome) -> Cow<'_, str> {
        match &self.label {
            Some(label) => Cow::Borrowed(label),
            // Auditors see all names that there are.
            None if chrome.is_auditor() => chrome.t_with("person-erased", "id", short_id(&self.id)),
            None => chrome.t_with("person-unnamed", "id", short_id(&self.id)),
        }
    }
}

/// The end of an id, enough to tell a few apart at a glance. Ids made one after the other begin
/// alike, so it is the end.
pub(crate) fn short_id(id: &str) -> &str {
    let start = id.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    id.get(start..).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_id_is_the_end() {
        assert_eq!(short_id("0197f0c2-0000-7000-8000-00000a1b2c3d"), "0a1b2c3d");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(short_id(""), "");
        assert_eq!(short_id("éééééééééé"), "éééééééé");
    }
}
