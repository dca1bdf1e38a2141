//! Rates as people write them: `5/m`, `100/30s`, `1000 per 5 minutes`, `20/s burst 40`.

use crate::{
    limit::{MAX_AMOUNT, MAX_WINDOW_US, MIN_WINDOW_US},
    problem::Problem,
    rules::span::span_us,
};

/// A number of requests per window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Requests per window; 0 admits nothing.
    pub(super) amount: u64,
    /// The window.
    pub(super) window: Window,
    /// The capacity of a token bucket, if one was written.
    pub(super) burst: Option<u64>,
}

/// The window of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// A fixed length, in microseconds.
    Micros(u64),
    /// A month, whose length only a calendar knows.
    Month,
}

const EXAMPLES: &str = "write a rate like 5/s, 5/m, 5/h, 5/day, 100/30s or \"1000 per 5 minutes\"";

impl std::str::FromStr for Rate {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let not_a_rate = || {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let hint = if is_number {
                format!("add the time, like {text}/m")
            } else {
                EXAMPLES.to_owned()
            };
            Problem::new(format!("{text:?} is not a rate"), hint)
        };
        if let Some((one, other)) = text.split_once(',')
            && one.contains('/')
            && other.contains('/')
        {
            return Err(Problem::new(
                format!("{text:?} is more than one rate"),
                format!("write limits: [{text}]"),
            ));
        }
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) if rate.trim().is_empty() => {
                return Err(Problem::new(
                    format!("{:?} does not begin with a rate", format!("burst{burst}")),
                    "write the rate and then the burst, like 20/s burst 40",
                ));
            }
            Some((_, "")) => {
                return Err(Problem::new(
                    format!("the burst of {text:?} has no number"),
                    "write how many requests may come at once, like 20/s burst 40",
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

fn amount(text: &str, what: &str, least: u64) -> Result<u64, Problem> {
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
        return Err(Problem::new(
            format!("{text:?} is not a whole number of requests"),
            hint,
        ));
    }
    match digits.parse().unwrap_or(u64::MAX) {
        0 if least == 0 => Ok(0),
        amount => check_amount(amount, what),
    }
}

/// Checks that a limit or burst may have this amount.
pub(super) fn check_amount(amount: u64, what: &str) -> Result<u64, Problem> {
    match amount {
        0 => Err(Problem::new(
            format!("a {what} of 0 admits nothing"),
            "to deny all of these requests, write `limit: 0`",
        )),
        1..=MAX_AMOUNT => Ok(amount),
        _ => Err(Problem::new(
            format!("a {what} above {MAX_AMOUNT} is not supported"),
            "shorten the window, or write `limit: unlimited`",
        )),
    }
}

/// Reads the window of a rate.
pub(super) fn window_of(text: &str) -> Result<Window, Problem> {
    if ["month", "mo"].contains(&text.trim()) {
        return Ok(Window::Month);
    }
    let window = span_us(text)?;
    if (MIN_WINDOW_US..=MAX_WINDOW_US).contains(&window) {
        Ok(Window::Micros(window))
    } else {
        Err(Problem::new(
            format!("a window of {:?} is not supported", text.trim()),
            "a window lasts between 1 ms and 366 days",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(text: &str) -> (u64, u64, Option<u64>) {
        let quota: Rate = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
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
        let quota = |text: &str| text.parse::<Rate>().unwrap();
        assert_eq!(quota("0/m").amount, 0);
        assert_eq!(quota("9/month").window, Window::Month);
    }

    #[test]
    fn an_invalid_rate_is_reported_with_a_hint() {
        for (text, message, hint) in [
            ("5", "\"5\" is not a rate", "add the time"),
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
                "parts one after the other",
            ),
            (
                "5/1h and 30m",
                "\"h and\" is not a unit",
                "parts one after the other",
            ),
            (
                "5/1h 1h",
                "\"1h 1h\" has a unit of time twice",
                "each unit once",
            ),
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
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.message.contains(message), "{text}: {error}");
            assert!(error.hint.contains(hint), "{text}: {error}");
        }
    }
}
