//! Propagation across CPUs: a forwarder sends in the name of a client that waits for its reply (reference 5.4). The client shall wait
//! for the receiver then.
//!
//! The client may be on any CPU, under way, or not waiting any more. What it waits for is changed where it is, so the forwarder
//! goes there first. Only one thing that is read from afar counts: whom the client has waited for last. That is true from
//! the moment at which the forwarder can have its message until the client waits for somebody else. Its *state* is not: a
//! client that arrives at home to wait there looks ready for a moment.
//!
//! Threads are named by ids that were looked up once. Whoever reads the id in a slot a second time may find another thread's.
//!
//! The kernel runs [`change_wait`] on its threads, and the model (`model::forward`) on its own.

/// What a thread of this CPU is about to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    No,
    /// It waits.
    Waits,
    /// It takes a queued message, or waits, when it is picked next.
    Later,
}

/// Where the forwarder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// On the client's CPU.
    Client,
    /// There is no such client any more.
    Nobody,
    /// Under way, or looking again in a moment.
    NotYet,
}

/// The forwarder's CPU, for one client and one receiver.
pub trait Cpu {
    /// Whether the client, of whatever CPU, has waited for the forwarder last.
    fn waited_for_me(&mut self) -> bool;
    /// Brings the forwarder one step nearer to the client. It does its system call once more when it is there.
    fn approach(&mut self) -> At;
    /// What the client, which is of this CPU, is about to receive from the forwarder alone.
    fn wait(&mut self) -> Wait;
    /// It is to receive that from the receiver.
    fn change(&mut self, wait: Wait);
}

/// The client waits for the receiver, if it waits for the forwarder. False if that is under way to do it.
pub fn change_wait<C: Cpu>(c: &mut C) -> bool {
    if !c.waited_for_me() {
        return true;
    }
    match c.approach() {
        At::NotYet => return false,
        At::Nobody => return true,
        At::Client => {}
    }
    match c.wait() {
        Wait::No => {}
        wait => c.change(wait),
    }
    true
}
