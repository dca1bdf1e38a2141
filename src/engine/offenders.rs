//! Who was denied most, by rule, in the last minutes.
//!
//! Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k
//! Elements in Data Streams", ICDT 2005): so many callers have a count. One that has none takes the
//! place of the one with the lowest count, and goes on from there; by how much it may be counted
//! too high is kept beside it. Of N denials and m places, each caller with more than N/m denials
//! has one, and no count is too high by more than N/m.
//!
//! There is one such sketch for each minute, and the oldest is begun anew. What is kept is bounded
//! for all rules together, whatever clients invent.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use serde::Serialize;
use tokio::time::Instant;

use crate::rules::{Action, Mode, RuleSet};

/// How long a sketch is counted in.
const SLICE: Duration = Duration::from_secs(60);

/// How many sketches a rule has, the one that is counted in included.
const SKETCHES: usize = 5;
const SLICES: u64 = SKETCHES as u64;

/// The callers in a sketch.
const PLACES: usize = 100;

/// The callers in all sketches together: some 5 MB at the most.
const MAX_PLACES: usize = 16_384;

/// What is kept of a caller, in bytes. Clients choose what is in it.
const LONGEST_KEY: usize = 200;

/// The callers of a rule that are shown.
const SHOWN: usize = 20;

/// Who was denied most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopOffenders {
    /// How far back it goes, in minutes.
    pub minutes: u64,
    /// Rules that denied somebody, in the order of the rule file.
    pub rules: Vec<RuleOffenders>,
}

/// Whom one rule denied most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleOffenders {
    /// The rule.
    pub rule: String,
    /// Whether it only would have denied them.
    pub shadow: bool,
    /// Its denials.
    pub denied: u64,
    /// Of those, how many were not counted by caller, because something else was done just then or
    /// there was no room.
    pub missed: u64,
    /// Who was denied most, the first most of all.
    pub callers: Vec<Offender>,
}

/// Somebody who was denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offender {
    /// The caller, as the log has it. A long one is cut off, and ends with `…`.
    pub key: String,
    /// So often at least.
    pub denied_at_least: u64,
    /// So often at most.
    pub denied_at_most: u64,
}

/// The denials of all rules.
pub(super) struct Offenders {
    shared: Arc<Shared>,
    rules: Mutex<HashMap<Arc<str>, Arc<RuleDenials>>>,
    /// The slice in which old sketches were last dropped.
    swept: AtomicU64,
}

/// What all rules have in common.
struct Shared {
    born: Instant,
    hasher: RandomState,
    /// How many callers there is room for.
    free: AtomicUsize,
}

/// The denials of one rule.
pub(super) struct RuleDenials {
    shared: Arc<Shared>,
    is_shadow: bool,
    slices: Mutex<[Slice; SKETCHES]>,
    /// Denials that were not counted by caller, and are in no slice yet.
    missed: AtomicU64,
}

/// The denials of a rule within one minute.
#[derive(Default)]
struct Slice {
    /// Which minute.
    number: u64,
    denied: u64,
    missed: u64,
    sketch: Sketch,
}

/// Callers and how often they came.
#[derive(Default)]
struct Sketch {
    /// Apart from the callers, so that one is found within a few lines of memory.
    hashes: Vec<u64>,
    counts: Vec<u64>,
    places: Vec<Place>,
    /// The most that a caller without a place can have.
    floor: u64,
}

/// A caller with a count.
struct Place {
    key: String,
    /// By how much the count can be too high.
    over: u64,
}

impl Offenders {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            shared: Arc::new(Shared {
                born: now,
                hasher: RandomState::default(),
                free: AtomicUsize::new(MAX_PLACES),
            }),
            rules: Mutex::default(),
            swept: AtomicU64::new(0),
        }
    }

    /// The denials of each rule of a set. A name has the same ones across reloads, unless what they
    /// mean has changed; those of other rules are dropped.
    pub(super) fn of_rules(&self, set: &RuleSet) -> Vec<Arc<RuleDenials>> {
        let mut rules = lock(&self.rules);
        let mut old = std::mem::take(&mut *rules);
        for rule in &set.rules {
            let is_shadow = match &rule.action {
                Action::Allow => false,
                Action::Deny(mode) => *mode == Mode::Shadow,
                Action::Limit(action) => action.mode == Mode::Shadow,
            };
            let known = old.remove(&rule.name);
            let known = known.filter(|known| known.is_shadow == is_shadow);
            let new = || RuleDenials::new(Arc::clone(&self.shared), is_shadow);
            let denials = known.unwrap_or_else(|| Arc::new(new()));
            rules.insert(Arc::clone(&rule.name), denials);
        }
        let of_rules = set.rules.iter().map(|rule| &rules[&rule.name]);
        of_rules.map(Arc::clone).collect()
    }

    /// Drops what is too old, also of rules that deny nobody any more. Does nothing but once a
    /// minute.
    pub(super) fn sweep(&self, now: Instant) {
        let number = self.shared.slice_at(now);
        if self.swept.swap(number, Relaxed) != number {
            for rule in lock(&self.rules).values() {
                rule.sweep(number);
            }
        }
    }
}

impl TopOffenders {
    /// Those of rules, by their names.
    pub(super) fn of<'a>(
        rules: impl Iterator<Item = (&'a str, &'a RuleDenials)>,
        now: Instant,
    ) -> Self {
        let rules = rules.map(|(name, denials)| denials.top(name, now));
        Self {
            minutes: SLICES * SLICE.as_secs() / 60,
            rules: rules.filter(|rule| rule.denied > 0).collect(),
        }
    }
}

impl Shared {
    fn slice_at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() / SLICE.as_secs()
    }

    /// Takes room for a caller, if there is some.
    fn take(&self) -> bool {
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Relaxed, Relaxed, less).is_ok()
    }
}

impl RuleDenials {
    fn new(shared: Arc<Shared>, is_shadow: bool) -> Self {
        Self {
            shared,
            is_shadow,
            slices: Mutex::default(),
            missed: AtomicU64::new(0),
        }
    }

    /// Counts a denial. Waits for nobody: if somebody else counts just then, the caller is missed.
    pub(super) fn denied(&self, key: &str, now: Instant) {
        let mut slices = match self.slices.try_lock() {
            Ok(slices) => slices,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.missed.fetch_add(1, Relaxed);
                return;
            }
        };
        let number = self.shared.slice_at(now);
        let slice = self.current(&mut *slices, number);
        let hash = self.shared.hasher.hash_one(key);
        slice.denied += 1;
        if !slice.sketch.count(key, hash, || self.shared.take()) {
            slice.missed += 1;
        }
    }

    /// The slice of a minute, begun anew if it has another one's denials.
    fn current<'a>(&self, slices: &'a mut [Slice], number: u64) -> &'a mut Slice {
        let place = usize::try_from(number % SLICES).unwrap_or(0);
        let slice = &mut slices[place];
        // An earlier minute comes back if a check took long.
        if slice.number < number {
            self.empty(slice);
            slice.number = number;
        }
        let missed = self.missed.swap(0, Relaxed);
        slice.missed += missed;
        slice.denied += missed;
        slice
    }

    /// Gives its room back.
    fn empty(&self, slice: &mut Slice) {
        self.shared
            .free
            .fetch_add(slice.sketch.places.len(), Relaxed);
        *slice = Slice::default();
    }

    fn sweep(&self, number: u64) {
        for slice in &mut *lock(&self.slices) {
            if slice.number + SLICES <= number {
                self.empty(slice);
            }
        }
    }

    fn top(&self, rule: &str, now: Instant) -> RuleOffenders {
        let number = self.shared.slice_at(now);
        let mut slices = lock(&self.slices);
        self.current(&mut *slices, number);
        let recent = || {
            let slices = slices.iter();
            slices.filter(|slice| slice.number + SLICES > number && slice.denied > 0)
        };
        let sum = |of: fn(&Slice) -> u64| recent().map(of).sum::<u64>();
        let (denied, missed) = (sum(|slice| slice.denied), sum(|slice| slice.missed));
        let floors = sum(|slice| slice.sketch.floor);
        // By caller: at least so often, and by how much more at most than one without a place.
        let mut callers: HashMap<(u64, &str), (u64, u64)> = HashMap::new();
        for Slice { sketch, .. } in recent() {
            let counts = sketch.hashes.iter().zip(&sketch.counts);
            for ((hash, count), place) in counts.zip(&sketch.places) {
                let (least, more) = callers.entry((*hash, &place.key)).or_default();
                *least += count - place.over;
                // What is counted is never less than the floor.
                *more += count.saturating_sub(sketch.floor);
            }
        }
        let callers = callers.into_iter();
        let mut callers: Vec<Offender> = callers
            .map(|((_, key), (least, more))| Offender {
                key: key.to_owned(),
                denied_at_least: least,
                denied_at_most: floors + more + missed,
            })
            .collect();
        callers.sort_unstable_by(|a, b| {
            let order = |offender: &Offender| (offender.denied_at_least, offender.denied_at_most);
            order(b).cmp(&order(a)).then_with(|| a.key.cmp(&b.key))
        });
        callers.truncate(SHOWN);
        RuleOffenders {
            rule: rule.to_owned(),
            shadow: self.is_shadow,
            denied,
            missed,
            callers,
        }
    }
}

impl Drop for RuleDenials {
    fn drop(&mut self) {
        let slices = self.slices.get_mut();
        let slices = slices.unwrap_or_else(PoisonError::into_inner);
        let places: usize = slices.iter().map(|slice| slice.sketch.places.len()).sum();
        self.shared.free.fetch_add(places, Relaxed);
    }
}

impl Sketch {
    /// Counts a caller; false if it has no place and gets none. `take` takes room for one more.
    fn count(&mut self, key: &str, hash: u64, take: impl FnOnce() -> bool) -> bool {
        let known = self.hashes.iter().position(|known| *known == hash);
        if let Some(at) = known {
            self.counts[at] += 1;
            return true;
        }
        if self.places.len() < PLACES && take() {
            let mut place = Place {
                key: String::new(),
                over: self.floor,
            };
            place.is_of(key);
            self.hashes.push(hash);
            self.counts.push(self.floor + 1);
            self.places.push(place);
            return true;
        }
        let lowest = self
            .counts
            .iter()
            .enumerate()
            .min_by_key(|(_, count)| **count);
        let Some((at, &count)) = lowest else {
            return false;
        };
        self.floor = count;
        self.hashes[at] = hash;
        self.counts[at] = count + 1;
        self.places[at].over = count;
        self.places[at].is_of(key);
        true
    }
}

impl Place {
    /// Makes it another caller's, in the same memory.
    fn is_of(&mut self, key: &str) {
        self.key.clear();
        if key.len() <= LONGEST_KEY {
            self.key.push_str(key);
        } else {
            let mut ends = (0..=LONGEST_KEY - '…'.len_utf8()).rev();
            let end = ends.find(|end| key.is_char_boundary(*end)).unwrap_or(0);
            self.key.push_str(&key[..end]);
            self.key.push('…');
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(room: usize, now: Instant) -> RuleDenials {
        let offenders = Offenders::new(now);
        offenders.shared.free.store(room, Relaxed);
        RuleDenials::new(Arc::clone(&offenders.shared), false)
    }

    proptest! {
        /// The promise of Space-Saving, of whatever comes: few callers or many, alike or not.
        #[test]
        fn counts_are_within_the_bound_and_nobody_frequent_is_missing(
            places in 1..=PLACES,
            callers in prop::collection::vec((0..300_u32, 1..40_usize), 1..200),
            mixed in any::<bool>(),
        ) {
            let mut stream: Vec<u32> = callers
                .iter()
                .flat_map(|(caller, times)| std::iter::repeat_n(*caller, *times))
                .collect();
            if mixed {
                let half = stream.len() / 2;
                let (a, b) = stream.split_at(half);
                stream = b.iter().zip(a).flat_map(|(a, b)| [*a, *b]).collect();
            }
            let mut sketch = Sketch::default();
            let mut truth: HashMap<u32, u64> = HashMap::new();
            for caller in &stream {
                let has_room = sketch.places.len() < places;
                prop_assert!(sketch.count(&caller.to_string(), u64::from(*caller), || has_room));
                *truth.entry(*caller).or_default() += 1;
            }
            let bound = u64::try_from(stream.len() / places).unwrap();
            prop_assert!(sketch.places.len() <= places);
            prop_assert!(sketch.floor <= bound);
            for (caller, times) in truth {
                let hash = u64::from(caller);
                match sketch.hashes.iter().position(|known| *known == hash) {
                    Some(at) => {
                        let (count, over) = (sketch.counts[at], sketch.places[at].over);
                        prop_assert_eq!(&sketch.places[at].key, &caller.to_string());
                        prop_assert!(times <= count && count <= times + bound);
                        prop_assert!(count - over <= times && over <= bound);
                    }
                    None => prop_assert!(times <= sketch.floor),
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn old_minutes_are_forgotten() {
        let begin = Instant::now();
        let rule = rule(MAX_PLACES, begin);
        let at = |seconds| begin + Duration::from_secs(seconds);
        for (key, seconds) in [("a", 0), ("a", 59), ("b", 60), ("a", 250), ("b", 299)] {
            rule.denied(key, at(seconds));
        }
        let seen = |seconds| {
            let top = rule.top("r", at(seconds));
            let callers = top.callers.into_iter();
            let counts = callers.map(|caller| {
                assert_eq!(caller.denied_at_least, caller.denied_at_most);
                (caller.key, caller.denied_at_least)
            });
            counts.collect::<Vec<_>>()
        };
        let named = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        assert_eq!(seen(299), named(3, 2));
        let mut after = named(1, 2);
        after.reverse();
        assert_eq!(seen(300), after);
        assert_eq!(seen(360), named(1, 1));
        assert_eq!(seen(540), []);
        rule.sweep(9);
        assert_eq!(rule.shared.free.load(Relaxed), MAX_PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn all_rules_together_have_so_much_room() {
        let now = Instant::now();
        let first = rule(3, now);
        let second = RuleDenials::new(Arc::clone(&first.shared), true);
        for key in ["a", "b", "c", "d", "d"] {
            first.denied(key, now);
        }
        second.denied("e", now);
        let top = first.top("first", now);
        assert_eq!((top.denied, top.missed, top.callers.len()), (5, 0, 3));
        let of_d = top.callers.iter().find(|caller| caller.key == "d").unwrap();
        assert_eq!((of_d.denied_at_least, of_d.denied_at_most), (2, 3));
        let top = second.top("second", now);
        assert_eq!((top.denied, top.missed, top.callers.len()), (1, 1, 0));
        assert!(top.shadow);
        drop(first);
        second.denied("e", now);
        let top = second.top("second", now);
        assert_eq!(top.callers[0].denied_at_least, 1);
        // It may have been the one that was missed.
        assert_eq!(top.callers[0].denied_at_most, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missed_is_said() {
        let now = Instant::now();
        let rule = rule(MAX_PLACES, now);
        rule.denied("a", now);
        let held = lock(&rule.slices);
        rule.denied("a", now);
        drop(held);
        let top = rule.top("r", now);
        assert_eq!((top.denied, top.missed), (2, 1));
        let of_a = &top.callers[0];
        assert_eq!((of_a.denied_at_least, of_a.denied_at_most), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_caller_costs_no_allocation() {
        let now = Instant::now();
        let rule = rule(MAX_PLACES, now);
        rule.denied("client_ip=203.0.113.7", now);
        let again = allocation_counter::measure(|| rule.denied("client_ip=203.0.113.7", now));
        assert_eq!(again.count_total, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn threads_that_meet_lose_no_denial() {
        let now = Instant::now();
        let rule = rule(MAX_PLACES, now);
        std::thread::scope(|scope| {
            for key in ["a", "b", "c", "d"] {
                let rule = &rule;
                scope.spawn(move || (0..5_000).for_each(|_| rule.denied(key, now)));
            }
        });
        let top = rule.top("r", now);
        assert_eq!(top.denied, 20_000);
        let counted: u64 = top
            .callers
            .iter()
            .map(|caller| caller.denied_at_least)
            .sum();
        assert_eq!(counted + top.missed, 20_000);
        for caller in top.callers {
            assert!((caller.denied_at_least..=caller.denied_at_most).contains(&5_000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_callers_are_cut_off_but_told_apart() {
        let now = Instant::now();
        let rule = rule(MAX_PLACES, now);
        let long = "é".repeat(40_000);
        rule.denied(&format!("{long}1"), now);
        rule.denied(&format!("{long}2"), now);
        let top = rule.top("r", now);
        assert_eq!(top.callers.len(), 2);
        assert!(
            top.callers
                .iter()
                .all(|caller| caller.key.len() <= LONGEST_KEY)
        );
        assert!(top.callers[0].key.ends_with("é…"));
    }
}
