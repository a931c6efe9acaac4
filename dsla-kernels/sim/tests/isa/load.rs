//! What does not load, and on which line it says so.

use crate::common::{assemble, module};
use ptxsim::{FaultKind, Module};

/// Bodies of one kernel with `.param .u64 x, .param .u32 n`; registers `%p<4> %h<4> %r<8> %f<8> %rd<4> %fd<4>`. Each has exactly one
/// wrong line, the last. True: ptxas refuses it too; false: valid PTX that this simulator does not know.
const BAD: &[(&str, bool)] = &[
    // Opcodes and modifiers.
    ("frobnicate.b32 %r1, %r2;", true),
    ("addd.u32 %r1, %r2, %r3;", true),
    ("add.u33 %r1, %r2, %r3;", true),
    ("add %r1, %r2, %r3;", true),
    ("add.u32.rn %r1, %r2, %r3;", true),
    ("add.sat.u32 %r1, %r2, %r3;", true),
    ("add.f32.rn %f1, %f2, %f3;", false),
    ("mul.u32 %r1, %r2, %r3;", true),
    ("mul.wide.u64 %rd1, %rd2, %rd3;", true),
    ("fma.f32 %f1, %f2, %f3, %f4;", true),
    ("div.f32 %f1, %f2, %f3;", true),
    ("sqrt.f32 %f1, %f2;", true),
    ("ex2.f32 %f1, %f2;", true),
    ("ex2.approx.f64 %fd1, %fd2;", true),
    ("tanh.approx.ftz.f32 %f1, %f2;", true),
    ("and.u32 %r1, %r2, %r3;", true),
    ("shl.u32 %r1, %r2, %r3;", true),
    ("setp.u32 %p1, %r1, %r2;", true),
    ("setp.lo.s32 %p1, %r1, %r2;", true),
    ("setp.ltu.s32 %p1, %r1, %r2;", true),
    ("setp.lt.b32 %p1, %r1, %r2;", true),
    ("cvt.f32.s32 %f1, %r1;", true),
    ("cvt.s32.f32 %r1, %f1;", true),
    ("cvt.rni.f16.f32 %h1, %f1;", true),
    ("cvt.rn.s32.f32 %r1, %f1;", true),
    ("cvt.rn.u32.u64 %r1, %rd1;", true),
    ("ld.u33 %r1, [%rd1];", true),
    ("ld.global %r1, [%rd1];", true),
    ("ld.global.v3.u32 {%r1, %r2, %r3}, [%rd1];", true),
    ("ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd1}, [%rd1];", true),
    ("st.global.nc.u32 [%rd1], %r1;", true),
    ("st.param.u32 [n], %r1;", true),
    ("atom.global.add.b32 %r1, [%rd1], %r2;", true),
    ("atom.global.cas.u32 %r1, [%rd1], %r2, %r3;", true),
    ("red.global.exch.b32 [%rd1], %r2;", true),
    ("shfl.bfly.b32 %r1, %r2, 1, 31;", true),
    ("shfl.sync.left.b32 %r1, %r2, 1, 31, -1;", true),
    ("vote.ballot.b32 %r1, %p1;", true),
    ("ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1, %r2, %r3}, [%r4];", true),
    ("ldmatrix.aligned.m8n8.x1.shared.b16 {%r1}, [%r4];", true),
    (
        "mma.sync.aligned.m16n8k16.col.row.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};",
        true,
    ),
    (
        "mma.sync.aligned.m16n8k9.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};",
        true,
    ),
    ("cp.async.cg.shared.global [%r1], [%rd1], 8;", true),
    ("cp.async.ca.shared.global [%r1], [%rd1], 5;", true),
    ("cp.async.wait_group;", true),
    ("bar.sync;", true),
    ("bar.sync 16;", true),
    ("bar.arrive 1;", true),
    ("membar;", true),
    ("bra;", true),
    // Registers and labels.
    ("add.u32 %r1, %r2, %r99;", true),
    ("add.u32 %nowhere, %r2, %r3;", true),
    ("mov.u32 %r1, nowhere;", true),
    ("bra NOWHERE;", true),
    ("@%q9 mov.u32 %r1, 1;", true),
    ("@%r1 mov.u32 %r1, 1;", true),
    ("ld.param.u32 %r1, [nothing];", true),
    (".reg .b32 %r1;", true),
    ("L: add.u32 %r1, %r2, %r3;\nL: add.u32 %r1, %r2, %r3;", true),
    ("{ .reg .b32 %inner; }\nmov.u32 %inner, 1;", true),
    ("{ M: add.u32 %r1, %r2, %r3; }\nbra M;", true),
    // Types and widths.
    ("add.u32 %rd1, %r2, %r3;", true),
    ("add.u32 %r1, %r2, %rd3;", true),
    ("add.u64 %rd1, %r2, %rd3;", true),
    ("add.f32 %f1, %f2, %fd3;", true),
    ("add.f32 %f1, %f2, %p1;", true),
    ("add.u16 %h1, %h2, %r3;", true),
    ("mul.wide.u32 %r1, %r2, %r3;", true),
    ("mad.wide.u32 %rd1, %r2, %r3, %r1;", true),
    ("setp.lt.u32 %r1, %r2, %r3;", true),
    ("selp.u32 %r1, %r2, %r3, %r4;", true),
    ("mov.u32 %rd1, %r1;", true),
    ("mov.u64 %rd1, %tid.x;", true),
    ("mov.b32 {%r1, %r2}, %r3;", true),
    ("mov.b64 %rd1, {%r1, %r2, %r3};", true),
    ("ld.global.u64 %r1, [%rd1];", true),
    ("ld.global.u32 %r1, [%r1];", true),
    ("ld.global.f32 %fd1, [%rd1];", true),
    ("st.global.u64 [%rd1], %r1;", true),
    ("ld.global.v2.u32 {%r1}, [%rd1];", true),
    ("ld.global.v2.u32 %r1, [%rd1];", true),
    ("cvt.u64.u32 %r1, %r2;", true),
    ("cvt.u32.u64 %r1, %r2;", true),
    ("cvt.rn.f32.f64 %f1, %f2;", true),
    (
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r5, %r6}, {%f1, %f2, %f3, %f4};",
        true,
    ),
    ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r4];", true),
    ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%rd1}, [%r4];", true),
    ("ld.param.u64 %rd1, [n];", false),
    ("ld.param.u32 %r1, [n+4];", false),
    // Operands and syntax.
    ("add.u32 %r1, %r2;", true),
    ("add.u32 %r1, %r2, %r3, %r4;", true),
    ("add.u32 5, %r2, %r3;", true),
    ("add.u32 %r1, %r2, 1.5;", true),
    ("add.f32 %f1, %f2, 1;", true),
    ("mov.u32 %r1, 0x1ffffffff;", false),
    ("add.u32 %r1, [%r2], %r3;", true),
    ("ld.global.u32 %r1, [%rd1-8];", true),
    ("add.f16 %h1, %h2, 5;", true),
    ("shfl.sync.bfly.b32 %r1, %r2, 1, 31, %f1;", true),
    ("ld.volatile.param.u32 %r1, [n];", true),
    ("cvt.sat.u32.u8 %r1, %r2;", true),
    ("cvt.rzi.u8.bf16 %h1, %h2;", true),
    ("cvt.rn.bf16.s32 %r1, %r2;", true),
    ("cvt.rn.bf16.s16 %h1, %r2;", true),
    ("cvt.rzi.u16.bf16 %r1, %h2;", true),
    ("set.lt.f32.f16 %f1, %h1, %h2;", true),
    ("ld.global.u32 %r1, %rd1;", true),
    ("add.u32 %r1, %r2, %r3", true),
    ("add.u32 %r1 %r2, %r3;", true),
    ("mov.f32 %f1, 0f3F80;", true),
    ("mov.u32 %r1, 08;", true),
    ("mov.u32 %r1, \"text\";", true),
    ("mov.u32 %r1, #;", true),
    ("lop3.b32 %r1, %r2, %r3, %r4, 256;", false),
    ("cp.async.wait_group %r1;", true),
    (".reg .b33 %z;", true),
    (".frob .b32 z;", true),
    // Known to the ISA, not to the simulator.
    ("prmt.b32.f4e %r1, %r2, %r3, %r4;", false),
    ("mad.lo.cc.u32 %r1, %r2, %r3, %r4;", false),
    ("mul24.lo.u32 %r1, %r2, %r3;", false),
    ("sad.u32 %r1, %r2, %r3, %r4;", false),
    ("dp4a.u32.u32 %r1, %r2, %r3, %r4;", false),
    ("ld.u32 %r1, [%rd1];", false),
    ("st.u32 [%rd1], %r1;", false),
    ("isspacep.global %p1, %rd1;", false),
    ("call.uni f;", true),
    (".local .b32 z;", false),
    (
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1, %r2}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r1, %r2};",
        false,
    ),
    ("mbarrier.init.shared.b64 [%r1], 1;", false),
];

const HEAD: &str = ".visible .entry k(.param .u64 x, .param .u32 n)\n{\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<8>;\n\
     .reg .f32 %f<8>;\n.reg .b64 %rd<4>;\n.reg .f64 %fd<4>;\n.shared .align 16 .b8 s[64];\n";

fn text(body: &str) -> String {
    module(&format!("{HEAD}{body}\nret;\n}}\n"))
}

#[test]
fn errors_name_their_line() {
    let mut wrong = Vec::new();
    for (body, ptxas) in BAD {
        let text = text(body);
        // `.param` alone and the like may hold more than one statement; the wrong one is on the last line of the body.
        let line = text.lines().count() - 2;
        match Module::parse(&text) {
            Ok(_) => wrong.push(format!("`{body}` loads")),
            // A statement without its end is noticed on the next line.
            Err(e)
                if e.kind == FaultKind::Load
                    && (e.line == line || !body.ends_with(';') && e.line == line + 1) => {}
            Err(e) => wrong.push(format!("`{body}`: line {line} expected, got {e}")),
        }
        if let Some(p) = std::env::var_os("PTXAS") {
            let (ok, says) = crate::common::ptxas_verdict(p.as_ref(), &text);
            if ok == *ptxas {
                wrong.push(format!("`{body}`: ptxas {}", if ok { "accepts" } else { &says }));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whole modules and the line of the error.
const MODULES: &[(&str, usize)] = &[
    ("", 1),
    (".version 7.0\n.target sm_80\n.address_size 32\n", 3),
    (".version 7.0\n.target sm_20\n.address_size 64\n", 2),
    (".target sm_80\n.version 7.0\n.address_size 64\n", 1),
    (".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\nret;\n", 7),
    (
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\nret;\n}\n.visible .entry k()\n{\nret;\n}\n",
        8,
    ),
    (
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u32 a)\n{\nret;\n}\n",
        4,
    ),
    (".version 7.0\n.target sm_80\n.address_size 64\n.entry k()\n{\n/* without end\nret;\n}\n", 6),
    (".version 7.0\n.target sm_80\n.address_size 64\nret;\n", 4),
    // Of a later ISA or machine than the module says.
    (
        ".version 7.0\n.target sm_80\n.address_size 64\n.entry k()\n{\n.reg .b32 %r<3>;\nstmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};\n}\n",
        7,
    ),
    (
        ".version 7.8\n.target sm_80\n.address_size 64\n.entry k()\n{\n.reg .b16 %h<3>;\nadd.bf16 %h1, %h1, %h2;\n}\n",
        7,
    ),
    (
        ".version 7.0\n.target sm_90\n.address_size 64\n.entry k()\n{\n.reg .b16 %h<3>;\ntanh.approx.bf16 %h1, %h1;\n}\n",
        7,
    ),
];

#[test]
fn modules_that_do_not_load() {
    for (text, line) in MODULES {
        match Module::parse(text) {
            Ok(_) => panic!("loads:\n{text}"),
            Err(e) => assert_eq!((e.kind, e.line), (FaultKind::Load, *line), "{e}\n{text}"),
        }
        if !text.is_empty() {
            assemble(text, false);
        }
    }
}

#[test]
fn messages_are_one_line_with_the_place() {
    let e = Module::parse(&text("add.u32 %r1, %r2, %r99;")).err().expect("no %r99");
    let s = e.to_string();
    assert!(s.contains("13") && s.contains("%r99") && !s.contains('\n'), "{s}");
}
