//! Writing, running and comparing small kernels.

use ptxsim::{Counters, Fault, Launch, Memory, Mma, Module, Options, run};

/// Exact numerics, threads in order, races watched.
pub fn options() -> Options {
    Options { mma: Mma::Exact, perturb: None, schedule: 0, races: true, budget: 1_000_000 }
}

/// A module of one or more `.entry`s, in a dialect that knows all instructions.
pub fn module(text: &str) -> String {
    format!(".version 8.0\n.target sm_90\n.address_size 64\n{text}")
}

/// Parse; with PTXAS set to the path of an assembler, it must accept the text as well.
pub fn parse(text: &str) -> Module {
    crate::common::assemble(text, true);
    match Module::parse(text) {
        Ok(m) => m,
        Err(e) => panic!("{e}\n{}", numbered(text)),
    }
}

pub fn numbered(text: &str) -> String {
    text.lines().enumerate().map(|(i, l)| format!("{:4} {l}\n", i + 1)).collect()
}

/// Ask ptxas, where there is one: panics when its verdict is not `good`.
pub fn assemble(text: &str, good: bool) {
    static DONE: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    let Some(ptxas) = std::env::var_os("PTXAS") else { return };
    // Once per text.
    if let Ok(mut done) = DONE.lock() {
        if done.iter().any(|t| t == text) {
            return;
        }
        done.push(text.to_string());
    }
    let (ok, says) = ptxas_verdict(ptxas.as_ref(), text);
    assert!(ok == good, "ptxas: {says}\n{}", numbered(text));
}

/// Whether ptxas accepts a text, for the target that the text names, and what it says.
pub fn ptxas_verdict(ptxas: &std::path::Path, text: &str) -> (bool, String) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static N: AtomicUsize = AtomicUsize::new(0);
    let n = N.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ptxsim-{}-{n}.ptx", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    let target = text.split(".target").nth(1).and_then(|t| t.split_whitespace().next()).unwrap_or("sm_80");
    let out = std::process::Command::new(ptxas)
        .arg(format!("-arch={}", target.trim_end_matches(',')))
        .arg(&path)
        .args(["-o", "/dev/null"])
        .output()
        .expect("ptxas runs");
    let _ = std::fs::remove_file(&path);
    (
        out.status.success(),
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout),
    )
}

/// Little-endian parameter block of 8-byte values.
pub fn words(params: &[u64]) -> Vec<u8> {
    params.iter().flat_map(|p| p.to_le_bytes()).collect()
}

pub fn bytes32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|p| p.to_le_bytes()).collect()
}

pub fn read32(mem: &Memory, at: u64, n: usize) -> Vec<u32> {
    let mut b = vec![0; n * 4];
    mem.read(at, &mut b).expect("initialised results");
    b.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

pub fn read64(mem: &Memory, at: u64, n: usize) -> Vec<u64> {
    let w = read32(mem, at, n * 2);
    w.chunks(2).map(|c| u64::from(c[0]) | u64::from(c[1]) << 32).collect()
}

/// Memory with one array, whole of it written.
pub fn filled(values: &[u32]) -> (Memory, u64) {
    let mut mem = Memory::new(1 << 24);
    let at = mem.alloc((values.len() * 4).max(4) as u64).expect("room");
    mem.write(at, &bytes32(values)).expect("a live array");
    (mem, at)
}

/// One kernel `k(.param .u64 out, .param .u64 in)`: its body, launch sizes, input words and number of output words.
pub struct Lab<'a> {
    pub body: &'a str,
    pub grid: u32,
    pub block: [u32; 3],
    pub shared: u32,
    pub input: &'a [u32],
    /// Words; they start uninitialised.
    pub output: usize,
    pub options: Options,
}

impl<'a> Lab<'a> {
    /// One warp, no input, 32 words out.
    pub fn new(body: &'a str) -> Lab<'a> {
        Lab { body, grid: 1, block: [32, 1, 1], shared: 0, input: &[], output: 32, options: options() }
    }
    pub fn threads(self, n: u32) -> Lab<'a> {
        Lab { block: [n, 1, 1], output: n as usize, ..self }
    }
    pub fn shared(self, bytes: u32) -> Lab<'a> {
        Lab { shared: bytes, ..self }
    }
    pub fn input(self, words: &'a [u32]) -> Lab<'a> {
        Lab { input: words, ..self }
    }
    pub fn output(self, words: usize) -> Lab<'a> {
        Lab { output: words, ..self }
    }
    pub fn options(self, o: Options) -> Lab<'a> {
        Lab { options: o, ..self }
    }

    /// The module's text. In the body `%out` and `%in` are the pointers, `%t` is `%tid.x`, `%mine` points at word `%t` of `out`;
    /// registers: `%p<8> %h<8> %r<32> %f<32> %rd<16> %fd<8>`.
    pub fn text(&self) -> String {
        let mut outside = String::new();
        let mut inside = String::new();
        for line in self.body.lines() {
            let to = if line.trim_start().starts_with(".extern") { &mut outside } else { &mut inside };
            to.push_str(line);
            to.push('\n');
        }
        module(&format!(
            "{outside}.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
             .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<40>;\n.reg .f32 %f<40>;\n.reg .b64 %rd<16>;\n.reg .f64 %fd<8>;\n\
             .reg .b64 %out, %in, %mine;\n.reg .u32 %t;\n\
             ld.param.u64 %out, [out];\nld.param.u64 %in, [in];\nmov.u32 %t, %tid.x;\n\
             mad.wide.u32 %mine, %t, 4, %out;\n{inside}\nret;\n}}\n"
        ))
    }

    pub fn try_run(&self) -> Result<(Vec<u32>, Counters), Fault> {
        let m = parse(&self.text());
        let (mut mem, input) = filled(self.input);
        let out = mem.alloc((self.output * 4).max(4) as u64).expect("room");
        let c = self.launch(&m, &mut mem, &words(&[out, input]))?;
        Ok((if self.output == 0 { Vec::new() } else { read32(&mem, out, self.output) }, c))
    }

    pub fn launch(&self, m: &Module, mem: &mut Memory, params: &[u8]) -> Result<Counters, Fault> {
        let l =
            Launch { entry: "k", grid: [self.grid, 1, 1], block: self.block, shared: self.shared, params };
        run(m, &l, mem, &self.options)
    }

    /// What it wrote.
    pub fn run(&self) -> Vec<u32> {
        match self.try_run() {
            Ok(r) => r.0,
            Err(e) => panic!("{e}\n{}", numbered(&self.text())),
        }
    }

    pub fn counters(&self) -> Counters {
        match self.try_run() {
            Ok(r) => r.1,
            Err(e) => panic!("{e}\n{}", numbered(&self.text())),
        }
    }

    /// The fault it ends in.
    pub fn fault(&self) -> Fault {
        match self.try_run() {
            Ok(_) => panic!("no fault\n{}", numbered(&self.text())),
            Err(e) => e,
        }
    }
}

/// Rows of a table: operands and the result, as bits; only the type's width counts.
pub type Rows<'a> = &'a [(&'a [i64], i64)];

pub fn f(x: f32) -> i64 {
    i64::from(x.to_bits())
}
pub fn d(x: f64) -> i64 {
    x.to_bits() as i64
}
/// f16 bits of a value that f16 holds.
pub fn h(x: f32) -> i64 {
    let v = half_crate::f16::from_f32(x);
    assert!(x.is_nan() || v.to_f32() == x);
    i64::from(v.to_bits())
}
/// bf16 bits of a value that bf16 holds.
pub fn b(x: f32) -> i64 {
    assert!(x.is_nan() || x.to_bits() & 0xffff == 0);
    i64::from(x.to_bits() >> 16)
}
/// Two 16-bit values.
pub fn pair(high: i64, low: i64) -> i64 {
    high << 16 | low & 0xffff
}

use ::half as half_crate;

fn width(ty: &str) -> u32 {
    match ty {
        "pred" => 1,
        "u8" | "s8" | "b8" => 8,
        "u16" | "s16" | "b16" | "f16" | "bf16" => 16,
        "u64" | "s64" | "b64" | "f64" => 64,
        _ => 32,
    }
}

fn is_nan(ty: &str, bits: u64) -> bool {
    match ty {
        "f16" => bits & 0x7fff > 0x7c00,
        "bf16" => bits & 0x7fff > 0x7f80,
        "f32" => bits & 0x7fff_ffff > 0x7f80_0000,
        "f64" => bits & i64::MAX as u64 > 0x7ff0_0000_0000_0000,
        "f16x2" | "bf16x2" => {
            let one = &ty[..ty.len() - 2];
            is_nan(one, bits & 0xffff) || is_nan(one, bits >> 16)
        }
        _ => false,
    }
}

/// Equal bits, or both NaN where the type has it.
fn same(ty: &str, got: u64, want: u64) -> bool {
    match ty {
        "f16x2" | "bf16x2" => {
            let one = &ty[..ty.len() - 2];
            same(one, got & 0xffff, want & 0xffff) && same(one, got >> 16, want >> 16)
        }
        _ => got == want || is_nan(ty, got) && is_nan(ty, want),
    }
}

fn register(ty: &str) -> &str {
    match ty {
        "bf16" | "u8" | "s8" | "b8" => "b16",
        "bf16x2" | "f16x2" => "b32",
        ty => ty,
    }
}

fn kernel(inst: &str, types: &[&str]) -> String {
    let names = ["%d", "%a", "%b", "%c", "%e"];
    let mut s = String::from(
        ".visible .entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c, .param .u64 e)\n{\n",
    );
    s += ".reg .b64 %at;\n.reg .u32 %t, %x;\n.reg .pred %u, %v, %w;\n.reg .b16 %h1, %h2;\n.reg .b32 %r1, %r2, %r3;\n.reg .b64 %l1, %l2;\n";
    s += "mov.u32 %t, %tid.x;\n";
    for (i, ty) in types.iter().enumerate() {
        s += &format!(".reg .{} {};\n", register(ty), names[i]);
        if i > 0 {
            s += &format!("ld.param.u64 %at, [{}];\nmad.wide.u32 %at, %t, 8, %at;\n", &names[i][1..]);
            s += &match width(ty) {
                1 => format!("ld.global.u32 %x, [%at];\nsetp.ne.u32 {}, %x, 0;\n", names[i]),
                w => format!("ld.global.b{} {}, [%at];\n", w.max(16), names[i]),
            };
        }
    }
    if inst.contains(' ') {
        s += inst;
    } else {
        s += &format!("{inst} {};", names[..types.len()].join(", "));
    }
    s += "\nld.param.u64 %at, [d];\nmad.wide.u32 %at, %t, 8, %at;\n";
    s += &match width(types[0]) {
        1 => "selp.u32 %x, 1, 0, %d;\nst.global.u32 [%at], %x;\n".to_string(),
        w => format!("st.global.b{} [%at], %d;\n", w.max(16)),
    };
    module(&(s + "ret;\n}\n"))
}

/// Run one instruction on bits. `inst`: an opcode, whose operands are then `%d, %a, %b, %c` as far as `types` (destination first) goes,
/// or whole statements with those names. Scratch registers: `%u %v %w` predicates, `%h1 %h2`, `%r1 %r2 %r3`, `%l1 %l2`.
pub fn eval(inst: &str, types: &str, operands: &[&[i64]], o: &Options) -> Result<Vec<u64>, Fault> {
    let types: Vec<&str> = types.split(' ').collect();
    let text = kernel(inst, &types);
    let m = parse(&text);
    let mut mem = Memory::new(1 << 24);
    let n = operands.len();
    let mask = |ty: &str| u64::MAX >> (64 - width(ty).max(16));
    let out = mem.alloc(n as u64 * 8).expect("room");
    mem.fill(out, 0, n as u64 * 8).expect("live");
    let mut params = vec![out; 5];
    for (i, ty) in types.iter().enumerate().skip(1) {
        let values: Vec<u64> = operands.iter().map(|r| r[i - 1] as u64 & mask(ty)).collect();
        params[i] = mem.alloc(n as u64 * 8).expect("room");
        mem.write(params[i], &words(&values)).expect("live");
    }
    let l = Launch { entry: "k", grid: [1; 3], block: [n as u32, 1, 1], shared: 0, params: &words(&params) };
    run(&m, &l, &mut mem, o)?;
    Ok(read64(&mem, out, n))
}

/// One instruction and its table.
#[track_caller]
pub fn t(inst: &str, types: &str, rows: Rows) {
    let operands: Vec<&[i64]> = rows.iter().map(|r| r.0).collect();
    let ty = types.split(' ').next().unwrap_or_default();
    let mask = u64::MAX >> (64 - width(ty).max(if ty == "pred" { 1 } else { 16 }));
    match eval(inst, types, &operands, &options()) {
        Err(e) => panic!("{inst}: {e}"),
        Ok(got) => {
            let wrong: Vec<String> = rows
                .iter()
                .zip(got)
                .filter(|(r, g)| !same(ty, *g, r.1 as u64 & mask))
                .map(|(r, g)| format!("{inst} {:x?}: want {:x}, got {g:x}", r.0, r.1 as u64 & mask))
                .collect();
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        }
    }
}
