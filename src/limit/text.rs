//! Numbers in stored texts.

/// Parses exactly `N` numbers, separated by single spaces.
pub(super) fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut found = [0; N];
    let mut words = text.split(' ');
    for place in &mut found {
        *place = number(words.next()?)?;
    }
    words.next().is_none().then_some(found)
}

/// The largest number that tollgate writes. Above it the doubles of Redis' Lua are not exact.
const MAX_NUMBER: u64 = 1 << 53;

/// Parses digits and nothing else: `parse` alone would accept a `+` too.
pub(super) fn number(word: &str) -> Option<u64> {
    word.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| word.parse().ok())?
        .filter(|number| *number <= MAX_NUMBER)
}
