//! The server loop: wait, handle, reply-and-wait (ref 5.1).

use crate::ipc::{self, Received};
use l4abi::{Acceptor, MsgTag, ThreadId};

/// What a handler wants done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Reply to the sender with this tag; the words are in the message registers.
    Reply(MsgTag),
    /// Send to another thread instead.
    ReplyTo(ThreadId, MsgTag),
    /// No reply.
    Nothing,
}

/// A server: one method per message.
pub trait Service {
    /// What requests may carry beside words. Set before each wait.
    fn acceptor(&self) -> Acceptor {
        Acceptor::NONE
    }

    /// Handles one message. It may do IPC itself; the answer's words must be written last.
    fn handle(&mut self, request: &Received) -> Answer;
}

/// Serves for ever. Replies never wait: a client that is not ready for its answer loses it.
pub fn serve(service: &mut impl Service) -> ! {
    let mut reply: Option<(ThreadId, MsgTag)> = None;
    loop {
        ipc::accept(service.acceptor());
        let result = match reply.take() {
            None => ipc::wait(),
            Some((to, tag)) => ipc::reply_wait(to, tag),
        };
        // On an error a client was not ready, or a message did not fit: not the server's trouble.
        let Ok(request) = result else { continue };
        reply = match service.handle(&request) {
            Answer::Reply(tag) => Some((request.from, tag)),
            Answer::ReplyTo(to, tag) => Some((to, tag)),
            Answer::Nothing => None,
        };
    }
}
