//! Which requests a rule applies to. Everything is in normal form before it is compared.
//!
//! One walk over the conditions ([`Matcher::check`]) answers both whether a request matches and why
//! it does not: a [`Mismatch`] only borrows, and costs nothing until it is written out.

mod conditions;
mod cover;
mod host;
mod list;
mod mismatch;
mod network;
mod params;
mod path;
mod pattern;
mod template;
mod value;

pub use self::{
    conditions::{Conditions, Matcher, Purpose},
    host::HostPattern,
    mismatch::{Mismatch, Named},
    network::{NetworkList, Networks},
    params::{MAX_PARAMS, Params},
    path::PathPattern,
    pattern::{Pattern, PatternSet, SetLimits},
    template::{Segment, Template},
    value::{Exact, HeaderTest, QueryTest, ValueTest},
};

#[cfg(test)]
mod tests;
