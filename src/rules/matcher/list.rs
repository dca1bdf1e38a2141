//! Lists in words.

use std::fmt;

/// Writes `a, b or c`; of a long list only the first items.
pub(super) fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    named: usize,
) -> fmt::Result {
    let shown = items.len().min(named);
    for (index, item) in items[..shown].iter().enumerate() {
        match index {
            0 => {}
            _ if index + 1 == items.len() => f.write_str(" or ")?,
            _ => f.write_str(", ")?,
        }
        write!(f, "{item}")?;
    }
    match items.len() - shown {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}
