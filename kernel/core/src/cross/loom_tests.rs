//! The mailbox, its bell, the shootdown post and the life of spaces under `loom`: all interleavings, with few preemptions, of the
//! same code.

mod life;
mod line;
mod torn;

use std::sync::LazyLock;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::mailbox::{Letter, Mailbox, Ring, Word, is_only};
use super::pending::Pending;
use super::post::Post;

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        self.load(Ordering::SeqCst)
    }
    fn store(&self, value: u64) {
        self.store(value, Ordering::SeqCst);
    }
    fn swap(&self, value: u64) -> u64 {
        self.swap(value, Ordering::SeqCst)
    }
    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    fn set_bits(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::SeqCst)
    }
    fn clear_bits(&self, bits: u64) -> u64 {
        self.fetch_and(!bits, Ordering::SeqCst)
    }
    fn subtract(&self, value: u64) -> u64 {
        self.fetch_sub(value, Ordering::SeqCst)
    }
}

/// A letter with its link and a payload that must be visible to the consumer.
struct Body {
    link: AtomicU64,
    payload: AtomicU64,
}

/// Names a body by address; the bodies live as long as the model's `Arc`.
#[derive(Clone, Copy)]
struct Slip(u64);

loom::lazy_static! {
    static ref BODIES: [Body; 4] = [body(), body(), body(), body()];
}

fn body() -> Body {
    Body { link: AtomicU64::new(0), payload: AtomicU64::new(0) }
}

impl Letter for Slip {
    type Word = AtomicU64;
    fn to_word(self) -> u64 {
        self.0
    }
    fn from_word(word: u64) -> Self {
        Self(word)
    }
    fn link(&self) -> &AtomicU64 {
        &BODIES[self.0 as usize].link
    }
}

/// Models are run one after the other: `loom` keeps one state per thread, and the counts are printed.
static STATES: LazyLock<std::sync::Mutex<()>> = LazyLock::new(|| std::sync::Mutex::new(()));

fn model(name: &str, f: impl Fn() + Sync + Send + 'static) {
    let _one = STATES.lock();
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = runs.clone();
    // All interleavings with up to three preemptions: what is wrong shows with two.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        f();
    });
    println!("model {name}: {} interleavings", runs.load(Ordering::Relaxed));
}

/// The same for a protocol that may be broken: in how many interleavings it is.
fn broken(name: &str, f: impl Fn() -> bool + Sync + Send + 'static) -> u64 {
    let found = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = found.clone();
    model(name, move || {
        seen.fetch_add(u64::from(f()), Ordering::Relaxed);
    });
    found.load(Ordering::Relaxed)
}

fn mailbox() -> Arc<Mailbox<AtomicU64>> {
    // `Mailbox::new` is generic over the words.
    Arc::new(Mailbox::new(AtomicU64::new(0), AtomicU64::new(0)))
}

#[test]
fn every_letter_comes_once_and_in_order() {
    model("two producers, one consumer", || {
        let mailbox = mailbox();
        let producers: Vec<_> = [[1, 2], [3, 0]]
            .into_iter()
            .map(|letters| {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    for l in letters.into_iter().filter(|&l| l != 0) {
                        BODIES[l as usize].payload.store(l * 11, Ordering::Relaxed);
                        let _ = mailbox.push(Slip(l));
                    }
                })
            })
            .collect();
        let mut seen = vec![];
        let mut collect = || {
            for l in mailbox.take::<Slip>() {
                assert_eq!(BODIES[l.0 as usize].payload.load(Ordering::Relaxed), l.0 * 11);
                seen.push(l.0);
            }
        };
        collect();
        for p in producers {
            p.join().unwrap();
        }
        collect();
        let of_first: Vec<_> = seen.iter().copied().filter(|&l| l < 3).collect();
        assert_eq!(of_first, [1, 2], "first in, first out");
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3], "nothing lost, nothing twice");
    });
}

#[test]
fn a_single_letter_is_taken_once() {
    model("one letter by the short way", || {
        let seen = taken_by_the_short_way();
        assert_eq!(seen, [1, 2], "nothing lost, nothing twice");
    });
}

/// Two producers, and a consumer that takes a single letter by the short way. Answers what came.
fn taken_by_the_short_way() -> Vec<u64> {
    let mailbox = mailbox();
    let producers: Vec<_> = [1, 2]
        .into_iter()
        .map(|l| {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                BODIES[l as usize].payload.store(l * 11, Ordering::Relaxed);
                let _ = mailbox.push(Slip(l));
            })
        })
        .collect();
    let mut seen = vec![];
    if let Some(l) = mailbox.last::<Slip>()
        && is_only(l)
        && mailbox.remove(l)
    {
        assert_eq!(BODIES[l.0 as usize].payload.load(Ordering::Relaxed), l.0 * 11);
        seen.push(l.0);
    }
    for p in producers {
        p.join().unwrap();
    }
    seen.extend(mailbox.take::<Slip>().map(|l| l.0));
    seen.sort_unstable();
    seen
}

/// Two that push a letter each, and how often they rang the bell because they had to.
fn two_that_ring(
    mailbox: &Arc<Mailbox<AtomicU64>>,
) -> (Arc<AtomicU64>, [thread::JoinHandle<()>; 2]) {
    let bell = Arc::new(AtomicU64::new(0));
    let producers = [1, 2].map(|l| {
        let (mailbox, bell) = (mailbox.clone(), bell.clone());
        thread::spawn(move || {
            if mailbox.push(Slip(l)) == Ring::Needed {
                bell.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    (bell, producers)
}

#[test]
fn nobody_sleeps_on_a_letter() {
    model("sleep against push", || {
        let mailbox = mailbox();
        mailbox.promise();
        let (bell, producers) = two_that_ring(&mailbox);
        let mut got = 0;
        got += mailbox.take::<Slip>().count();
        let asleep = mailbox.may_sleep();
        for p in producers {
            p.join().unwrap();
        }
        // Asleep: either nothing is left, or the bell rings. Awake: it looks again anyway.
        if asleep && !mailbox.is_empty() {
            assert_ne!(bell.load(Ordering::SeqCst), 0, "a letter and no bell");
        }
        got += mailbox.take::<Slip>().count();
        assert_eq!(got, 2);
    });
}

/// A CPU that looks, as the idle loop does: fetches a letter if it is the only one, everything else otherwise, takes its
/// promise back, and looks again if something came under it. Answers how many it got.
fn look(mailbox: &Mailbox<AtomicU64>, early: bool) -> usize {
    while mailbox.is_empty() {
        thread::yield_now();
    }
    let mut got = 0;
    // What it was before: the promise ended when the letter was seen.
    if early {
        mailbox.withdraw();
    }
    if let Some(l) = mailbox.last::<Slip>()
        && is_only(l)
        && mailbox.remove(l)
    {
        got += 1;
    } else {
        got += mailbox.take::<Slip>().count();
    }
    if mailbox.stop_looking() {
        got += mailbox.take::<Slip>().count();
    }
    got
}

#[test]
fn a_letter_that_was_fetched_under_the_promise_is_not_rung_for() {
    let rung = |early| {
        let mailbox = mailbox();
        mailbox.promise();
        let producer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.push(Slip(1)) == Ring::Needed)
        };
        assert_eq!(look(&mailbox, early), 1);
        producer.join().unwrap()
    };
    model("one letter, one that looks", move || {
        assert!(!rung(false), "an interrupt although the other looked");
    });
    let found = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = found.clone();
    model("one letter, one that looks, promise withdrawn too early", move || {
        seen.fetch_add(u64::from(rung(true)), Ordering::Relaxed);
    });
    assert!(found.load(Ordering::Relaxed) > 0, "the model does not show what it is for");
}

#[test]
fn who_stops_looking_is_rung_for_what_it_has_not_seen() {
    model("two letters, one that stops looking", || {
        let mailbox = mailbox();
        mailbox.promise();
        let (bell, producers) = two_that_ring(&mailbox);
        let mut got = look(&mailbox, false);
        for p in producers {
            p.join().unwrap();
        }
        if !mailbox.is_empty() {
            assert_ne!(bell.load(Ordering::SeqCst), 0, "a letter and no bell");
        }
        got += mailbox.take::<Slip>().count();
        assert_eq!(got, 2, "nothing lost, nothing twice");
    });
}

/// A CPU that sleeps, is woken, takes the letter by the short way and runs a thread is rung for once more if another letter
/// comes: it has promised nothing. With `again` it promises before it runs. True if nobody would look at a letter.
fn forgotten_after_waking(again: bool) -> bool {
    let mailbox = mailbox();
    let (bell, producers) = two_that_ring(&mailbox);
    let (mut got, mut heard) = (0, 0);
    if mailbox.may_sleep() {
        heard = bell.load(Ordering::SeqCst);
    }
    if heard != 0 {
        match mailbox.last::<Slip>() {
            Some(l) if is_only(l) && mailbox.remove(l) => got += 1,
            _ => got += mailbox.take::<Slip>().count(),
        }
        if again {
            mailbox.promise();
        }
    }
    for p in producers {
        p.join().unwrap();
    }
    let left = mailbox.take::<Slip>().count();
    assert_eq!(got + left, 2, "nothing lost, nothing twice");
    // One that does not sleep has promised to look again.
    let looks = !again && mailbox.is_promised();
    left > 0 && bell.load(Ordering::SeqCst) == heard && !looks
}

#[test]
fn who_was_woken_is_rung_for_what_comes_later() {
    model("two letters, one that is woken", || assert!(!forgotten_after_waking(false)));
    let found = broken("two letters, one that is woken, promises and runs", || {
        forgotten_after_waking(true)
    });
    assert!(found > 0, "the model does not show what it is for");
}

/// A CPU has an entry that it changed flushed by another. `first` is whether that acknowledges before it flushes. True if the
/// acknowledgement came and the old entry is cached still.
fn acknowledged_too_early(first: bool) -> bool {
    let post = Arc::new(Post::new([AtomicU64::new(0)]));
    // A table entry and one CPU's cached copy of it.
    let entry = Arc::new(AtomicU64::new(1));
    let cached = Arc::new(AtomicU64::new(1));
    let target = {
        let (post, entry, cached) = (post.clone(), entry.clone(), cached.clone());
        thread::spawn(move || {
            for _ in 0..2 {
                let flush = |_| cached.store(entry.load(Ordering::Relaxed), Ordering::Relaxed);
                if first { post.take(flush) } else { post.answer(flush) }
            }
        })
    };
    entry.store(0, Ordering::Relaxed);
    post.ask(0);
    let stale = !post.is_open(0) && cached.load(Ordering::Relaxed) != 0;
    target.join().unwrap();
    stale || !post.is_open(0) && cached.load(Ordering::Relaxed) != 0
}

#[test]
fn acknowledged_means_flushed() {
    model("shootdown", || assert!(!acknowledged_too_early(false), "before the flush"));
    let found = broken("shootdown, acknowledged first", || acknowledged_too_early(true));
    assert!(found > 0, "the model does not show what it is for");
}

/// A CPU notes a root and walks its tables, another changes an entry and reads the note, each with a fence between, or not.
/// True if nobody tells the first to forget what it has read.
fn root_is_missed(fences: bool) -> bool {
    let fence = move || {
        if fences {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    };
    let entry = Arc::new(AtomicU64::new(1));
    let root = Arc::new(AtomicU64::new(0));
    let switching = {
        let (entry, root) = (entry.clone(), root.clone());
        thread::spawn(move || {
            root.store(7, Ordering::Relaxed);
            // Loading CR3 is serialising.
            fence();
            entry.load(Ordering::Relaxed)
        })
    };
    entry.store(0, Ordering::Relaxed);
    fence();
    let told = root.load(Ordering::Relaxed) == 7;
    let walked = switching.join().unwrap();
    !told && walked != 0
}

#[test]
fn either_the_root_is_seen_or_the_walk_sees_the_change() {
    model("root note against table change", || {
        assert!(!root_is_missed(true), "a stale translation that nobody flushes");
    });
    let found = broken("root note against table change, no fences", || root_is_missed(false));
    assert!(found > 0, "the model does not show what it is for");
}

/// Two CPUs unmap the same page, which a third has cached. `announced` is whether the first one says so.
fn unmapped_twice(announced: bool) -> bool {
    let post = Arc::new(Post::new([AtomicU64::new(0)]));
    let pending = Arc::new(Pending::new(AtomicU64::new(0)));
    let entry = Arc::new(AtomicU64::new(1));
    let cached = Arc::new(AtomicU64::new(1));
    let first = {
        let (post, pending, entry) = (post.clone(), pending.clone(), entry.clone());
        thread::spawn(move || {
            if announced {
                pending.announce();
            }
            entry.swap(0, Ordering::AcqRel);
            post.ask(0);
            while post.is_open(0) {
                thread::yield_now();
            }
            pending.withdraw();
        })
    };
    let holder = {
        let (post, cached) = (post.clone(), cached.clone());
        thread::spawn(move || {
            while cached.load(Ordering::Relaxed) != 0 {
                post.answer(|_| cached.store(0, Ordering::Relaxed));
                thread::yield_now();
            }
        })
    };
    // The second finds the entry empty: nothing to do, nobody to ask.
    let mut stale = false;
    if entry.load(Ordering::Relaxed) == 0 {
        loom::sync::atomic::fence(Ordering::SeqCst);
        pending.wait(thread::yield_now);
        stale = cached.load(Ordering::Relaxed) != 0;
    }
    first.join().unwrap();
    holder.join().unwrap();
    stale
}

#[test]
fn who_finds_a_page_gone_waits_until_it_is_forgotten() {
    model("two unmaps of one page", || {
        assert!(!unmapped_twice(true), "returned before the page was forgotten");
    });
}

#[test]
fn without_the_announcement_the_model_finds_the_hole() {
    let found = broken("two unmaps of one page, not announced", || unmapped_twice(false));
    assert!(found > 0, "the model does not show what it is for");
}

/// A control block moves from page 0 to page 1 while another CPU, which has page 0 cached, looks its thread up there and
/// then reads the id once more for its errand, as `cross::send` does. With the shootdown the mover waits until that CPU
/// is through; the alternative is to take the id out of the old page, so that nobody finds the thread there. Answers
/// the id in the errand; none if the thread was not found in the first place.
fn sent_while_moving(shootdown: bool) -> Option<u64> {
    const ID: u64 = 7;
    let ids = Arc::new([AtomicU64::new(ID), AtomicU64::new(0)]);
    let entry = Arc::new(AtomicU64::new(0));
    let post = Arc::new(Post::new([AtomicU64::new(0)]));
    let mover = {
        let (ids, entry, post) = (ids.clone(), entry.clone(), post.clone());
        thread::spawn(move || {
            ids[1].store(ID, Ordering::Release);
            entry.store(1, Ordering::Release);
            if !shootdown {
                ids[0].store(0, Ordering::Release);
                return;
            }
            post.ask(0);
            while post.is_open(0) {
                thread::yield_now();
            }
            // The old page may be anything from here on.
            ids[0].store(u64::MAX, Ordering::Release);
        })
    };
    let id_in = |page: usize| ids[page].load(Ordering::Acquire);
    // `thread::lookup`: the cached page first, then the one that the table shows.
    let page = match id_in(0) {
        ID => Some(0),
        _ => Some(entry.load(Ordering::Acquire) as usize).filter(|&page| id_in(page) == ID),
    };
    let errand = page.map(id_in);
    // On the way out of the kernel it serves what others ask for.
    while shootdown && entry.load(Ordering::Acquire) == 0 {
        thread::yield_now();
    }
    while shootdown && post.is_empty() {
        thread::yield_now();
    }
    post.answer(|_| ());
    mover.join().unwrap();
    errand.inspect(|&id| assert!(id == ID || id == 0, "an id out of a page that is free"))
}

#[test]
fn a_thread_whose_page_moves_is_found_all_the_time() {
    model("send against move of the page", || {
        assert_eq!(sent_while_moving(true), Some(7));
    });
    let lost = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = lost.clone();
    model("send against move of the page, nobody told", move || {
        seen.fetch_add(u64::from(sent_while_moving(false) != Some(7)), Ordering::Relaxed);
    });
    assert!(lost.load(Ordering::Relaxed) > 0, "the model does not show what it is for");
}
