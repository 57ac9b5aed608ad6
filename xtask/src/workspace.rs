//! What cargo knows about the workspace.

use crate::{guest, paths};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{path::PathBuf, process::Stdio};

/// The workspace's packages.
pub struct Workspace {
    packages: Vec<Package>,
    default_members: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_default_members: Vec<String>,
}

/// One package.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    id: String,
    /// Name.
    pub name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    #[serde(default, rename = "required-features")]
    required_features: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    name: String,
}

impl Workspace {
    /// Asks cargo.
    pub fn read() -> Result<Self> {
        let output = guest::cargo("metadata")
            .args(["--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo metadata failed; its message is above");
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
        Ok(Self {
            packages: metadata.packages,
            default_members: metadata.workspace_default_members,
        })
    }

    /// All packages.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// Whether all of the package is for the host.
    pub fn is_for_host(&self, package: &Package) -> bool {
        self.default_members.contains(&package.id)
    }

    /// Guest packages whose library is tested on the host, too.
    pub fn tested_libraries(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.has_library() && !self.is_for_host(package))
    }
}

impl Package {
    /// Whether the package lies below a directory of the checkout.
    pub fn is_below(&self, directory: &str) -> bool {
        self.manifest_path.starts_with(paths::root().join(directory))
    }

    /// Whether it has a library.
    pub fn has_library(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "lib"))
    }

    /// Whether it has programs.
    pub fn has_programs(&self) -> bool {
        self.programs().next().is_some()
    }

    /// Features that its programs need.
    pub fn features_of_programs(&self) -> impl Iterator<Item = &str> {
        self.programs().flat_map(|target| target.required_features.iter().map(String::as_str))
    }

    /// Whether it depends on `name`, on whatever condition.
    pub fn depends_on(&self, name: &str) -> bool {
        self.dependencies.iter().any(|dependency| dependency.name == name)
    }

    fn programs(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin"))
    }
}
