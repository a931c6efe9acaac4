//! What a reviewer would nag about, checked by machine. One function per rule; each has a test that plants a violation.

mod code;
mod docs;
mod manifest;
mod ops;
mod source;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files that are committed or about to be: paths relative to the root, with `/`.
pub struct Repo {
    pub root: PathBuf,
    pub files: Vec<String>,
}

/// One finding. Line 0 stands for the whole file.
pub struct Violation {
    pub file: String,
    pub line: usize,
    pub rule: &'static str,
    pub text: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { file, line, rule, text } = self;
        match line {
            0 => write!(f, "{file}: {rule}: {text}"),
            n => write!(f, "{file}:{n}: {rule}: {text}"),
        }
    }
}

/// Where the rules put what they find.
#[derive(Default)]
pub struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, rule: &'static str, file: &str, line: usize, text: impl Into<String>) {
        self.0.push(Violation { file: file.into(), line, rule, text: text.into() });
    }
}

impl Repo {
    /// What git lists, new files included and ignored ones not; every file where there is no git.
    pub fn open(root: &Path) -> Result<Repo> {
        let listed = if root.join(".git").exists() { git(root) } else { None };
        let mut files = match listed {
            Some(files) => files,
            None => {
                let mut files = Vec::new();
                walk(root, "", &mut files).with_context(|| format!("listing {}", root.display()))?;
                files
            }
        };
        files.retain(|f| root.join(f).is_file());
        files.sort();
        files.dedup();
        Ok(Repo { root: root.into(), files })
    }

    fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = &'a str> {
        self.files
            .iter()
            .map(String::as_str)
            .filter(move |f| f.rsplit_once('.').is_some_and(|(_, e)| e == extension))
    }

    /// The file as text; empty when it is missing or is not UTF-8.
    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.root.join(file)).unwrap_or_default()
    }
}

fn git(root: &Path) -> Option<Vec<String>> {
    let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let out = Command::new("git").args(args).current_dir(root).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| text.split('\0').filter(|f| !f.is_empty()).map(String::from).collect())
}

fn walk(dir: &Path, prefix: &str, files: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if !entry.file_type()?.is_dir() {
            files.push(path);
        } else if !matches!(name.as_str(), ".git" | "target") {
            walk(&entry.path(), &format!("{path}/"), files)?;
        }
    }
    Ok(())
}

/// Every rule over the whole repository.
pub fn check(repo: &Repo) -> Vec<Violation> {
    let mut found = Findings::default();
    source::check(repo, &mut found);
    manifest::check(repo, &mut found);
    ops::check(repo, &mut found);
    docs::check(repo, &mut found);
    found.0
}
