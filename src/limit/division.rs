//! Exact `a * b / c`, without overflow.

/// `a * b / c`, rounded down; exact within the bounds of [`limit`](super).
pub(super) fn mul_div_floor(a: u64, b: u64, c: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b) / u128::from(c);
    u64::try_from(wide).unwrap_or(u64::MAX)
}

/// `a * b / c`, rounded up; exact within the bounds of [`limit`](super).
pub(super) fn mul_div_ceil(a: u64, b: u64, c: u64) -> u64 {
    let wide = (u128::from(a) * u128::from(b)).div_ceil(u128::from(c));
    u64::try_from(wide).unwrap_or(u64::MAX)
}
