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

/// The same, of which the first may be below zero.
pub(super) fn signed_numbers<const N: usize>(text: &str) -> Option<(i64, [u64; N])> {
    let (first, rest) = text.split_once(' ')?;
    Some((signed(first)?, numbers(rest)?))
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

/// Parses a number that may be below zero.
pub(super) fn signed(word: &str) -> Option<i64> {
    let number = |digits| number(digits).map(u64::cast_signed);
    match word.strip_prefix('-') {
        Some(digits) => number(digits).map(|number| -number),
        None => number(word),
    }
}
