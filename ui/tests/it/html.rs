//! Just enough of an HTML reader to ask questions about a page. It panics on what is not well
//! formed, which is a test in itself.

use std::collections::BTreeMap;

/// An opening tag.
#[derive(Debug, Clone)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) attributes: BTreeMap<String, String>,
    /// The names of the elements around it, the outermost first.
    pub(crate) inside: Vec<String>,
}

const VOID: [&str; 5] = ["meta", "link", "img", "input", "br"];

impl Tag {
    pub(crate) fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.get(attribute).map(String::as_str)
    }
}

/// The opening tags of a page in their order.
pub(crate) fn tags(html: &str) -> Vec<Tag> {
    let mut rest = html.strip_prefix("<!doctype html>").expect("a page begins with its doctype");
    let mut open: Vec<String> = Vec::new();
    let mut tags = Vec::new();
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(closing) = rest.strip_prefix('/') {
            let (name, after) = closing.split_once('>').expect("a closing tag ends");
            assert_eq!(open.pop().as_deref(), Some(name), "elements are nested");
            rest = after;
            continue;
        }
        let (name, mut inner) = word(rest);
        let mut attributes = BTreeMap::new();
        loop {
            inner = inner.trim_start();
            if let Some(after) = inner.strip_prefix('>') {
                rest = after;
                break;
            }
            let (attribute, after) = word(inner);
            assert!(!attribute.is_empty(), "an attribute has a name: {inner:.40}");
            let value = after
                .strip_prefix("=\"")
                .map(|quoted| quoted.split_once('"').expect("a value ends"));
            let (value, after) = value.unwrap_or(("", after));
            let twice = attributes.insert(attribute.to_owned(), value.to_owned());
            assert!(twice.is_none(), "{attribute} is given once");
            inner = after;
        }
        tags.push(Tag { name: name.to_owned(), attributes, inside: open.clone() });
        if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "everything is closed: {open:?}");
    tags
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(text.len());
    text.split_at(end)
}
