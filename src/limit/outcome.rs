//! The answer of a limit to a request.

/// The answer of one limit to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the cost fits.
    pub allowed: bool,
    /// What is left: after the charge if it fits, as it stands if not.
    pub remaining: u64,
    /// Microseconds. Denied: until the same cost fits, when nobody else comes: not before, and exactly then (a cost
    /// above the limit never fits; one window is reported). Allowed: until more than `remaining` is left, 0 if nothing is used.
    pub wait_us: u64,
}

/// The result of a step: what to store if the request is admitted, until when, and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<S> {
    /// The new state. Equal in meaning to the old one when the cost does not fit.
    pub state: S,
    /// From when on (microseconds since the epoch) the state means the same as none.
    pub expires_us: u64,
    /// The answer.
    pub outcome: Outcome,
}

impl<S> Step<S> {
    /// The same step with another type of state.
    pub(super) fn map<T>(self, wrap: impl FnOnce(S) -> T) -> Step<T> {
        Step {
            state: wrap(self.state),
            expires_us: self.expires_us,
            outcome: self.outcome,
        }
    }
}
