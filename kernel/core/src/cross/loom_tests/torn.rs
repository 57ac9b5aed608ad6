//! A mailbox of words whose exchange is a load and a store: what the models of the mailbox must find.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::super::mailbox::{Letter, Mailbox, Word};
use super::broken;

struct Torn(AtomicU64);

impl Word for Torn {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn store(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
    fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, Ordering::SeqCst)
    }
    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        let found = self.load();
        if found != old {
            return Err(found);
        }
        self.store(new);
        Ok(old)
    }
    fn set_bits(&self, bits: u64) -> u64 {
        self.swap(self.load() | bits)
    }
    fn clear_bits(&self, bits: u64) -> u64 {
        self.swap(self.load() & !bits)
    }
    fn subtract(&self, value: u64) -> u64 {
        self.swap(self.load() - value)
    }
}

loom::lazy_static! {
    static ref LINKS: [Torn; 3] = [torn(), torn(), torn()];
}

fn torn() -> Torn {
    Torn(AtomicU64::new(0))
}

#[derive(Clone, Copy)]
struct Slip(u64);

impl Letter for Slip {
    type Word = Torn;
    fn to_word(self) -> u64 {
        self.0
    }
    fn from_word(word: u64) -> Self {
        Self(word)
    }
    fn link(&self) -> &Torn {
        &LINKS[self.0 as usize]
    }
}

#[test]
fn an_exchange_that_is_not_one_loses_letters() {
    let lost = broken("two producers, exchange torn", || {
        let mailbox = Arc::new(Mailbox::new(torn(), torn()));
        let other = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let _ = mailbox.push(Slip(1));
            })
        };
        let _ = mailbox.push(Slip(2));
        other.join().unwrap();
        mailbox.take::<Slip>().count() != 2
    });
    assert!(lost > 0, "the model does not show what it is for");
}
