//! The properties of a ban, for any sequence of requests.

use proptest::prelude::*;
use tollgate::limit::ban::{Ban, InvalidBan};

const START: u64 = 1_700_000_000_000_000;

/// A ban and its requests: the pause before each, and whether the limits fit.
fn banned() -> impl Strategy<Value = (Ban, Vec<(u64, bool)>)> {
    let ban = (1_u64..6, 1_000_u64..100_000, 1_000_u64..100_000);
    ban.prop_flat_map(|(after, within, duration)| {
        let ban = Ban::new(after, within, duration).unwrap();
        let pause = prop_oneof![3 => Just(0), 3 => 0..within, 1 => 0..duration * 3];
        let requests = prop::collection::vec((pause, any::<bool>()), 1..80);
        (Just(ban), requests)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Exactly `after` denials within the window begin a ban. It denies until its end, whatever
    /// requests come, and not after that.
    #[test]
    fn a_ban_begins_and_ends_on_time((ban, requests) in banned()) {
        let mut now = START;
        let mut state = None;
        // Denials in the window, in order, and the end of the ban.
        let mut denials: Vec<u64> = Vec::new();
        let mut until = 0;
        for (pause, fits) in requests {
            now += pause;
            if denials.first().is_some_and(|first| now - first >= ban.within_us()) {
                denials.clear();
            }
            let step = ban.step(state, now, fits);
            if now < until {
                prop_assert_eq!(step.write, None, "a denial by the ban changes nothing");
                prop_assert_eq!(step.outcome.wait_us, until - now);
                prop_assert!(!step.outcome.allowed);
                prop_assert!(!ban.step(state, until - 1, true).outcome.allowed);
                prop_assert!(ban.step(state, until, true).outcome.allowed);
                continue;
            }
            if !fits {
                denials.push(now);
            }
            let begins = denials.len() as u64 == ban.after();
            prop_assert_eq!(step.outcome.allowed, !begins);
            let left = ban.after() - denials.len() as u64;
            prop_assert_eq!(step.outcome.remaining, left.max(1), "of a ban that begins, 1");
            prop_assert_eq!(step.write.is_some(), !fits);
            if begins {
                until = now + ban.for_us();
                denials.clear();
                prop_assert_eq!(step.outcome.wait_us, ban.for_us());
            }
            if let Some((next, expires)) = step.write {
                state = Some(next);
                prop_assert_eq!(ban.step(state, expires, false), ban.step(None, expires, false));
            }
        }
    }

    /// However far the clock goes back, a ban ends on time, and lasts no longer than its length.
    #[test]
    fn a_ban_ends_even_if_the_clock_goes_back((ban, _) in banned(), back in 1_u64..10_000_000_000) {
        let once = Ban::new(1, ban.within_us(), ban.for_us()).unwrap();
        let (state, _) = once.step(None, START, false).write.unwrap();
        let now = START - back;
        let step = once.step(Some(state), now, true);
        prop_assert!(!step.outcome.allowed && step.outcome.wait_us == ban.for_us());
        let state = step.write.map(|(state, _)| state);
        prop_assert!(state.is_some(), "the new end is stored");
        let end = now + step.outcome.wait_us;
        prop_assert!(!once.step(state, end - 1, true).outcome.allowed);
        prop_assert!(once.step(state, end, true).outcome.allowed);
    }
}

#[test]
fn bans_out_of_bounds_cannot_be_built() {
    let day = 86_400_000_000;
    assert_eq!(Ban::new(0, day, day), Err(InvalidBan::After));
    assert_eq!(Ban::new(1_000_001, day, day), Err(InvalidBan::After));
    assert_eq!(Ban::new(1, 999, day), Err(InvalidBan::Within));
    assert_eq!(Ban::new(1, 367 * day, day), Err(InvalidBan::Within));
    assert_eq!(Ban::new(1, day, 999), Err(InvalidBan::For));
    assert_eq!(Ban::new(1, day, 367 * day), Err(InvalidBan::For));
    assert!(Ban::new(1_000_000, 366 * day, 366 * day).is_ok());
}

#[test]
fn a_changed_ban_acts_at_once() {
    const MINUTE: u64 = 60_000_000;
    let long = Ban::new(1, MINUTE, 60 * MINUTE).unwrap();
    let (state, _) = long.step(None, START, false).write.unwrap();
    // A shortened ban ends as if it had been that short from the beginning, whenever its caller
    // comes.
    let short = Ban::new(1, MINUTE, 10 * MINUTE).unwrap();
    let step = short.step(Some(state), START + 4 * MINUTE, true);
    assert_eq!(step.outcome.wait_us, 6 * MINUTE);
    let (cut, expires) = step.write.unwrap();
    assert_eq!(expires, START + 10 * MINUTE);
    assert!(short.step(Some(cut), expires, true).outcome.allowed);
    for fits in [true, false] {
        let over = short.step(Some(state), START + 50 * MINUTE, fits);
        assert_eq!(over, short.step(None, START + 50 * MINUTE, fits));
    }
    let patient = Ban::new(10, MINUTE, MINUTE).unwrap();
    let (state, _) = patient.step(None, START, false).write.unwrap();
    let strict = Ban::new(1, MINUTE, MINUTE).unwrap();
    assert_eq!(strict.step(Some(state), START, true).outcome.remaining, 1);
    assert!(!strict.step(Some(state), START, false).outcome.allowed);
}
