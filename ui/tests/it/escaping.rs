//! Whatever people and clients choose to be called, it stays text.

use crate::{
    html::tags,
    samples::{Words, all},
};

const HOSTILE: Words = Words {
    name: "name\"'><script>alert(1)</script>&amp;",
    username: "username\"'><script>alert(1)</script>&amp;",
    email: "email\"'><script>alert(1)</script>&amp;",
    user_agent: "user_agent\"'><script>alert(1)</script>&amp;",
    address: "address\"'><script>alert(1)</script>&amp;",
    id: "id\"'><script>alert(1)</script>&amp;",
    note: "note\"'><script>alert(1)</script>&amp;",
};

#[test]
fn nothing_comes_out_raw() {
    let mut whole = String::new();
    for (name, page) in all(HOSTILE) {
        let html = page.render().unwrap();
        let own = html.matches("<script src=\"/static/projections.").count();
        assert_eq!(html.matches("<script").count(), own, "{name}");
        assert!(!html.contains("\"'>"), "{name}");
        let tags = tags(&html);
        assert_eq!(tags.iter().filter(|tag| tag.name == "script").count(), own, "{name}");
        whole.push_str(&html);
    }
    // Each of them is there, escaped; or else the test has proved nothing.
    for word in ["name", "username", "email", "user_agent", "address", "id", "note"] {
        let escaped =
            format!("{word}&#34;&#39;&#62;&#60;script&#62;alert(1)&#60;/script&#62;&#38;amp;");
        assert!(whole.contains(&escaped), "{word}");
    }
    assert!(
        whole.contains("/sessions/id%22%27%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E%26amp%3B/end")
    );
}
