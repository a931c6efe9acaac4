//! The dependency rules: each crate depends only on those to its left; some outside crates have one home.

use super::{Findings, Repo, source::LIBRARIES};
use toml::{Table, Value};

/// Outside crates that only one crate may use.
const HOMES: [(&str, &[&str]); 2] = [
    ("dsla-kernels", &["cudarc", "rayon", "gemm"]),
    ("dsla-model", &["safetensors", "tokenizers", "minijinja", "minijinja-contrib"]),
];

/// Outside crates of dsla-serve that must be optional, behind this feature and no other.
const FEATURES: [(&str, &[&str]); 2] =
    [("cli", &["clap", "indicatif", "anyhow"]), ("http", &["tokio", "axum", "tower-http", "hyper"])];

/// One entry of a dependency table.
struct Dependency {
    name: String,
    optional: bool,
    /// For tests only: no user of the crate gets it.
    dev: bool,
}

pub fn check(repo: &Repo, found: &mut Findings) {
    let mut outside: Vec<(String, String)> = Vec::new();
    for file in repo.files.iter().filter(|f| *f == "Cargo.toml" || f.ends_with("/Cargo.toml")) {
        let manifest: Table = match repo.read(file).parse() {
            Ok(t) => t,
            Err(e) => {
                found.add("manifest", file, 0, e.to_string().lines().next().unwrap_or("unreadable"));
                continue;
            }
        };
        let name = text(&manifest, &["package", "name"]).unwrap_or_default();
        let dependencies = dependencies(&manifest);
        direction(file, name, &dependencies, found);
        homes(file, name, &dependencies, found);
        optional(file, name, &manifest, &dependencies, found);
        for d in dependencies {
            outside.push((file.clone(), d.name));
        }
    }
    reasons(repo, outside, found);
}

fn text<'a>(table: &'a Table, path: &[&str]) -> Option<&'a str> {
    let (last, path) = path.split_last()?;
    path.iter().try_fold(table, |t, key| t.get(*key)?.as_table())?.get(*last)?.as_str()
}

/// All entries: of the package, of its targets, and of the workspace.
fn dependencies(manifest: &Table) -> Vec<Dependency> {
    let mut tables: Vec<&Table> = vec![manifest];
    tables.extend(manifest.get("workspace").and_then(Value::as_table));
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let mut out = Vec::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
                let name = value.get("package").and_then(Value::as_str).unwrap_or(key).to_string();
                let optional = value.get("optional").and_then(Value::as_bool).unwrap_or(false);
                out.push(Dependency { name, optional, dev: kind == "dev-dependencies" });
            }
        }
    }
    out
}

/// dsla-kernels <- dsla-core <- dsla-model <- dsla-distill <- dsla-serve; benches -> all; xtask -> none.
fn direction(file: &str, name: &str, dependencies: &[Dependency], found: &mut Findings) {
    let place = LIBRARIES.iter().position(|l| *l == name);
    for d in dependencies {
        let Some(other) = LIBRARIES.iter().position(|l| *l == d.name) else { continue };
        let fits = match (name, place) {
            ("", _) | ("dsla-benches", _) => true,
            (_, Some(place)) => other < place,
            _ => false,
        };
        if !fits {
            found.add(
                "dependency",
                file,
                0,
                format!("{name} depends on {}, which is not to its left", d.name),
            );
        }
    }
}

fn homes(file: &str, name: &str, dependencies: &[Dependency], found: &mut Findings) {
    if !LIBRARIES.contains(&name) {
        return;
    }
    for (home, crates) in HOMES {
        for d in dependencies.iter().filter(|d| !d.dev && crates.contains(&d.name.as_str()) && name != home) {
            found.add("dependency", file, 0, format!("{} belongs to {home} alone", d.name));
        }
    }
}

fn optional(file: &str, name: &str, manifest: &Table, dependencies: &[Dependency], found: &mut Findings) {
    if !LIBRARIES.contains(&name) {
        return;
    }
    let empty = Table::new();
    let features = manifest.get("features").and_then(Value::as_table).unwrap_or(&empty);
    for (feature, crates) in FEATURES {
        for d in dependencies.iter().filter(|d| !d.dev && crates.contains(&d.name.as_str())) {
            if name != "dsla-serve" || !d.optional {
                let text = format!(
                    "{} may only be an optional dependency of dsla-serve, behind `{feature}`",
                    d.name
                );
                found.add("dependency", file, 0, text);
            }
            let asks = |value: &Value| value.as_str() == Some(&format!("dep:{}", d.name));
            for (other, list) in features.iter().filter(|(other, _)| *other != feature) {
                if list.as_array().is_some_and(|l| l.iter().any(asks)) {
                    found.add(
                        "dependency",
                        file,
                        0,
                        format!("the feature `{other}` turns on {}, which belongs to `{feature}`", d.name),
                    );
                }
            }
        }
    }
    let default = features.get("default").and_then(Value::as_array).into_iter().flatten();
    for feature in default.filter_map(Value::as_str).filter(|f| matches!(*f, "cli" | "http")) {
        found.add(
            "dependency",
            file,
            0,
            format!("`{feature}` is on by default: a library user would pay for it"),
        );
    }
}

/// Each outside crate has a line in ARCHITECTURE.md that names it in backquotes and says why.
fn reasons(repo: &Repo, outside: Vec<(String, String)>, found: &mut Findings) {
    let architecture = repo.read("ARCHITECTURE.md");
    let mut names: Vec<_> = outside.into_iter().filter(|(_, name)| !name.starts_with("dsla-")).collect();
    names.sort_by(|a, b| a.1.cmp(&b.1));
    names.dedup_by(|a, b| a.1 == b.1);
    for (file, name) in names {
        let quoted = format!("`{name}`");
        let said =
            |line: &str| line.contains(&quoted) && line.replace(&quoted, "").split_whitespace().count() >= 4;
        if !architecture.lines().any(said) {
            found.add(
                "reason",
                &file,
                0,
                format!("{name} has no line in ARCHITECTURE.md that says why it is here"),
            );
        }
    }
}
