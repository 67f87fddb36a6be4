//! What every page must be: well formed, without inline code, labelled, and safe to post from.

use std::collections::BTreeSet;

use ui::EVENT_TYPES;

use crate::{
    html::{Tag, tags},
    samples::{PLAIN, all},
};

fn each(check: impl Fn(&str, &str, &[Tag])) {
    for (name, page) in all(PLAIN) {
        let html = page.render().unwrap();
        check(name, &html, &tags(&html));
    }
}

/// One sample page.
fn page(wanted: &str) -> String {
    let (_, page) = all(PLAIN).into_iter().find(|(name, _)| *name == wanted).unwrap();
    page.render().unwrap()
}

/// The part of a page from one text to the end of another, its white space tidied.
fn part(html: &str, from: &str, to: &str) -> String {
    let start = html.find(from).unwrap();
    let end = html[start..].find(to).unwrap() + start + to.len();
    let lines = html[start..end].lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_page_names_its_language_and_has_one_heading() {
    each(|name, html, tags| {
        assert_eq!(tags[0].get("lang"), Some("en"), "{name}");
        assert_eq!(tags.iter().filter(|tag| tag.name == "h1").count(), 1, "{name}");
        assert_eq!(tags.iter().filter(|tag| tag.name == "main").count(), 1, "{name}");
        assert!(html.contains(" · Entrybook</title>"), "{name}");
    });
}

#[test]
fn no_text_is_left_unfilled() {
    each(|name, html, _| assert!(!html.contains("{$") && !html.contains("{ $"), "{name}"));
}

#[test]
fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
    each(|name, html, tags| {
        for tag in tags {
            assert!(
                !["style", "iframe", "object", "base"].contains(&&*tag.name),
                "{name}: {tag:?}"
            );
            if tag.name == "script" {
                assert!(name.starts_with("projections"), "{name}: no other page has a script");
                assert!(tag.get("src").is_some_and(|src| src.starts_with("/static/")), "{tag:?}");
                assert!(html.contains("defer></script>"), "{name}: it holds nothing");
            }
            for (attribute, value) in &tag.attributes {
                assert!(attribute != "style" && !attribute.starts_with("on"), "{name}: {tag:?}");
                if ["href", "src", "action"].contains(&&**attribute) {
                    let own = value.starts_with('#')
                        || (value.starts_with('/') && !value.starts_with("//"));
                    assert!(own, "{name}: {tag:?}");
                }
            }
        }
    });
}

#[test]
fn every_form_that_posts_sends_the_token() {
    let mut posts = 0;
    for (name, page) in all(PLAIN) {
        let html = page.render().unwrap();
        let token = format!("<input type=\"hidden\" name=\"csrf\" value=\"{}\">", PLAIN.id);
        for form in html.split("<form ").skip(1) {
            let form = form.split("</form>").next().unwrap();
            if form.starts_with("method=\"post\"") {
                posts += 1;
                assert_eq!(form.matches(&token).count(), 1, "{name}: {form}");
            } else {
                assert!(form.starts_with("method=\"get\""), "{name}: {form}");
                // A button that posts sends the token itself, and only where it is the one that was pressed.
                let value = format!(" name=\"csrf\" value=\"{}\"", PLAIN.id);
                let buttons = form.split('<').filter(|tag| tag.contains("formmethod=\"post\""));
                let with_token = buttons.clone().filter(|tag| tag.contains(&value)).count();
                posts += with_token;
                assert_eq!(buttons.count(), with_token, "{name}: {form}");
                assert_eq!(
                    form.matches("csrf").count(),
                    with_token,
                    "a token has no place in an address; {name}: {form}"
                );
            }
        }
    }
    assert!(posts > 20, "there are forms that post");
}

#[test]
fn every_id_is_given_once_and_every_reference_leads_to_one() {
    each(|name, _, tags| {
        let ids: Vec<_> = tags.iter().filter_map(|tag| tag.get("id")).collect();
        let known: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(ids.len(), known.len(), "{name}: {ids:?}");
        for tag in tags {
            let references = ["for", "aria-describedby", "aria-labelledby"];
            for id in references
                .into_iter()
                .filter_map(|attribute| tag.get(attribute))
                .flat_map(str::split_whitespace)
            {
                assert!(known.contains(id), "{name}: {id}");
            }
        }
    });
}

#[test]
fn every_field_has_a_label() {
    each(|name, _, tags| {
        let labelled: BTreeSet<_> = tags.iter().filter_map(|tag| tag.get("for")).collect();
        for tag in tags.iter().filter(|tag| tag.name == "input" || tag.name == "select") {
            let hidden =
                tag.get("type") == Some("hidden") || tag.get("aria-hidden") == Some("true");
            let around = tag.inside.iter().any(|element| element == "label");
            let bound = tag.get("id").is_some_and(|id| labelled.contains(id));
            assert!(hidden || around || bound, "{name}: {tag:?}");
        }
    });
}

#[test]
fn a_password_is_never_sent_back() {
    each(|name, _, tags| {
        for tag in tags.iter().filter(|tag| tag.get("type") == Some("password")) {
            assert_eq!(tag.get("value"), None, "{name}");
            assert_eq!(tag.get("maxlength"), None, "{name}: a browser would cut it without a word");
            let new = tag.get("autocomplete") == Some("new-password");
            assert_eq!(tag.get("minlength"), new.then_some("8"), "{name}");
        }
    });
}

#[test]
fn every_kind_of_event_can_be_filtered_by() {
    let html = page("history");
    for event_type in EVENT_TYPES {
        assert!(html.contains(&format!("<option value=\"{event_type}\">")), "{event_type}");
    }
}

#[test]
fn ones_own_history_has_fewer_filters() {
    let html = page("my-history");
    for field in ["name=\"user\"", "name=\"actor\"", "href=\"/history?"] {
        assert!(!html.contains(field), "{field}");
    }
    assert!(html.contains("name=\"type\"") && html.contains("action=\"/my-history\""));
}

#[test]
fn the_current_session_has_no_button_that_ends_it() {
    assert_eq!(page("sessions").matches("/end\">").count(), 2);
    let alone = page("sessions-one");
    assert!(!alone.contains("/end\">") && !alone.contains("end-others"));
}

#[test]
fn an_admin_can_not_lock_out_themselves() {
    let html = page("users");
    let own = part(&html, "<tbody", "</tr>");
    assert!(own.contains(PLAIN.username) && !own.contains("<form"), "{own}");
    assert!(html.contains("/disable\">") && html.contains("/enable\">"));
}

#[test]
fn a_projection_that_stopped_says_where_why_and_what_to_do() {
    let html = page("projections");
    insta::assert_snapshot!(part(&html, "<div class=\"notice bad\" id=\"stopped-users\"", "</dl>"), @r##"
    <div class="notice bad" id="stopped-users">
    <p><strong>It waits at line 48,211, which it cannot apply.</strong> Nothing is skipped; signing in and the other projections go on.</p>
    <dl class="lines">
    <div><dt>Stream</dt><dd class="code">User 0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d number 4</dd></div>
    <div><dt>Event</dt><dd class="code">UserMerged, version 2.0</dd></div>
    <div><dt>Cause</dt><dd>event 48211 of kind UserMerged is not known to this version</dd></div>
    <div><dt>What to do</dt><dd>event 48211 of kind UserMerged is not known to this version</dd></div>
    </dl>
    "##);
}

#[test]
fn a_build_that_runs_shows_how_far_it_is() {
    let html = page("projections");
    insta::assert_snapshot!(part(&html, "<div class=\"build\" id=\"build-sessions\"", "</div>"), @r##"
    <div class="build" id="build-sessions">
    <p role="status"><strong>Rebuilding:</strong> reading the book</p>
    <progress max="48211" value="12000" aria-label="Progress of sessions"></progress>
    <p class="muted steady-digits">12,000 of 48,211 events · 92,150 events a second · about 4 s left</p>
    </div>
    "##);
    // Without a script the page is asked for again; at rest it is not.
    assert!(html.contains("<noscript><meta http-equiv=\"refresh\" content=\"2\"></noscript>"));
    assert!(!page("projections-at-rest").contains("http-equiv"));
}

#[test]
fn only_a_difference_can_be_repaired_and_only_what_is_built_rebuilt() {
    let html = page("projections");
    assert_eq!(html.matches("/repair\"").count(), 1, "login_lookup differs");
    assert!(html.contains("/projections/login_lookup/repair"));
    for (name, action, there) in [
        ("login_lookup", "rebuild", true),
        ("login_lookup", "cancel", false),
        ("sessions", "rebuild", false),
        ("sessions", "cancel", true),
        ("transparency", "rebuild", false),
        ("transparency", "cancel", false),
        ("users", "rebuild", true),
    ] {
        let path = format!("/projections/{name}/{action}\"");
        assert_eq!(html.contains(&path), there, "{path}");
    }
    assert!(!html.contains("/projections/rebuild"), "not all can be rebuilt");
    assert!(page("projections-at-rest").contains("/projections/rebuild"));
}

/// What the script puts into the page is the part of it that changes, to the letter.
#[test]
fn the_live_part_is_a_part_of_the_page() {
    let page = crate::samples::projections_page(PLAIN);
    let whole = ui::Page::render(&page).unwrap();
    let live = page.live().unwrap();
    assert!(live.starts_with("<div id=\"projections\"") && live.ends_with("</div>"), "{live}");
    assert!(whole.contains(&live));
}

#[test]
fn a_sign_in_that_has_to_wait() {
    insta::assert_snapshot!(part(&page("sign-in-throttled"), "<p class=\"notice", "</form>"), @r##"
    <p class="notice bad" role="alert">There were too many attempts. Please wait 5 minutes, then try again.</p>
    <form method="post" action="/sign-in" class="stack"><input type="hidden" name="csrf" value="0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d"><div class="field">
    <label for="identifier">E-mail or username</label>
    <input id="identifier" name="identifier" type="text" autocomplete="username" value="ada@example.org" spellcheck="false" autocapitalize="none" required>
    </div><div class="field">
    <label for="password">Password</label>
    <input id="password" name="password" type="password" autocomplete="current-password" autocapitalize="none" required autofocus>
    </div>
    <label class="check"><input type="checkbox" name="remember_me" value="on"> Keep me signed in for 30 days</label>
    <button class="main">Sign in</button>
    </form>
    "##);
}

#[test]
fn a_field_with_a_problem() {
    insta::assert_snapshot!(part(&page("password-refused"), "<label for=\"current", "</div>"), @r##"
    <label for="current_password">Current password</label>
    <p class="problem" id="current_password-problem">This is not your current password.</p>
    <input id="current_password" name="current_password" type="password" autocomplete="current-password" autocapitalize="none" required aria-describedby="current_password-problem" aria-invalid="true" autofocus>
    </div>
    "##);
}

#[test]
fn a_line_of_the_book() {
    let html = page("history");
    let line = format!("<tr{}", html.split("<tr").nth(3).unwrap());
    insta::assert_snapshot!(part(&line, "<tr", "</tr>"), @r##"
    <tr role="row" class="alarming">
    <td role="cell" class="number" data-label="Line"><a href="/audit/state?user=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d&#38;at=48211" title="How it was with this person">48,211</a></td>
    <td role="cell" class="steady" data-label="Time (UTC)"><time datetime="2025-11-21T11:38:07.250Z">21 Nov 2025, 11:38:07</time></td>
    <td role="cell" data-label="Event"><div><a class="event" href="/history/lines/48211" title="All that this line holds">Sign-in failed</a><br><span class="muted">Wrong password</span></div></td>
    <td role="cell" data-label="Person"><a href="/history?user=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d" title="Show only this person">ada</a></td>
    <td role="cell" data-label="Done by">Not signed in</td>
    <td role="cell" class="address" data-label="Address"><span class="code">192.0.2.17</span></td>
    <td role="cell" data-label="Device"><span title="Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0">Firefox on Linux</span></td>
    <td role="cell" data-label="Session"><a class="code short-id" href="/history?session=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d" title="Show only this session: 0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d">1a2b3c4d</a></td>
    </tr>
    "##);
}

#[test]
fn the_links_that_turn_the_pages_keep_the_filter() {
    insta::assert_snapshot!(part(&page("history-refused"), "<nav class=\"row pages", "</nav>"), @r##"
    <nav class="row pages" aria-label="Pages">
    <a class="button" rel="prev" href="/history?user=ada%40example.org&#38;actor=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;session=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d&#38;address=192.0.2.17&#38;type=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;outcome=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;from=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;to=2025-01-01&#38;order=oldest&#38;cursor=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d">Older</a>
    <a class="button" rel="next" href="/history?user=ada%40example.org&#38;actor=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;session=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d&#38;address=192.0.2.17&#38;type=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;outcome=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;from=event%2048211%20of%20kind%20UserMerged%20is%20not%20known%20to%20this%20version&#38;to=2025-01-01&#38;order=oldest&#38;cursor=0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d">Newer</a>
    </nav>
    "##);
}
