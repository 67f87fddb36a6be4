//! Times as people read them: always UTC, and always with the exact time in the markup.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, SecondsFormat, Utc};

use crate::{Arg, Chrome, Locale, texts::MessageId};

impl Chrome {
    /// For the `datetime` attribute.
    pub(crate) fn rfc3339(&self, at: &DateTime<Utc>) -> String {
        at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    /// To the minute: `21 Nov 2025, 11:38 UTC`.
    pub(crate) fn minute(&self, at: &DateTime<Utc>) -> String {
        self.time("time-minute", at, "%H:%M")
    }

    /// To the second, where a column already says UTC: `21 Nov 2025, 11:38:07`.
    pub(crate) fn second(&self, at: &DateTime<Utc>) -> String {
        self.time("time-second", at, "%H:%M:%S")
    }

    fn time(&self, id: &str, at: &DateTime<Utc>, clock: &str) -> String {
        let month = self.t_count("month", u64::from(at.month()));
        let args = [
            ("day", Arg::Text(&at.day().to_string())),
            ("month", Arg::Text(&month)),
            ("year", Arg::Text(&at.year().to_string())),
            ("clock", Arg::Text(&at.format(clock).to_string())),
        ];
        self.texts().get_with(id, &args).into_owned()
    }

    /// A whole number with its digits in groups of three.
    pub(crate) fn number(&self, number: &u64) -> String {
        let separator = match self.locale {
            Locale::En => ',',
        };
        let digits = number.to_string();
        let mut out = String::with_capacity(digits.len() + digits.len() / 3);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                out.push(separator);
            }
            out.push(digit);
        }
        out
    }

    /// A short time span in its largest fitting unit, never rounded up: `4 s`, `12 min`, `30 h`.
    pub(crate) fn span(&self, seconds: u64) -> Cow<'static, str> {
        match seconds {
            0..120 => self.t_count("seconds-short", seconds),
            120..7_200 => self.t_count("minutes-short", seconds / 60),
            _ => self.t_count("hours-short", seconds / 3_600),
        }
    }
}

/// How long to wait, in words, rounded up: whoever waits that long has waited long enough.
pub(crate) fn wait(chrome: &Chrome, seconds: u64) -> String {
    let (id, count) = match seconds {
        0..=90 => (MessageId("wait-seconds"), seconds.max(1)),
        91..=5_400 => (MessageId("wait-minutes"), seconds.div_ceil(60)),
        _ => (MessageId("wait-hours"), seconds.div_ceil(3_600)),
    };
    chrome.t_count(id.0, count).into_owned()
}

/// A time typed into a filter, in UTC: `2026-01-31` (its beginning), `2026-01-31 18:30`, the same
/// with seconds or a `T` in the middle, or RFC 3339 with any offset.
#[must_use]
pub fn parse_filter_time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Some(day.and_time(chrono::NaiveTime::MIN).and_utc());
    }
    for format in
        ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
    {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc());
        }
    }
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_reads_well_and_stays_exact() {
        let chrome = Chrome::new(Locale::En);
        let time = at("2025-11-01T09:05:07.123456Z");
        assert_eq!(chrome.minute(&time), "1 Nov 2025, 09:05 UTC");
        assert_eq!(chrome.second(&time), "1 Nov 2025, 09:05:07");
        assert_eq!(chrome.rfc3339(&time), "2025-11-01T09:05:07.123456Z");
        assert_eq!(chrome.rfc3339(&at("2025-11-01T09:05:07Z")), "2025-11-01T09:05:07Z");
    }

    #[test]
    fn every_month_has_a_name() {
        let chrome = Chrome::new(Locale::En);
        let names: Vec<_> = (1..=12).map(|month| chrome.t_count("month", month)).collect();
        assert_eq!(names.join(" "), "Jan Feb Mar Apr May June July Aug Sept Oct Nov Dec");
    }

    #[test]
    fn numbers_are_grouped() {
        let chrome = Chrome::new(Locale::En);
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(chrome.number(&number), text);
        }
    }

    #[test]
    fn a_wait_is_never_told_too_short() {
        let chrome = Chrome::new(Locale::En);
        for (seconds, text) in [
            (0, "one second"),
            (1, "one second"),
            (90, "90 seconds"),
            (91, "2 minutes"),
            (5_400, "90 minutes"),
            (5_401, "2 hours"),
            (u64::MAX, "5,124,095,576,030,432 hours"),
        ] {
            assert_eq!(wait(&chrome, seconds), text);
        }
    }

    #[test]
    fn a_filter_takes_the_usual_ways_to_write_a_time() {
        for (text, time) in [
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            (" 2026-01-31T18:30 ", "2026-01-31T18:30:00Z"),
            ("2026-01-31 18:30", "2026-01-31T18:30:00Z"),
            ("2026-01-31 18:30:05", "2026-01-31T18:30:05Z"),
            ("2026-01-31T18:30:05", "2026-01-31T18:30:05Z"),
            ("2026-01-31T18:30:05.25", "2026-01-31T18:30:05.25Z"),
            ("2026-01-31T18:30:05+02:00", "2026-01-31T16:30:05Z"),
        ] {
            assert_eq!(parse_filter_time(text), Some(at(time)), "{text}");
        }
        for text in ["", "yesterday", "2026-02-30", "31.1.2026"] {
            assert_eq!(parse_filter_time(text), None, "{text}");
        }
    }
}
