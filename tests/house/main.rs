//! The repository itself: the floors of `src`, and documents that say what is so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod docs;
mod layers;
