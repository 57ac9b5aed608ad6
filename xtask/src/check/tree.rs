//! The files of the project.

use crate::paths;
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, fs, process::Command};

/// All text files that belong to the project, by path relative to the checkout.
pub struct Tree {
    /// Path to text.
    pub files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads what git tracks, and new files that it does not ignore.
    pub fn read() -> Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(paths::root())
            .output()
            .context("cannot run git, which knows what belongs to the project")?;
        if !output.status.success() {
            bail!(
                "git does not list the files: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let mut files = BTreeMap::new();
        for name in output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = String::from_utf8_lossy(name).into_owned();
            // Deleted but not yet committed, or not text: nothing to check.
            if let Ok(text) = fs::read_to_string(paths::root().join(&name)) {
                files.insert(name, text);
            }
        }
        Ok(Self { files })
    }

    /// Files with one of the endings.
    pub fn with_ending<'a>(
        &'a self,
        endings: &'a [&str],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(|(path, _)| {
                path.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
            })
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

#[cfg(test)]
impl Tree {
    /// A tree of made-up files.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let owned = files.iter().map(|(path, text)| (path.to_string(), text.to_string()));
        Self { files: owned.collect() }
    }
}
