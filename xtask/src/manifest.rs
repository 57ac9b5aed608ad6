//! The boot manifest `boot.toml`: what the root task starts.
//!
//! xtask checks it before it goes into the archive, so that a mistake is found here and not on a
//! booting machine. `docs/manifest.md` describes the keys.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{collections::BTreeSet, fs, path::Path};

/// A checked manifest and its text.
#[derive(Debug)]
pub struct Manifest {
    /// The text as it goes into the archive.
    pub text: String,
    /// Name of the program in sigma0's place.
    pub sigma0: String,
    /// Name of the program in the root task's place.
    pub roottask: String,
    /// Name of the application pager; none where the root task does without.
    pub pager: Option<String>,
    /// Modules of the programs to start and other modules, each once.
    pub modules: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sigma0: String,
    roottask: String,
    pager: Option<String>,
    #[serde(default)]
    numa: Numa,
    #[serde(default)]
    #[serde(rename = "spaces")]
    _spaces: Spaces,
    #[serde(default)]
    #[serde(rename = "exhausted")]
    _exhausted: Exhausted,
    #[serde(default)]
    #[serde(rename = "unmap")]
    _unmap: Unmap,
    #[serde(default)]
    #[serde(rename = "notify")]
    _notify: Notify,
    #[serde(default)]
    #[serde(rename = "establish")]
    _establish: Establish,
    #[serde(default)]
    #[serde(rename = "master")]
    _master: Master,
    #[serde(default = "default_pool")]
    pool: u32,
    #[serde(default, rename = "pager_restart")]
    _pager_restart: Restart,
    pager_dies: Option<PagerDies>,
    #[serde(default)]
    program: Vec<Program>,
}

/// The size of pools in MiB that the root task takes by itself.
const fn default_pool() -> u32 {
    32
}

/// How a page is unmapped on all nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Unmap {
    /// All pagers concerned at once.
    #[default]
    Parallel,
    /// One after the other.
    OneByOne,
    /// The root task does it for all.
    Root,
}

/// Which pagers an unmap tells.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Notify {
    /// Those that may have the page mapped.
    #[default]
    Mapped,
    /// All where the task is active.
    Active,
}

/// How pagers reach a task's directory on another node.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Establish {
    /// Through shared memory, with its lock.
    #[default]
    Shared,
    /// By IPC.
    Messages,
}

/// Which pager is a new task's master.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Master {
    /// The one that creates the task.
    #[default]
    Creator,
    /// All by turns.
    RoundRobin,
}

/// What a fault does on a node without a free frame.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Exhausted {
    /// Another node helps out.
    #[default]
    OtherNode,
    /// It is refused.
    Error,
}

/// Whether the system knows nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Numa {
    /// One pager and one pool per node.
    #[default]
    Nodes,
    /// One pager, memory of node 0 only: the control system of the experiments.
    Flat,
}

/// How many spaces a task has.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Spaces {
    /// One per node on which it is active.
    #[default]
    PerNode,
    /// One.
    Single,
}

/// A pager that dies on purpose after so many requests (tests of supervision).
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct PagerDies {
    #[serde(rename = "node")]
    _node: u8,
    after: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    name: String,
    module: String,
    cpu: Option<u32>,
    node: Option<u32>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default, rename = "restart")]
    _restart: Restart,
    #[serde(default, rename = "dies")]
    _dies: bool,
    #[serde(default)]
    daemon: bool,
    #[serde(default)]
    balancer: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Restart {
    #[default]
    Never,
    Always,
}

impl Manifest {
    /// Reads and checks a manifest file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the manifest {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("manifest {}", path.display()))
    }

    /// Checks the text of a manifest.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File =
            toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", crate::toml_error(text, &e)))?;
        let mut names = BTreeSet::new();
        let mut modules = Vec::new();
        for program in &file.program {
            check_program(program)?;
            ensure!(names.insert(&program.name), "two programs are named '{}'", program.name);
            if !modules.contains(&program.module) {
                modules.push(program.module.clone());
            }
        }
        ensure!(
            file.program.is_empty() || file.program.iter().any(|program| !program.daemon),
            "all programs are daemons: the run would end at once"
        );
        if let Some(program) = file.program.iter().find(|p| p.balancer && file.pager.is_none()) {
            anyhow::bail!("program '{}' is a balancer, but there is no pager", program.name);
        }
        if file.numa == Numa::Flat {
            let placed = file.program.iter().find(|p| p.node.is_some_and(|node| node != 0));
            if let Some(program) = placed {
                anyhow::bail!("program '{}' asks for a node, but numa = \"flat\"", program.name);
            }
        }
        ensure!(file.pager_dies.is_none_or(|at| at.after > 0), "pager_dies: after begins at 1");
        ensure!(
            file.pool.is_power_of_two() && (1..=1024).contains(&file.pool),
            "pool is {}; it must be a power of two from 1 to 1024 (MiB)",
            file.pool
        );
        Ok(Self {
            text: text.to_string(),
            sigma0: file.sigma0,
            roottask: file.roottask,
            pager: file.pager,
            modules,
        })
    }
}

fn check_program(program: &Program) -> Result<()> {
    let name = &program.name;
    ensure!(!name.is_empty() && name.len() < 48, "a program needs a name of 1 to 47 characters");
    ensure!(
        program.cpu.is_none() || program.node.is_none(),
        "program '{name}' has both cpu and node; give one of them"
    );
    ensure!(
        program.args.iter().map(|arg| arg.len() + 1).sum::<usize>() <= 1024,
        "the arguments of program '{name}' are longer than 1024 bytes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "sigma0 = \"sigma0\"\nroottask = \"roottask\"\n";

    fn refused(rest: &str) -> String {
        let error = Manifest::parse(&format!("{HEAD}{rest}")).unwrap_err();
        let text = format!("{error:#}");
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn programs_may_share_a_module() {
        let text = format!(
            "{HEAD}[[program]]\nname = \"a\"\nmodule = \"m\"\ncpu = 1\nargs = [\"x\"]\nrestart = \"always\"\n\
             [[program]]\nname = \"b\"\nmodule = \"m\"\nnode = 1\n"
        );
        let manifest = Manifest::parse(&text).unwrap();
        assert_eq!(manifest.modules, ["m"]);
        assert_eq!(manifest.text, text);
    }

    #[test]
    fn mistakes_are_named() {
        let program = "[[program]]\nname = \"a\"\nmodule = \"m\"\n";
        assert!(refused(&format!("{program}{program}")).contains("two programs"));
        assert!(refused(&format!("{program}cpu = 0\nnode = 0\n")).contains("both"));
        assert!(refused(&format!("{program}cup = 0\n")).contains("cup"));
        assert!(refused(&format!("numa = \"flat\"\n{program}node = 1\n")).contains("flat"));
        assert!(refused("numa = \"round\"\n").contains("round"));
        assert!(refused("unmap = \"lazy\"\n").contains("lazy"));
        assert!(refused("master = \"me\"\n").contains("me"));
        assert!(refused("pool = 3\n").contains("power of two"));
        assert!(refused(&format!("{program}daemon = true\n")).contains("daemons"));
        assert!(refused(&format!("{program}balancer = true\n")).contains("no pager"));
        assert!(refused("spaces = [").contains("line 3"));
    }

    #[test]
    fn every_manifest_in_the_tree_is_right() {
        let dir = crate::paths::root().join("xtask/manifests");
        let mut seen = 0;
        for entry in fs::read_dir(dir).unwrap() {
            Manifest::load(&entry.unwrap().path()).unwrap();
            seen += 1;
        }
        assert!(seen > 0);
    }
}
