//! The parts of a batch that can be decided in one call each: those with keys in one slot.

use super::slots::slot_of;
use crate::store::{Batch, ENFORCED};

/// Charges of a batch whose keys are in one slot, by their places in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) slot: u16,
    /// Whether they can deny the request. The others are shadow rules.
    pub(super) is_enforced: bool,
    /// In the order of the batch, so that a ban follows its limits. All of one rule are together:
    /// the braces in their keys hold the same.
    pub(super) places: Vec<usize>,
}

/// The parts, in the order in which all tollgates charge them: what can deny first, then by slot.
pub(super) fn parts(batch: &Batch) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::with_capacity(1);
    for (place, charge) in batch.charges().iter().enumerate() {
        let slot = slot_of(batch.key(charge));
        let is_enforced = charge.group == ENFORCED;
        let known = parts
            .iter_mut()
            .find(|part| (part.slot, part.is_enforced) == (slot, is_enforced));
        match known {
            Some(part) => part.places.push(place),
            None => parts.push(Part {
                slot,
                is_enforced,
                places: vec![place],
            }),
        }
    }
    parts.sort_by_key(|part| (!part.is_enforced, part.slot));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Limit, ban::Ban};

    #[test]
    fn a_rule_stays_whole_and_what_can_deny_comes_first() {
        let limit = Limit::new(Algorithm::FixedWindow, 5, 1_000_000, None).unwrap();
        let ban = Ban::new(1, 1_000_000, 1_000_000).unwrap();
        let mut batch = Batch::default();
        for (key, group) in [
            ("t:{shadow:a}:1", 7),
            ("t:{foo}:1", ENFORCED),
            ("t:{foo}:2", ENFORCED),
            ("t:{123456789}:1", ENFORCED),
            ("t:{bar}:1", ENFORCED),
            ("t:{foo}:3", 9),
        ] {
            batch.push(limit, 1, group, |out| out.push_str(key));
        }
        batch.push_ban(ban, 1, ENFORCED, |out| out.push_str("t:{bar}:ban"));
        let parts = parts(&batch);
        let order: Vec<_> = parts
            .iter()
            .map(|part| (part.is_enforced, part.slot, &part.places[..]))
            .collect();
        assert_eq!(
            order,
            [
                (true, 5061, &[4, 6][..]),
                (true, 12_182, &[1, 2]),
                (true, 12_739, &[3]),
                (false, slot_of("shadow:a"), &[0]),
                (false, 12_182, &[5]),
            ]
        );
    }
}
