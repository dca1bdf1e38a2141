use jiff::Timestamp;
use proptest::prelude::*;

use super::{Calendar, Edges, Period};

fn micros(time: &str) -> u64 {
    let time: Timestamp = time.parse().unwrap();
    u64::try_from(time.as_microsecond()).unwrap()
}

/// The beginnings of this window and of the next, as the local clock shows them, and the minutes
/// between.
fn window(period: Period, zone: &str, now: &str) -> (String, String, u64) {
    let calendar = Calendar::new(period, zone).unwrap();
    let [_, begin, end, _] = calendar.edges(micros(now)).get();
    let show = |at: u64| {
        let at = Timestamp::from_microsecond(i64::try_from(at).unwrap()).unwrap();
        at.to_zoned(calendar.zone.clone())
            .strftime("%F %H:%M")
            .to_string()
    };
    (show(begin), show(end), (end - begin) / 60_000_000)
}

#[track_caller]
fn check(period: Period, zone: &str, now: &str, begin: &str, end: &str, minutes: u64) {
    assert_eq!(
        window(period, zone, now),
        (begin.to_owned(), end.to_owned(), minutes),
        "{period} of {now} in {zone}"
    );
}

#[test]
fn ordinary_windows() {
    use Period::{Day, Hour, Month, Week};
    let now = "2026-02-17T12:34:56Z";
    let paris = "Europe/Paris";
    check(Hour, paris, now, "2026-02-17 13:00", "2026-02-17 14:00", 60);
    check(
        Day,
        paris,
        now,
        "2026-02-17 00:00",
        "2026-02-18 00:00",
        1_440,
    );
    check(
        Week,
        paris,
        now,
        "2026-02-16 00:00",
        "2026-02-23 00:00",
        10_080,
    );
    check(
        Month,
        paris,
        now,
        "2026-02-01 00:00",
        "2026-03-01 00:00",
        28 * 1_440,
    );
    check(
        Hour,
        "Asia/Kathmandu",
        now,
        "2026-02-17 18:00",
        "2026-02-17 19:00",
        60,
    );
}

#[test]
fn weeks_and_months_pass_over_the_end_of_a_year() {
    check(
        Period::Week,
        "UTC",
        "2027-01-01T00:00:00Z",
        "2026-12-28 00:00",
        "2027-01-04 00:00",
        10_080,
    );
    check(
        Period::Month,
        "UTC",
        "2026-12-31T23:59:59.999999Z",
        "2026-12-01 00:00",
        "2027-01-01 00:00",
        31 * 1_440,
    );
    check(
        Period::Month,
        "Pacific/Auckland",
        "2024-02-29T10:59:59Z",
        "2024-02-01 00:00",
        "2024-03-01 00:00",
        29 * 1_440,
    );
}

#[test]
fn days_of_23_and_of_25_hours() {
    let paris = "Europe/Paris";
    check(
        Period::Day,
        paris,
        "2026-03-29T12:00:00Z",
        "2026-03-29 00:00",
        "2026-03-30 00:00",
        23 * 60,
    );
    check(
        Period::Day,
        paris,
        "2026-10-25T12:00:00Z",
        "2026-10-25 00:00",
        "2026-10-26 00:00",
        25 * 60,
    );
    check(
        Period::Week,
        paris,
        "2026-10-25T12:00:00Z",
        "2026-10-19 00:00",
        "2026-10-26 00:00",
        (7 * 24 + 1) * 60,
    );
    check(
        Period::Month,
        paris,
        "2026-03-29T12:00:00Z",
        "2026-03-01 00:00",
        "2026-04-01 00:00",
        (31 * 24 - 1) * 60,
    );
}

#[test]
fn a_skipped_hour_has_no_window_and_a_repeated_hour_has_two() {
    let paris = "Europe/Paris";
    check(
        Period::Hour,
        paris,
        "2026-03-29T00:30:00Z",
        "2026-03-29 01:00",
        "2026-03-29 03:00",
        60,
    );
    check(
        Period::Hour,
        paris,
        "2026-03-29T01:00:00Z",
        "2026-03-29 03:00",
        "2026-03-29 04:00",
        60,
    );
    check(
        Period::Hour,
        paris,
        "2026-10-25T00:59:59Z",
        "2026-10-25 02:00",
        "2026-10-25 02:00",
        60,
    );
    check(
        Period::Hour,
        paris,
        "2026-10-25T01:00:00Z",
        "2026-10-25 02:00",
        "2026-10-25 03:00",
        60,
    );
}

#[test]
fn a_shift_of_half_an_hour_makes_an_hour_of_90_minutes_and_one_of_30() {
    let island = "Australia/Lord_Howe";
    // Back from 02:00 to 01:30, at 15:00 UTC.
    for now in [
        "2026-04-04T14:00:00Z",
        "2026-04-04T14:59:59Z",
        "2026-04-04T15:00:00Z",
        "2026-04-04T15:29:59Z",
    ] {
        check(
            Period::Hour,
            island,
            now,
            "2026-04-05 01:00",
            "2026-04-05 02:00",
            90,
        );
    }
    // Forward from 02:00 to 02:30, at 15:30 UTC.
    check(
        Period::Hour,
        island,
        "2026-10-03T15:30:00Z",
        "2026-10-04 02:30",
        "2026-10-04 03:00",
        30,
    );
    check(
        Period::Day,
        island,
        "2026-10-03T15:30:00Z",
        "2026-10-04 00:00",
        "2026-10-05 00:00",
        23 * 60 + 30,
    );
}

#[test]
fn a_day_whose_midnight_is_skipped_begins_where_the_clock_jumps() {
    check(
        Period::Day,
        "America/Sao_Paulo",
        "2018-11-04T12:00:00Z",
        "2018-11-04 01:00",
        "2018-11-05 00:00",
        23 * 60,
    );
    check(
        Period::Day,
        "Africa/Cairo",
        "2024-04-26T12:00:00Z",
        "2024-04-26 01:00",
        "2024-04-27 00:00",
        23 * 60,
    );
    // From 23:30 to midnight: the day before is shorter.
    check(
        Period::Day,
        "Asia/Pyongyang",
        "2018-05-04T12:00:00Z",
        "2018-05-04 00:00",
        "2018-05-05 00:00",
        23 * 60 + 30,
    );
}

#[test]
fn a_repeated_midnight_begins_the_window_at_the_first() {
    // Back from 00:01 to 23:01 of the day before: the hour before midnight, a second time, belongs
    // to the day that has begun.
    for now in [
        "2006-10-29T02:30:30Z",
        "2006-10-29T02:59:00Z",
        "2006-10-29T20:00:00Z",
    ] {
        check(
            Period::Day,
            "America/St_Johns",
            now,
            "2006-10-29 00:00",
            "2006-10-30 00:00",
            25 * 60,
        );
    }
    // Back from 24:00 to 23:00: the same date goes on.
    check(
        Period::Day,
        "America/Sao_Paulo",
        "2018-02-18T02:30:00Z",
        "2018-02-17 00:00",
        "2018-02-18 00:00",
        25 * 60,
    );
}

#[test]
fn a_skipped_date_has_no_window() {
    let samoa = "Pacific/Apia";
    check(
        Period::Day,
        samoa,
        "2011-12-30T09:59:59Z",
        "2011-12-29 00:00",
        "2011-12-31 00:00",
        24 * 60,
    );
    check(
        Period::Day,
        samoa,
        "2011-12-30T10:00:00Z",
        "2011-12-31 00:00",
        "2012-01-01 00:00",
        24 * 60,
    );
    check(
        Period::Hour,
        samoa,
        "2011-12-30T09:59:59Z",
        "2011-12-29 23:00",
        "2011-12-31 00:00",
        60,
    );
}

#[test]
fn the_ends_of_time_do_not_panic() {
    for period in Period::ALL {
        for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"] {
            let calendar = Calendar::new(period, zone).unwrap();
            let first = calendar.edges(0);
            assert!(first.are_current(0) && first.get()[0] == 0, "{first:?}");
            let [a, b, c, d] = calendar.edges(u64::MAX).get();
            assert!(a < b && b < c && c < d, "{period} in {zone}");
        }
    }
}

#[test]
fn an_unknown_time_zone_is_named_and_a_known_one_spelt_as_the_database_does() {
    for name in [
        "Europe/Pariss",
        "",
        "local",
        "+01:00",
        "../../etc/passwd",
        "CET-1",
    ] {
        let error = Calendar::new(Period::Day, name).unwrap_err();
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    let paris = Calendar::new(Period::Day, "europe/paris").unwrap();
    assert_eq!(paris.timezone(), "Europe/Paris");
    assert_eq!(paris, Calendar::new(Period::Day, "Europe/Paris").unwrap());
    assert_eq!(Calendar::new(Period::Day, "UTC").unwrap().timezone(), "UTC");
}

#[test]
fn edges_that_do_not_ascend_cannot_be_built() {
    assert!(Edges::new([1, 2, 3, 4]).is_some());
    for edges in [[1, 1, 3, 4], [1, 2, 2, 4], [4, 3, 2, 1]] {
        assert_eq!(Edges::new(edges), None);
    }
}

fn calendar() -> impl Strategy<Value = Calendar> {
    let zones: Vec<String> = jiff::tz::TimeZoneDatabase::bundled()
        .available()
        .map(|name| name.to_string())
        .collect();
    assert!(zones.len() > 400, "{}", zones.len());
    (
        prop::sample::select(Period::ALL.to_vec()),
        prop::sample::select(zones),
    )
        .prop_map(|(period, zone)| Calendar::new(period, &zone).unwrap())
}

/// Some time from 1970 to 2100; or a time around a shift of the zone's clock.
fn moment(calendar: &Calendar, at: u64, beside: i64) -> u64 {
    let at = at.max(100 * 86_400 * 1_000_000);
    if beside % 2 == 0 {
        return at;
    }
    let from = Timestamp::from_microsecond(i64::try_from(at).unwrap()).unwrap();
    calendar.zone.following(from).next().map_or(at, |shift| {
        u64::try_from(shift.timestamp().as_microsecond() + beside).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn windows_contain_now_are_stable_and_meet(
        calendar in calendar(),
        at in 0..4_102_444_800_000_000_u64,
        beside in prop_oneof![-10_i64..10, -7_200_000_000_i64..7_200_000_000],
        share in 0..1_000_u64,
    ) {
        let now = moment(&calendar, at, beside);
        let edges = calendar.edges(now);
        let [a, b, c, d] = edges.get();
        prop_assert!(a < b && b <= now && now < c && c < d, "{edges:?} at {now}");
        prop_assert_eq!(Edges::new([a, b, c, d]), Some(edges));
        // The same for every instant of the window.
        for other in [b, c - 1, b + (c - b) / 1_000 * share] {
            prop_assert_eq!(calendar.edges(other), edges, "at {} and {}", now, other);
        }
        // Neighbours meet, and agree about each other.
        let [_, before, until, _] = calendar.edges(b - 1).get();
        prop_assert_eq!((before, until), (a, b));
        let [_, from, to, _] = calendar.edges(c).get();
        prop_assert_eq!((from, to), (c, d));
        // No window is longer than its period and a shift, nor empty.
        prop_assert!(c - b <= calendar.period().usual_us() + 25 * 3_600_000_000);
        prop_assert!(c - b >= 60_000_000, "{} us", c - b);
    }
}
