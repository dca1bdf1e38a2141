//! Parts of a whole.

/// A part of a whole, between 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
