//! Transfers whose partners are on different CPUs for a while: who goes where, who goes on, who tells whom.
//!
//! Strings are copied on the receiver's CPU while both partners are there. Only a page fault in the middle
//! parts them: the thread whose page is missing travels to its pager. When that has answered, it comes back
//! ([`resume`]) and the transfer goes on. If the transfer ends meanwhile (timeout, cancel, deletion), the
//! partner at which that happens has its own error at once, and then is the courier that tells the other
//! ([`end_partner`]); it cannot begin another IPC before that, so partners are never confused.
//!
//! The kernel runs these functions on its threads, and the model (`model::transfer`) on its own.

use crate::ipc::State;

/// Why a thread travels in the middle of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Go<T, E> {
    /// Its fault was answered: back to the partner, in this state (`Sending` or `Receiving`).
    Resume(State),
    /// It receives and has come for its sender.
    Fetch,
    /// It has left its transfer with this partner, which must learn so.
    End(T, E),
    /// It follows its partner in the state it is in.
    Home,
}

/// What the rules look at in a thread.
#[derive(Debug, Clone, Copy)]
pub struct View<T> {
    /// Its state.
    pub state: State,
    /// It is of this CPU.
    pub here: bool,
    /// It is of this CPU and runs here at user level.
    pub at_home: bool,
    /// It is in a message that the kernel makes.
    pub kernel_ipc: bool,
    /// State and partner of the transfer which that message interrupts.
    pub outer: Option<(State, Option<T>)>,
    /// Its errand is to go back to the partner, or to fetch it.
    pub seeks: bool,
    /// The partner that it names, outside such a message.
    pub partner: Option<T>,
}

/// A CPU and its threads.
pub trait Cpu {
    /// Names a thread.
    type Thread: Copy + PartialEq;
    /// How one partner's part of a transfer ends.
    type End: Copy;

    /// Looks at a thread, of whatever CPU.
    fn look(&self, t: Self::Thread) -> View<Self::Thread>;
    /// Changes the state of a thread of this CPU.
    fn set_state(&mut self, t: Self::Thread, state: State);
    /// Brings `me` one step nearer to `other` (`super::step`). True if that is here, or nowhere.
    fn reach(
        &mut self,
        me: Self::Thread,
        other: Self::Thread,
        go: Go<Self::Thread, Self::End>,
    ) -> bool;
    /// Sends `t` to the home of `whose`.
    fn send_home(&mut self, t: Self::Thread, whose: Self::Thread, go: Go<Self::Thread, Self::End>);
    /// `t` looks again in a moment.
    fn wait(&mut self, t: Self::Thread, go: Go<Self::Thread, Self::End>);
    /// `t` stops looking for its partner: it is back in the state of the transfer.
    fn interrupt(&mut self, t: Self::Thread);
    /// The transfer to `dest` goes on in that thread's name.
    fn go_on(&mut self, dest: Self::Thread);
    /// Queues `t` if it can run, at home.
    fn enqueue(&mut self, t: Self::Thread);
    /// `t`, a visitor, has another home: this CPU, perhaps.
    fn settle(&mut self, t: Self::Thread);
    /// `t` is a visitor from now on.
    fn visit(&mut self, t: Self::Thread);
    /// `t`, whose partner was `partner`, has this end and is ready.
    fn finish(&mut self, t: Self::Thread, partner: Self::Thread, end: Self::End);
}

/// What an abort ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending<T> {
    /// Nothing: the thread is in no IPC, or not in a phase that is to be aborted.
    Nothing,
    /// Its place in a partner's queue.
    Send,
    /// Its wait.
    Receive,
    /// The transfer from the first to the second.
    Transfer(T, T),
    /// A message that the kernel makes: the thread does again what brought that about.
    Message,
}

fn parked(state: State) -> bool {
    matches!(state, State::Sending | State::Receiving)
}

/// Whether `t` is in a transfer with `partner`, a fault in the middle of it included.
pub fn engaged<C: Cpu>(c: &C, t: C::Thread, partner: C::Thread) -> bool {
    let view = c.look(t);
    if let Some((state, other)) = view.outer {
        return parked(state) && other == Some(partner);
    }
    let searching = view.state == State::Remote && view.seeks;
    (parked(view.state) || searching) && view.partner == Some(partner)
}

/// The partner of `t` in a transfer, if it is in one and the partner is elsewhere.
pub fn partner_elsewhere<C: Cpu>(c: &C, t: C::Thread) -> Option<C::Thread> {
    let view = c.look(t);
    let partner = view.outer.map_or(view.partner, |(_, partner)| partner)?;
    (engaged(c, t, partner) && !c.look(partner).here).then_some(partner)
}

/// Whether the sender of a transfer stands beside the receiver on this CPU and goes where that goes. One that is
/// with its pager or on its way back finds the receiver by itself.
pub fn follows_receiver<C: Cpu>(c: &C, sender: C::Thread) -> bool {
    let view = c.look(sender);
    view.here && !view.kernel_ipc && view.state == State::Sending
}

/// What ends if the `receive` phase, the `send` phase or both of `t`, a thread of this CPU, are aborted. One that looks for its
/// partner stops that. A fault in the middle of a transfer hides the transfer: it goes first.
pub fn abort<C: Cpu>(c: &mut C, t: C::Thread, receive: bool, send: bool) -> Ending<C::Thread> {
    if c.look(t).state == State::Remote {
        c.interrupt(t);
    }
    let View { state, outer, partner, kernel_ipc, .. } = c.look(t);
    let (state, partner, hidden) = match outer {
        Some((state, partner)) if parked(state) => (state, partner, true),
        _ => (state, partner, false),
    };
    match (state, partner) {
        (State::Sending, Some(dest)) if send => Ending::Transfer(t, dest),
        (State::Receiving, Some(sender)) if receive => Ending::Transfer(sender, t),
        (State::Polling, _) if send && !hidden => {
            if kernel_ipc {
                Ending::Message
            } else {
                Ending::Send
            }
        }
        (State::Waiting, _) if receive && !hidden => {
            if kernel_ipc {
                Ending::Message
            } else {
                Ending::Receive
            }
        }
        _ => Ending::Nothing,
    }
}

/// The home of `t`, a thread of this CPU, is another one now; before, it was at home here unless it `visited`. One that nothing ties to
/// this CPU leaves in whatever state it is.
pub fn moved<C: Cpu>(c: &mut C, t: C::Thread, visited: bool) {
    if visited {
        c.settle(t);
        return;
    }
    let View { state, partner, .. } = c.look(t);
    match state {
        // The partner is here.
        State::Polling | State::Sending | State::Remote => {
            c.visit(t);
            return;
        }
        State::Receiving => {
            if let Some(sender) = partner
                && follows_receiver(c, sender)
            {
                c.send_home(sender, t, Go::Home);
            }
        }
        _ => {}
    }
    c.send_home(t, t, Go::Home);
}

/// `t` has its page and is back in its transfer.
pub fn resume<C: Cpu>(c: &mut C, t: C::Thread) {
    let View { partner, state, at_home, .. } = c.look(t);
    let Some(partner) = partner else { return };
    if state == State::Receiving {
        if !at_home {
            c.set_state(t, State::Remote);
            c.send_home(t, t, Go::Resume(state));
        } else if c.reach(t, partner, Go::Fetch) {
            go_on(c, t, partner);
        }
    } else if c.reach(t, partner, Go::Resume(state)) && engaged(c, partner, t) {
        let receiver = c.look(partner);
        if receiver.at_home && receiver.state == State::Receiving {
            go_on(c, partner, t);
        } else {
            // The receiver is looking for this thread, or on its way home.
            c.wait(t, Go::Resume(state));
        }
    }
}

/// Both are on the receiver's CPU. If the sender has left the transfer, it is on its way to say so.
fn go_on<C: Cpu>(c: &mut C, dest: C::Thread, sender: C::Thread) {
    if engaged(c, sender, dest) {
        c.go_on(dest);
    }
}

/// Receiving `t` has come for its sender.
pub fn fetch<C: Cpu>(c: &mut C, t: C::Thread) {
    let View { partner, at_home, .. } = c.look(t);
    let Some(sender) = partner else { return };
    if at_home {
        return resume(c, t);
    }
    if !c.reach(t, sender, Go::Fetch) {
        return;
    }
    if engaged(c, sender, t) && !c.look(sender).kernel_ipc {
        if c.look(sender).state == State::Remote {
            c.interrupt(sender);
        }
        c.send_home(sender, t, Go::Home);
    }
    c.set_state(t, State::Remote);
    c.send_home(t, t, Go::Resume(State::Receiving));
}

/// Ends the transfer from `sender` to `dest`, of which at least one is on this CPU: what each gets.
pub fn end<C: Cpu>(c: &mut C, sender: C::Thread, dest: C::Thread, ends: (C::End, C::End)) {
    // A partner that has left the transfer stands here to tell the other, and finds that it need not.
    let takes_part = |t, partner| c.look(t).here && engaged(c, t, partner);
    let (sender_here, dest_here) = (takes_part(sender, dest), takes_part(dest, sender));
    if dest_here {
        c.finish(dest, sender, ends.1);
    }
    if sender_here {
        c.finish(sender, dest, ends.0);
    }
    let (courier, partner, end) = match (sender_here, dest_here) {
        (true, true) => {
            c.enqueue(sender);
            c.enqueue(dest);
            return;
        }
        (true, false) => (sender, dest, ends.1),
        (false, true) => (dest, sender, ends.0),
        (false, false) => return,
    };
    if c.reach(courier, partner, Go::End(partner, end)) {
        // Not reached: the partner was elsewhere a moment ago and nobody came since.
        c.enqueue(courier);
    }
}

/// `me` has left its transfer with `partner` and tells it so.
pub fn end_partner<C: Cpu>(c: &mut C, me: C::Thread, partner: C::Thread, end: C::End) {
    if !c.reach(me, partner, Go::End(partner, end)) {
        return;
    }
    if engaged(c, partner, me) {
        c.finish(partner, me, end);
        c.enqueue(partner);
    }
    c.set_state(me, State::Ready);
    c.enqueue(me);
}
