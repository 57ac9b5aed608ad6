//! Examples, and random operations against simple oracles.

use crate::interval::{Full, IntervalMap};
use crate::pool::{ANY_FROM, Pool, State, Verdict};
use l4abi::kip::numa::NodeRange;
use l4abi::kip::{MemoryDesc, MemoryType};
use l4abi::proto::{IoFault, PageFault, Sigma0Request};
use l4abi::{Fpage, NodeId, Region, Rights, ThreadId, ThreadNo};

const PAGE: u64 = 4096;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn thread(n: u32) -> ThreadId {
    ThreadId::global(ThreadNo(60 + n), 1)
}

#[test]
fn interval_map_agrees_with_an_array() {
    const SIZE: usize = 64;
    let mut random = Random(0x1234_5678_9ABC);
    for round in 0..200 {
        let mut map: IntervalMap<u8, 24> = IntervalMap::new(0);
        let mut oracle = [None; SIZE];
        // Half of the rounds at the upper end of the address space, where sums overflow.
        let base = if round % 2 == 0 { 0 } else { u64::MAX - (SIZE as u64 - 1) };
        for _ in 0..300 {
            let low = random.below(SIZE as u64) as usize;
            let last = low + random.below((SIZE - low) as u64) as usize;
            let value = (random.below(4) > 0).then(|| random.below(3) as u8);
            let before: Vec<_> = map.iter().collect();
            match map.set(base + low as u64, base + last as u64, value) {
                Ok(()) => oracle[low..=last].fill(value),
                Err(Full) => assert_eq!(map.iter().collect::<Vec<_>>(), before),
            }
            for (i, &want) in oracle.iter().enumerate() {
                assert_eq!(map.get(base + i as u64), want);
            }
            let all: Vec<_> = map.iter().collect();
            for pair in all.windows(2) {
                assert!(pair[0].last < pair[1].low);
                assert!(pair[0].last + 1 < pair[1].low || pair[0].value != pair[1].value);
            }
            let even = oracle[low..=last].iter().all(|v| v.is_some_and(|v| v % 2 == 0));
            let got = map.all_within(base + low as u64, base + last as u64, |v| v % 2 == 0);
            assert_eq!(got, even);
        }
    }
}

fn machine() -> Pool {
    let mut pool = Pool::new();
    let mut add = |kind, low: u64, last: u64| {
        pool.describe(MemoryDesc::physical(kind, low, last)).expect("room");
    };
    add(MemoryType::Shared, 0, u64::MAX);
    add(MemoryType::Conventional, 0, 0x9_FBFF);
    add(MemoryType::Conventional, 0x10_0000, 0xFFF_FFFF);
    add(MemoryType::Reserved, 0x20_0000, 0x3F_FFFF);
    add(MemoryType::BootLoader, 0x300_0000, 0x300_FFFF);
    add(MemoryType::Undefined, 0x400_0000, 0x40F_FFFF);
    pool.set_root(thread(0));
    pool
}

fn specific(addr: u64, log2: u8) -> Sigma0Request {
    Sigma0Request::Pages { fpage: Fpage::memory(addr, log2, Rights::empty()), attributes: 0 }
}

fn any(log2: u8) -> Sigma0Request {
    Sigma0Request::Pages { fpage: Fpage::any_of_size(log2), attributes: 0 }
}

fn fault(addr: u64) -> Sigma0Request {
    Sigma0Request::Fault(PageFault { access: Rights::R, addr, ip: 0 })
}

fn mapped(verdict: Verdict) -> Option<Region> {
    match verdict {
        Verdict::Map { fpage, .. } => {
            assert_eq!(fpage.rights(), Rights::RWX);
            fpage.memory_region()
        }
        _ => None,
    }
}

#[test]
fn later_descriptors_override() {
    let pool = machine();
    assert_eq!(pool.state(0x10_0000), Some(State::Free));
    assert_eq!(pool.state(0x20_0000), Some(State::Reserved));
    assert_eq!(pool.state(0x300_0000), Some(State::Dedicated));
    assert_eq!(pool.state(0x400_0000), None);
    assert_eq!(pool.state(0xFEE0_0000), Some(State::Shared));
}

#[test]
fn specific_requests_give_memory_once() {
    let mut pool = machine();
    let region = Region::containing(0x50_0000, 12);
    assert_eq!(mapped(pool.handle(thread(1), specific(0x50_0000, 12))), Some(region));
    assert_eq!(pool.handle(thread(2), specific(0x50_0000, 12)), Verdict::Refuse);
    assert_eq!(pool.handle(thread(2), fault(0x50_0123)), Verdict::Refuse);
    assert_eq!(mapped(pool.handle(thread(1), specific(0x50_0000, 12))), Some(region));
    assert_eq!(mapped(pool.handle(thread(1), fault(0x50_0FFF))), Some(region));
    // A larger request that includes it: the owner gets all, others nothing.
    assert_eq!(pool.handle(thread(2), specific(0x40_0000, 21)), Verdict::Refuse);
    assert!(mapped(pool.handle(thread(1), specific(0x40_0000, 21))).is_some());
}

#[test]
fn each_kind_of_memory_keeps_its_rule() {
    let mut pool = machine();
    let t = thread(1);
    assert_eq!(pool.handle(t, specific(0x20_0000, 12)), Verdict::Refuse);
    assert_eq!(pool.handle(t, fault(0x20_0000)), Verdict::Refuse);
    assert_eq!(pool.handle(t, fault(0x300_0000)), Verdict::Refuse);
    assert!(mapped(pool.handle(t, specific(0x300_0000, 12))).is_some());
    assert_eq!(pool.handle(thread(2), specific(0x300_0000, 12)), Verdict::Refuse);
    assert!(mapped(pool.handle(t, fault(0x300_0000))).is_some(), "now it is the owner's");
    assert_eq!(pool.handle(t, specific(0x400_0000, 12)), Verdict::Refuse);
    for n in 1..4 {
        assert!(mapped(pool.handle(thread(n), fault(0xFEE0_0020))).is_some());
        assert!(mapped(pool.handle(thread(n), specific(0xFEE0_0000, 12))).is_some());
    }
    assert_eq!(pool.state(0xFEE0_0000), Some(State::Shared));
    // A page that is partly something else.
    assert_eq!(pool.handle(t, fault(0x9_F000)), Verdict::Refuse);
    // Everything at once.
    assert_eq!(pool.handle(t, specific(0, 64)), Verdict::Refuse);
}

#[test]
fn any_requests() {
    let mut pool = machine();
    let a = mapped(pool.handle(thread(1), any(12))).expect("a page");
    let b = mapped(pool.handle(thread(1), any(12))).expect("a page");
    assert_ne!(a, b);
    assert!(a.base() >= ANY_FROM && b.base() >= ANY_FROM);
    assert_eq!(pool.state(a.base()), Some(State::Owned(thread(1))));
    for log2 in [0, 3, 11, 29, 48, 49, 63] {
        assert_eq!(pool.handle(thread(1), any(log2)), Verdict::Refuse, "2^{log2}");
    }
    // Large ones, until there are no more: 128 MiB can lie only at 128 MiB.
    assert_eq!(mapped(pool.handle(thread(1), any(27))), Some(Region::containing(128 << 20, 27)));
    assert_eq!(pool.handle(thread(1), any(27)), Verdict::Refuse);
    assert!(mapped(pool.handle(thread(1), any(25))).is_some());
}

#[test]
fn ports() {
    let mut pool = machine();
    let uart = Sigma0Request::Pages { fpage: Fpage::io(0x3F8, 3), attributes: 0 };
    assert_eq!(pool.handle(thread(1), uart), Verdict::Refuse, "no ports described yet");
    let kip_words = kip_with_nothing();
    pool.fill(l4abi::kip::Kip::new(&kip_words).expect("magic"));
    let Verdict::Map { fpage, .. } = pool.handle(thread(1), uart) else { panic!("ports") };
    assert_eq!(fpage, Fpage::io(0x3F8, 3));
    assert_eq!(pool.handle(thread(2), uart), Verdict::Refuse);
    let one = IoFault { ports: Fpage::io(0x3FA, 0), ip: 0 };
    assert!(matches!(pool.handle(thread(1), Sigma0Request::IoFault(one)), Verdict::Map { .. }));
    assert_eq!(pool.handle(thread(2), Sigma0Request::IoFault(one)), Verdict::Refuse);
    let exit = IoFault { ports: Fpage::io(0xF4, 2), ip: 0 };
    assert!(matches!(pool.handle(thread(2), Sigma0Request::IoFault(exit)), Verdict::Map { .. }));
}

fn kip_with_nothing() -> Vec<u64> {
    let mut area = [0u8; 4096];
    l4abi::kip::build::KipParams::default().build(&mut area).expect("fits");
    area.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes"))).collect()
}

#[test]
fn nodes_are_kept_apart() {
    let mut pool = machine();
    pool.add_node_range(NodeRange { node: NodeId(0), low: 0, last: 0x7FF_FFFF });
    pool.add_node_range(NodeRange { node: NodeId(2), low: 0x800_0000, last: 0xFFF_FFFF });
    let on = |fpage, node| Sigma0Request::PagesOnNode { fpage, attributes: 0, node };
    let far = mapped(pool.handle(thread(1), on(Fpage::any_of_size(16), NodeId(2)))).expect("some");
    assert!(far.base() >= 0x800_0000);
    let near = mapped(pool.handle(thread(1), on(Fpage::any_of_size(16), NodeId(0)))).expect("some");
    assert!(near.last() < 0x800_0000);
    let unknown = on(Fpage::any_of_size(16), NodeId(1));
    assert_eq!(pool.handle(thread(1), unknown), Verdict::Refuse);
    // More than a node has is refused although the machine has it.
    assert_eq!(pool.handle(thread(1), on(Fpage::any_of_size(28), NodeId(0))), Verdict::Refuse);
    let page = Fpage::memory(0x500_0000, 12, Rights::R);
    assert_eq!(pool.handle(thread(1), on(page, NodeId(2))), Verdict::Refuse);
    assert!(mapped(pool.handle(thread(1), on(page, NodeId(0)))).is_some());
    let io = on(Fpage::io(0x80, 0), NodeId(0));
    assert_eq!(pool.handle(thread(1), io), Verdict::Refuse);
}

#[test]
fn control_requests_are_the_root_tasks() {
    let mut pool = machine();
    let dump = Sigma0Request::Dump { reply: true };
    assert_eq!(pool.handle(thread(0), dump), Verdict::Dump { reply: true });
    assert_eq!(pool.handle(thread(1), dump), Verdict::Ignore);
    assert_eq!(pool.handle(thread(0), Sigma0Request::Verbose(3)), Verdict::Verbose(3));
    assert_eq!(pool.handle(thread(1), Sigma0Request::Verbose(3)), Verdict::Ignore);
}

/// What the oracle knows of one page.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Page {
    Free,
    Dedicated,
    Shared,
    Reserved,
    Owned(ThreadId),
}

#[test]
fn random_requests_agree_with_an_array_of_pages() {
    const PAGES: usize = 128;
    const FIRST: u64 = 0x100_0000;
    let mut random = Random(0xFEED_5EED);
    for _ in 0..150 {
        let mut pool = Pool::new();
        let mut pages = [Page::Reserved; PAGES];
        pool.describe(MemoryDesc::physical(MemoryType::Reserved, 0, u64::MAX)).expect("room");
        for _ in 0..8 {
            let low = random.below(PAGES as u64) as usize;
            let last = low + random.below((PAGES - low) as u64) as usize;
            let (kind, page) = match random.below(5) {
                0 => (MemoryType::Dedicated, Page::Dedicated),
                1 => (MemoryType::Shared, Page::Shared),
                2 => (MemoryType::Reserved, Page::Reserved),
                _ => (MemoryType::Conventional, Page::Free),
            };
            let (a, b) = (FIRST + low as u64 * PAGE, FIRST + (last as u64 + 1) * PAGE - 1);
            pool.describe(MemoryDesc::physical(kind, a, b)).expect("room");
            pages[low..=last].fill(page);
        }
        for _ in 0..200 {
            random_request(&mut random, &mut pool, &mut pages, FIRST);
        }
    }
}

fn random_request(random: &mut Random, pool: &mut Pool, pages: &mut [Page], first: u64) {
    let who = thread(random.below(3) as u32);
    let log2 = 12 + random.below(4) as u8;
    let count = 1usize << (log2 - 12);
    let at = random.below(pages.len() as u64) as usize;
    let mine = |page: Page| match page {
        Page::Owned(owner) => owner == who,
        page => page != Page::Reserved,
    };
    match random.below(3) {
        0 => {
            let start = at & !(count - 1);
            let got = mapped(pool.handle(who, specific(first + at as u64 * PAGE, log2)));
            let range = &mut pages[start..start + count];
            let shared = range.iter().filter(|&&p| p == Page::Shared).count();
            let ok = range.iter().all(|&p| mine(p)) && (shared == 0 || shared == count);
            assert_eq!(got.is_some(), ok, "{range:?}");
            if ok && shared == 0 {
                range.fill(Page::Owned(who));
            }
        }
        1 => {
            let got =
                mapped(pool.handle(who, fault(first + at as u64 * PAGE + random.below(PAGE))));
            let ok = mine(pages[at]) && pages[at] != Page::Dedicated;
            assert_eq!(got.is_some(), ok, "{:?}", pages[at]);
            if ok && pages[at] != Page::Shared {
                pages[at] = Page::Owned(who);
            }
        }
        _ => {
            let got = mapped(pool.handle(who, any(log2)));
            let mut chunks = pages.chunks(count);
            assert_eq!(got.is_some(), chunks.any(|c| c.iter().all(|&p| p == Page::Free)));
            if let Some(region) = got {
                let start = ((region.base() - first) / PAGE) as usize;
                let range = &mut pages[start..start + count];
                assert!(range.iter().all(|&p| p == Page::Free));
                range.fill(Page::Owned(who));
            }
        }
    }
}
