//! Costs of known access patterns.

use crate::common::{Lab, options};
use ptxsim::{Counters, Mma, Options};

/// A shared store of `%t` at `s + stride * lane`, `ty` wide.
fn shared(stride: u32, ty: &str) -> (u64, u64) {
    let value = if ty.starts_with("v4") {
        "{%t, %t, %t, %t}"
    } else if ty.starts_with("v2") {
        "{%t, %t}"
    } else {
        "%t"
    };
    let body = format!(
        ".shared .align 16 .b8 s[8192];\nmov.u32 %r1, s;\nmad.lo.u32 %r2, %t, {stride}, %r1;\nst.shared.{ty} [%r2], {value};"
    );
    let c = Lab { options: Options { races: false, ..options() }, ..Lab::new(&body).output(0) }.counters();
    (c.shared_wavefronts, c.shared_ideal)
}

#[test]
fn bank_conflicts() {
    assert_eq!(shared(4, "u32"), (1, 1), "a word per lane");
    assert_eq!(shared(0, "u32"), (1, 1), "one word for all");
    assert_eq!(shared(8, "u32"), (2, 1), "2-way");
    assert_eq!(shared(12, "u32"), (1, 1), "an odd stride");
    assert_eq!(shared(16, "u32"), (4, 1), "4-way");
    assert_eq!(shared(32, "u32"), (8, 1), "8-way");
    assert_eq!(shared(128, "u32"), (32, 1), "32-way");
    assert_eq!(shared(132, "u32"), (1, 1), "padded");
    assert_eq!(shared(1, "u8"), (1, 1), "bytes");
    assert_eq!(shared(8, "v2.u32"), (2, 2), "eight bytes each");
    assert_eq!(shared(16, "v4.u32"), (4, 4), "sixteen bytes each");
    assert_eq!(shared(128, "v4.u32"), (32, 4), "sixteen bytes each, one bank group");
}

/// ldmatrix.x4 with rows `stride` bytes apart.
fn matrices(stride: u32) -> (u64, u64) {
    let body = format!(
        ".shared .align 16 .b8 s[8192];\nmov.u32 %r1, s;\nmad.lo.u32 %r2, %t, {stride}, %r1;\nst.shared.v4.u32 [%r2], {{%t, %t, %t, %t}};\nbar.sync 0;\n\
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r3, %r4, %r5, %r6}}, [%r2];"
    );
    let c = Lab::new(&body).output(0).counters();
    let (w, i) = shared(stride, "v4.u32");
    (c.shared_wavefronts - w, c.shared_ideal - i)
}

#[test]
fn matrix_conflicts() {
    assert_eq!(matrices(16), (4, 4), "packed rows");
    assert_eq!(matrices(32), (8, 4), "2-way");
    assert_eq!(matrices(128), (32, 4), "8-way: rows of 64 halves without a swizzle");
    assert_eq!(matrices(144), (4, 4), "padded");
}

/// Loads at `in + offset + stride * lane`.
fn global(stride: u32, offset: u32, ty: &str) -> Counters {
    let regs = if ty.starts_with("v4") { "{%r1, %r2, %r3, %r4}" } else { "%r1" };
    let body = format!("mad.wide.u32 %rd1, %t, {stride}, %in;\nld.global.{ty} {regs}, [%rd1+{offset}];");
    Lab::new(&body).input(&[1; 2048]).output(0).counters()
}

#[test]
fn sectors() {
    for (stride, offset, ty, sectors, ideal, unique, why) in [
        (4, 0, "u32", 4, 4, 128, "coalesced"),
        (0, 0, "u32", 1, 1, 4, "one word for all"),
        (4, 4, "u32", 5, 4, 128, "not on a sector"),
        (8, 0, "u32", 8, 4, 128, "every other word"),
        (32, 0, "u32", 32, 4, 128, "a sector each"),
        (128, 0, "u32", 32, 4, 128, "a line each"),
        (16, 0, "v4.u32", 16, 16, 512, "sixteen bytes each"),
        (64, 0, "v4.u32", 32, 16, 512, "sixteen of sixty-four"),
        (1, 0, "u8", 1, 1, 32, "bytes"),
        (2, 0, "u16", 2, 2, 64, "halves"),
    ] {
        let c = global(stride, offset, ty);
        assert_eq!(
            (c.global_load_sectors, c.global_ideal, c.unique_load_bytes),
            (sectors, ideal, unique),
            "{why}"
        );
        assert_eq!((c.global_store_sectors, c.unique_store_bytes), (0, 0), "{why}");
    }
    let c = Lab::new("st.global.u32 [%mine], %t;").counters();
    assert_eq!(
        (c.global_store_sectors, c.global_ideal, c.unique_store_bytes, c.global_load_sectors),
        (4, 4, 128, 0)
    );
    // Read twice: twice the sectors, the same distinct bytes.
    let twice = "mad.wide.u32 %rd1, %t, 4, %in;\nld.global.u32 %r1, [%rd1];\nld.global.u32 %r1, [%rd1];";
    let c = Lab::new(twice).input(&[1; 32]).output(0).counters();
    assert_eq!((c.global_load_sectors, c.unique_load_bytes), (8, 128));
    // Half the lanes.
    let half = "setp.lt.u32 %p1, %t, 16;\nmad.wide.u32 %rd1, %t, 4, %in;\n@%p1 ld.global.u32 %r1, [%rd1];";
    let c = Lab::new(half).input(&[1; 32]).output(0).counters();
    assert_eq!((c.global_load_sectors, c.unique_load_bytes), (2, 64));
    // cp.async reads global memory and writes shared memory.
    let copy = ".shared .align 16 .b8 s[512];\nmov.u32 %r1, s;\nmad.lo.u32 %r2, %t, 16, %r1;\nmad.wide.u32 %rd1, %t, 16, %in;\n\
                cp.async.cg.shared.global [%r2], [%rd1], 16;\ncp.async.wait_all;";
    let c = Lab::new(copy).input(&[1; 128]).output(0).counters();
    assert_eq!((c.global_load_sectors, c.global_ideal, c.unique_load_bytes), (16, 16, 512));
    // Over all blocks.
    let lab = Lab {
        grid: 4,
        ..Lab::new("mad.wide.u32 %rd1, %t, 4, %in;\nld.global.u32 %r1, [%rd1];").input(&[1; 32]).output(0)
    };
    let c = lab.counters();
    assert_eq!((c.global_load_sectors, c.unique_load_bytes), (16, 128));
}

#[test]
fn instructions_by_class() {
    let base = Lab::new("").output(0).counters();
    let with = |body: &str, threads: u32| {
        let c = Lab::new(body).threads(threads).input(&[1; 32]).output(0).counters();
        (0..8).map(|i| c.warp_instructions[i] - base.warp_instructions[i]).collect::<Vec<_>>()
    };
    let class = |name: &str| Counters::CLASSES.iter().position(|c| *c == name).expect("a class");
    for (name, body) in [
        ("alu", "add.u32 %r1, %t, 1;"),
        ("fma", "mul.f32 %f1, 0f3F800000, 0f3F800000;"),
        ("sfu", "ex2.approx.f32 %f1, 0f3F800000;"),
        ("shared", ".shared .u32 s;\nst.shared.u8 [s], 1;"),
        ("global", "ld.global.u32 %r1, [%in];"),
        ("control", "bar.sync 0;"),
    ] {
        let mut want = vec![0; 8];
        want[class(name)] = 1;
        if name != "shared" {
            assert_eq!(with(body, 32), want, "{name}");
        } else {
            let c =
                Lab { options: Options { races: false, ..options() }, ..Lab::new(body).output(0) }.counters();
            assert_eq!(c.warp_instructions[class(name)], 1);
        }
    }
    let one = Lab::new("add.u32 %r1, %t, 1;").output(0).counters();
    let two = Lab::new("add.u32 %r1, %t, 1;").threads(64).output(0).counters();
    for i in 0..8 {
        assert_eq!(two.warp_instructions[i], 2 * one.warp_instructions[i]);
    }
    assert_eq!(one.active_lanes, 32 * one.warp_instructions.iter().sum::<u64>());
    // A predicate that is off in some lanes.
    let half = Lab::new("setp.lt.u32 %p1, %t, 8;\n@%p1 add.u32 %r1, %t, 1;").output(0).counters();
    assert_eq!(half.active_lanes, 32 * (half.warp_instructions.iter().sum::<u64>() - 1) + 8);
    assert!(half.issue_cycles > 0.0 && half.mma_cycles == 0.0);
}

#[test]
fn mma_work() {
    let body = "mov.u32 %r1, 0;\nmov.f32 %f1, 0f00000000;\n\
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1};\n\
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1};";
    for mma in [Mma::Exact, Mma::Sequential, Mma::Truncate] {
        let c = Lab { grid: 3, ..Lab::new(body).output(0).options(Options { mma, ..options() }) }.counters();
        assert_eq!((c.mma, c.mma_flops), (6, 3 * (4096 + 2048)));
        // On sm_80 a sub-partition does 256 multiply-adds of f16 and 128 of tf32 per cycle.
        assert_eq!(c.mma_cycles, 3.0 * (2048.0 / 256.0 + 1024.0 / 128.0));
        assert!(c.issue_cycles >= c.mma_cycles);
    }
}
