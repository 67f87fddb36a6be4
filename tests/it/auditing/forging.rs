//! Files in the clear to whose end somebody adds what was never there: the signature does not cover it.

use super::{Signed, exported, found, text, verify};
use crate::auditing::export::nowhere;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_added_to_the_last_record_of_a_table() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    let csv = exported(&signed, "table.csv", &["--format", "csv"]).await;
    let csv = std::fs::read_to_string(csv).unwrap();
    let ocsf = exported(&signed, "table.ocsf", &["--format", "ocsf"]).await;
    let ocsf = std::fs::read_to_string(ocsf).unwrap();
    let row = csv.lines().nth(40).unwrap();
    let end = csv.strip_suffix("\r\n").unwrap();
    let (before, _) = csv.rsplit_once("end,").unwrap();
    let last = ocsf.lines().last().unwrap();
    let event = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut event: serde_json::Value = serde_json::from_str(last).unwrap();
        change(&mut event);
        ocsf.replace(last, &event.to_string())
    };
    assert_eq!(event(&|_| ()), ocsf);
    for (name, forged) in [
        ("a row behind a bare line feed", format!("{end}\n{row}\r\n")),
        (
            "rows of bare line feeds in the end",
            format!("{}x\n{row}\n{row}\r\n", end.trim_end_matches(',')),
        ),
        ("a cell more", format!("{end},x\r\n")),
        ("a cell that was empty", format!("{}x\r\n", &end[..end.len() - 1])),
        ("a quoted cell that need not be", csv.replace("\nend,", "\n\"end\",")),
        (
            "rows before the end",
            format!("{before}{row}\nend,{}", csv.rsplit_once("end,").unwrap().1),
        ),
        ("another time", event(&|event| event["time"] = 1.into())),
        (
            "another class",
            event(&|event| {
                event["class_uid"] = 3002.into();
                event["user"] = serde_json::json!({ "name": "ada" });
            }),
        ),
        ("one more member", event(&|event| event["unmapped"]["more"] = "x".into())),
        ("spaces", ocsf.replace(last, &last.replacen(':', ": ", 1))),
    ] {
        let file = signed.file("forged", forged.as_bytes());
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        assert!([6, 7].contains(&code), "{name}: {report:#}");
        println!("{name}: exit {code}: {:?}", found(&report));
    }
    // Without its end, nothing says anything of a file, whatever stands in it: that is no word in its favour.
    for (name, rest) in
        [("csv", before), ("ocsf", ocsf.strip_suffix(&format!("{last}\n")).unwrap())]
    {
        let forged = rest.replace("SignInFailed", "SessionStarted");
        assert_ne!(forged, rest);
        let file = signed.file("endless", forged.as_bytes());
        let arguments = ["verify", text(&file), "--key", signed.key()];
        let said = super::audit(&offline, &arguments).await;
        let told = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.status.code(), Some(7), "{name}: {told}");
        assert!(told.starts_with("integrity: NOT PROVED\n"), "{name}: {told}");
        assert!(!told.contains("as the server wrote and signed"), "{name}: {told}");
        let (code, report) = verify(&offline, &arguments[1..]).await;
        assert_eq!((code, &report["signed"]), (7, &false.into()), "{name}: {report:#}");
    }
    for (name, whole) in [("csv", &csv), ("ocsf", &ocsf)] {
        let file = signed.file(name, whole.as_bytes());
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{name}: {report:#}");
        assert_eq!(report["signed"], true, "{name}: {report:#}");
    }
}
