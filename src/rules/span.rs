//! Lengths of time as people write them: `30s`, `5 minutes`, `1h 30m`.
//!
//! One grammar for rule files and command-line options.

use crate::{nearest::nearest, problem::Problem};

/// Names of units and their length in microseconds.
const UNITS: &[(&[&str], u64)] = &[
    (&["ms", "millisecond", "milliseconds"], 1_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000_000),
    (&["d", "day", "days"], 86_400_000_000),
    (&["w", "week", "weeks"], 604_800_000_000),
];

/// All names of units of time.
pub(crate) fn unit_names() -> impl Iterator<Item = &'static str> {
    UNITS.iter().flat_map(|(names, _)| names.iter().copied())
}

/// A length of time like `30s`, `5 minutes`, `day` or `1h 30m`, in microseconds.
pub fn span_us(text: &str) -> Result<u64, Problem> {
    let is_digit = |c: char| c.is_ascii_digit() || c == '_';
    let (mut sum, mut rest) = (0_u64, text.trim());
    let mut seen = Vec::new();
    loop {
        let (digits, after) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let digits = digits.replace('_', "");
        // A unit alone may lack its number; of several, each has one.
        let (count, unit, next) = if digits.is_empty() {
            (1, rest, "")
        } else {
            let (unit, next) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
            (digits.parse().unwrap_or(u64::MAX), unit, next)
        };
        let unit = unit.trim();
        if unit.is_empty() {
            return Err(Problem::new(
                format!("{rest:?} has no unit of time"),
                "add a unit: ms, s, m, h, day or week, like 5/m",
            ));
        }
        if unit.starts_with(['.', ',']) {
            return Err(Problem::new(
                format!("{text:?} is not a whole number with a unit of time"),
                "write whole numbers, like 1h 30m for 1.5h",
            ));
        }
        let length = unit_us(unit)?;
        if seen.contains(&length) {
            return Err(Problem::new(
                format!("{text:?} has a unit of time twice"),
                "write each unit once, like 1h 30m",
            ));
        }
        seen.push(length);
        sum = sum.saturating_add(length.saturating_mul(count));
        if next.is_empty() {
            return Ok(sum);
        }
        rest = next;
    }
}

/// The length of a unit of time, in microseconds.
fn unit_us(unit: &str) -> Result<u64, Problem> {
    let name = unit.to_ascii_lowercase();
    let known = UNITS
        .iter()
        .find(|(names, _)| names.contains(&name.as_str()));
    if let Some((_, length)) = known {
        return Ok(*length);
    }
    let names: Vec<&str> = unit_names().collect();
    let meant = nearest(&name, &names).filter(|_| name.len() > 3);
    let hint = match (meant, name.as_str()) {
        (Some(meant), _) => format!("did you mean {meant}?"),
        (None, "month" | "months" | "mo" | "year" | "years" | "y") => {
            "months and years have no fixed length: write days, like 1000/30days, or one month with `align: calendar`".to_owned()
        }
        (None, _) if unit.ends_with([',', '-']) || unit.ends_with(" and") => {
            "write the parts one after the other, like 1h 30m".to_owned()
        }
        (None, _) => "units are ms, s, m, h, day and week".to_owned(),
    };
    Err(Problem::new(
        format!("{unit:?} is not a unit of time"),
        hint,
    ))
}

/// A window as it appears in keys and policy names: in whole seconds if possible (`60s`), else in
/// milliseconds (`100ms`).
pub fn window_label(window_us: u64) -> String {
    if window_us.is_multiple_of(1_000_000) {
        format!("{}s", window_us / 1_000_000)
    } else {
        format!("{}ms", window_us / 1_000)
    }
}

/// A length of time that [`span_us`] can read: `10m`, `1h 30m`, `60d`. Less than a millisecond is
/// left out.
pub fn span_text(us: u64) -> String {
    let (mut parts, mut rest) = (Vec::new(), us);
    // Days are the longest unit: `14d` is more usual than `2w`.
    for (names, length) in UNITS.iter().rev().skip(1) {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            parts.push(format!("{count}{}", names[0]));
        }
    }
    if parts.is_empty() {
        parts.push("0s".to_owned());
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_they_are_printed() {
        for (text, seconds) in [
            ("1h30m", 5_400),
            ("1h 30m", 5_400),
            ("2 days 5 minutes", 173_100),
            ("1_000s", 1_000),
            ("day", 86_400),
        ] {
            assert_eq!(span_us(text), Ok(seconds * 1_000_000), "{text}");
        }
        for us in [
            1_000,
            90_000_000,
            5_400_000_000,
            86_461_001_000,
            1_209_600_000_000,
        ] {
            assert_eq!(span_us(&span_text(us)), Ok(us), "{}", span_text(us));
        }
        assert_eq!(span_text(90 * 86_400_000_000), "90d");
        assert_eq!(span_text(5_400_000_000), "1h 30m");
        assert_eq!(span_text(0), "0s");
        assert_eq!(span_us("99999999999999999999h 1m"), Ok(u64::MAX));
    }

    #[test]
    fn windows_have_one_label() {
        assert_eq!(window_label(60_000_000), "60s");
        assert_eq!(window_label(100_000), "100ms");
    }
}
