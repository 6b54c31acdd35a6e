//! Owns how figures are written for people: counts, bytes, spans of time and times of day. It never measures any.

use time::OffsetDateTime;

/// A count with its thousands apart: `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len().saturating_add(digits.len() / 3));
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && digits.len().saturating_sub(at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and what is counted: `1 datapoint`, `2 datapoints`.
pub fn counted(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Bytes: `512 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A span of time: `5 s`, `48 min`, `3 h 20 min`, `2 days`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => match (seconds / 3_600, seconds % 3_600 / 60) {
            (hours, 0) => format!("{hours} h"),
            (hours, minutes) => format!("{hours} h {minutes} min"),
        },
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A rate a second: `0/s`, `0.4/s`, `1,250/s`.
pub fn rate(per_second: f64) -> String {
    if per_second >= 10.0 || per_second == 0.0 {
        // No count is that large.
        format!("{}/s", count(per_second.round() as u64))
    } else {
        format!("{per_second:.1}/s")
    }
}

/// A time of day in UTC, in milliseconds since 1970; with its date if that is not the date of `now_ms`.
pub fn clock(at_ms: u64, now_ms: u64) -> String {
    let time = |ms: u64| OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1_000).ok()?).ok();
    let Some(at) = time(at_ms) else { return "a time that no calendar has".to_owned() };
    let day = format!("{}-{:02}-{:02} ", at.year(), u8::from(at.month()), at.day());
    let is_today = time(now_ms).is_some_and(|now| now.date() == at.date());
    format!("{}{:02}:{:02} UTC", if is_today { "" } else { &day }, at.hour(), at.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(n), text);
        }
        assert_eq!((counted(1, "datapoint"), counted(2, "row")), ("1 datapoint".into(), "2 rows".into()));
        for (n, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (2_880, "48 min"),
            (12_000, "3 h 20 min"),
            (7_200, "2 h"),
            (200_000, "2 days"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!([rate(0.0), rate(0.44), rate(1_249.6)], ["0/s", "0.4/s", "1,250/s"]);
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let morning = 1_795_746_720_000;
        assert_eq!(clock(morning, morning), "02:32 UTC");
        assert_eq!(clock(morning + 86_400_000, morning), "2026-11-28 02:32 UTC");
        assert_eq!(clock(u64::MAX, morning), "a time that no calendar has");
    }
}
