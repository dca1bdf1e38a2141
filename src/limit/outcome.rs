//! The answer of a limit to a request.

/// The answer of one limit to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the cost fits.
    pub allowed: bool,
    /// What is left: after the charge if the cost fits, else as it is.
    pub remaining: u64,
    /// Microseconds. If denied: until the same cost fits, when no other request comes; not before
    /// and exactly then (a cost above the limit never fits, and one window is reported). If
    /// allowed: until more than `remaining` is left, 0 if nothing is used; or if a
    /// [grant](super::Limit::grant) is why no more can be left, until it ends.
    pub wait_us: u64,
}

/// The result of a step: the next state, when it expires, and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<S> {
    /// The state to store if the request is admitted. Equal in meaning to the old one if the cost
    /// does not fit.
    pub state: S,
    /// When (microseconds since the Unix epoch) the state begins to mean the same as none.
    pub expires_us: u64,
    /// The answer.
    pub outcome: Outcome,
}

/// What is left of a limit. Less than nothing is used of one of which more was granted.
pub(super) fn left(holds: u64, used: i64) -> u64 {
    u64::try_from(holds.cast_signed() - used).unwrap_or(0)
}

impl<S> Step<S> {
    /// The same step with the state wrapped.
    pub(super) fn map<T>(self, wrap: impl FnOnce(S) -> T) -> Step<T> {
        Step {
            state: wrap(self.state),
            expires_us: self.expires_us,
            outcome: self.outcome,
        }
    }
}
