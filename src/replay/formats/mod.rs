//! The formats of logs: from a line to a request.

mod clf;
mod envoy;
mod json;
mod parts;
mod quoted;
#[cfg(test)]
mod tests;

use super::{
    record::Record,
    unread::Why,
    wanted::{Holds, Wanted},
};
use crate::words::words;

words! {
    /// A format of access logs.
    pub enum Format default Auto {
        /// By the beginning of each line.
        Auto => "auto",
        /// `combined` or `common` of nginx and Apache, also with more behind it, and the format of
        /// the shipped nginx.conf.
        Nginx => "nginx",
        /// JSON of nginx, Envoy or Caddy.
        Json => "json",
        /// Envoy's default text, also Istio's.
        Envoy => "envoy",
    }
}

/// Reads a line into `record`.
pub(super) fn read(
    format: Format,
    line: &[u8],
    wanted: &Wanted,
    record: &mut Record,
) -> Result<(), Why> {
    record.clear();
    match (format, line.first()) {
        (Format::Json, _) | (Format::Auto, Some(b'{')) => json::read(line, wanted, record)?,
        (Format::Envoy, _) | (Format::Auto, Some(b'[')) => envoy::read(line, wanted, record)?,
        (Format::Nginx | Format::Auto, _) => clf::read(line, wanted, record)?,
    }
    if record.target.contains('?') {
        record.holds.add(Holds::QUERY);
    }
    Ok(())
}
