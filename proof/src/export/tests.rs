use chrono::DateTime;
use signed_note::StandardSigner;

use super::*;
use crate::{
    Checkpoint, Finding, Leaf, MAX_LEAF,
    checkpoint::tests::{KEY, SIGNER},
    hash_of,
};

const ORIGIN: &str = "PeterNeumann";

fn leaves(many: u64) -> Vec<Vec<u8>> {
    (1..=many).map(|position| leaf(position, position)).collect()
}

fn leaf(position: u64, said: u64) -> Vec<u8> {
    let payload = format!(r#"{{"said":{said}}}"#);
    let line = Leaf {
        position,
        stream_type: "Session",
        stream_id: "s",
        sequence: position,
        event_type: "Said",
        event_version: "1",
        recorded_at: DateTime::UNIX_EPOCH,
        payload: &payload,
        metadata: "{}",
    };
    line.to_bytes().expect("a leaf")
}

fn root_of(hashes: &[Hash]) -> Hash {
    let mut tree = Tree::default();
    hashes.iter().for_each(|hash| tree.push(*hash, |_| {}));
    tree.root()
}

/// An export of those of so many lines that a filter lets through.
fn export(many: u64, wanted: impl Fn(u64) -> bool) -> Vec<Vec<u8>> {
    let (writer, mut bytes) = Writer::new(ORIGIN, None).expect("begun");
    bytes.extend(export_from(writer, many, wanted));
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// The rest of one.
fn export_from(writer: Writer, many: u64, wanted: impl Fn(u64) -> bool) -> Vec<u8> {
    export_of(writer, &leaves(many), wanted)
}

fn export_of(mut writer: Writer, leaves: &[Vec<u8>], wanted: impl Fn(u64) -> bool) -> Vec<u8> {
    let signer = StandardSigner::new(SIGNER).expect("a key");
    let many = leaves.len() as u64;
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| hash_of(leaf)).collect();
    let mut bytes = Vec::new();
    let mut position = writer.next();
    while position <= many {
        let is_wanted = wanted(position);
        let mut last = position;
        while last < many
            && wanted(last + 1) == is_wanted
            && (!is_wanted || last - position + 1 < RUN as u64)
        {
            last += 1;
        }
        let (from, to) = (position as usize - 1, last as usize);
        let part = if is_wanted {
            writer.run(&hashes[from..to], &leaves[from..to])
        } else {
            let cuts = subtrees(from as u64, last);
            let over: Vec<Hash> = cuts
                .map(|(first, height)| {
                    root_of(&hashes[first as usize..first as usize + (1 << height)])
                })
                .collect();
            writer.gap(last, &over)
        };
        bytes.extend(part.expect("written"));
        position = last + 1;
    }
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: many, root: root_of(&hashes) };
    let note = checkpoint.sign(&[&signer]).expect("signed");
    bytes.extend(writer.end(&signer, &note, &[]).expect("ended"));
    bytes
}

fn read(file: &[Vec<u8>]) -> Report {
    let mut reader = Reader::new(vec![KEY.to_owned()], Vec::new());
    file.iter().for_each(|line| reader.line(line));
    reader.end()
}

/// The number in the file of the leaf at a position.
fn at(file: &[Vec<u8>], position: u64) -> usize {
    let wanted = leaf(position, position);
    file.iter().position(|line| line.strip_suffix(b"\n") == Some(&wanted)).expect("it is there")
}

#[test]
fn what_was_exported_is_sound_whatever_the_filter() {
    for many in [1, 2, 255, 256, 257, 600] {
        for every in [1, 2, 7, 300, 1_000] {
            let file = export(many, |position| position % every == 0);
            let report = read(&file);
            assert!(report.is_sound(), "{many}, {every}: {report:?}");
            assert_eq!(report.verdict.lines, many / every);
            assert_eq!(report.left_out, many - many / every);
            assert_eq!(report.verdict.proved, many);
        }
    }
}

#[test]
fn what_was_done_to_a_file_is_told() {
    let whole = export(600, |_| true);

    let mut edited = whole.clone();
    let number = at(&edited, 300);
    edited[number] = [leaf(300, 1).as_slice(), b"\n"].concat();
    let report = read(&edited);
    assert_eq!(report.verdict.findings, [Finding::Edited { position: 300 }]);
    assert_eq!(report.completeness, Completeness::Altered);

    let mut broken = whole.clone();
    broken[number] = b"{\"event_type\":\"x\n".to_vec();
    let report = read(&broken);
    assert_eq!(report.verdict.findings, [Finding::Edited { position: 300 }]);
    assert_eq!(report.unreadable, [number as u64 + 1]);

    let mut deleted = whole.clone();
    deleted.remove(number);
    assert_eq!(read(&deleted).verdict.findings, [Finding::Deleted { first: 300, last: 300 }]);

    let mut inserted = whole.clone();
    inserted.insert(number, [leaf(300, 1).as_slice(), b"\n"].concat());
    assert_eq!(read(&inserted).verdict.findings, [Finding::Inserted { position: 300 }]);
    inserted[number] = [leaf(9_999, 1).as_slice(), b"\n"].concat();
    let report = read(&inserted);
    assert!(!report.is_sound());
    assert_eq!((report.verdict.unhashed, report.completeness), (1, Completeness::Altered));

    // The order of lines in a file is not theirs in the book, yet the manifest is of these bytes.
    let mut swapped = whole.clone();
    swapped.swap(number, number + 1);
    let report = read(&swapped);
    assert_eq!(report.completeness, Completeness::Altered);
    assert_eq!(sorted(&report), [moved(300, 1), moved(301, -1)]);

    for lines in [1, 100, whole.len() - 1] {
        let report = read(&whole[..lines]);
        assert_eq!(report.completeness, Completeness::CutOff, "{lines}");
        assert!(!report.is_sound());
    }
    let longer = [whole.clone(), vec![b"{}\n".to_vec()]].concat();
    assert_eq!(read(&longer).completeness, Completeness::Altered);

    let mut reader = Reader::new(Vec::new(), Vec::new());
    whole.iter().for_each(|line| reader.line(line));
    let report = reader.end();
    assert!(matches!(report.completeness, Completeness::NotSigned(_)), "{report:?}");
    assert!(!report.is_sound());
}

/// The file without some lines of it, in whatever they are: leaves, hashes, or both.
fn without(file: &[Vec<u8>], gone: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let mut file = file.to_vec();
    file.drain(gone);
    file
}

#[test]
fn a_run_of_lines_that_was_taken_out_is_one_finding_that_names_it() {
    let many = 3_000;
    let whole = export(many, |_| true);
    let deleted = |first, last| vec![Finding::Deleted { first, last }];
    for (first, last) in
        [(1, 1), (1, 256), (1, 300), (257, 512), (200, 300), (100, 2_000), (258, 2_999)]
    {
        // At the beginning with the hashes that stand before the first line.
        let begin = if first == 1 { 1 } else { at(&whole, first) };
        let report = read(&without(&whole, begin..at(&whole, last) + 1));
        assert_eq!(report.verdict.findings, deleted(first, last));
        assert_eq!(report.verdict.wrong, 1);
        assert_eq!(
            (&report.unreadable[..], report.verdict.unhashed),
            (&[][..], 0),
            "{first} {last}"
        );
        assert_eq!((report.verdict.lines, &report.checkpoint), (many - (last - first + 1), &None));
        // Those of a run stand before its first line.
        let hashes_are_gone = first == 1 || (first + 1..=last).any(|position| position % 256 == 1);
        assert_eq!(report.verdict.rootless, hashes_are_gone, "{first} {last}");
        assert_eq!(report.verdict.proved == 0, hashes_are_gone, "{first} {last}");
    }
    for first in [2, 257, 2_000, 3_000] {
        let report = read(&without(&whole, at(&whole, first)..at(&whole, many) + 1));
        let cut = Finding::CutTail { lines: first - 1, size: many };
        assert_eq!((report.verdict.findings, report.unreadable), (vec![cut], vec![]), "{first}");
    }
    // Several runs, and nothing of what is between them.
    let mut file = whole.clone();
    for (first, last) in [(2_900, many), (1_000, 2_000), (300, 900), (40, 40)] {
        file = without(&file, at(&file, first)..at(&file, last) + 1);
    }
    let report = read(&file);
    let found = [deleted(40, 40), deleted(300, 900), deleted(1_000, 2_000)].concat();
    let cut = Finding::CutTail { lines: 2_899, size: many };
    assert_eq!(report.verdict.findings, [found, vec![cut]].concat());
    assert_eq!(report.unreadable, Vec::<u64>::new());
    // What was changed in what is left is told beside it, as far as there are hashes of it.
    let mut file = without(&whole, at(&whole, 100)..at(&whole, 700) + 1);
    let number = at(&file, 1_000);
    file[number] = [leaf(1_000, 1).as_slice(), b"\n"].concat();
    let found = [deleted(100, 700), vec![Finding::Edited { position: 1_000 }]].concat();
    assert_eq!(read(&file).verdict.findings, found);
    // A number that nobody has signed takes nothing away.
    let mut file = whole.clone();
    let end = file.len() - 1;
    let forged = String::from_utf8(file[end].clone()).expect("text");
    file[end] = forged.replacen("\\n3000\\n", "\\n9000\\n", 1).into_bytes();
    let report = read(&file);
    assert!(matches!(report.completeness, Completeness::NotSigned(_)), "{report:?}");
    assert_eq!(report.verdict.findings, []);
}

/// The next part of an export that `file` is the beginning of, as `export` writes it.
fn resumed(file: &[u8], many: u64, wanted: impl Fn(u64) -> bool + Copy) -> Vec<u8> {
    let Resumed { writer, header, bytes } = Writer::resume(file).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(file));
    });
    assert_eq!(header.origin, ORIGIN);
    let rest = export_from(writer, many, wanted);
    [&file[..bytes as usize], &rest].concat()
}

#[test]
fn an_export_that_was_broken_off_anywhere_is_gone_on_with() {
    for every in [1, 7, 1_000] {
        let wanted = |position| position % every == 0;
        let whole = export(600, wanted).concat();
        let header = whole.iter().position(|byte| *byte == b'\n').expect("a header") + 1;
        let steps = (header..whole.len() - 1).step_by(997);
        for length in steps.chain([header, header + 1, whole.len() - 1]) {
            let file = resumed(&whole[..length], 600, wanted);
            let report = read(
                &file.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>(),
            );
            assert!(report.is_sound(), "{every}, {length}: {report:?}");
            assert_eq!(report.verdict.lines, 600 / every);
        }
        let refused = Writer::resume(whole.as_slice()).err().expect("it is whole");
        assert!(matches!(refused, ResumeError::Whole), "{refused}");
        let refused = Writer::resume(&whole[..header - 1]).err().expect("no header");
        assert!(matches!(refused, ResumeError::NoExport), "{refused}");
    }
    let mut edited = export(600, |_| true);
    let number = at(&edited, 300);
    edited[number] = [leaf(300, 1).as_slice(), b"\n"].concat();
    edited.pop();
    let refused = Writer::resume(edited.concat().as_slice()).err().expect("it was edited");
    assert!(
        matches!(refused, ResumeError::Altered(line) if line == number as u64 + 1),
        "{refused}"
    );
}

#[test]
fn a_line_that_a_filter_let_through_can_not_be_left_out_unnoticed() {
    // As somebody would do it who has no key: its hash is a gap of its own.
    let honest = export(20, |position| position % 5 == 0);
    let mut cheating = export(20, |position| position % 5 == 0 && position != 10);
    let end = honest.last().expect("an end").clone();
    *cheating.last_mut().expect("an end") = end;
    let report = read(&cheating);
    assert!(report.verdict.is_sound(), "what is there is true");
    assert_eq!(report.completeness, Completeness::Altered);
}

#[test]
fn a_book_that_was_rewritten_is_told_by_a_checkpoint_from_elsewhere() {
    let file = export(600, |_| true);
    let kept = |size, root| Checkpoint { origin: ORIGIN.into(), size, root };
    let hashes: Vec<Hash> = leaves(600).iter().map(|leaf| hash_of(leaf)).collect();
    let true_one = kept(250, root_of(&hashes[..250]));
    let mut reader = Reader::new(vec![KEY.into()], vec![true_one.clone()]);
    file.iter().for_each(|line| reader.line(line));
    assert!(reader.end().is_sound());

    let other = kept(400, root_of(&hashes[..399]));
    let mut reader = Reader::new(vec![KEY.into()], vec![true_one, other]);
    file.iter().for_each(|line| reader.line(line));
    let forked = Finding::Forked { agrees: 250, differs: 400 };
    assert_eq!(reader.end().verdict.findings, [forked]);
}

#[test]
fn garbage_is_told_and_harms_nobody() {
    for garbage in [
        &b""[..],
        b"\n",
        b"\0\xff\n",
        b"{\"event_type\":\n",
        b"{\"run\":{\"first\":1,\"hashes\":\"AA\"}}\n",
        b"{\"gap\":{\"first\":1,\"last\":18446744073709551615,\"hashes\":\"\"}}\n",
        br#"{"gap":{"first":1,"last":18446744073709551615,"hashes":"$"}}"#,
        b"{\"gap\":{\"first\":1,\"last\":0,\"hashes\":\"\"}}\n",
        b"{\"end\":{\"manifest\":\"\",\"checkpoint\":\"\"}}\n",
        b"{\"export\":{\"v\":2,\"origin\":\"x\"}}\n",
    ] {
        let mut reader = Reader::new(vec![KEY.into()], Vec::new());
        // As many hashes as the largest gap takes.
        let hashes = joined(&[Hash([1; 32]); 64]);
        let garbage = String::from_utf8_lossy(garbage).replace('$', &hashes).into_bytes();
        for _ in 0..3 {
            reader.line(&garbage);
        }
        assert!(!reader.end().is_sound(), "{garbage:?}");
    }
}

fn moved(line: u64, by: i64) -> Finding {
    Finding::Moved { first: line, last: line, by }
}

fn sorted(report: &Report) -> Vec<Finding> {
    let mut findings = report.verdict.findings.clone();
    findings.sort_by_key(|finding| format!("{finding:?}"));
    findings
}

#[test]
fn lines_that_changed_places_in_the_file_are_named() {
    let whole = export(3_000, |_| true);
    // Within a run, from one run into another, and further than a window.
    for (one, other) in [(40, 50), (40, 300), (1, 256), (700, 1_400), (1_000, 2_000)] {
        let mut swapped = whole.clone();
        swapped.swap(at(&whole, one), at(&whole, other));
        let by = (other - one) as i64;
        let report = read(&swapped);
        assert_eq!(report.completeness, Completeness::Altered);
        let mut expected = [moved(one, by), moved(other, -by)];
        expected.sort_by_key(|finding| format!("{finding:?}"));
        assert_eq!(sorted(&report), expected);
    }
    // One that was taken out and put back further on.
    let mut later = whole.clone();
    let line = later.remove(at(&whole, 10));
    later.insert(at(&whole, 20), line);
    let others = Finding::Moved { first: 11, last: 20, by: -1 };
    assert_eq!(sorted(&read(&later)), [moved(10, 10), others]);
    // What is gone moves nothing.
    let mut both = whole.clone();
    both.swap(at(&whole, 40), at(&whole, 50));
    both.remove(at(&whole, 45));
    let gone = Finding::Deleted { first: 45, last: 45 };
    let found = sorted(&read(&both));
    assert!(found.contains(&gone) && found.len() <= 4, "{found:?}");
}

#[test]
fn many_lines_that_were_deleted_from_a_file_and_the_others_renumbered_are_named() {
    let many = 3_000;
    let mut file = export(many, |_| true);
    let numbers: Vec<usize> = (1..=many).map(|position| at(&file, position)).collect();
    // Line p says now what line p + 300 said.
    let (changed, last) = (numbers[39..].iter(), many - 300);
    for (number, position) in changed.zip(40..) {
        let said = if position <= last { position + 300 } else { 0 };
        file[*number] = match said {
            0 => Vec::new(),
            said => [leaf_of(position, said).as_slice(), b"\n"].concat(),
        };
    }
    file.retain(|line| !line.is_empty());
    let found = sorted(&read(&file));
    let moved = Finding::Moved { first: 340, last: many, by: -300 };
    assert_eq!(found, [Finding::Deleted { first: 40, last: 339 }, moved]);
}

/// A line that says what that of another position said, with its own number.
fn leaf_of(position: u64, said: u64) -> Vec<u8> {
    let text = String::from_utf8(leaf(said, said)).expect("UTF-8");
    text.replace(&format!("\"position\":{said},"), &format!("\"position\":{position},")).into()
}

#[test]
fn what_is_signed_and_no_leaf_is_not_readable() {
    let text = String::from_utf8(leaf(2, 2)).expect("UTF-8");
    let long = format!(r#"{{"said":"{}"}}"#, "x".repeat(MAX_LEAF));
    for other in [
        text.replace(r#""said":2"#, r#""said":2,"said":3"#),
        text.replace(r#""said":2"#, r#""said": 2"#),
        text.replace(r#""said":2"#, r#""said":2.0"#),
        text.replace(r#""said":2"#, r#""z":1,"said":2"#),
        text.replace("00.000000Z", "00Z"),
        text.replace("\"v\":1", "\"v\":2"),
        text.replace(r#"{"said":2}"#, &long),
    ] {
        assert_ne!(other, text);
        let mut leaves = leaves(3);
        leaves[1] = other.clone().into_bytes();
        let (writer, mut bytes) = Writer::new(ORIGIN, None).expect("begun");
        bytes.extend(export_of(writer, &leaves, |_| true));
        let file: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let report = read(&file);
        assert_eq!(report.unreadable, [4], "{}", &other[..200]);
        assert_eq!(report.completeness, Completeness::Whole);
        assert!(!report.is_sound());
    }
}

#[test]
fn a_checkpoint_among_lines_that_are_left_out_is_told() {
    let hashes: Vec<Hash> = leaves(600).iter().map(|leaf| hash_of(leaf)).collect();
    let kept: Vec<_> = [100, 400]
        .map(|size| Checkpoint {
            origin: ORIGIN.into(),
            size: size as u64,
            root: root_of(&hashes[..size]),
        })
        .into();
    for (every, held, unheld) in [(1, 3, vec![]), (2, 3, vec![]), (300, 1, vec![100, 400])] {
        let file = export(600, |position| position % every == 0);
        let mut reader = Reader::new(vec![KEY.into()], kept.clone());
        file.iter().for_each(|line| reader.line(line));
        let report = reader.end();
        assert_eq!((report.verdict.held, report.verdict.unheld), (held, unheld), "{every}");
    }
}

/// An export that a second key has signed, with these hand-overs.
fn export_by_the_second(hand_overs: &[String]) -> Vec<u8> {
    let (leaves, second) = (leaves(20), key_of(4));
    let (mut writer, mut bytes) = Writer::new(ORIGIN, None).expect("begun");
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| hash_of(leaf)).collect();
    bytes.extend(writer.run(&hashes, &leaves).expect("written"));
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 20, root: root_of(&hashes) };
    let note = checkpoint.sign(&[&second]).expect("signed");
    bytes.extend(writer.end(&second, &note, hand_overs).expect("ended"));
    bytes
}

fn key_of(seed: u8) -> crate::NoteSigner {
    crate::NoteSigner::from_seed(ORIGIN, &[seed; 32]).expect("a signer")
}

fn handed_over(old: &crate::NoteSigner, new: &crate::NoteSigner, last: u64) -> String {
    let hand_over = crate::HandOver {
        origin: ORIGIN.into(),
        key: new.verifier_key(),
        old_id: old.key_id(),
        at: DateTime::UNIX_EPOCH,
        first: last + 1,
        last,
    };
    hand_over.sign(old, new).expect("signed")
}

#[test]
fn a_new_key_is_believed_by_the_hand_over_in_the_file_and_by_nothing_else() {
    let (first, second) = (key_of(3), key_of(4));
    for (hand_overs, is_sound) in [
        (vec![handed_over(&first, &second, 10)], true),
        (vec![handed_over(&first, &second, 19)], true),
        (vec![], false),
        // The new key may sign larger sizes alone.
        (vec![handed_over(&first, &second, 20)], false),
        (vec![handed_over(&key_of(5), &second, 10)], false),
    ] {
        let bytes = export_by_the_second(&hand_overs);
        let mut reader = Reader::new(vec![first.verifier_key()], Vec::new());
        bytes.split_inclusive(|byte| *byte == b'\n').for_each(|line| reader.line(line));
        let report = reader.end();
        assert_eq!(report.is_sound(), is_sound, "{report:?}");
    }
}

#[test]
fn the_end_line_is_as_it_was_written_byte_by_byte() {
    let hand_overs = [handed_over(&key_of(3), &key_of(4), 10)];
    let whole = String::from_utf8(export_by_the_second(&hand_overs)).expect("UTF-8");
    let sound = |file: &str| {
        let mut reader = Reader::new(vec![key_of(3).verifier_key()], Vec::new());
        file.split_inclusive('\n').for_each(|line| reader.line(line.as_bytes()));
        reader.end().is_sound()
    };
    assert!(sound(&whole));
    let (before, end) = whole.split_at(whole.find("{\"end\"").expect("an end"));
    for other in [
        end.replacen(':', ": ", 1),
        end.replacen("entrybook", "\\u0065ntrybook", 1),
        end.replace('\n', "\r\n"),
        end.trim_end().to_owned(),
        end.replacen("\"hand_overs\":[", "\"hand_overs\":[ ", 1),
        format!("{end}{end}"),
        format!("{end}\n"),
    ] {
        assert_ne!(other, end);
        assert!(!sound(&format!("{before}{other}")), "{other}");
    }
}
