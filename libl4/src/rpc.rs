//! Typed RPC: one interface definition gives the labels, the client stub and the server dispatch.
//!
//! ```ignore
//! libl4::rpc! {
//!     /// Counts.
//!     pub trait Counter, client CounterClient, interface 0x41 {
//!         /// Adds and returns the sum so far.
//!         fn add(amount: u64) -> u64;
//!     }
//! }
//! ```
//!
//! The server implements the trait (each method also gets the caller's id, and may fail with a code)
//! and hands received messages to `CounterClient::dispatch`; the client calls
//! `CounterClient::new(server).add(5)`. A request's label is `interface << 8 | method`, methods
//! counted from 0 in order. A reply's label is 0 for a result, 1 for a failure (MR1 is the code), 2
//! when the request was not understood.

use crate::ipc;
use crate::msg::{Reader, Writer};
use crate::server::Answer;
use l4abi::item::Item;
use l4abi::{Acceptor, CpuId, Fpage, IpcError, MsgTag, NodeId, Rights, ThreadId, Time, Timeouts};

/// Label of a reply that carries a result.
pub const REPLY_OK: u64 = 0;
/// Label of a reply that carries a failure code.
pub const REPLY_FAILED: u64 = 1;
/// Label of the reply to a request that was not understood.
pub const REPLY_UNKNOWN: u64 = 2;

/// A failure that a server method returns: a code whose meaning the interface defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(pub u64);

/// Why a call brought no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcError {
    /// The IPC failed.
    Ipc(IpcError),
    /// The server method failed.
    Failed(Failure),
    /// The server does not know the request.
    Unknown,
    /// The reply does not have the form of the interface.
    BadReply,
}

/// What can be a parameter or a result: words, and map items (which must come last).
pub trait Wire: Sized {
    /// Appends the value to a message.
    fn put(self, message: &mut Writer<'_>);
    /// Takes a value from a message; `None` if it is not there.
    fn get(message: &mut Reader<'_>) -> Option<Self>;
}

macro_rules! wire_word {
    ($($ty:ty, $to:expr, $from:expr;)+) => {
        $(impl Wire for $ty {
            fn put(self, message: &mut Writer<'_>) {
                let to: fn($ty) -> u64 = $to;
                message.word(to(self));
            }

            fn get(message: &mut Reader<'_>) -> Option<Self> {
                let from: fn(u64) -> Option<$ty> = $from;
                from(message.word()?)
            }
        })+
    };
}

wire_word! {
    u64, |v| v, Some;
    u32, u64::from, |w| w.try_into().ok();
    u16, u64::from, |w| w.try_into().ok();
    u8, u64::from, |w| w.try_into().ok();
    bool, u64::from, |w| match w { 0 => Some(false), 1 => Some(true), _ => None };
    ThreadId, ThreadId::raw, |w| Some(ThreadId::from_raw(w));
    Fpage, Fpage::raw, |w| Some(Fpage::from_raw(w));
    CpuId, |v| u64::from(v.0), |w| w.try_into().ok().map(CpuId);
    NodeId, |v| u64::from(v.0), |w| w.try_into().ok().map(NodeId);
    Rights, |v| u64::from(v.bits()), |w| w.try_into().ok().and_then(Rights::from_bits);
}

macro_rules! wire_tuple {
    ($($name:ident)*) => {
        #[expect(non_snake_case, reason = "the type parameters name the values, too")]
        impl<$($name: Wire),*> Wire for ($($name,)*) {
            fn put(self, message: &mut Writer<'_>) {
                let ($($name,)*) = self;
                $($name.put(message);)*
            }

            fn get(message: &mut Reader<'_>) -> Option<Self> {
                Some(($($name::get(message)?,)*))
            }
        }
    };
}

impl Wire for () {
    fn put(self, _: &mut Writer<'_>) {}

    fn get(_: &mut Reader<'_>) -> Option<Self> {
        Some(())
    }
}

wire_tuple!(A B);
wire_tuple!(A B C);
wire_tuple!(A B C D);

/// A map item as a parameter or result: the mapping itself is done by the kernel, into the
/// receiver's window. A message has at most one, at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The send base.
    pub base: u64,
    /// The send fpage, as the sender named it.
    pub fpage: Fpage,
}

impl Wire for Mapping {
    fn put(self, message: &mut Writer<'_>) {
        message.map(self.base, self.fpage);
    }

    fn get(message: &mut Reader<'_>) -> Option<Self> {
        match message.typed_words().items().next() {
            Some(Ok(Item::Map { base, fpage })) => Some(Self { base, fpage }),
            _ => None,
        }
    }
}

/// A short text as a parameter or result: up to 40 bytes of UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    words: [u64; 5],
    len: u8,
}

impl Text {
    /// The text, cut to 40 bytes at a character boundary.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut len = text.len().min(40);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let mut words = [0; 5];
        for (i, &byte) in text.as_bytes()[..len].iter().enumerate() {
            words[i / 8] |= u64::from(byte) << (8 * (i % 8));
        }
        Self { words, len: len as u8 }
    }

    /// The bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        (0..self.len as usize).map(|i| (self.words[i / 8] >> (8 * (i % 8))) as u8)
    }
}

impl core::fmt::Display for Text {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut bytes = [0; 40];
        bytes.iter_mut().zip(self.bytes()).for_each(|(slot, byte)| *slot = byte);
        match core::str::from_utf8(&bytes[..self.len as usize]) {
            Ok(text) => f.write_str(text),
            Err(_) => f.write_str("?"),
        }
    }
}

impl Wire for Text {
    fn put(self, message: &mut Writer<'_>) {
        message.word(u64::from(self.len)).words(&self.words[..(self.len as usize).div_ceil(8)]);
    }

    fn get(message: &mut Reader<'_>) -> Option<Self> {
        let len = u8::try_from(message.word()?).ok().filter(|&len| len <= 40)?;
        let mut words = [0; 5];
        for word in &mut words[..(len as usize).div_ceil(8)] {
            *word = message.word()?;
        }
        Some(Self { words, len })
    }
}

/// Where and how a client calls.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The server thread.
    pub server: ThreadId,
    /// Timeouts of the call.
    pub timeouts: Timeouts,
    /// What the reply may map.
    pub window: Acceptor,
}

impl Target {
    /// A server called without timeouts and without a window.
    #[must_use]
    pub const fn new(server: ThreadId) -> Self {
        let timeouts = Timeouts::new(Time::NEVER, Time::NEVER);
        Self { server, timeouts, window: Acceptor::NONE }
    }

    /// Makes a call; used by the generated stubs.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn call<R: Wire>(&self, label: u64, args: impl Wire) -> Result<R, RpcError> {
        let mut message = Writer::here();
        args.put(&mut message);
        ipc::accept(self.window);
        let result = ipc::call(self.server, self.timeouts, message.tag(label));
        ipc::accept(Acceptor::NONE);
        let received = result.map_err(RpcError::Ipc)?;
        decode_reply(&mut Reader::here(received.tag), received.tag)
    }
}

fn decode_reply<R: Wire>(reader: &mut Reader<'_>, tag: MsgTag) -> Result<R, RpcError> {
    match tag.label() {
        REPLY_OK => R::get(reader).ok_or(RpcError::BadReply),
        REPLY_FAILED => match reader.word() {
            Some(code) => Err(RpcError::Failed(Failure(code))),
            None => Err(RpcError::BadReply),
        },
        REPLY_UNKNOWN => Err(RpcError::Unknown),
        _ => Err(RpcError::BadReply),
    }
}

/// Builds the reply to a request; used by the generated dispatch.
pub fn reply<R: Wire>(mut message: Writer<'_>, result: Result<R, Failure>) -> Answer {
    let label = match result {
        Ok(value) => {
            value.put(&mut message);
            REPLY_OK
        }
        Err(Failure(code)) => {
            message.word(code);
            REPLY_FAILED
        }
    };
    Answer::Reply(message.tag(label))
}

/// The answer to a request that is not understood.
#[must_use]
pub fn unknown() -> Answer {
    Answer::Reply(MsgTag::new(REPLY_UNKNOWN, 0, 0))
}

/// Position of a method in the list of an interface; evaluated at compile time.
///
/// # Panics
/// If the list does not contain `name`.
#[must_use]
pub const fn index_of(names: &[&str], name: &str) -> u64 {
    let mut i = 0;
    while i < names.len() {
        if same(names[i].as_bytes(), name.as_bytes()) {
            return i as u64;
        }
        i += 1;
    }
    panic!("no such method")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Defines an interface; see the module's head.
#[macro_export]
macro_rules! rpc {
    (
        $(#[$meta:meta])*
        $vis:vis trait $name:ident, client $client:ident, interface $id:literal {
            $(
                $(#[$fmeta:meta])*
                fn $method:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;
            )+
        }
    ) => {
        $(#[$meta])*
        $vis trait $name {
            $(
                $(#[$fmeta])*
                fn $method(&mut self, from: $crate::ThreadId, $($arg: $ty),*)
                    -> Result<$crate::rpc!(@ret $($ret)?), $crate::rpc::Failure>;
            )+
        }

        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        #[allow(dead_code, reason = "a program may hold one side only")]
        $vis struct $client {
            /// Where and how to call.
            pub target: $crate::rpc::Target,
        }

        #[allow(dead_code, reason = "a program may hold one side only")]
        impl $client {
            /// A client of `server`, without timeouts.
            #[must_use]
            $vis const fn new(server: $crate::ThreadId) -> Self {
                Self { target: $crate::rpc::Target::new(server) }
            }

            $(
                $(#[$fmeta])*
                $vis fn $method(&self, $($arg: $ty),*)
                    -> Result<$crate::rpc!(@ret $($ret)?), $crate::rpc::RpcError> {
                    let label = const { Self::label(stringify!($method)) };
                    self.target.call(label, $crate::rpc!(@args $($arg)*))
                }
            )+

            /// Names of the methods in order.
            $vis const METHODS: &'static [&'static str] = &[$(stringify!($method)),+];

            /// Label of the method with this name.
            const fn label(method: &str) -> u64 {
                (($id as u64) << 8) | $crate::rpc::index_of(Self::METHODS, method)
            }

            /// Whether a label belongs to this interface.
            #[must_use]
            $vis const fn owns(label: u64) -> bool {
                label >> 8 == $id
            }

            /// Decodes a request from `utcb`, calls the method, and puts the reply there.
            $vis fn dispatch_on(
                utcb: &$crate::Utcb,
                server: &mut impl $name,
                from: $crate::ThreadId,
                tag: $crate::MsgTag,
            ) -> $crate::server::Answer {
                let mut reader = $crate::msg::Reader::new(utcb, tag);
                $(
                    if tag.label() == const { Self::label(stringify!($method)) } {
                        $(
                            let Some($arg) = <$ty as $crate::rpc::Wire>::get(&mut reader) else {
                                return $crate::rpc::unknown();
                            };
                        )*
                        let result = server.$method(from, $($arg),*);
                        return $crate::rpc::reply($crate::msg::Writer::new(utcb), result);
                    }
                )+
                let _ = &mut reader;
                $crate::rpc::unknown()
            }

            /// Handles a message that the running thread received.
            $vis fn dispatch(
                server: &mut impl $name,
                request: &$crate::ipc::Received,
            ) -> $crate::server::Answer {
                Self::dispatch_on($crate::arch::utcb(), server, request.from, request.tag)
            }
        }
    };
    (@ret) => { () };
    (@ret $ret:ty) => { $ret };
    (@args) => { () };
    (@args $a:ident) => { $a };
    (@args $($a:ident)+) => { ($($a,)+) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use l4abi::Utcb;

    rpc! {
        /// A test interface.
        pub(crate) trait Bank, client BankClient, interface 0x51 {
            /// Adds.
            fn deposit(amount: u64, node: NodeId) -> u64;
            /// Fails.
            fn rob();
            /// Maps.
            fn page(name: Text) -> (u64, Mapping);
        }
    }

    struct Impl(u64);

    impl Bank for Impl {
        fn deposit(&mut self, from: ThreadId, amount: u64, node: NodeId) -> Result<u64, Failure> {
            assert_eq!(from, ThreadId::irq(9));
            self.0 += amount + u64::from(node.0);
            Ok(self.0)
        }

        fn rob(&mut self, _: ThreadId) -> Result<(), Failure> {
            Err(Failure(13))
        }

        fn page(&mut self, _: ThreadId, name: Text) -> Result<(u64, Mapping), Failure> {
            let fpage = Fpage::memory(0x4000, 12, Rights::R);
            Ok((name.bytes().count() as u64, Mapping { base: 0, fpage }))
        }
    }

    fn exchange<R: Wire>(bank: &mut Impl, label: u64, args: impl Wire) -> Result<R, RpcError> {
        let utcb = Utcb::zeroed();
        let mut message = Writer::new(&utcb);
        args.put(&mut message);
        let tag = message.tag(label);
        let Answer::Reply(tag) = BankClient::dispatch_on(&utcb, bank, ThreadId::irq(9), tag) else {
            panic!("a reply");
        };
        decode_reply(&mut Reader::new(&utcb, tag), tag)
    }

    #[test]
    fn calls_reach_their_methods() {
        let mut bank = Impl(5);
        assert_eq!(exchange(&mut bank, 0x5100, (7u64, NodeId(2))), Ok(14u64));
        assert_eq!(exchange::<()>(&mut bank, 0x5101, ()), Err(RpcError::Failed(Failure(13))));
        let page: Result<(u64, Mapping), _> = exchange(&mut bank, 0x5102, Text::new("häuser"));
        let (len, mapping) = page.expect("a page");
        assert_eq!((len, mapping.fpage.raw()), (7, Fpage::memory(0x4000, 12, Rights::R).raw()));
        assert!(BankClient::owns(0x5102) && !BankClient::owns(0x5202));
    }

    #[test]
    fn malformed_requests_are_answered() {
        let mut bank = Impl(0);
        assert_eq!(exchange::<u64>(&mut bank, 0x5100, 7u64), Err(RpcError::Unknown));
        assert_eq!(exchange::<u64>(&mut bank, 0x5100, (7u64, 300u64)), Err(RpcError::Unknown));
        assert_eq!(exchange::<u64>(&mut bank, 0x5103, ()), Err(RpcError::Unknown));
        assert_eq!(
            exchange::<(u64, u64)>(&mut bank, 0x5100, (7u64, 1u64)),
            Err(RpcError::BadReply)
        );
        assert_eq!(bank.0, 8);
        assert_eq!(exchange::<u64>(&mut bank, 0x5102, 41u64), Err(RpcError::Unknown));
    }

    #[test]
    fn text_is_cut_at_characters() {
        let long = "x".repeat(39) + "ä";
        assert_eq!(Text::new(&long).bytes().count(), 39);
        assert_eq!(Text::new("abc").to_string(), "abc");
    }
}
