//! Rules by number, and maps to them.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

/// Rules by their position in the file.
pub(super) type RuleIds = Vec<u32>;

/// A map whose keys can be looked up without owning them.
pub(super) type Map<K, V> = HashMap<Box<K>, V, RandomState>;

/// Rules that may match a request, by their numbers. For most requests they are few.
pub(in crate::rules) type Candidates = SmallVec<[u32; 16]>;
