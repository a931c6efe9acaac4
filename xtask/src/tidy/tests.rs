//! Each rule sees the violation planted for it, and a tidy repository passes.

use super::{Repo, check, code};
use tempfile::TempDir;

/// A small workspace that breaks no rule.
const TIDY: &[(&str, &str)] = &[
    ("Cargo.toml", "[workspace]\nmembers = []\n[workspace.dependencies]\nrayon = \"1\"\nanyhow = \"1\"\n"),
    (
        "ARCHITECTURE.md",
        "# House\n\n## The rule\n- `rayon`: splits work over threads.\n- `anyhow`: errors of the binaries only.\n",
    ),
    ("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n- The first line.\n"),
    (
        "README.md",
        "[the house](ARCHITECTURE.md#the-rule), [out](https://example.org), `[x](gone.md)`\n```\n[y](gone.md)\n```\n",
    ),
    (
        "dsla-kernels/Cargo.toml",
        "[package]\nname = \"dsla-kernels\"\n[dependencies]\nrayon.workspace = true\n",
    ),
    (
        "dsla-kernels/src/ops/mod.rs",
        "macro_rules! ops { () => {}; }\nops! {\n    /// Sum, of all.\n    add,\n    #[doc(hidden)]\n    mul,\n}\n",
    ),
    (
        "dsla-kernels/src/ops/add/mod.rs",
        "fn f(p: *const u8) -> u8 {\n    // SAFETY: p is valid.\n    unsafe { *p }\n}\n",
    ),
    (
        "dsla-kernels/src/ops/add/naive.rs",
        "//! println!(\"in a comment\")\nconst S: &str = \"println!(.unwrap())\";\n",
    ),
    (
        "dsla-kernels/src/ops/add/cpu.rs",
        "#[cfg(test)]\nmod tests {\n    fn f() { println!(\"{}\", g().unwrap()); }\n}\n",
    ),
    ("dsla-kernels/src/ops/add/cases.rs", "fn f() { g().unwrap(); }\n"),
    ("dsla-kernels/src/ops/add/cuda.rs", ""),
    ("dsla-kernels/src/ops/add/add.ptx", PTX),
    ("dsla-kernels/src/ops/mul/cuda/mod.rs", ""),
    ("dsla-kernels/src/ops/mul/mul_fwd.ptx", PTX),
    ("dsla-kernels/src/ops/mul/mod.rs", ""),
    ("dsla-kernels/src/ops/mul/naive.rs", ""),
    ("dsla-kernels/src/ops/mul/cpu.rs", ""),
    ("dsla-kernels/src/ops/mul/cases.rs", ""),
    ("dsla-kernels/src/ops/mul/extra.rs", ""),
    ("dsla-kernels/tests/t.rs", "fn f() { println!(\"/tmp/x {}\", g().unwrap()); }\n"),
    (
        "dsla-core/Cargo.toml",
        "[package]\nname = \"dsla-core\"\n[dependencies]\ndsla-kernels.workspace = true\n",
    ),
    ("dsla-core/src/lib.rs", "//! Blocks.\n"),
    ("dsla-serve/Cargo.toml", SERVE),
    ("dsla-serve/src/bin/dsla.rs", "fn main() { println!(\"{}\", f().unwrap()); }\n"),
    (
        "benches/Cargo.toml",
        "[package]\nname = \"dsla-benches\"\n[dependencies]\ndsla-serve.workspace = true\n",
    ),
];

const PTX: &str =
    "// add: y = x + y\n//\n// shapes x\n// grid 1\n// block 1\n// smem none\n// registers 4\n.version 7.0\n";

const SERVE: &str = "[package]\nname = \"dsla-serve\"\n[dependencies]\ndsla-core.workspace = true\n\
    anyhow = { workspace = true, optional = true }\n[features]\ncli = [\"dep:anyhow\"]\n";

/// The tidy workspace with `file` replaced or added.
fn planted(file: &str, text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, text) in TIDY.iter().copied().chain([(file, text)]) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn findings(dir: &TempDir) -> Vec<String> {
    check(&Repo::open(dir.path()).unwrap()).iter().map(|v| v.to_string()).collect()
}

/// `text` in `file` breaks exactly one rule, and the message contains `want`.
#[track_caller]
fn caught(file: &str, text: &str, want: &str) {
    let found = findings(&planted(file, text));
    assert!(found.len() == 1 && found[0].contains(want), "want one finding with {want:?}, got {found:#?}");
}

#[track_caller]
fn passes(file: &str, text: &str) {
    let found = findings(&planted(file, text));
    assert!(found.is_empty(), "want no finding, got {found:#?}");
}

#[test]
fn a_tidy_repository_passes() {
    passes("notes.txt", "nothing\n");
}

#[test]
fn long_files() {
    caught(
        "dsla-core/src/a.rs",
        &"\n".repeat(501),
        "dsla-core/src/a.rs: length: 501 lines, want at most 500",
    );
    passes("dsla-core/src/a.rs", &"\n".repeat(500));
    let kernel = |lines: usize| PTX.to_string() + &"\n".repeat(lines - PTX.lines().count());
    caught("dsla-kernels/src/ops/add/add.ptx", &kernel(801), "801 lines");
    passes("dsla-kernels/src/ops/add/add.ptx", &kernel(800));
}

#[test]
fn direction_of_dependencies() {
    let core = |more: &str| format!("[package]\nname = \"dsla-core\"\n{more}");
    let check = |more: &str, want: &str| caught("dsla-core/Cargo.toml", &core(more), want);
    check(
        "[dependencies]\ndsla-serve.workspace = true\n",
        "dsla-core depends on dsla-serve, which is not to its left",
    );
    check("[dependencies.dsla-model]\npath = \"../dsla-model\"\n", "depends on dsla-model");
    check("[dev-dependencies]\ndsla-distill.workspace = true\n", "depends on dsla-distill");
    check(
        "[dependencies]\nk = { package = \"dsla-model\", path = \"../dsla-model\" }\n",
        "depends on dsla-model",
    );
    check("[target.'cfg(unix)'.dependencies]\ndsla-model.workspace = true\n", "depends on dsla-model");
    caught(
        "xtask/Cargo.toml",
        "[package]\nname = \"xtask\"\n[dependencies]\ndsla-kernels.workspace = true\n",
        "xtask depends on",
    );
}

#[test]
fn homes_of_outside_crates() {
    let core = "[package]\nname = \"dsla-core\"\n";
    caught(
        "dsla-core/Cargo.toml",
        &format!("{core}[dependencies]\nrayon.workspace = true\n"),
        "rayon belongs to dsla-kernels alone",
    );
    passes("dsla-core/Cargo.toml", &format!("{core}[dev-dependencies]\nrayon.workspace = true\n"));
    passes(
        "benches/Cargo.toml",
        "[package]\nname = \"dsla-benches\"\n[dependencies]\nrayon.workspace = true\n",
    );
}

#[test]
fn tools_are_optional() {
    let serve = |more: &str| format!("[package]\nname = \"dsla-serve\"\n{more}");
    let check = |more: &str, want: &str| caught("dsla-serve/Cargo.toml", &serve(more), want);
    check(
        "[dependencies]\nanyhow.workspace = true\n",
        "anyhow may only be an optional dependency of dsla-serve, behind `cli`",
    );
    let optional = "[dependencies]\nanyhow = { workspace = true, optional = true }\n";
    check(&format!("{optional}[features]\nhttp = [\"dep:anyhow\"]\n"), "the feature `http` turns on anyhow");
    check(
        &format!("{optional}[features]\ndefault = [\"cli\"]\ncli = [\"dep:anyhow\"]\n"),
        "`cli` is on by default",
    );
    caught(
        "dsla-core/Cargo.toml",
        &format!("[package]\nname = \"dsla-core\"\n{optional}"),
        "anyhow may only be",
    );
    passes(
        "dsla-core/Cargo.toml",
        "[package]\nname = \"dsla-core\"\n[dev-dependencies]\nanyhow.workspace = true\n",
    );
}

#[test]
fn reasons_for_outside_crates() {
    let manifest = "[workspace.dependencies]\nhalf = \"2\"\nrayon = \"1\"\nanyhow = \"1\"\n";
    caught("Cargo.toml", manifest, "half has no line in ARCHITECTURE.md");
    let bare = "## The rule\n- `rayon`\n- `anyhow`: errors of the binaries only.\n";
    caught("ARCHITECTURE.md", bare, "rayon has no line in ARCHITECTURE.md");
    caught("Cargo.toml", "[workspace\n", "Cargo.toml: manifest:");
}

#[test]
fn rooms_of_unsafe() {
    let code = "// SAFETY: it is not.\nfn f() { unsafe { g() } }\n";
    caught("dsla-core/src/a.rs", code, "dsla-core/src/a.rs:2: unsafe");
    caught("dsla-model/src/llama.rs", code, "dsla-model/src/llama.rs:2: unsafe");
    passes("dsla-model/src/weights/mmap.rs", code);
    passes("dsla-core/src/a.rs", "#![forbid(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe { }\";\n");
}

#[test]
fn safety_comments() {
    let check =
        |code: &str, line: usize| caught("dsla-kernels/src/a.rs", code, &format!("a.rs:{line}: safety"));
    check("fn f() {\n    unsafe { g() }\n}\n", 2);
    check("// SAFETY: of another statement.\nlet a = 1;\nlet b = unsafe { g() };\n", 3);
    check("unsafe impl Send for T {}\n", 1);
    check("// SAFETY: only the first.\nunsafe impl Send for T {}\nunsafe impl Sync for T {}\n", 3);
    let fine = |code: &str| passes("dsla-kernels/src/a.rs", code);
    fine("// SAFETY: one,\n// two lines.\n#[inline]\nunsafe impl Send for T {}\n");
    fine("fn f() {\n    // SAFETY: a statement of two lines.\n    let x =\n        unsafe { g() };\n}\n");
    fine("unsafe fn f();\nlet x = unsafe { g() }; // SAFETY: beside it.\n");
}

#[test]
fn the_list_of_ops() {
    let list = "dsla-kernels/src/ops/mod.rs";
    caught(list, "ops! {\n    add,\n}\n", "the folder mul is missing in `ops!`");
    caught(
        list,
        "ops! {\n    add,\n    mul,\n    // old,\n    div,\n}\n",
        "`ops!` names div, which has no folder",
    );
    let dir = planted("notes.txt", "");
    std::fs::remove_file(dir.path().join("dsla-kernels/src/ops/add/naive.rs")).unwrap();
    let found = findings(&dir);
    assert!(found.len() == 1 && found[0].contains("ops/add/naive.rs: ops: is missing"), "{found:#?}");
}

#[test]
fn kernels_and_their_headers() {
    let bare = findings(&planted("dsla-kernels/src/ops/sub/mod.rs", ""));
    for want in ["ops/sub/cuda.rs: ops: is missing", "ops/sub: ops: has no .ptx"] {
        assert!(bare.iter().any(|f| f.contains(want)), "want {want:?}, got {bare:#?}");
    }
    let kernel = "dsla-kernels/src/ops/add/add.ptx";
    passes(kernel, PTX);
    caught(kernel, &PTX.replace("// add: y = x + y", "// y = x + y"), "add.ptx:1: ptx: the first line");
    caught(kernel, &PTX.replace("// grid 1\n", ""), "the header has no `grid`");
    caught(kernel, &PTX.replace("// registers 4\n", ""), "the header has no `registers`");
}

#[test]
fn leftovers_and_printing() {
    for name in ["dbg", "todo", "unimplemented"] {
        caught(
            "dsla-core/src/a.rs",
            &format!("fn f() {{ {name}!() }}\n"),
            &format!("a.rs:1: leftover: `{name}!`"),
        );
    }
    for name in ["print", "println", "eprint", "eprintln"] {
        caught(
            "dsla-core/src/a.rs",
            &format!("fn f() {{ {name}!(\"x\") }}\n"),
            &format!("printing: `{name}!`"),
        );
    }
    caught("dsla-core/src/a.rs", "#[cfg(test)]\nmod tests;\nfn f() { println!() }\n", "a.rs:3: printing");
    caught("dsla-core/src/a.rs", "#[cfg(test)]\nmod t { fn f() { todo!() } }\n", "leftover");
    passes("dsla-core/src/a.rs", "fn f() { my_println!(); writeln!(f) }\n");
    passes("dsla-core/examples/a.rs", "fn main() { println!() }\n");
}

#[test]
fn unwraps() {
    caught("dsla-core/src/a.rs", "fn f() {\n    g().unwrap();\n}\n", "a.rs:2: unwrap");
    passes(
        "dsla-core/src/a.rs",
        "/// `g().unwrap()`\nfn f() { g().unwrap_or(1); h().expect(\"a reason\") }\n",
    );
    passes("dsla-core/src/a/tests.rs", "fn f() { g().unwrap() }\n");
    passes("dsla-core/tests/a.rs", "fn f() { g().unwrap() }\n");
}

#[test]
fn links() {
    caught("docs/a.md", "text\n[x](gone.md)\n", "docs/a.md:2: link: gone.md leads nowhere");
    caught("docs/a.md", "![x](../gone.svg)\n", "../gone.svg leads nowhere");
    caught("docs/a.md", "<img src=\"gone.svg\">\n", "gone.svg leads nowhere");
    caught("docs/a.md", "[x](../ARCHITECTURE.md#none)\n", "#none: no such heading");
    caught("docs/a.md", "# A\n[x](#b)\n", "#b: no such heading");
    passes("docs/a.md", "# A, `b`-c\n[x](#a-b-c) [y](../README.md) <!-- [z](gone.md)\n[z](gone.md) -->\n");
}

#[test]
fn changelog() {
    caught("CHANGELOG.md", "# Changelog\n", "no section");
    caught("CHANGELOG.md", "## [Unreleased]\n\n## [0.1.0]\n\n- A line.\n", "says nothing");
    passes("CHANGELOG.md", "## [Unreleased]\n### Added\n- A line.\n");
}

#[test]
fn large_files() {
    let dir = planted("notes.txt", "");
    std::fs::File::create(dir.path().join("big.bin")).unwrap().set_len((8 << 20) + 1).unwrap();
    let found = findings(&dir);
    assert!(found.len() == 1 && found[0].contains("big.bin: size: 8388609 bytes"), "{found:#?}");
}

#[test]
fn machine_paths() {
    caught("notes.txt", "one\ncd /work/x\n", "notes.txt:2: machine path");
    caught("a.md", "see /tmp/x\n", "a.md:1: machine path");
    caught(
        "dsla-core/src/a.rs",
        "const P: &str = \"/root/x\";\n#[cfg(test)]\nconst Q: &str = \"/tmp/x\";\n",
        "a.rs:1: machine path",
    );
    passes("notes.txt", "docs/work/x and https://example.org/tmp/x\n");
}

#[test]
fn ignored_files_do_not_count() {
    let dir = planted("scratch/a.txt", "/work/x\n");
    std::fs::write(dir.path().join(".gitignore"), "/scratch\n").unwrap();
    assert_eq!(findings(&dir).len(), 1, "without git every file counts");
    let git = std::process::Command::new("git").args(["init", "-q"]).current_dir(dir.path()).status();
    assert!(git.unwrap().success());
    assert_eq!(findings(&dir), Vec::<String>::new());
}

#[test]
fn code_and_comments() {
    let line = |s: &str| code::lines(s).into_iter().map(|l| (l.code, l.comment)).collect::<Vec<_>>();
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(line(r#"f("a // \" b"); // c"#), [pair(r#"f(""); "#, " c")]);
    assert_eq!(
        line("f(r#\"a \" b\"#, 'x', '\\'', '\"', 'a: loop)"),
        [pair("f(r#\"\", ', ', ', 'a: loop)", "")]
    );
    assert_eq!(line("a /* b /* c */\nd */ e"), [pair("a ", " b  c "), pair(" e", "d ")]);
    assert_eq!(line("\"a\\\nb\" c"), [pair("\"", ""), pair("\" c", "")]);
    let tests = |s: &str| code::lines(s).iter().map(|l| l.test).collect::<Vec<_>>();
    assert_eq!(tests("a\n#[cfg(test)]\nmod t {\n{}\n}\nb"), [false, true, true, true, true, false]);
    assert_eq!(tests("#[cfg(test)]\nuse a;\nb"), [true, true, false]);
    assert_eq!(tests("#[cfg(not(test))]\nmod t {\n}"), [false, false, false]);
}
