//! The two text formats in which numbers are scraped, and which of them a scraper is given.
//!
//! Sources: the OpenMetrics specification 1.0.0; Prometheus, "Exposition formats", text format 0.0.4; RFC 9110, section 12.5.1
//! (Accept).

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

/// How numbers are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What every scraper reads, and what one gets that asks for nothing.
    PrometheusText,
    /// What Prometheus prefers since version 2.5.
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// The format that fits the `Accept` headers best; OpenMetrics only where it is named.
    #[must_use]
    pub fn accepted(headers: &HeaderMap) -> Self {
        let ranges = || {
            let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).map(Range::read)
        };
        let best = |names: &[&str]| {
            ranges()
                .filter(|range| names.contains(&range.name))
                .map(|range| range.quality)
                .fold(0.0, f32::max)
        };
        let open_metrics = best(&[OPEN_METRICS]);
        if open_metrics > 0.0 && open_metrics >= best(&["text/plain", "text/*", "*/*"]) {
            Self::OpenMetrics
        } else {
            Self::PrometheusText
        }
    }

    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// All metrics of the registries as one document.
    ///
    /// # Errors
    /// If a metric can't be written, which no metric of ours does.
    pub fn encode(self, registries: &[&Registry]) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for registry in registries {
            encode_registry(&mut text, registry)?;
        }
        match self {
            Self::PrometheusText => Ok(as_prometheus_text(&text)),
            Self::OpenMetrics => encode_eof(&mut text).map(|()| text),
        }
    }
}

/// A media range of an `Accept` header with its weight.
struct Range<'a> {
    name: &'a str,
    quality: f32,
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
            .map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0));
        Self { name, quality }
    }
}

/// OpenMetrics names the family of a counter without the `_total` of its samples. In the older format the name in HELP and TYPE is that
/// of the samples, and there are neither units nor an end.
fn as_prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("# ") else {
            push_line(&mut text, line);
            continue;
        };
        match comment.split_once(' ') {
            // HELP stands directly before TYPE.
            Some(("HELP", help)) => {
                let (name, words) = help.split_once(' ').unwrap_or((help, ""));
                let suffix =
                    lines.peek().map_or("", |next| if is_counter(next) { "_total" } else { "" });
                push_line(&mut text, &format!("# HELP {name}{suffix} {words}"));
            }
            Some(("TYPE", described)) => {
                let (name, kind) = described.split_once(' ').unwrap_or((described, "untyped"));
                let suffix = if kind == "counter" { "_total" } else { "" };
                let kind = if kind == "unknown" { "untyped" } else { kind };
                push_line(&mut text, &format!("# TYPE {name}{suffix} {kind}"));
            }
            _ => {}
        }
    }
    text
}

fn is_counter(line: &str) -> bool {
    line.starts_with("# TYPE ") && line.ends_with(" counter")
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Unit;

    fn asked(accept: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Format::accepted(&headers)
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        for accept in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.1"],
            &["application/openmetrics-text;q=0, text/plain"],
            &["application/openmetrics-text;q=nonsense"],
            &["application/openmetrics-text-of-tomorrow"],
        ] {
            assert_eq!(asked(accept), Format::PrometheusText, "{accept:?}");
        }
        for accept in [
            // As Prometheus 2 and 3 ask.
            &[
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ][..],
            &["application/openmetrics-text"],
            &["text/plain;q=0.3", "application/openmetrics-text; Q=0.9"],
        ] {
            assert_eq!(asked(accept), Format::OpenMetrics, "{accept:?}");
        }
    }

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let mut registry = Registry::with_prefix("x");
        let counters = Family::<Vec<(&str, &str)>, Counter>::default();
        counters.get_or_create(&vec![("a", "# TYPE fake counter")]).inc();
        registry.register("visits", "How many came", counters);
        registry.register_with_unit("age", "How old", Unit::Seconds, Gauge::<i64>::default());
        let took = Histogram::new([0.5]);
        took.observe(0.1);
        registry.register("took_seconds", "How long", took);
        let text = Format::PrometheusText.encode(&[&registry]).unwrap();
        assert_eq!(
            text,
            "# HELP x_visits_total How many came.\n\
             # TYPE x_visits_total counter\n\
             x_visits_total{a=\"# TYPE fake counter\"} 1\n\
             # HELP x_age_seconds How old.\n\
             # TYPE x_age_seconds gauge\n\
             x_age_seconds 0\n\
             # HELP x_took_seconds How long.\n\
             # TYPE x_took_seconds histogram\n\
             x_took_seconds_sum 0.1\n\
             x_took_seconds_count 1\n\
             x_took_seconds_bucket{le=\"0.5\"} 1\n\
             x_took_seconds_bucket{le=\"+Inf\"} 1\n"
        );
        let open = Format::OpenMetrics.encode(&[&registry]).unwrap();
        assert!(
            open.starts_with("# HELP x_visits How many came.\n# TYPE x_visits counter\n"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"), "{open}");
    }
}
