//! Rates as people write them: `5/m`, `100/30s`, `1000 per 5 minutes`, `20/s burst 40`.

use std::fmt;

use super::diagnostic::did_you_mean;
use crate::limit::{MAX_AMOUNT, MAX_WINDOW_US, MIN_WINDOW_US};

/// So many per so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests per window; 0 admits nothing.
    pub amount: u64,
    /// The window.
    pub window: Window,
    /// The capacity of a token bucket, where one was written.
    pub burst: Option<u64>,
}

/// How long a rate's window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// So many microseconds.
    Micros(u64),
    /// A month, which only a calendar can tell.
    Month,
}

/// Why a text is not a rate, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidQuota {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// `message`, then `hint: …` on its own line.
impl fmt::Display for InvalidQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhint: {}", self.message, self.hint)
    }
}

const EXAMPLES: &str = "write a rate like 5/s, 5/m, 5/h, 5/day, 100/30s or \"1000 per 5 minutes\"";

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
pub(super) fn unit_names() -> impl Iterator<Item = &'static str> {
    UNITS.iter().flat_map(|(names, _)| names.iter().copied())
}

fn invalid(message: String, hint: &str) -> InvalidQuota {
    InvalidQuota {
        message,
        hint: hint.to_owned(),
    }
}

impl std::str::FromStr for Quota {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, InvalidQuota> {
        let not_a_rate = || {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let hint = if is_number {
                format!("say per how long, like {text}/m")
            } else {
                EXAMPLES.to_owned()
            };
            invalid(format!("{text:?} is not a rate"), &hint)
        };
        if let Some((one, other)) = text.split_once(',')
            && one.contains('/')
            && other.contains('/')
        {
            return Err(invalid(
                format!("{text:?} is more than one rate"),
                &format!("write limits: [{text}]"),
            ));
        }
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) if rate.trim().is_empty() => {
                return Err(invalid(
                    format!("{:?} does not begin with a rate", format!("burst{burst}")),
                    "write the rate and then the burst, like 20/s burst 40",
                ));
            }
            Some((_, "")) => {
                return Err(invalid(
                    format!("the burst of {text:?} has no number"),
                    "write how many may come at once, like 20/s burst 40",
                ));
            }
            Some((rate, burst)) => (rate, Some(amount(burst, "burst", 1)?)),
            None => (text, None),
        };
        let (count, window) = rate
            .split_once('/')
            .or_else(|| rate.split_once(" per "))
            .ok_or_else(not_a_rate)?;
        Ok(Self {
            amount: amount(count, "limit", 0)?,
            window: window_of(window)?,
            burst,
        })
    }
}

fn amount(text: &str, what: &str, least: u64) -> Result<u64, InvalidQuota> {
    let digits = text.trim().replace('_', "");
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        let text = text.trim();
        let (_, after) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(0));
        let hint = if after.starts_with(',') {
            format!("write {}", text.replace(',', ""))
        } else if after.starts_with('.') {
            "write a whole number in a longer time, like 1/2s for 0.5/s".to_owned()
        } else if after.starts_with(['k', 'K', 'M']) {
            "write all digits, like 10000 or 10_000".to_owned()
        } else if after.starts_with(' ') {
            "write only the number, like 5 per minute".to_owned()
        } else if text.starts_with(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) {
            "write it without quotes, or with straight ones: \"5/m\"".to_owned()
        } else {
            EXAMPLES.to_owned()
        };
        return Err(invalid(
            format!("{text:?} is not a whole number of requests"),
            &hint,
        ));
    }
    match digits.parse().unwrap_or(u64::MAX) {
        0 if least == 0 => Ok(0),
        amount => check_amount(amount, what),
    }
}

/// `amount`, if a limit or burst may have it.
pub fn check_amount(amount: u64, what: &str) -> Result<u64, InvalidQuota> {
    match amount {
        0 => Err(invalid(
            format!("a {what} of 0 admits nothing"),
            "to refuse these requests altogether, write `limit: 0`",
        )),
        1..=MAX_AMOUNT => Ok(amount),
        _ => Err(invalid(
            format!("a {what} above {MAX_AMOUNT} is not supported"),
            "shorten the window, or write `limit: unlimited`",
        )),
    }
}

fn window_of(text: &str) -> Result<Window, InvalidQuota> {
    if ["month", "mo"].contains(&text.trim()) {
        return Ok(Window::Month);
    }
    let window = span_us(text)?;
    if (MIN_WINDOW_US..=MAX_WINDOW_US).contains(&window) {
        Ok(Window::Micros(window))
    } else {
        Err(invalid(
            format!("a window of {:?} is not supported", text.trim()),
            "a window lasts between 1 ms and 366 days",
        ))
    }
}

/// A length of time like `30s`, `5 minutes`, `day` or `1h 30m`, in microseconds.
pub fn span_us(text: &str) -> Result<u64, InvalidQuota> {
    let is_digit = |c: char| c.is_ascii_digit() || c == '_';
    let (mut sum, mut rest) = (0_u64, text.trim());
    let mut seen = Vec::new();
    loop {
        let (digits, after) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let digits = digits.replace('_', "");
        // One that stands alone may lack its number; of several, each begins with it.
        let (count, unit, next) = if digits.is_empty() {
            (1, rest, "")
        } else {
            let (unit, next) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
            (digits.parse().unwrap_or(u64::MAX), unit, next)
        };
        let unit = unit.trim();
        if unit.is_empty() {
            return Err(invalid(
                format!("{rest:?} has no unit of time"),
                "add a unit: ms, s, m, h, day or week, like 5/m",
            ));
        }
        if unit.starts_with(['.', ',']) {
            return Err(invalid(
                format!("{text:?} is not a whole number of a unit of time"),
                "write whole numbers, like 1h 30m for 1.5h",
            ));
        }
        let length = unit_us(unit)?;
        if seen.contains(&length) {
            return Err(invalid(
                format!("{text:?} has a unit of time twice"),
                "write each once, like 1h 30m",
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

/// How long a unit of time is, in microseconds.
fn unit_us(unit: &str) -> Result<u64, InvalidQuota> {
    let name = unit.to_ascii_lowercase();
    let known = UNITS
        .iter()
        .find(|(names, _)| names.contains(&name.as_str()));
    if let Some((_, length)) = known {
        return Ok(*length);
    }
    let names: Vec<&str> = unit_names().collect();
    let meant = did_you_mean(&name, &names).filter(|_| name.len() > 3);
    let hint = match (meant, name.as_str()) {
        (Some(meant), _) => format!("did you mean {meant}?"),
        (None, "month" | "months" | "mo" | "year" | "years" | "y") => {
            "months and years have no fixed length: write days, like 1000/30days, or one month with `align: calendar`".to_owned()
        }
        (None, _) if unit.ends_with([',', '-']) || unit.ends_with(" and") => {
            "write lengths one after the other, like 1h 30m".to_owned()
        }
        (None, _) => "units are ms, s, m, h, day and week".to_owned(),
    };
    Err(invalid(format!("{unit:?} is not a unit of time"), &hint))
}

/// A window as keys and policy names show it: in whole seconds where possible (`60s`), else in milliseconds (`100ms`).
pub fn window_label(window_us: u64) -> String {
    if window_us.is_multiple_of(1_000_000) {
        format!("{}s", window_us / 1_000_000)
    } else {
        format!("{}ms", window_us / 1_000)
    }
}

/// A length of time as [`span_us`] reads it: `10m`, `1h 30m`, `60d`. Less than a millisecond is left out.
pub fn span_text(us: u64) -> String {
    let (mut parts, mut rest) = (Vec::new(), us);
    // Days are the longest: people say 14 days, and 60.
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

    fn quota(text: &str) -> (u64, u64, Option<u64>) {
        let quota: Quota = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let Window::Micros(window_us) = quota.window else {
            panic!("{text}")
        };
        (quota.amount, window_us / 1_000, quota.burst)
    }

    #[test]
    fn every_way_to_write_a_rate() {
        assert_eq!(quota("5/s"), (5, 1_000, None));
        assert_eq!(quota("5/m"), (5, 60_000, None));
        assert_eq!(quota("5/h"), (5, 3_600_000, None));
        assert_eq!(quota("5/day"), (5, 86_400_000, None));
        assert_eq!(quota("100/30s"), (100, 30_000, None));
        assert_eq!(quota("10/100ms"), (10, 100, None));
        assert_eq!(quota("1000 per 5 minutes"), (1000, 300_000, None));
        assert_eq!(quota("1_000 per hour"), (1000, 3_600_000, None));
        assert_eq!(quota("20/s burst 40"), (20, 1_000, Some(40)));
        assert_eq!(quota(" 3 / 2 weeks "), (3, 1_209_600_000, None));
        assert_eq!(quota("7/1m 30s burst 9"), (7, 90_000, Some(9)));
    }

    #[test]
    fn nothing_and_months_are_rates() {
        let quota = |text: &str| text.parse::<Quota>().unwrap();
        assert_eq!(quota("0/m").amount, 0);
        assert_eq!(quota("9/month").window, Window::Month);
    }

    #[test]
    fn what_is_wrong_is_said_with_a_way_out() {
        for (text, message, hint) in [
            ("5", "\"5\" is not a rate", "per how long"),
            (
                "5/fortnight",
                "\"fortnight\" is not a unit of time",
                "units are",
            ),
            (
                "5/2months",
                "\"months\" is not a unit of time",
                "no fixed length",
            ),
            ("5/10", "\"10\" has no unit of time", "add a unit"),
            ("5/1h30", "\"30\" has no unit of time", "add a unit"),
            ("5/m 6/h", "\"m 6/h\" is not a unit of time", "units are"),
            ("5/1m 2 x", "\"x\" is not a unit of time", "units are"),
            (
                "5/1.5h",
                "\"1.5h\" is not a whole number",
                "1h 30m for 1.5h",
            ),
            (
                "5/0,5h",
                "\"0,5h\" is not a whole number",
                "1h 30m for 1.5h",
            ),
            (
                "5/1h, 30m",
                "\"h,\" is not a unit of time",
                "one after the other",
            ),
            (
                "5/1h and 30m",
                "\"h and\" is not a unit",
                "one after the other",
            ),
            ("5/1h 1h", "\"1h 1h\" has a unit of time twice", "each once"),
            ("5/_h", "\"_h\" is not a unit of time", "units are"),
            ("5/_", "\"_\" is not a unit of time", "units are"),
            ("-5/m", "\"-5\" is not a whole number", "write a rate"),
            ("1.5/s", "\"1.5\" is not a whole number", "a longer time"),
            ("5/s burst 0", "a burst of 0 admits nothing", "limit: 0"),
            ("5/s burst", "has no number", "at once"),
            ("9999999999/s", "a limit above 1000000000", "unlimited"),
            ("5/400days", "a window of \"400days\"", "366 days"),
            ("5/99999999999999999999s", "a window of", "366 days"),
        ] {
            let error = text.parse::<Quota>().unwrap_err();
            assert!(error.message.contains(message), "{text}: {error}");
            assert!(error.hint.contains(hint), "{text}: {error}");
        }
    }

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
