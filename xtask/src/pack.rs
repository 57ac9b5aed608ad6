//! Packs the boot archive (format: `l4abi::archive`).

use crate::{
    elf,
    guest::{Profile, Programs},
    manifest::Manifest,
    paths, say,
};
use anyhow::{Context, Result, bail, ensure};
use l4abi::archive::{self, Archive, Entry, MODULE_ALIGN, ModuleKind};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One module to pack.
pub struct Part {
    /// Name in the archive.
    pub name: String,
    /// What it is.
    pub kind: ModuleKind,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// What may be asked of an archive.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another manifest than `xtask/manifests/default.toml`.
    pub manifest: Option<PathBuf>,
    /// A program to put in sigma0's place.
    pub sigma0: Option<PathBuf>,
    /// A program to put in the root task's place.
    pub roottask: Option<PathBuf>,
    /// Kernel command line for image boots, which have no other way to pass one.
    pub command_line: Option<String>,
}

/// Packs an archive and returns its path. An archive made without options is `boot.arc`; any other
/// gets its checksum as a name, so that runs side by side do not overwrite each other's.
pub fn pack(profile: Profile, programs: &Programs, options: &Options) -> Result<PathBuf> {
    let path = pack_quietly(profile, programs, options)?;
    let size = fs::metadata(&path)?.len().div_ceil(1024);
    say::step("Packed", &format!("{} ({size} KiB)", paths::show(&path)));
    Ok(path)
}

/// [`pack`] without a progress line.
pub fn pack_quietly(profile: Profile, programs: &Programs, options: &Options) -> Result<PathBuf> {
    let default = paths::root().join("xtask/manifests/default.toml");
    let manifest = Manifest::load(options.manifest.as_deref().unwrap_or(&default))?;
    let parts = parts(&manifest, programs, options)?;
    let bytes = encode(&parts)?;
    let plain = options.manifest.is_none()
        && options.sigma0.is_none()
        && options.roottask.is_none()
        && options.command_line.is_none();
    let name = match plain {
        true => "boot.arc".to_string(),
        false => format!("boot-{:08x}.arc", archive::crc32(&bytes)),
    };
    let path = paths::output(profile)?.join(name);
    // A run that reads the file meanwhile must see the old one or the new one, never half.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&draft, &bytes).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn parts(manifest: &Manifest, programs: &Programs, options: &Options) -> Result<Vec<Part>> {
    let mut parts = vec![Part {
        name: archive::MANIFEST_NAME.into(),
        kind: ModuleKind::Manifest,
        data: manifest.text.clone().into_bytes(),
    }];
    let mut add = |name: &str, module: &str, file: Option<&Path>| -> Result<()> {
        if parts.iter().any(|part| part.name == name) {
            return Ok(());
        }
        if let Some(data) = program_bytes(module, file, programs)? {
            parts.push(Part { name: name.into(), kind: ModuleKind::Program, data });
        }
        Ok(())
    };
    add(archive::SIGMA0_NAME, &manifest.sigma0, options.sigma0.as_deref())?;
    add(archive::ROOTTASK_NAME, &manifest.roottask, options.roottask.as_deref())?;
    if let Some(pager) = &manifest.pager {
        add(archive::PAGER_NAME, pager, None)?;
    }
    for module in &manifest.modules {
        add(module, module, None)?;
    }
    if let Some(line) = &options.command_line {
        parts.push(Part {
            name: archive::COMMAND_LINE_NAME.into(),
            kind: ModuleKind::CommandLine,
            data: line.clone().into_bytes(),
        });
    }
    Ok(parts)
}

/// The bytes of a program: a file given by the user, a path (anything with a slash), or a built one.
/// `None` for a guest package that has no code yet.
fn program_bytes(
    module: &str,
    file: Option<&Path>,
    programs: &Programs,
) -> Result<Option<Vec<u8>>> {
    // A word that is no file may be the name of a guest program.
    let named = file.filter(|file| !file.exists()).and_then(|file| programs.get(file.to_str()?));
    let path = if let Some(program) = named {
        program.stripped.clone()
    } else if let Some(file) = file {
        file.to_path_buf()
    } else if let Some(program) = programs.get(module) {
        program.stripped.clone()
    } else if module.contains('/') {
        paths::root().join(module)
    } else {
        let known: Vec<_> = programs.keys().map(String::as_str).collect();
        let known = known.join(", ");
        bail!("the manifest names the module '{module}', which is not built; there are {known}");
    };
    let data = fs::read(&path).with_context(|| unreadable(&path, programs))?;
    if file.is_none() && elf::is_empty_shell(&data) {
        say::note_once(&format!("{module} has no code yet and is left out of the archive"));
        return Ok(None);
    }
    elf::check_program(&data).with_context(|| format!("module {}", path.display()))?;
    Ok(Some(data))
}

fn unreadable(path: &Path, programs: &Programs) -> String {
    let mut text = format!("cannot read the module {}", path.display());
    // A single word was probably meant to be a program's name.
    if path.components().count() == 1 && !path.exists() {
        let known: Vec<_> = programs.keys().map(String::as_str).collect();
        text += &format!(" (programs that are built by name: {})", known.join(", "));
    }
    text
}

/// The archive as bytes, read back and compared before it is handed out.
pub fn encode(parts: &[Part]) -> Result<Vec<u8>> {
    ensure!(parts.len() <= archive::MAX_MODULES, "more than {} modules", archive::MAX_MODULES);
    let mut offset = archive::directory_size(parts.len()).next_multiple_of(MODULE_ALIGN);
    let (mut directory, mut payload) = (Vec::new(), Vec::new());
    for part in parts {
        let entry = Entry {
            name: &part.name,
            kind: part.kind,
            offset: offset as u64,
            size: part.data.len() as u64,
            checksum: archive::crc32(&part.data),
        };
        let encoded = entry
            .encode()
            .with_context(|| format!("'{}' does not fit as a module name", part.name))?;
        directory.extend_from_slice(&encoded);
        payload.extend_from_slice(&part.data);
        payload.resize(payload.len().next_multiple_of(MODULE_ALIGN), 0);
        offset += part.data.len().next_multiple_of(MODULE_ALIGN);
    }
    let mut out = archive::encode_header(&directory, offset as u64).to_vec();
    out.extend_from_slice(&directory);
    out.resize(out.len().next_multiple_of(MODULE_ALIGN), 0);
    out.extend_from_slice(&payload);
    let check = Archive::parse(&out)?;
    ensure!(check.modules().zip(parts).all(|(m, p)| m.name == p.name && m.data == p.data));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Program;

    #[test]
    fn encoded_parts_come_back() {
        let part = |name: &str, size: usize| Part {
            name: name.into(),
            kind: ModuleKind::Data,
            data: (0..size).map(|i| i as u8).collect(),
        };
        let bytes =
            encode(&[part("a", 1), part("b", 4096), part("c", 0), part("d", 9000)]).unwrap();
        let archive = Archive::parse(&bytes).unwrap();
        assert_eq!(archive.modules().count(), 4);
        assert!(archive.modules().all(|module| module.verify().is_ok()));
        assert_eq!(bytes.len() % MODULE_ALIGN, 0);
        assert!(encode(&[part("", 1)]).is_err());
        assert!(encode(&[part("a", 1), part("a", 1)]).is_err());
    }

    fn programs_with(name: &str, bytes: &[u8]) -> (Programs, PathBuf) {
        let file = std::env::temp_dir().join(format!("lokal-pack-{}-{name}", std::process::id()));
        fs::write(&file, bytes).unwrap();
        let program = Program { full: file.clone(), stripped: file.clone() };
        (
            Programs::from([("sigma0".to_string(), program.clone()), ("roottask".into(), program)]),
            file,
        )
    }

    #[test]
    fn wrong_modules_are_one_line_errors() {
        let (programs, file) = programs_with("good", &elf::tests::tiny());
        let manifest = |rest: &str| {
            Manifest::parse(&format!("sigma0 = \"sigma0\"\nroottask = \"roottask\"\n{rest}"))
                .unwrap()
        };
        assert_eq!(parts(&manifest(""), &programs, &Options::default()).unwrap().len(), 3);
        let missing = manifest("[[program]]\nname = \"a\"\nmodule = \"gone\"\n");
        let error = format!("{:#}", parts(&missing, &programs, &Options::default()).err().unwrap());
        assert!(error.contains("'gone'") && error.contains("roottask"), "{error}");

        let cut = file.with_extension("cut");
        fs::write(&cut, &elf::tests::tiny()[..122]).unwrap();
        let with =
            |roottask: &Path| Options { roottask: Some(roottask.into()), ..Options::default() };
        assert!(parts(&manifest(""), &programs, &with(Path::new("sigma0"))).is_ok());
        assert!(parts(&manifest(""), &programs, &with(Path::new("nobody"))).is_err());
        let options = with(&cut);
        let error = format!("{:#}", parts(&manifest(""), &programs, &options).err().unwrap());
        assert!(error.contains("cut short") && !error.contains('\n'), "{error}");
        fs::remove_file(file).unwrap();
        fs::remove_file(cut).unwrap();
    }
}
