//! `/offenders`: who was denied most in the last minutes.

use http::StatusCode;
use tokio::time::Instant;

use super::{access::Access, answer};
use crate::{
    engine::Engine,
    wire::{Request, Response},
};

/// Lists them by rule, for whoever may list callers.
pub(super) fn offenders(engine: &Engine, access: &Access, request: &Request) -> Response {
    if let Err(refusal) = access.check_reader(request) {
        return refusal;
    }
    let top = engine.offenders(&engine.live(), Instant::now());
    // This is plain data with text keys, so serialising it cannot fail.
    let text = serde_json::to_string(&top).unwrap_or_default();
    answer::json(StatusCode::OK, text + "\n")
}
