//! Messages as words: what travels in the message registers between pagers and clients.
//!
//! A message is a label and at most 63 words. Decoding is total: any words give a value or nothing,
//! and trailing words make a message invalid. Fields take a word each, except where noted.

use crate::ids::{Caller, Frame, LaneId, NodeSet, PageNo, PageRange, TaskId};
use crate::page::{Frames, MAX_REPLICAS};
use crate::pageset::PageSet;
use alloc::boxed::Box;
use alloc::vec::Vec;
use l4abi::tag::MAX_WORDS;
use l4abi::{CpuId, MsgTag, NodeId, Rights, ThreadId};

/// The words of a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Words {
    words: Vec<u64>,
}

impl Words {
    /// Adds a word.
    pub fn push(&mut self, word: u64) {
        self.words.push(word);
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[u64] {
        &self.words
    }
}

/// Reads the words of a message.
#[derive(Debug)]
pub struct Reader<I>(I);

impl<I: Iterator<Item = u64>> Reader<I> {
    /// A reader of these words.
    pub const fn new(words: I) -> Self {
        Self(words)
    }

    /// The next word.
    pub fn word(&mut self) -> Option<u64> {
        self.0.next()
    }
}

/// A value that can travel.
pub trait Wire: Sized {
    /// Adds its words.
    fn put(&self, out: &mut Words);
    /// Reads it back; `None` if the words do not mean one.
    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self>;
}

/// A value that is a message of its own.
pub trait Message: Wire {
    /// The label in the tag.
    const LABEL: u64;

    /// Tag and words; `None` if they are more than a message holds.
    fn encode(&self) -> Option<(MsgTag, Words)> {
        let mut words = Words::default();
        self.put(&mut words);
        let count = words.words.len();
        (count <= MAX_WORDS).then(|| (MsgTag::new(Self::LABEL, count, 0), words))
    }

    /// The message that was received; `None` for any other.
    fn decode(tag: MsgTag, words: &[u64]) -> Option<Self> {
        if tag.label() != Self::LABEL || tag.typed() != 0 {
            return None;
        }
        let mut input = Reader::new(words.get(..tag.untyped())?.iter().copied());
        let value = Self::get(&mut input)?;
        input.word().is_none().then_some(value)
    }
}

/// Implements [`Wire`] for an enum: a word that names the variant, then its fields.
macro_rules! wire_enum {
    ($type:ty { $($tag:literal => $variant:ident { $($field:tt: $name:ident),* })* }) => {
        impl $crate::wire::Wire for $type {
            fn put(&self, out: &mut $crate::wire::Words) {
                match self {
                    $(Self::$variant { $($field: $name),* } => {
                        out.push($tag);
                        $($crate::wire::Wire::put($name, out);)*
                    })*
                }
            }

            fn get<I: Iterator<Item = u64>>(
                input: &mut $crate::wire::Reader<I>,
            ) -> Option<Self> {
                match input.word()? {
                    $($tag => Some(Self::$variant {
                        $($field: $crate::wire::Wire::get(input)?),*
                    }),)*
                    _ => None,
                }
            }
        }
    };
}

/// Implements [`Wire`] for a struct: its fields in order.
macro_rules! wire_struct {
    ($type:ty { $($field:ident),* }) => {
        impl $crate::wire::Wire for $type {
            fn put(&self, out: &mut $crate::wire::Words) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }

            fn get<I: Iterator<Item = u64>>(
                input: &mut $crate::wire::Reader<I>,
            ) -> Option<Self> {
                Some(Self { $($field: $crate::wire::Wire::get(input)?),* })
            }
        }
    };
}

/// Implements [`Wire`] for something that is one word.
macro_rules! wire_word {
    ($type:ty, $value:ident => $to:expr, $word:ident => $from:expr) => {
        impl Wire for $type {
            fn put(&self, out: &mut Words) {
                let $value = *self;
                out.push($to);
            }

            fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
                let $word = input.word()?;
                $from
            }
        }
    };
}

/// Types that are messages of their own, and their labels.
macro_rules! labels {
    ($($message:ty = $label:literal),+ $(,)?) => {
        $(impl $crate::wire::Message for $message {
            const LABEL: u64 = $label;
        })+
    };
}

pub(crate) use {labels, wire_enum, wire_struct};

wire_word!(u64, v => v, w => Some(w));
wire_word!(bool, v => u64::from(v), w => (w <= 1).then_some(w == 1));
wire_word!(TaskId, v => u64::from(v.0), w => u32::try_from(w).ok().map(TaskId));
wire_word!(PageNo, v => v.0, w => Some(PageNo(w)));
wire_word!(NodeSet, v => v.0, w => Some(NodeSet(w)));
wire_word!(NodeId, v => u64::from(v.0), w => (w < 64).then_some(NodeId(w as u8)));
wire_word!(LaneId, v => u64::from(v.0), w => u8::try_from(w).ok().map(LaneId));
wire_word!(CpuId, v => u64::from(v.0), w => u16::try_from(w).ok().map(CpuId));
wire_word!(ThreadId, v => v.raw(), w => Some(ThreadId::from_raw(w)));
wire_word!(Rights, v => u64::from(v.bits()), w => {
    u8::try_from(w).ok().and_then(Rights::from_bits)
});
wire_word!(Frame, v => (u64::from(v.node.0) << 32) | u64::from(v.index), w => {
    ((w >> 32) < 64).then_some(Frame { node: NodeId((w >> 32) as u8), index: w as u32 })
});
wire_struct!(PageRange { first, end });
wire_struct!(Caller { node, lane });

impl Wire for Frames {
    fn put(&self, out: &mut Words) {
        put_frames(self, out);
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        Self::from_list(Wire::get(input)?)
    }
}

fn put_frames(frames: &[Frame], out: &mut Words) {
    out.push(frames.len() as u64);
    frames.iter().for_each(|frame| frame.put(out));
}

impl Wire for PageSet {
    fn put(&self, out: &mut Words) {
        self.first().put(out);
        self.bits().put(out);
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        Self::new(PageNo::get(input)?, u64::get(input)?)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Words) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        Some(if bool::get(input)? { Some(T::get(input)?) } else { None })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Words) {
        self.0.put(out);
        self.1.put(out);
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        Some((A::get(input)?, B::get(input)?))
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Words) {
        (**self).put(out);
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        T::get(input).map(Self::new)
    }
}

/// The frames of a page, or of pages that are worked on together: at least one, at most [`MAX_REPLICAS`].
impl Wire for Vec<Frame> {
    fn put(&self, out: &mut Words) {
        put_frames(self, out);
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        let count = input.word()?;
        if count == 0 || count > MAX_REPLICAS as u64 {
            return None;
        }
        (0..count).map(|_| Frame::get(input)).collect()
    }
}
