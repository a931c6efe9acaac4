//! Rules about text: links, the changelog, sizes, paths of somebody's machine.

use super::{Findings, Repo, code, source};

/// The largest file that may be committed.
const BYTES: u64 = 8 << 20;
/// Folders that only exist on one machine. Split, so that this file may be read by its own rule.
const MACHINE: [&str; 3] = [concat!("/wo", "rk/"), concat!("/t", "mp/"), concat!("/ro", "ot/")];

pub fn check(repo: &Repo, found: &mut Findings) {
    for file in repo.with_extension("md") {
        links(repo, file, found);
    }
    changelog(repo, found);
    for file in &repo.files {
        let bytes = std::fs::metadata(repo.root.join(file)).map_or(0, |m| m.len());
        if bytes > BYTES {
            found.add("size", file, 0, format!("{bytes} bytes, want at most {BYTES}"));
        } else if !source::is_test(file) {
            machine_paths(repo, file, found);
        }
    }
}

/// Each relative link, image and heading anchor leads somewhere.
fn links(repo: &Repo, file: &str, found: &mut Findings) {
    let text = repo.read(file);
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (i, line) in prose(&text) {
        for target in targets(&line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let full = if path.is_empty() { repo.root.join(file) } else { repo.root.join(folder).join(path) };
            if !full.exists() {
                found.add("link", file, i, format!("{target} leads nowhere"));
            } else if !anchor.is_empty() && full.extension().is_some_and(|e| e == "md") {
                let page = std::fs::read_to_string(&full).unwrap_or_default();
                if !prose(&page).filter(|(_, l)| l.starts_with('#')).any(|(_, l)| slug(&l) == anchor) {
                    found.add("link", file, i, format!("{target}: no such heading"));
                }
            }
        }
    }
}

/// The lines outside code fences, numbered from 1, with HTML comments taken out.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let (mut fence, mut comment) = (false, false);
    text.lines().enumerate().filter_map(move |(i, line)| {
        if line.trim_start().starts_with("```") {
            fence = !fence;
            return None;
        }
        if fence {
            return None;
        }
        let mut rest = line;
        let mut kept = String::new();
        while !rest.is_empty() {
            let (mark, inside) = if comment { ("-->", true) } else { ("<!--", false) };
            let (part, after) = rest.split_once(mark).map_or((rest, None), |(a, b)| (a, Some(b)));
            if !inside {
                kept.push_str(part);
            }
            if after.is_some() {
                comment = !comment;
            }
            rest = after.unwrap_or_default();
        }
        Some((i + 1, kept))
    })
}

/// What the line links to: `](target)`, `src="target"`, `href="target"`; not inside code spans.
fn targets(line: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
        for (at, _) in line.match_indices(open) {
            let quoted = line[..at].matches('`').count() % 2 == 1;
            let target = line[at + open.len()..].split([close, ' ']).next().unwrap_or_default();
            if !quoted && !target.is_empty() {
                out.push(target);
            }
        }
    }
    out
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// CHANGELOG.md has an Unreleased section with a line in it.
fn changelog(repo: &Repo, found: &mut Findings) {
    let file = "CHANGELOG.md";
    let text = repo.read(file);
    let mut section = text.lines().skip_while(|l| !l.starts_with("## [Unreleased]"));
    if section.next().is_none() {
        found.add("changelog", file, 0, "no section `## [Unreleased]`");
    } else if !section.take_while(|l| !l.starts_with("## ")).any(|l| l.starts_with("- ")) {
        found.add("changelog", file, 0, "the section `## [Unreleased]` says nothing");
    }
}

/// No absolute path of the machine somebody works on.
fn machine_paths(repo: &Repo, file: &str, found: &mut Findings) {
    let text = repo.read(file);
    let tests: Vec<bool> =
        if file.ends_with(".rs") { code::lines(&text).iter().map(|l| l.test).collect() } else { Vec::new() };
    for (i, line) in text.lines().enumerate() {
        if tests.get(i) == Some(&true) {
            continue;
        }
        for path in MACHINE {
            let absolute =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}".contains(c));
            if line.match_indices(path).any(|(at, _)| absolute(at)) {
                found.add("machine path", file, i + 1, format!("`{path}` is a folder of one machine"));
            }
        }
    }
}
