//! The boot manifest (`docs/manifest.md`), as the root task reads it. xtask has checked it before.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::Deserialize;

/// What to start, and as which system.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// Whether there is an application pager: programs are tasks then.
    pub pager: Option<String>,
    /// Pagers per node, or one.
    #[serde(default)]
    pub numa: Numa,
    /// Spaces of a task.
    #[serde(default)]
    pub spaces: Spaces,
    /// What happens when a node has no free frame.
    #[serde(default)]
    pub exhausted: Exhausted,
    /// How a page is unmapped on all nodes.
    #[serde(default)]
    pub unmap: Unmap,
    /// Which pagers an unmap tells.
    #[serde(default)]
    pub notify: Notify,
    /// How pagers reach a task's directory on another node.
    #[serde(default)]
    pub establish: Establish,
    /// Which pager is a new task's master.
    #[serde(default)]
    pub master: Master,
    /// Size of a node's pool in MiB, at most.
    #[serde(default = "default_pool")]
    pub pool: u32,
    /// When the pagers are started again after one of them died.
    #[serde(default)]
    pub pager_restart: Restart,
    /// For tests of supervision: a pager that dies on purpose.
    pub pager_dies: Option<PagerDies>,
    /// The programs.
    #[serde(default)]
    pub program: Vec<Program>,
}

/// Whether the system knows nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Numa {
    /// One pager and one pool per node.
    #[default]
    Nodes,
    /// One pager, memory of node 0 only.
    Flat,
}

/// How many spaces a task has.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Spaces {
    /// One per node on which it is active.
    #[default]
    PerNode,
    /// One.
    Single,
}

const fn default_pool() -> u32 {
    32
}

/// How a page is unmapped on all nodes (numa-l4 3.2.3, 5.4.2).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Unmap {
    /// All pagers concerned at once, with a barrier.
    #[default]
    Parallel,
    /// One after the other.
    OneByOne,
    /// The root task does it for all.
    Root,
}

/// Which pagers an unmap tells.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Notify {
    /// Those that may have the page mapped.
    #[default]
    Mapped,
    /// All where the task is active, the thesis' rule.
    Active,
}

/// How pagers reach a task's directory on another node (numa-l4 3.2.3, "Synchronization").
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Establish {
    /// Through shared memory, with the directory's lock.
    #[default]
    Shared,
    /// By IPC to the master's worker.
    Messages,
}

/// Which pager is a new task's master (numa-l4 4.2.1).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Master {
    /// The one that creates the task.
    #[default]
    Creator,
    /// All by turns.
    RoundRobin,
}

/// What a fault does on a node without a free frame.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Exhausted {
    /// Another node helps out.
    #[default]
    OtherNode,
    /// It is refused.
    Error,
}

/// A pager that dies on purpose, once: lane 0 raises an exception in the middle of its work.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct PagerDies {
    /// Its node.
    pub node: u8,
    /// Number of requests served before, plus one.
    pub after: u64,
}

/// A program to start.
#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    /// Name of the task.
    pub name: String,
    /// Its module.
    pub module: String,
    /// CPU of the first thread.
    pub cpu: Option<u16>,
    /// Node of the first thread.
    pub node: Option<u8>,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// The run is a success if the program dies.
    #[serde(default)]
    pub dies: bool,
    /// The run does not wait for it: it is stopped when all others have ended.
    #[serde(default)]
    pub daemon: bool,
    /// Its threads may move threads of all tasks.
    #[serde(default)]
    pub balancer: bool,
}

/// When a program is started again.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// Whenever it died other than by leaving.
    Always,
}

impl Manifest {
    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = core::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        toml::from_str(text).map_err(|e| e.message().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_manifest() {
        let text = "sigma0 = \"s\"\nroottask = \"r\"\npager = \"app_pager\"\nnuma = \"flat\"\n\
                    spaces = \"single\"\n[[program]]\nname = \"a\"\nmodule = \"m\"\ncpu = 1\n\
                    args = [\"x\", \"\"]\nrestart = \"always\"\n[[program]]\nname = \"b\"\n\
                    module = \"m\"\nnode = 3\n";
        let m = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!((m.numa, m.spaces), (Numa::Flat, Spaces::Single));
        assert_eq!((m.program[0].cpu, m.program[1].node), (Some(1), Some(3)));
        assert_eq!(m.program[0].args, ["x", ""]);
        assert_eq!(m.program[0].restart, Restart::Always);
        assert_eq!(m.exhausted, Exhausted::OtherNode);
        assert_eq!((m.unmap, m.notify), (Unmap::Parallel, Notify::Mapped));
        assert_eq!((m.establish, m.master, m.pool), (Establish::Shared, Master::Creator, 32));
        let m = Manifest::parse(
            b"unmap = \"one-by-one\"\nnotify = \"active\"\nestablish = \"messages\"\n\
              master = \"round-robin\"\npool = 128\n",
        )
        .unwrap();
        assert_eq!((m.unmap, m.notify), (Unmap::OneByOne, Notify::Active));
        assert_eq!((m.establish, m.master, m.pool), (Establish::Messages, Master::RoundRobin, 128));
    }

    #[test]
    fn mistakes_are_errors() {
        assert!(Manifest::parse(b"numa = \"round\"").is_err());
        assert!(Manifest::parse(b"[[program]]\nname = \"a\"").is_err());
        assert!(Manifest::parse(&[0xFF]).is_err());
        assert!(Manifest::parse(b"").unwrap().program.is_empty());
    }

    #[test]
    fn the_manifests_in_the_tree() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/manifests");
        for entry in std::fs::read_dir(dir).unwrap() {
            Manifest::parse(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        }
    }
}
