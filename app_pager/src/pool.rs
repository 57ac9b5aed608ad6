//! The frames of a pager's own node (numa-l4 4.2.1, "Synchronization of Free Lists").
//!
//! A pager allocates and frees frames of its own node only; nobody else touches this structure, so
//! it needs no lock between pagers. Free frames that are known to be zero are kept apart: a fault
//! offers one to the directory before it knows whether it will be used, and gets it back clean.
//! Frames never handed out are counted, not listed: a pool of any size costs nothing at start.

use crate::ids::Frame;
use alloc::vec::Vec;
use l4abi::NodeId;

/// The frame is not one that this pool has handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAllocated(pub Frame);

/// A pool of frames of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodePool {
    node: NodeId,
    total: u32,
    /// Frames from here on were never used; they are zero (the root task cleared the pool).
    fresh: u32,
    clean: Vec<u32>,
    dirty: Vec<u32>,
    /// A bit for each frame: it is handed out, or in a stock.
    used: Vec<u64>,
    /// Number of those.
    out: u32,
    /// Clean frames set apart for each pager thread: threads that take turns at one list pass its lines
    /// to and fro at each fault.
    stocks: Vec<Stock>,
    /// Frames that fill a stock.
    stock: usize,
}

/// Clean frames for one thread, in lines of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[repr(align(128))]
struct Stock(Vec<u32>);

/// A frame just allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocated {
    /// The frame.
    pub frame: Frame,
    /// Whether its content is known to be zero.
    pub clean: bool,
}

impl NodePool {
    /// A pool of `total` frames of `node`, all zero.
    #[must_use]
    pub fn new(node: NodeId, total: u32) -> Self {
        let used = alloc::vec![0; total.div_ceil(64) as usize];
        let (clean, dirty, stocks) = (Vec::new(), Vec::new(), Vec::new());
        Self { node, total, fresh: 0, clean, dirty, used, out: 0, stocks, stock: 0 }
    }

    /// The same for `threads` threads that take clean frames by the `stock`; 0: one by one.
    #[must_use]
    pub fn with_stocks(self, threads: u8, stock: usize) -> Self {
        let stocks = (0..threads).map(|_| Stock(Vec::with_capacity(stock))).collect();
        Self { stocks, stock, ..self }
    }

    /// Takes a frame, a clean one if there is one; `None` when the node is exhausted.
    pub fn alloc(&mut self) -> Option<Allocated> {
        let taken = self.clean.pop().map(|i| (i, true)).or_else(|| self.take_fresh());
        let taken = taken.or_else(|| self.dirty.pop().map(|i| (i, false)));
        self.hand_out(taken).or_else(|| self.take_from_any_stock())
    }

    /// The frame that [`Self::alloc_clean`] would hand out.
    pub fn next_clean(&mut self, thread: usize) -> Option<Frame> {
        self.fill_stock(thread);
        let stocked = self.stocks.get(thread).and_then(|stock| stock.0.last());
        let listed = || self.clean.last().or((self.fresh < self.total).then_some(&self.fresh));
        let index = *stocked.or_else(listed)?;
        Some(Frame { node: self.node, index })
    }

    /// Takes a frame known to be zero for a thread, out of its stock if it has one.
    pub fn alloc_clean(&mut self, thread: usize) -> Option<Frame> {
        self.fill_stock(thread);
        let index = match self.stocks.get_mut(thread).and_then(|stock| stock.0.pop()) {
            Some(index) => index,
            None => {
                let clean = self.clean.pop().map(|i| (i, true)).or_else(|| self.take_fresh());
                return self.hand_out(clean).map(|taken| taken.frame);
            }
        };
        Some(Frame { node: self.node, index })
    }

    /// Fills the empty stock of a thread, as far as there are clean frames.
    fn fill_stock(&mut self, thread: usize) {
        if self.stocks.get(thread).is_none_or(|stock| !stock.0.is_empty()) {
            return;
        }
        for _ in 0..self.stock {
            let clean = self.clean.pop().map(|i| (i, true)).or_else(|| self.take_fresh());
            let Some(taken) = self.hand_out(clean) else { return };
            self.stocks[thread].0.push(taken.frame.index);
        }
    }

    /// When all else is used up, one thread gets what was set apart for another.
    fn take_from_any_stock(&mut self) -> Option<Allocated> {
        let index = self.stocks.iter_mut().find_map(|stock| stock.0.pop())?;
        Some(Allocated { frame: Frame { node: self.node, index }, clean: true })
    }

    fn stocked(&self) -> usize {
        self.stocks.iter().map(|stock| stock.0.len()).sum()
    }

    /// Takes a frame that will be overwritten anyway: leaves the clean ones to others.
    pub fn alloc_any(&mut self) -> Option<Allocated> {
        let taken = self.dirty.pop().map(|i| (i, false));
        let taken = taken.or_else(|| self.clean.pop().map(|i| (i, true)));
        let taken = taken.or_else(|| self.take_fresh());
        self.hand_out(taken).or_else(|| self.take_from_any_stock())
    }

    fn take_fresh(&mut self) -> Option<(u32, bool)> {
        (self.fresh < self.total).then(|| {
            self.fresh += 1;
            (self.fresh - 1, true)
        })
    }

    fn hand_out(&mut self, taken: Option<(u32, bool)>) -> Option<Allocated> {
        taken.map(|(index, clean)| {
            if let Some(word) = self.used.get_mut(index as usize / 64) {
                *word |= 1 << (index % 64);
                self.out += 1;
            }
            Allocated { frame: Frame { node: self.node, index }, clean }
        })
    }

    /// Takes a frame back; `clean` if nobody has written to it.
    ///
    /// # Errors
    /// [`NotAllocated`] if the frame is of another node or not in use; nothing changes.
    pub fn free(&mut self, frame: Frame, clean: bool) -> Result<(), NotAllocated> {
        if !self.is_used(frame) {
            return Err(NotAllocated(frame));
        }
        if let Some(word) = self.used.get_mut(frame.index as usize / 64) {
            *word &= !(1 << (frame.index % 64));
            self.out -= 1;
        }
        if clean {
            self.clean.push(frame.index)
        } else {
            self.dirty.push(frame.index)
        }
        Ok(())
    }

    /// Whether `frame` is of this pool and handed out.
    #[must_use]
    pub fn is_used(&self, frame: Frame) -> bool {
        let word = self.used.get(frame.index as usize / 64).copied().unwrap_or(0);
        let out = frame.node == self.node && word >> (frame.index % 64) & 1 != 0;
        out && !self.stocks.iter().any(|stock| stock.0.contains(&frame.index))
    }

    /// Whether both hand out the same frames in the same order.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let clean = |pool: &Self| {
            let fresh = (pool.fresh..pool.total).rev();
            fresh.chain(pool.clean.iter().copied()).collect::<Vec<_>>()
        };
        let of_one = (self.node, self.total) == (other.node, other.total);
        of_one
            && self.stocks == other.stocks
            && self.used == other.used
            && self.dirty == other.dirty
            && clean(self) == clean(other)
    }

    /// Number of frames handed out.
    #[must_use]
    pub fn used(&self) -> usize {
        self.out as usize - self.stocked()
    }

    /// Number of frames that can be handed out.
    #[must_use]
    pub fn available(&self) -> usize {
        (self.total - self.out) as usize + self.stocked()
    }

    /// Number of frames.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use alloc::collections::BTreeMap;

    #[test]
    fn runs_dry_and_recovers() {
        let mut pool = NodePool::new(NodeId(1), 2);
        let a = pool.alloc().unwrap();
        let b = pool.alloc().unwrap();
        assert!(a.clean && b.clean && a.frame != b.frame);
        assert_eq!((pool.alloc(), pool.alloc_any()), (None, None));
        pool.free(a.frame, false).unwrap();
        assert_eq!(pool.alloc(), Some(Allocated { frame: a.frame, clean: false }));
    }

    #[test]
    fn refuses_strangers_and_double_frees() {
        let mut pool = NodePool::new(NodeId(1), 2);
        let a = pool.alloc().unwrap().frame;
        let stranger = Frame { node: NodeId(0), index: a.index };
        assert_eq!(pool.free(stranger, true), Err(NotAllocated(stranger)));
        pool.free(a, true).unwrap();
        assert_eq!(pool.free(a, true), Err(NotAllocated(a)));
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn random_operations_conserve_frames() {
        for stock in [0, 1, 7, 60] {
            conserves(NodePool::new(NodeId(2), 50).with_stocks(3, stock));
        }
    }

    fn conserves(mut pool: NodePool) {
        let mut rng = Rng::new(42);
        // The oracle: what is out, and whether each frame's memory is zero.
        let mut out: BTreeMap<Frame, bool> = BTreeMap::new();
        let mut zero = [true; 50];
        for _ in 0..20_000 {
            if rng.below(2) == 0 {
                let got = match rng.below(3) {
                    0 => pool.alloc(),
                    1 => pool.alloc_any(),
                    _ => {
                        let thread = rng.below(4) as usize;
                        let next = pool.next_clean(thread);
                        let got = pool.alloc_clean(thread);
                        assert_eq!(next, got);
                        let got = got.map(|frame| Allocated { frame, clean: true });
                        got.or_else(|| pool.alloc())
                    }
                };
                assert_eq!(got.is_none(), out.len() == 50);
                if let Some(a) = got {
                    assert!(!a.clean || zero[a.frame.index as usize], "dirty frame called clean");
                    assert_eq!(out.insert(a.frame, a.clean), None, "frame handed out twice");
                }
            } else if let Some((&frame, &clean)) = out.iter().nth(rng.below(50) as usize) {
                out.remove(&frame);
                let stays_clean = clean && rng.below(2) == 0;
                zero[frame.index as usize] = stays_clean;
                pool.free(frame, stays_clean).unwrap();
            }
            assert_eq!(pool.used(), out.len());
            assert_eq!(pool.used() + pool.available(), 50);
        }
    }
}
