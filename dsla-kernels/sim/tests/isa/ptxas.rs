//! The real assembler, where there is one: what it refuses, the simulator must refuse.
//!
//! Set `PTXAS` to its path. The tests of this file are then complete, and all other tests assemble the texts they run.

use crate::common::{module, ptxas_verdict};
use ptxsim::Module;
use std::path::{Path, PathBuf};

fn corpus(kind: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .expect("the corpus")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "ptx"))
        .map(|p| (p.clone(), std::fs::read_to_string(&p).expect("text")))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn the_corpus() {
    for (path, text) in corpus("good") {
        if let Err(e) = Module::parse(&text) {
            panic!("{}: {e}", path.display());
        }
    }
    for (path, text) in corpus("bad") {
        assert!(Module::parse(&text).is_err(), "{} loads", path.display());
    }
}

fn ptxas() -> PathBuf {
    std::env::var_os("PTXAS").expect("PTXAS: the path of ptxas").into()
}

#[test]
#[ignore = "needs ptxas, by the environment variable PTXAS"]
fn agrees_with_ptxas() {
    for (kind, want) in [("good", true), ("bad", false)] {
        for (path, text) in corpus(kind) {
            let (ok, says) = ptxas_verdict(&ptxas(), &text);
            assert_eq!(ok, want, "{}: {says}", path.display());
        }
    }
}

/// Opcode, groups of modifiers one of each of which may stand there (an empty one: none), operands.
type Shape<'a> = (&'a str, &'a [&'a [&'a str]], &'a [&'a str]);

const ANY: &[&str] = &[
    ".b8", ".b16", ".b32", ".b64", ".u8", ".u16", ".u32", ".u64", ".s8", ".s16", ".s32", ".s64", ".f16",
    ".f16x2", ".bf16", ".bf16x2", ".f32", ".f64", ".pred", ".tf32",
];
const CMP: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
    "num", "nan",
];

/// Operands by kind: `h` a 16-bit register, `r` `q` 32 and 64 bits, `f` `d` floats, `p` a predicate, `5` and `1.5` constants.
const REGS: &[(&str, &str)] = &[
    ("h", "%h1"),
    ("r", "%r1"),
    ("q", "%rd1"),
    ("f", "%f1"),
    ("d", "%fd1"),
    ("p", "%p1"),
    ("u", "%u1"),
    ("5", "5"),
    ("1", "1.5"),
];

fn combinations(parts: &[&[&str]]) -> Vec<String> {
    parts.iter().fold(vec![String::new()], |all, options| {
        all.iter().flat_map(|a| options.iter().map(move |o| format!("{a}{o}"))).collect()
    })
}

fn candidates() -> Vec<String> {
    let rn = &["", ".rn"][..];
    let round = &["", ".rn", ".rz", ".rm", ".rp", ".rni", ".rzi", ".rmi", ".rpi"][..];
    let (ftz, sat, relu) = (&["", ".ftz"][..], &["", ".sat"][..], &["", ".relu"][..]);
    let half = &["", ".lo", ".hi", ".wide"][..];
    let cmp: Vec<String> = CMP.iter().map(|c| format!(".{c}")).collect();
    let cmp: Vec<&str> = cmp.iter().map(String::as_str).collect();
    let boole = &["", ".and", ".or"][..];
    let shapes: &[Shape] = &[
        ("add", &[rn, ftz, sat, ANY], &["ddd"]),
        ("sub", &[rn, ftz, sat, ANY], &["ddd"]),
        ("mul", &[half, rn, ftz, sat, ANY], &["ddd"]),
        ("mad", &[half, rn, ftz, sat, ANY], &["dddd"]),
        ("fma", &[rn, ftz, sat, relu, ANY], &["dddd"]),
        ("div", &[&["", ".rn", ".approx", ".full"], ftz, ANY], &["ddd"]),
        ("rem", &[ANY], &["ddd"]),
        ("min", &[ftz, &["", ".NaN"], ANY], &["ddd"]),
        ("max", &[ftz, &["", ".NaN"], ANY], &["ddd"]),
        ("neg", &[ftz, ANY], &["dd"]),
        ("abs", &[ftz, ANY], &["dd"]),
        ("sqrt", &[&["", ".rn", ".approx"], ftz, ANY], &["dd"]),
        ("rcp", &[&["", ".rn", ".approx"], ftz, ANY], &["dd"]),
        ("rsqrt", &[&["", ".approx"], ftz, ANY], &["dd"]),
        ("ex2", &[&["", ".approx"], ftz, ANY], &["dd"]),
        ("lg2", &[&["", ".approx"], ftz, ANY], &["dd"]),
        ("sin", &[&["", ".approx"], ftz, ANY], &["dd"]),
        ("tanh", &[&["", ".approx"], ftz, ANY], &["dd"]),
        ("copysign", &[ANY], &["ddd"]),
        ("testp", &[&[".finite", ".nan", ".subnormal"], ANY], &["pd"]),
        ("add.cc", &[ANY], &["ddd"]),
        ("addc", &[&["", ".cc"], ANY], &["ddd"]),
        ("and", &[ANY], &["ddd"]),
        ("not", &[ANY], &["dd"]),
        ("cnot", &[ANY], &["dd"]),
        ("shl", &[ANY], &["ddr", "dd5", "ddd"]),
        ("shr", &[ANY], &["ddr", "dd5", "ddd"]),
        ("bfe", &[ANY], &["ddrr", "dddd"]),
        ("bfi", &[ANY], &["dddrr"]),
        ("brev", &[ANY], &["dd"]),
        ("popc", &[ANY], &["rd", "dd"]),
        ("clz", &[ANY], &["rd", "dd"]),
        ("bfind", &[&["", ".shiftamt"], ANY], &["rd", "dd"]),
        ("prmt", &[ANY], &["dddd"]),
        ("lop3", &[ANY], &["dddd5"]),
        ("shf", &[&[".l", ".r"], &["", ".wrap", ".clamp"], ANY], &["dddd"]),
        ("setp", &[&cmp, boole, ftz, ANY], &["pdd", "pddp"]),
        (
            "set",
            &[&[".lt", ".equ", ".hs"], boole, ftz, &[".u32", ".s32", ".f32", ".u64", ".f16"], ANY],
            &["rdd", "rddp", "fdd"],
        ),
        ("selp", &[ANY], &["dddp"]),
        ("slct", &[ftz, ANY, &[".s32", ".f32", ".u32"]], &["dddr", "dddf"]),
        ("mov", &[ANY], &["dd", "d5", "d1", "hd", "rd", "qd", "fd"]),
        ("cvt", &[round, relu, ftz, sat, ANY, ANY], &["tt"]),
        ("shfl.sync", &[&[".up", ".bfly", ".idx"], ANY], &["dd5rr", "dd55r"]),
        ("vote.sync", &[&[".all", ".ballot"], ANY], &["dpr", "rpr"]),
        ("match", &[&[".any", ".all"], &["", ".sync"], ANY], &["rdr"]),
        ("redux.sync", &[&[".add", ".min", ".and"], ANY], &["ddr"]),
    ];
    let mut out = Vec::new();
    for (opcode, mods, operands) in shapes {
        for m in combinations(mods) {
            for o in *operands {
                out.extend(write(opcode, &m, o));
            }
        }
    }
    for m in combinations(&[
        &["", ".volatile", ".relaxed.gpu", ".weak"],
        &[".global", ".shared", ".param"],
        &["", ".ca", ".nc", ".cs"],
        &["", ".v2"],
        ANY,
    ]) {
        for (v, r) in [
            ("", "%h1"),
            ("", "%r1"),
            ("", "%rd1"),
            ("", "%f1"),
            ("2", "{%r1, %r2}"),
            ("2", "{%f1, %f2}"),
            ("2", "{%rd1, %rd2}"),
        ] {
            if m.contains(".v2") != v.is_empty() {
                let a = if m.contains(".param") {
                    "[x]"
                } else if m.contains(".shared") {
                    "[%r3]"
                } else {
                    "[%rd3]"
                };
                out.push(format!("ld{m} {r}, {a};"));
                out.push(format!("st{m} {a}, {r};"));
            }
        }
    }
    for m in combinations(&[
        &["", ".relaxed", ".acq_rel", ".release"],
        &["", ".gpu"],
        &[".global", ".shared"],
        &[".add", ".and", ".min", ".inc", ".exch", ".cas", ".add.noftz"],
        ANY,
    ]) {
        let a = if m.contains(".shared") { "[%r3]" } else { "[%rd3]" };
        for r in ["%h1", "%r1", "%rd1", "%f1", "%fd1"] {
            let third = if m.contains(".cas") { format!(", {r}") } else { String::new() };
            out.push(format!("atom{m} {r}, {a}, {r}{third};"));
            out.push(format!("red{m} {a}, {r}{third};"));
        }
    }
    out
}

/// The instruction with operands of its own type (`d`), of its two types in turn (`t`), and others as written.
fn write(opcode: &str, mods: &str, operands: &str) -> Vec<String> {
    let types: Vec<&str> = mods.split('.').filter(|m| ANY.contains(&format!(".{m}").as_str())).collect();
    let own = |ty: &str| match ty {
        "f32" | "tf32" => "f",
        "f64" => "d",
        "pred" => "p",
        "b64" | "u64" | "s64" => "q",
        "b8" | "u8" | "s8" | "b16" | "u16" | "s16" | "f16" | "bf16" => "h",
        _ => "r",
    };
    let wide = |k: &'static str| {
        if k == "h" {
            "r"
        } else if k == "r" {
            "q"
        } else {
            k
        }
    };
    let n = operands.len();
    let kinds: Vec<&str> = operands
        .char_indices()
        .map(|(i, c)| match c {
            'd' => {
                let k = own(types.last().unwrap_or(&"b32"));
                if mods.contains(".wide") && (i == 0 || i == 3) { wide(k) } else { k }
            }
            't' => own(types.get(i).unwrap_or(&"b32")),
            _ => &operands[i..i + 1],
        })
        .collect();
    let one = |kinds: &[&str]| {
        let names: Vec<&str> =
            kinds.iter().map(|k| REGS.iter().find(|r| r.0 == *k).map_or("?", |r| r.1)).collect();
        format!("{opcode}{mods} {};", names.join(", "))
    };
    let mut out = vec![one(&kinds)];
    // One operand of another kind at a time.
    for i in 0..n {
        for (k, _) in REGS {
            if *k != kinds[i] {
                let mut other = kinds.clone();
                other[i] = k;
                out.push(one(&other));
            }
        }
    }
    out
}

const HEAD: &str = ".visible .entry k(.param .u64 x)\n{\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<8>;\n.reg .f32 %f<8>;\n\
     .reg .b64 %rd<4>;\n.reg .f64 %fd<4>;\n.reg .u32 %u<2>;\n";

/// All combinations of opcodes, modifiers and operands that the simulator loads, hundreds of thousands tried.
#[test]
#[ignore = "needs ptxas, by the environment variable PTXAS, and some minutes"]
fn ptxas_takes_whatever_loads() {
    let all = candidates();
    let loads: Vec<&String> =
        all.iter().filter(|i| Module::parse(&module(&format!("{HEAD}{i}\nret;\n}}\n"))).is_ok()).collect();
    println!("{} of {} load", loads.len(), all.len());
    assert!(loads.len() > 1000);
    let mut refused = Vec::new();
    for part in loads.chunks(500) {
        refuse(part, &mut refused);
    }
    assert!(refused.is_empty(), "{} loaded but ptxas says:\n{}", refused.len(), refused.join("\n"));
}

/// Which of these ptxas refuses, by halves.
fn refuse(part: &[&String], refused: &mut Vec<String>) {
    let body: String = part.iter().map(|i| format!("{i}\n")).collect();
    let (ok, says) = ptxas_verdict(&ptxas(), &module(&format!("{HEAD}{body}ret;\n}}\n")));
    if ok {
        return;
    }
    match part {
        [one] => {
            let line = says.lines().next().unwrap_or("");
            refused.push(format!("{one}  {}", line.rsplit(';').next().unwrap_or("")));
        }
        _ => {
            let (a, b) = part.split_at(part.len() / 2);
            refuse(a, refused);
            refuse(b, refused);
        }
    }
}
