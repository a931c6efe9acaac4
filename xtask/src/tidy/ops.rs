//! Every op of dsla-kernels is on the one list and has its files.

use super::{Findings, Repo, code};
use std::collections::BTreeSet;

const OPS: &str = "dsla-kernels/src/ops";
/// What the header of a kernel file says, each at the start of a comment line.
const FIELDS: [&str; 5] = ["shapes", "grid", "block", "smem", "registers"];
const FILES: [&str; 4] = ["mod.rs", "naive.rs", "cpu.rs", "cases.rs"];

pub fn check(repo: &Repo, found: &mut Findings) {
    let list = format!("{OPS}/mod.rs");
    let under = |f: &str| Some(f.strip_prefix(OPS)?.strip_prefix('/')?.split_once('/')?.0.to_string());
    let folders: BTreeSet<String> = repo.files.iter().filter_map(|f| under(f)).collect();
    let listed = listed(&repo.read(&list));
    for op in &folders {
        if !listed.contains(op) {
            found.add("ops", &list, 0, format!("the folder {op} is missing in `ops!`"));
        }
        let has = |end: &str| repo.files.iter().any(|f| *f == format!("{OPS}/{op}/{end}"));
        if !has("cuda.rs") && !has("cuda/mod.rs") {
            found.add(
                "ops",
                &format!("{OPS}/{op}/cuda.rs"),
                0,
                "is missing: an op launches its PTX kernels there",
            );
        }
        if !repo.with_extension("ptx").any(|f| under(f).as_ref() == Some(op)) {
            found.add("ops", &format!("{OPS}/{op}"), 0, "has no .ptx: an op has kernels for the GPU");
        }
        for file in FILES {
            let path = format!("{OPS}/{op}/{file}");
            if !repo.files.contains(&path) {
                found.add("ops", &path, 0, "is missing: an op has mod.rs, naive.rs, cpu.rs and cases.rs");
            }
        }
    }
    for file in repo.with_extension("ptx").filter(|f| under(f).is_some()) {
        header(file, &repo.read(file), found);
    }
    for op in listed.difference(&folders) {
        found.add("ops", &list, 0, format!("`ops!` names {op}, which has no folder"));
    }
}

/// A kernel file opens with a comment: `// name: formula`, then what a reader needs to launch it.
fn header(file: &str, text: &str, found: &mut Findings) {
    let comment: Vec<&str> = text.lines().map_while(|l| l.strip_prefix("//")).map(str::trim).collect();
    let named = |l: &&str| l.split_once(": ").is_some_and(|(name, _)| !name.contains(' '));
    if comment.first().filter(|l| named(l)).is_none() {
        found.add("ptx", file, 1, "the first line is not `// name: formula`");
    }
    for field in FIELDS {
        if !comment.iter().any(|l| l.split_whitespace().next() == Some(field)) {
            found.add("ptx", file, 1, format!("the header has no `{field}`"));
        }
    }
}

/// The names inside `ops! { ... }`.
fn listed(source: &str) -> BTreeSet<String> {
    let text: String = code::lines(source).iter().map(|l| format!("{}\n", l.code)).collect();
    let Some((_, rest)) = text.split_once("ops! {") else { return BTreeSet::new() };
    let body = rest.split('}').next().unwrap_or_default();
    body.split(',').filter_map(|entry| entry.split_whitespace().last()).map(String::from).collect()
}
