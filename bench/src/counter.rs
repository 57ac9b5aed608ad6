//! The example server of `docs/writing-a-server.md`, whole.

use l4abi::MsgTag;
use libl4::ThreadId;
use libl4::ipc::Received;
use libl4::rpc::Failure;
use libl4::server::{Answer, Service, serve};

libl4::rpc! {
    /// A counter that everybody may increase, up to a limit.
    pub trait Counter, client CounterClient, interface 0x41 {
        /// Adds `amount`; returns the sum so far.
        fn add(amount: u64) -> u64;
        /// The sum so far, and who added last.
        fn look() -> (u64, ThreadId);
    }
}

/// Failure code: the limit would be exceeded.
pub const TOO_MUCH: u64 = 1;
const LIMIT: u64 = 1_000;

struct Server {
    sum: u64,
    last: ThreadId,
}

impl Counter for Server {
    fn add(&mut self, from: ThreadId, amount: u64) -> Result<u64, Failure> {
        let sum = self.sum.checked_add(amount).filter(|&sum| sum <= LIMIT);
        self.sum = sum.ok_or(Failure(TOO_MUCH))?;
        self.last = from;
        Ok(self.sum)
    }

    fn look(&mut self, _: ThreadId) -> Result<(u64, ThreadId), Failure> {
        Ok((self.sum, self.last))
    }
}

impl Service for Server {
    fn handle(&mut self, request: &Received) -> Answer {
        match request.tag {
            MsgTag::NIL => Answer::Nothing,
            _ => CounterClient::dispatch(self, request),
        }
    }
}

/// The server thread's code.
pub extern "C" fn main(_: u64) -> ! {
    serve(&mut Server { sum: 0, last: ThreadId::NIL })
}
