//! Charges of a request that is not decided yet.

use std::{fmt, future::Future, pin::Pin};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// Gives one charge back.
pub type GivingBack = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Charges that were made for a request that is not decided yet. They are given back when this is
/// dropped, unless they are kept.
#[derive(Default)]
#[must_use = "what is dropped is given back"]
pub struct Unsettled(Vec<GivingBack>);

impl Unsettled {
    /// Charges that were made, each with what gives it back.
    pub fn new(charges: impl Iterator<Item = GivingBack>) -> Self {
        Self(charges.collect())
    }

    /// Keeps the charges: the request is admitted.
    pub fn keep(mut self) {
        self.0.clear();
    }

    /// Gives the charges back, and waits for that until `deadline`.
    pub async fn give_back(mut self, deadline: Instant) {
        for giving in self.begin() {
            let _ = timeout_at(deadline, giving).await;
        }
    }

    /// Begins to give back, in tasks of their own: whoever waits for the answer may be gone.
    fn begin(&mut self) -> Vec<JoinHandle<()>> {
        let charges = std::mem::take(&mut self.0);
        let Ok(runtime) = Handle::try_current() else {
            return Vec::new(); // It is shutting down.
        };
        let charges = charges.into_iter();
        charges.map(|charge| runtime.spawn(charge)).collect()
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.begin();
    }
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsettled({} charges)", self.0.len())
    }
}
