//! The numbers for Prometheus: their form, and whether what ships for watching them fits.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::shared::Running;
use crate::support::tools;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_asks_for() {
    let running = Running::shared().await;
    let api = running.api();
    for (accept, wanted) in [
        (None, TEXT),
        (Some("*/*"), TEXT),
        (
            Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"),
            OPEN_METRICS,
        ),
        (Some("text/plain;version=0.0.4,application/openmetrics-text;q=0.5"), TEXT),
    ] {
        let mut request = api.get("/metrics");
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let answer = request.send().await.is(200);
        assert_eq!(answer.header("content-type"), wanted, "{accept:?}");
        assert_eq!(answer.header("vary"), "Accept");
        let text = answer.text();
        assert_eq!(text.ends_with("# EOF\n"), wanted == OPEN_METRICS, "{accept:?}");
        assert!(text.contains("\nentrybook_build_info{version=\""), "{text}");
    }
}

/// promtool exits with 1 where it can't read them, and with 3 where a name or a help text is not as it should be.
#[tokio::test]
async fn promtool_finds_no_fault_in_the_metrics() {
    if !tools::with("promtool") {
        return;
    }
    let running = Running::shared().await;
    let text = running.api().get("/metrics").send().await.is(200).text();
    let mut promtool = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{text}");
}

#[test]
fn the_alert_rules_pass_their_tests() {
    if !tools::with("promtool") {
        return;
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let output =
            Command::new(promtool()).args(arguments).current_dir(monitoring()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let rules = std::fs::read_to_string(monitoring().join("alerts.yml")).unwrap();
    let tests = std::fs::read_to_string(monitoring().join("alerts_test.yml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "{alert} has no test in alerts_test.yml");
    }
}

/// Every metric that a rule or a panel asks for is one that the server has: a renamed one would leave an alert that never fires.
#[tokio::test]
async fn rules_and_dashboard_ask_for_metrics_that_exist() {
    // These have no sample before a witness is configured, or a projection is built or stopped.
    const NOT_NOW: [&str; 4] = [
        "entrybook_log_witness_lag_seconds",
        "entrybook_log_witness_lag_lines",
        "entrybook_projection_build_events_done",
        "entrybook_projection_build_events_total",
    ];
    let running = Running::shared().await;
    let text = running.api().get("/metrics").send().await.is(200).text();
    let known: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut asked = BTreeSet::new();
    for file in ["alerts.yml", "alerts_test.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(monitoring().join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        asked.extend(
            words
                .filter(|word| word.starts_with("entrybook_") || word.starts_with("process_"))
                .map(str::to_owned),
        );
    }
    assert!(asked.len() > 25, "{asked:?}");
    for name in asked {
        let family = name.strip_suffix("_bucket").unwrap_or(&name);
        assert!(
            known.contains(family) || NOT_NOW.contains(&family),
            "{name} is no metric of {known:?}"
        );
    }
    for name in NOT_NOW {
        let source = include_str!("../../../api/src/metrics.rs");
        assert!(
            source.contains(&format!("\"{}\"", name.trim_start_matches("entrybook_"))),
            "{name}"
        );
    }
}

/// Grafana takes what is no panel of its own for an empty one, and says nothing.
#[test]
fn the_dashboard_is_one() {
    let text = std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        if panel["type"] != "row" {
            assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()), "{panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        }
    }
}

fn monitoring() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring")
}

fn promtool() -> PathBuf {
    tools::find("ENTRYBOOK_TEST_PROMTOOL", &["promtool"], "promtool")
}
