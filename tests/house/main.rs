//! The repository itself: the layers of `src`, and documents that match the code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod docs;
mod layers;
