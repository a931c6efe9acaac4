//! Rules about Rust and PTX source.

use super::{Findings, Repo, code};

/// Library crates: what a user links.
pub const LIBRARIES: [&str; 5] = ["dsla-kernels", "dsla-core", "dsla-model", "dsla-distill", "dsla-serve"];

/// At most this many lines, by extension.
const LINES: [(&str, usize); 2] = [("rs", 500), ("ptx", 800)];

pub fn check(repo: &Repo, found: &mut Findings) {
    for (extension, most) in LINES {
        for file in repo.with_extension(extension) {
            let n = repo.read(file).lines().count();
            if n > most {
                found.add("length", file, 0, format!("{n} lines, want at most {most}: split it by idea"));
            }
        }
    }
    for file in repo.with_extension("rs") {
        let lines = code::lines(&repo.read(file));
        unsafe_rooms(file, &lines, found);
        safety_comments(file, &lines, found);
        macros_and_unwraps(file, &lines, found);
    }
}

/// Tests, examples, benches: code that no user links.
pub fn is_test(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "examples" | "benches"))
        || file.ends_with("/tests.rs")
}

/// The part of a library crate that its users link.
fn is_library(file: &str) -> bool {
    let Some((krate, rest)) = file.split_once('/') else { return false };
    LIBRARIES.contains(&krate)
        && rest.starts_with("src/")
        && !is_test(file)
        && !rest.starts_with("src/bin/")
        && rest != "src/main.rs"
}

/// `unsafe` lives in dsla-kernels, and in the mmap of dsla-model's weights.
fn unsafe_rooms(file: &str, lines: &[code::Line], found: &mut Findings) {
    if file.starts_with("dsla-kernels/") || file.starts_with("dsla-model/src/weights") {
        return;
    }
    for (i, line) in lines.iter().enumerate() {
        if line.has_word("unsafe") {
            found.add(
                "unsafe",
                file,
                i + 1,
                "`unsafe` outside dsla-kernels and the mmap of dsla-model/src/weights",
            );
        }
    }
}

/// `// SAFETY:` before each unsafe block and impl, on the same line or above the statement it stands in.
fn safety_comments(file: &str, lines: &[code::Line], found: &mut Findings) {
    for (i, line) in lines.iter().enumerate() {
        let opens = line.code.match_indices("unsafe").any(|(at, word)| {
            let rest = line.code[at + word.len()..].trim_start();
            rest.starts_with('{') || rest.starts_with("impl")
        });
        if opens && line.has_word("unsafe") && !explained(lines, i) {
            found.add("safety", file, i + 1, "an unsafe block or impl without `// SAFETY:` above it");
        }
    }
}

fn explained(lines: &[code::Line], i: usize) -> bool {
    if lines[i].comment.contains("SAFETY:") {
        return true;
    }
    for line in lines[..i].iter().rev() {
        let code = line.code.trim();
        let attribute = code.starts_with('#') && code.ends_with(']');
        if !code.is_empty() && !attribute && code.ends_with([';', ',', '{', '}']) {
            return false;
        }
        if line.comment.contains("SAFETY:") {
            return true;
        }
        if code.is_empty() && line.comment.is_empty() {
            return false;
        }
    }
    false
}

/// No unfinished work anywhere in the libraries; no printing and no unwrapping where users link it.
fn macros_and_unwraps(file: &str, lines: &[code::Line], found: &mut Findings) {
    if !is_library(file) {
        return;
    }
    for (i, line) in lines.iter().enumerate() {
        for name in ["dbg", "todo", "unimplemented"] {
            if calls(line, name) {
                found.add("leftover", file, i + 1, format!("`{name}!` in a library"));
            }
        }
        if line.test {
            continue;
        }
        for name in ["print", "println", "eprint", "eprintln"] {
            if calls(line, name) {
                found.add(
                    "printing",
                    file,
                    i + 1,
                    format!("`{name}!` in a library: return it, or send a tracing event"),
                );
            }
        }
        if line.code.contains(".unwrap()") && !file.ends_with("/cases.rs") {
            found.add(
                "unwrap",
                file,
                i + 1,
                "`.unwrap()` in library code: return an error, or `expect` with the reason",
            );
        }
    }
}

/// `name!(` stands in the code, and `name` is not the end of a longer name.
fn calls(line: &code::Line, name: &str) -> bool {
    let call = format!("{name}!");
    line.code
        .match_indices(&call)
        .any(|(i, _)| !line.code[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}
