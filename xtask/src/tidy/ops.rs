//! Every op of dsla-kernels is on the one list and has its files.

use super::{Findings, Repo, code};
use std::collections::BTreeSet;

const OPS: &str = "dsla-kernels/src/ops";
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
        for file in FILES {
            let path = format!("{OPS}/{op}/{file}");
            if !repo.files.contains(&path) {
                found.add("ops", &path, 0, "is missing: an op has mod.rs, naive.rs, cpu.rs and cases.rs");
            }
        }
    }
    for op in listed.difference(&folders) {
        found.add("ops", &list, 0, format!("`ops!` names {op}, which has no folder"));
    }
}

/// The names inside `ops! { ... }`.
fn listed(source: &str) -> BTreeSet<String> {
    let text: String = code::lines(source).iter().map(|l| format!("{}\n", l.code)).collect();
    let Some((_, rest)) = text.split_once("ops! {") else { return BTreeSet::new() };
    let body = rest.split('}').next().unwrap_or_default();
    body.split(',').filter_map(|entry| entry.split_whitespace().last()).map(String::from).collect()
}
