//! The times in logs, in microseconds since the Unix epoch.

/// The times that are believed, in microseconds: from 1990 to 2200. Another is a broken line, which
/// would stop the clock of a rehearsal for good.
const BELIEVED_US: std::ops::Range<u64> = 631_152_000_000_000..7_258_118_400_000_000;

/// `Some` if the time can be that of a request.
fn believed(us: i128) -> Option<u64> {
    u64::try_from(us).ok().filter(|us| BELIEVED_US.contains(us))
}

/// The time of nginx and Apache, `10/Oct/2000:13:55:36 -0700`: 26 bytes.
pub(super) fn common(text: &[u8]) -> Option<u64> {
    let &[
        d1,
        d2,
        b'/',
        m1,
        m2,
        m3,
        b'/',
        y1,
        y2,
        y3,
        y4,
        b':',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        sign,
        z1,
        z2,
        z3,
        z4,
    ] = text
    else {
        return None;
    };
    let month = match &[m1, m2, m3] {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    };
    let date = (digits(&[y1, y2, y3, y4])?, month, digits(&[d1, d2])?);
    let clock = (digits(&[h1, h2])?, digits(&[n1, n2])?, digits(&[s1, s2])?);
    let offset = offset(sign, digits(&[z1, z2])?, digits(&[z3, z4])?)?;
    believed(i128::from(seconds(date, clock)? - offset) * 1_000_000)
}

/// A time of RFC 3339, and its relatives: a space for the `T`, slashes for the hyphens (Caddy's
/// `wall`), an offset without colon. Without offset it is UTC.
pub(super) fn iso(text: &[u8]) -> Option<u64> {
    let (head, mut rest) = text.split_at_checked(19)?;
    let &[
        y1,
        y2,
        y3,
        y4,
        b'-' | b'/',
        m1,
        m2,
        b'-' | b'/',
        d1,
        d2,
        b'T' | b't' | b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
    ] = head
    else {
        return None;
    };
    let date = (
        digits(&[y1, y2, y3, y4])?,
        digits(&[m1, m2])?,
        digits(&[d1, d2])?,
    );
    let clock = (digits(&[h1, h2])?, digits(&[n1, n2])?, digits(&[s1, s2])?);
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".").or(rest.strip_prefix(b",")) {
        let length = fraction
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        micros = fraction_us(&fraction[..length])?;
        rest = &fraction[length..];
    }
    let offset = match *rest {
        [] | [b'Z' | b'z'] => 0,
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => {
            offset(sign, digits(&[h1, h2])?, digits(&[m1, m2])?)?
        }
        _ => return None,
    };
    believed(i128::from(seconds(date, clock)? - offset) * 1_000_000 + i128::from(micros))
}

/// A time as text: one of the above, or a number of seconds.
pub(super) fn text(text: &[u8]) -> Option<u64> {
    match text.get(2) {
        Some(b'/') => common(text),
        _ => iso(text).or_else(|| {
            let number = std::str::from_utf8(text).ok()?.parse().ok()?;
            epoch(number)
        }),
    }
}

/// A time as a number: seconds since the Unix epoch, or thousandths, millionths or milliardths of
/// them, whichever is a time of our age.
#[expect(
    clippy::cast_possible_truncation,
    reason = "as casts of floats saturate, and `believed` refuses the ends"
)]
pub(super) fn epoch(number: f64) -> Option<u64> {
    let mut scale = 1e6;
    loop {
        if let Some(us) = believed((number * scale).round() as i128) {
            return Some(us);
        }
        scale /= 1e3;
        if scale < 1e-3 {
            return None;
        }
    }
}

/// A length of time in seconds, `0.123`, in microseconds; `None` if it is none, or above a day.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and a day"
)]
pub(super) fn span_us(seconds: f64) -> Option<u64> {
    (0.0..86_400.0)
        .contains(&seconds)
        .then(|| (seconds * 1e6).round() as u64)
}

/// A time as people read it, in UTC: `2000-10-10T20:55:36Z`.
pub(super) fn shown(us: u64) -> String {
    let seconds = us / 1_000_000;
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(0));
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        clock / 3_600,
        clock / 60 % 60,
        clock % 60
    )
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// Microseconds of the digits behind a point.
fn fraction_us(text: &[u8]) -> Option<i64> {
    let mut micros = 0;
    for place in 0..6 {
        micros = micros * 10 + digits(&[*text.get(place).unwrap_or(&b'0')])?;
    }
    (!text.is_empty()).then_some(micros)
}

fn offset(sign: u8, hours: i64, minutes: i64) -> Option<i64> {
    let seconds = hours * 3_600 + minutes * 60;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

fn seconds((year, month, day): (i64, i64, i64), (h, m, s): (i64, i64, i64)) -> Option<i64> {
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    // A leap second is the one after.
    let is_clock = h < 24 && m < 60 && s <= 60;
    (is_date && is_clock).then(|| days(year, month, day) * 86_400 + h * 3_600 + m * 60 + s)
}

/// Days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day since 1970; the reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_forms() {
        let expected = Some(971_211_336_000_000);
        assert_eq!(common(b"10/Oct/2000:13:55:36 -0700"), expected);
        for form in [
            "2000-10-10T20:55:36Z",
            "2000-10-10T13:55:36-07:00",
            "2000-10-10T13:55:36-0700",
            "2000-10-10 20:55:36",
            "2000/10/10 20:55:36.000",
            "10/Oct/2000:13:55:36 -0700",
            "971211336",
            "971211336.000",
        ] {
            assert_eq!(text(form.as_bytes()), expected, "{form}");
        }
        assert_eq!(
            iso(b"2016-04-15T20:17:00.310254Z"),
            Some(1_460_751_420_310_254)
        );
        for number in [971_211_336.0, 971_211_336e3, 971_211_336e6, 971_211_336e9] {
            assert_eq!(epoch(number), expected, "{number}");
        }
        assert_eq!(epoch(1_646_861_401.524), Some(1_646_861_401_524_000));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for form in [
            "",
            "-",
            "yesterday",
            "10/Okt/2000:13:55:36 -0700",
            "32/Oct/2000:13:55:36 -0700",
            "10/Oct/2000:24:55:36 -0700",
            "10/Oct/2000:13:55:36",
            "2000-13-10T20:55:36Z",
            "2000-10-10T20:55:36.Z",
            "2000-10-10T20:55:36 CEST",
            "1970-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "NaN",
            "inf",
            "-1e300",
        ] {
            assert_eq!(text(form.as_bytes()), None, "{form}");
        }
    }

    #[test]
    fn days_and_dates_are_each_others_reverse() {
        for day in (-200_000..200_000).step_by(13) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(shown(971_211_336_000_000), "2000-10-10T20:55:36Z");
        assert_eq!(shown(1_709_164_800_000_000), "2024-02-29T00:00:00Z");
    }
}
