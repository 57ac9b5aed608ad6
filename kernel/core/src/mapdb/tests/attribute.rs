//! Cache attributes among the random operations: exactly the pages asked for and those derived from them change, in
//! nothing else, and no processor keeps an old attribute.

use std::collections::HashMap;

use super::check::lookup;
use super::model::Key;
use super::random::Driver;
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::pte;
use crate::mapdb::{AttributeOp, Progress};
use crate::types::PhysAddr;

/// The cache attribute of a page entry of `level`.
fn cache_of(entry: u64, level: u8) -> u8 {
    let pat = if level == 1 { pte::PAT_SMALL } else { pte::PAT_LARGE };
    (entry >> 3 & 3) as u8 | if entry & pat != 0 { 4 } else { 0 }
}

impl Driver {
    /// Attribute and everything else of the entries of all pages that the oracle knows.
    fn entries(&self) -> HashMap<Key, (u8, u64)> {
        let one = |&(space, va): &Key| {
            let page =
                lookup(&self.sim, SpaceRef(space), va).expect("a page that the oracle knows");
            let plain = pte::resize(page.entry, page.level, 1) & !pte::cache_bits(7, 1);
            let rest = plain & !(pte::ADDRESS | pte::PS);
            ((space, va), (cache_of(page.entry, page.level), rest))
        };
        self.model.pages.keys().map(one).collect()
    }

    /// The page itself or one that it was derived from lies in `[va, va + len)` of `space`.
    fn concerned(&self, mut key: Key, space: u64, va: u64, len: u64) -> bool {
        loop {
            if key.0 == space && va <= key.1 && key.1 - va < len {
                return true;
            }
            match self.model.pages[&key].parent {
                Some(parent) => key = parent,
                None => return false,
            }
        }
    }

    /// A random change of attributes.
    pub fn attribute(&mut self) {
        let item = self.item();
        let (space, va, len) = (item.target, item.target_va, item.len);
        let cache = self.rng.pick(&[None, Some(0), Some(1), Some(3), Some(5)]);
        let before = self.entries();
        let mut op = AttributeOp::new(space, va, len, cache);
        let mut short = false;
        self.run(|s, budget| {
            let progress = op.step(s, budget);
            short |= progress.is_err();
            Ok(progress.unwrap_or(Progress::More))
        });
        let after = self.entries();
        for (&key, &(old, rest)) in &before {
            let natural = self.sim.frame_info(PhysAddr::new(self.model.pages[&key].frame)).cache;
            let wanted = match self.concerned(key, space.0, va, len) {
                true => cache.unwrap_or(natural),
                false => old,
            };
            let (now, rest_now) = after[&key];
            assert!(
                now == wanted || short && now == old,
                "{key:x?}: {now} after {old}, not {wanted}"
            );
            assert_eq!(rest_now, rest, "{key:x?}: more than the attribute changed");
            let stale = now != old && self.tlb.contains_key(&key);
            assert!(!stale, "{key:x?}: a processor has the old attribute");
        }
        assert_eq!(before.len(), after.len());
    }
}
