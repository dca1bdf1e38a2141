//! Windows of the calendar: the local hour, day, ISO week or month in a time zone.
//!
//! Redis' clock decides which window it is, and Redis knows no time zones. So the edges of the four
//! windows around now are computed here, and the store picks the window that its own time lies in.
//! A store whose time lies outside all of them charges nothing and reports its time.
//!
//! Where clocks are put forward or back, a window is what a wall clock shows:
//!
//! * A day, week or month begins at the first instant at which the local clock shows midnight or
//!   has jumped past it. So days have 23, 24 or 25 hours, and a date that was skipped (Samoa, 30
//!   December 2011) has no window.
//! * An hour begins whenever the local clock shows a full hour or jumps into another one. A skipped
//!   hour has no window, a repeated hour has two, and a shift of half an hour (Lord Howe Island)
//!   makes one hour of 90 minutes and another of 30.

use std::fmt;

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

/// The length of a calendar window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday.
    Week,
    /// From the first to the last.
    Month,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The name in rule files and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The usual length in microseconds; for a month, 31 days. For
    /// [`Limit::new`](super::Limit::new) and for responses that report a window.
    pub const fn usual_us(self) -> u64 {
        let hours = match self {
            Self::Hour => 1,
            Self::Day => 24,
            Self::Week => 7 * 24,
            Self::Month => 31 * 24,
        };
        hours * 3_600 * MICROS
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A time zone name that the database does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time zone of the IANA database")]
pub struct UnknownTimeZone(pub String);

/// The windows of a period in a time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
}

const MICROS: u64 = 1_000_000;
const HOUR: i64 = 3_600;
/// 1 January 9999: later times count as this one. The calendar of `jiff` ends with that year.
const LAST: i64 = 253_370_764_800;

impl Calendar {
    /// Creates the windows of `period` in the time zone with this IANA name, like `Europe/Paris` or
    /// `UTC`. The time zone database is part of the program; the machine's is not read.
    pub fn new(period: Period, timezone: &str) -> Result<Self, UnknownTimeZone> {
        let zone = TimeZoneDatabase::bundled()
            .get(timezone)
            .map_err(|_| UnknownTimeZone(timezone.to_owned()))?;
        Ok(Self { period, zone })
    }

    /// The period.
    pub const fn period(&self) -> Period {
        self.period
    }

    /// The time zone's name as the database spells it.
    pub fn timezone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The window that `now_us` (microseconds since the Unix epoch) lies in, with the windows
    /// before and after it. Edges before 1970 count as 1970, times after the year 9998 as 1 January
    /// 9999.
    pub fn edges(&self, now_us: u64) -> Edges {
        let now = i64::try_from(now_us / MICROS).map_or(LAST, |now| now.min(LAST));
        let edges = match self.period {
            Period::Hour => {
                let begin = self.hour_begins(now);
                let end = self.hour_ends(now);
                [self.hour_begins(begin - 1), begin, end, self.hour_ends(end)]
            }
            Period::Day | Period::Week | Period::Month => self.days(now),
        };
        Edges(edges.map(|edge| u64::try_from(edge).unwrap_or(0) * MICROS))
    }

    /// The last instant up to `now` at which the local clock showed a full hour or jumped into
    /// another one.
    fn hour_begins(&self, mut now: i64) -> i64 {
        loop {
            let begin = now - self.local(now).rem_euclid(HOUR);
            match self.shift_until(now) {
                // The clock was put forward or back within the hour that it shows, which began
                // before that.
                Some(shift) if shift > begin && !self.jumps_into_an_hour(shift) => now = shift - 1,
                Some(shift) if shift > begin => return shift,
                _ => return begin,
            }
        }
    }

    /// The first instant after `now` at which the local clock shows a full hour or jumps into
    /// another one.
    fn hour_ends(&self, mut now: i64) -> i64 {
        loop {
            let end = now - self.local(now).rem_euclid(HOUR) + HOUR;
            match self.shift_after(now) {
                Some(shift) if shift <= end && !self.jumps_into_an_hour(shift) => now = shift,
                Some(shift) if shift <= end => return shift,
                _ => return end,
            }
        }
    }

    /// Whether an hour begins where the clock is put forward or back.
    fn jumps_into_an_hour(&self, shift: i64) -> bool {
        let after = self.local(shift);
        let before = self.local(shift - 1);
        after.rem_euclid(HOUR) == 0 || after.div_euclid(HOUR) != before.div_euclid(HOUR)
    }

    /// Edges of periods of whole days.
    fn days(&self, now: i64) -> [i64; 4] {
        let today = self.zone.to_datetime(timestamp(now)).date();
        let first = match self.period {
            Period::Month => today.first_of_month(),
            Period::Week => {
                today.saturating_sub(i32::from(today.weekday().to_monday_zero_offset()).days())
            }
            Period::Day | Period::Hour => today,
        };
        // Where midnight is repeated, the local clock can show the day before the one that has
        // begun; and a date can be skipped.
        let mut begins: Vec<i64> = (-3..=4)
            .map(|n| {
                self.day_begins(match self.period {
                    Period::Month => first.saturating_add(n.months()),
                    Period::Week => first.saturating_add((7 * n).days()),
                    Period::Day | Period::Hour => first.saturating_add(n.days()),
                })
            })
            .collect();
        begins.dedup();
        let next = begins
            .partition_point(|begin| *begin <= now)
            .clamp(2, begins.len() - 2);
        [
            begins[next - 2],
            begins[next - 1],
            begins[next],
            begins[next + 1],
        ]
    }

    /// The first instant at which the local clock shows midnight of this date, or has jumped past
    /// it.
    fn day_begins(&self, date: Date) -> i64 {
        let midnight = self
            .zone
            .to_ambiguous_timestamp(date.to_datetime(Time::midnight()));
        let is_skipped = matches!(midnight.offset(), AmbiguousOffset::Gap { .. });
        // The first one of a repeated midnight; for a skipped one, an instant shortly after the
        // jump.
        let at = midnight.compatible().map_or(LAST, Timestamp::as_second);
        if is_skipped {
            self.shift_until(at).unwrap_or(at)
        } else {
            at
        }
    }

    /// The local clock's reading, in seconds since midnight of 1 January 1970.
    fn local(&self, at: i64) -> i64 {
        at + i64::from(self.zone.to_offset(timestamp(at)).seconds())
    }

    /// The last instant up to and including `at` at which the clock was put forward or back.
    fn shift_until(&self, at: i64) -> Option<i64> {
        let shift = self.zone.preceding(timestamp(at + 1)).next()?;
        Some(shift.timestamp().as_second())
    }

    /// The next instant at which the clock is put forward or back.
    fn shift_after(&self, at: i64) -> Option<i64> {
        let shift = self.zone.following(timestamp(at)).next()?;
        Some(shift.timestamp().as_second())
    }
}

/// `at` is within some months of the years 1970 to 9999, and `jiff` counts from -9999 to 9999.
fn timestamp(at: i64) -> Timestamp {
    Timestamp::from_second(at).unwrap_or(Timestamp::MAX)
}

/// Four edges b0 ≤ b1 < b2 < b3 of successive windows, in microseconds since the epoch. Window i is
/// from bi until b(i+1), exclusively.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Edges([u64; 4]);

impl Edges {
    /// Edges from these numbers; `None` if they do not ascend.
    pub fn new(edges: [u64; 4]) -> Option<Self> {
        edges.is_sorted_by(|a, b| a < b).then_some(Self(edges))
    }

    /// The edges.
    pub const fn get(self) -> [u64; 4] {
        self.0
    }

    /// The beginning and end of the window that `now_us` lies in, if it is one of these.
    pub fn window_at(self, now_us: u64) -> Option<(u64, u64)> {
        let windows = self.0.windows(2).map(|edge| (edge[0], edge[1]));
        windows
            .into_iter()
            .find(|(begin, end)| (*begin..*end).contains(&now_us))
    }

    /// Whether `now_us` lies in the middle window: then [`Calendar::edges`] would return the same
    /// again.
    pub const fn are_current(self, now_us: u64) -> bool {
        self.0[1] <= now_us && now_us < self.0[2]
    }
}

#[cfg(test)]
mod tests;
