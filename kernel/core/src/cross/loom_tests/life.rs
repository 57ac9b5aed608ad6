//! A space and the threads in it: `life` with the request that every CPU answers before a page becomes something else.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::super::life::{Left, Life};
use super::super::post::Post;
use super::{broken, model};

/// What the page is.
const SPACE: u64 = 1;
/// What it becomes.
const OTHER: u64 = 2;

/// A space that CPU B takes away, with a page that becomes something else, while CPU A makes a thread in it. A finds
/// the space through the thread that B deletes. `careful`: what the kernel does; otherwise as it was once: counted after the
/// look-up, the page free at once. True if A wrote into what is not the space any more.
fn thread_made_while_the_space_dies(careful: bool) -> bool {
    // The thread's id, as A sees it; the reference count, which lies in the space's page.
    let id = Arc::new(AtomicU64::new(7));
    let life = Arc::new(Life::new(AtomicU64::new(1)));
    let page_is = Arc::new(AtomicU64::new(SPACE));
    let post = Arc::new(Post::new([AtomicU64::new(0)]));
    let taken = Arc::new(AtomicU64::new(0));
    let maker = {
        let (id, life, page_is, post) = (id.clone(), life.clone(), page_is.clone(), post.clone());
        let taken = taken.clone();
        thread::spawn(move || {
            let mut wrong = false;
            if id.load(Ordering::Relaxed) == 7 {
                let entered = life.enter() || !careful;
                // Whether it is alive was asked in its own page, and the thread is entered there.
                wrong = page_is.load(Ordering::Relaxed) != SPACE;
                if entered {
                    wrong |= taken.load(Ordering::Relaxed) != 0;
                    if life.count() != 0 && life.leave() == Left::Last {
                        wrong |= taken.swap(1, Ordering::SeqCst) != 0;
                    }
                }
            }
            // The way out of the kernel.
            post.answer(|_| {});
            wrong
        })
    };
    id.store(0, Ordering::Relaxed);
    if life.leave() == Left::Last {
        let again = taken.swap(1, Ordering::SeqCst);
        assert!(!careful || again == 0, "taken away twice");
        if careful {
            post.ask(0);
        }
        if !careful || !post.is_open(0) {
            page_is.store(OTHER, Ordering::Relaxed);
        }
    }
    maker.join().unwrap()
}

#[test]
fn a_space_lives_or_is_gone() {
    model("thread made while its space dies", || {
        assert!(!thread_made_while_the_space_dies(true), "a thread in a dead space");
    });
}

#[test]
fn counting_after_the_look_up_is_too_late() {
    let found = broken("thread made while its space dies, counted late", || {
        thread_made_while_the_space_dies(false)
    });
    assert!(found > 0, "the model does not show what it is for");
}
