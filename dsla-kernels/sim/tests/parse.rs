//! What the parser takes and what it refuses.

mod common;
use common::{Case, STORE, text};
use ptxsim::{Fault, FaultKind, Module};

fn refuse(body: &str) -> Fault {
    match Module::parse(&text(body)) {
        Ok(_) => panic!("accepted: {body}"),
        Err(f) => {
            assert_eq!(f.kind, FaultKind::Load);
            assert!(body.starts_with(".extern") || f.line >= 16, "{f}");
            f
        }
    }
}

fn accept(body: &str) -> Module {
    Module::parse(&text(body)).unwrap_or_else(|f| panic!("{f}\n{body}"))
}

#[test]
fn unknown_things_are_errors_with_their_line() {
    let f = refuse("mov.u32 %r0, 1;\nfrobnicate.b32 %r0, %r1;");
    assert_eq!(f.line, 17);
    assert!(f.to_string().contains("frobnicate"), "{f}");
    // One line each: opcode, modifier, order of modifiers, type, operand.
    for body in [
        "add.fast.f32 %f0, %f1, %f2;",
        "add.b32 %r0, %r1, %r2;",
        "add.f32 %f0, %f1, 1;",
        "add.f32 %r0, %f1, 0f00000000; mul.f32 %d0, %f0, %f1;",
        "add.u32 %f0, %r1, %r2;",
        "add.u32 %r0, %d1, %r2;",
        "add.u32 %r0, %r1;",
        "add.u32 %r0, %r1, %tid.x;",
        "add.u32 %r0, %r1, tile;",
        "add.bf16 %h0, %h1, %h2;",
        "mul.u32 %r0, %r1, %r2;",
        "div.f32 %f0, %f1, %f2;",
        "fma.f32 %f0, %f1, %f2, %f3;",
        "rcp.f32 %f0, %f1;",
        "cvt.f16.f32 %h0, %f0;",
        "cvt.s32.f32 %r0, %f0;",
        "cvt.rn.u32.u16 %r0, %h0;",
        "cvt.rna.tf32.f32 %f0, %f0;",
        "setp.lt.b32 %p0, %r0, %r1;",
        "setp.lo.s32 %p0, %r0, %r1;",
        "setp.ltu.u32 %p0, %r0, %r1;",
        "shfl.bfly.b32 %r0, %r1, 1, 31;",
        "vote.ballot.b32 %r0, %p0;",
        "bar.sync 16;",
        "bar.sync 1, 65;",
        "bar.arrive 1;",
        "ld.global.v3.u32 {%r0, %r1, %r2}, [%x];",
        "ld.global.v4.b64 {%d0, %d1, %d2, %d3}, [%x];",
        "ld.global.v2.u32 %r0, [%x];",
        "ld.global.f32 %r0, [%r1];",
        "ld.global.u32 %r0, [tile];",
        "ld.global.u32 %r0, %x;",
        "ld.param.u64 %d0, [x+4];",
        "ld.param.u32 %r0, [nothing];",
        "cp.async.cg.shared.global [%r0], [%x], 8;",
        "cp.async.wait_group %r0;",
        "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2}, {%r0,%r1}, {%f0,%f1,%f2,%f3};",
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r0], {%r1};",
        "ex2.approx.ftz.bf16x2 %r0, %r1;",
        "mov.u32 %r0, %r99;",
        "mov.u32 %r0, 4294967296;",
        "mov.u32 5, %r0;",
        "@%r0 mov.u32 %r1, 1;",
        "bra NOWHERE;",
        "{ INNER: } bra INNER;",
        "L: L: ret;",
        ".reg .b32 %t;",
        ".reg .bf16 %z;",
        ".local .b8 z[4];",
        "mov.u32 %r0, %r1",
        "mov.f32 %f0, 0f123;",
        "/* for ever",
    ] {
        refuse(body);
    }
    assert!(Module::parse(".version 7.0\n.target sm_75\n.address_size 64\n").is_err());
    assert!(Module::parse(".target sm_80\n").is_err());
}

#[test]
fn later_targets_have_more() {
    let newer = |body: &str| text(body).replace(".version 7.0", ".version 7.8").replace("sm_80", "sm_90");
    for body in ["add.rn.bf16 %h0, %h1, %h2;", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r0], {%r1};"] {
        assert!(Module::parse(&newer(body)).is_ok());
        assert!(Module::parse(&newer(body).replace("sm_90", "sm_89")).is_err());
        assert!(Module::parse(&newer(body).replace("7.8", "7.0")).is_err());
    }
}

#[test]
fn scopes_hide_registers_and_labels() {
    let y = Case::default().ok(&format!(
        "mov.u32 %r0, 1;
        {{ .reg .b32 %r0; mov.u32 %r0, 100; bra DONE; mov.u32 %r0, 7; DONE: }}
        {{ .reg .u32 %one; mov.u32 %one, 10; add.u32 %r0, %r0, %one; bra DONE; add.u32 %r0, %r0, 1000; DONE: }}
        {STORE}"
    ));
    assert_eq!(y[0], 11);
}

#[test]
fn literals() {
    let y = Case::default().ok(
        "st.global.u32 [%y], 0x10; st.global.s32 [%y+4], -1; st.global.f32 [%y+8], 0f3F800000;
        st.global.f32 [%y+12], 0.5; mov.b64 %d0, 0d3FF0000000000000; st.global.b64 [%y+16], %d0;
        st.global.u32 [%y+24], 017; st.global.u32 [%y+28], 0b101; mov.u32 %r0, WARP_SZ; st.global.u32 [%y+32], %r0;
        mov.f32 %f0, -1.5; st.global.f32 [%y+36], %f0;",
    );
    let want = [16, !0, 0x3F80_0000, 0x3F00_0000, 0, 0x3FF0_0000, 15, 5, 32, 0xBFC0_0000];
    assert_eq!(y[..10], want);
}

#[test]
fn entries_say_what_they_take() {
    let m = Module::parse(
        "// two kernels
.version 7.0
.target sm_80
.address_size 64
.shared .align 8 .b8 common[24];
.extern .shared .align 16 .b8 more[];
.visible .entry a(.param .u64 .ptr .global .align 16 x, .param .u32 n, .param .align 8 .b8 blob[24], .param .f32 s)
.reqntid 32, 2
{ .reg .b32 r; mov.u32 r, common; ret; }
.entry b() .maxntid 256 .minnctapersm 2 { .shared .f32 z[4][4]; .pragma \"nounroll\"; ret; }
",
    )
    .unwrap();
    let [a, b] = m.entries() else { panic!() };
    let layout: Vec<_> =
        a.params.iter().map(|p| (p.name.as_str(), p.ty.as_str(), p.size, p.offset)).collect();
    assert_eq!(layout, [("x", "u64", 8, 0), ("n", "u32", 4, 8), ("blob", "b8", 24, 16), ("s", "f32", 4, 40)]);
    assert_eq!((a.shared_bytes, a.max_threads), (24, Some(64)));
    assert_eq!((b.shared_bytes, b.max_threads), (64, Some(256)));
    assert!(accept("ret;").entries().len() == 1);
}

#[test]
fn dynamic_shared_memory_follows_the_static() {
    let body = text("mov.u32 %r0, more; st.global.u32 [%y], %r0; st.shared.u32 [more+60], %r0; ret;")
        .replace(".visible", ".extern .shared .align 16 .b8 more[];\n.visible");
    let run = |dynamic| Case { dynamic, block: 1, ..Case::default() }.module(&body);
    assert_eq!(run(64).unwrap().0[0], 1024);
    assert_eq!(run(60).unwrap_err().kind, FaultKind::OutOfBounds);
}
