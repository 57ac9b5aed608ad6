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
