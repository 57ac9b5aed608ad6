//! The test harness.
//!
//! Four kinds of threads, all made from the program's one image:
//!
//! - the **controller**, the root task's first thread: hands tests to the runner one by one, waits
//!   with a limit, deletes what a test leaves behind, prints `test` records;
//! - the **pager** ([`pager`]), which serves the faults of everybody below;
//! - the **runner**, in the root task's space, which executes the test functions;
//! - **puppets** ([`puppet`]), the partners: in the runner's space, in spaces of their own, on the
//!   same CPU or another one, as the test's [`Place`] says.
//!
//! A test that hangs costs its time limit: the controller deletes runner and puppets and goes on.

pub mod arena;
pub mod controller;
pub mod ctx;
pub mod ids;
pub mod pager;
mod perform;
pub mod puppet;
pub mod report;
mod settle;

pub use controller::run;
pub use ctx::{Ctx, PuppetOptions};
pub use puppet::{IpcCmd, Outcome, Puppet};
pub use report::{Failed, TestResult, fail};

use libl4::{CpuId, ThreadId, Time, println, sys};

/// Where a test's partner lives, seen from the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the runner's space on its CPU.
    Local,
    /// In another space on its CPU.
    Remote,
    /// In the runner's space on another CPU of the same node, if there is one, else of another node.
    LocalFar,
    /// In another space on another CPU.
    RemoteFar,
    /// In another space on another node.
    RemoteNode,
}

impl Place {
    /// Every place, nearest first.
    pub const ALL: [Self; 5] =
        [Self::Local, Self::Remote, Self::LocalFar, Self::RemoteFar, Self::RemoteNode];

    /// The suffix of the test's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::LocalFar => "local_xcpu",
            Self::RemoteFar => "remote_xcpu",
            Self::RemoteNode => "remote_xnode",
        }
    }

    /// Whether the partner shares the runner's space.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::Local | Self::LocalFar)
    }

    /// Whether the partner is on the runner's CPU.
    #[must_use]
    pub const fn same_cpu(self) -> bool {
        matches!(self, Self::Local | Self::Remote)
    }

    /// Where somebody is who is neither on the runner's CPU nor on that of a partner at this place, in a third space;
    /// `None` if this machine has no such place.
    #[must_use]
    pub fn third(self) -> Option<Self> {
        let other = match self {
            Self::RemoteFar => Self::RemoteNode,
            Self::RemoteNode => Self::RemoteFar,
            _ => return None,
        };
        (self.cpu() != other.cpu()).then_some(other)
    }

    /// The CPU of the partner; `None` if this machine has no such place.
    #[must_use]
    pub fn cpu(self) -> Option<CpuId> {
        let here = libl4::thread::my_cpu();
        let node = libl4::topology::node_of(here);
        let others = || (0..libl4::topology::cpu_count() as u16).map(CpuId).filter(|&c| c != here);
        let same_node = |cpu: &CpuId| libl4::topology::node_of(*cpu) == node;
        match self {
            Self::Local | Self::Remote => Some(here),
            Self::LocalFar | Self::RemoteFar => {
                others().find(same_node).or_else(|| others().next())
            }
            Self::RemoteNode => others().find(|cpu| !same_node(cpu)),
        }
    }
}

/// In which places a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// Once; it chooses its partners itself.
    Once,
    /// Everywhere the machine has.
    All,
    /// Everywhere but in the runner's space.
    OtherSpace,
    /// Everywhere on another CPU.
    OtherCpu,
    /// In another space on another CPU, where the machine has a third one for the partner's partner.
    ThirdCpu,
}

impl Places {
    /// The places as list.
    pub fn list(self) -> impl Iterator<Item = Place> {
        Place::ALL.into_iter().filter(move |place| match self {
            Self::Once => *place == Place::Local,
            Self::All => true,
            Self::OtherSpace => !place.is_local(),
            Self::OtherCpu => !place.same_cpu(),
            Self::ThirdCpu => place.third().is_some(),
        })
    }
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Unique name, starting with its area.
    pub name: &'static str,
    /// What it shows, for the table in the documentation.
    pub what: &'static str,
    /// Where it runs.
    pub places: Places,
    /// The test.
    pub run: fn(&mut Ctx) -> TestResult,
}

/// Defines the list of an area's tests: functions with a place and a sentence.
#[macro_export]
macro_rules! tests {
    ($($name:ident, $places:ident, $what:literal;)+) => {
        /// The tests of this area.
        pub const TESTS: &[$crate::harness::Test] = &[
            $($crate::harness::Test {
                name: stringify!($name),
                what: $what,
                places: $crate::harness::Places::$places,
                run: $name,
            },)+
        ];
    };
}

/// Fails the test unless the condition holds.
#[macro_export]
macro_rules! check {
    ($cond:expr) => {
        $crate::check!($cond, "{}", stringify!($cond))
    };
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            return Err($crate::harness::fail(line!(), format_args!($($arg)+)));
        }
    };
}

/// Fails the test unless both values are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr) => {
        $crate::check_eq!($left, $right, "{}", stringify!($left))
    };
    ($left:expr, $right:expr, $($arg:tt)+) => {{
        let (left, right) = ($left, $right);
        if left != right {
            return Err($crate::harness::fail(
                line!(),
                format_args!("{}: {left:?}, want {right:?}", format_args!($($arg)+)),
            ));
        }
    }};
}

/// Unwraps a result; fails the test with its error.
#[macro_export]
macro_rules! need {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => {
                return Err($crate::harness::fail(
                    line!(),
                    format_args!("{}: {error:?}", stringify!($result)),
                ));
            }
        }
    };
}

/// How long a step that should succeed may take before the test fails.
pub const PATIENCE: Time = Time::period_us(2_000_000);

/// Prints where a thread stands, for whoever looks into a standstill.
pub fn print_state(id: ThreadId) {
    let state = sys::schedule(id, sys::Schedule::default());
    let seen = sys::exchange_registers(id, sys::Exregs::default());
    println!("  thread {id}: {state:x?}, {seen:x?}");
}
