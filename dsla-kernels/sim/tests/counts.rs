//! What a launch costs.

mod common;
use common::Case;
use ptxsim::Counters;

fn count(block: u32, body: &str) -> Counters {
    Case { block, ..Case::default() }.run(body).unwrap_or_else(|f| panic!("{f}\n{body}")).1
}

/// %r1: the tile at `expr` bytes, `expr` of %t in %r0.
fn shared(expr: &str, access: &str) -> (u64, u64) {
    let fill = "shl.b32 %r5, %t, 5; mov.u32 %r6, tile; add.u32 %r5, %r5, %r6; mov.u32 %r7, 0;
        st.shared.v4.u32 [%r5], {%r7, %r7, %r7, %r7}; st.shared.v4.u32 [%r5+16], {%r7, %r7, %r7, %r7}; bar.warp.sync 0xffffffff;";
    let base = count(32, fill);
    let with = count(32, &format!("{fill} {expr} mov.u32 %r1, tile; add.u32 %r1, %r1, %r0; {access}"));
    (with.shared_wavefronts - base.shared_wavefronts, with.shared_ideal - base.shared_ideal)
}

#[test]
fn bank_conflicts() {
    let ld = "ld.shared.u32 %r2, [%r1];";
    assert_eq!(shared("shl.b32 %r0, %t, 2;", ld), (1, 1));
    assert_eq!(shared("shl.b32 %r0, %t, 3;", ld), (2, 1));
    assert_eq!(shared("shl.b32 %r0, %t, 4;", ld), (4, 1));
    assert_eq!(shared("mov.u32 %r0, 0;", ld), (1, 1));
    assert_eq!(shared("and.b32 %r0, %t, 7; shl.b32 %r0, %r0, 7;", ld), (8, 1));
    assert_eq!(shared("shl.b32 %r0, %t, 3;", "ld.shared.v2.u32 {%r2, %r3}, [%r1];"), (2, 2));
    assert_eq!(shared("shl.b32 %r0, %t, 4;", "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1];"), (4, 4));
    assert_eq!(shared("shl.b32 %r0, %t, 5;", "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1];"), (8, 4));
    let lm = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r2, %r3, %r4, %r5}, [%r1];";
    assert_eq!(shared("shl.b32 %r0, %t, 4;", lm), (4, 4));
    assert_eq!(shared("shl.b32 %r0, %t, 5;", lm), (8, 4));
    assert_eq!(shared("and.b32 %r0, %t, 7; shl.b32 %r0, %r0, 7;", lm), (32, 4));
    // A swizzle mends it.
    assert_eq!(
        shared(
            "and.b32 %r0, %t, 7; mad.lo.u32 %r0, %r0, 128, 0; and.b32 %r8, %t, 7; shl.b32 %r8, %r8, 4; xor.b32 %r0, %r0, %r8;",
            lm
        ),
        (4, 4)
    );
}

#[test]
fn sectors() {
    let ld = |scale: u32, access: &str| {
        let c = count(32, &format!("mul.wide.u32 %d0, %t, {scale}; add.u64 %d0, %x, %d0; {access}"));
        (c.global_load_sectors, c.global_ideal, c.unique_load_bytes)
    };
    let u32s = "ld.global.u32 %r0, [%d0];";
    assert_eq!(ld(4, u32s), (4, 4, 128));
    assert_eq!(ld(8, u32s), (8, 4, 128));
    assert_eq!(ld(32, u32s), (32, 4, 128));
    assert_eq!(ld(0, u32s), (1, 1, 4));
    assert_eq!(ld(16, "ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%d0];"), (16, 16, 512));
    assert_eq!(ld(4, "ld.global.u32 %r0, [%d0+16];"), (5, 4, 128));
    assert_eq!(ld(4, &u32s.repeat(3)), (12, 12, 128));
    let c = count(32, "mul.wide.u32 %d0, %t, 4; add.u64 %d0, %y, %d0; st.global.u32 [%d0], %t;");
    assert_eq!((c.global_store_sectors, c.global_ideal, c.unique_store_bytes), (4, 4, 128));
}

#[test]
fn classes_lanes_and_lines() {
    let c = count(40, "add.u32 %r0, %t, 1;\nsetp.lt.u32 %p0, %t, 4;\n@%p0 add.u32 %r0, %t, 2;\nret;");
    // Two warps: mov and three more; ld.param and ret.
    assert_eq!(c.warp_instructions, [8, 0, 0, 0, 0, 0, 2, 6]);
    assert_eq!(c.active_lanes, 40 * 7 + 4);
    assert_eq!((c.lines[&16], c.lines[&18], c.lines.get(&20)), (2, 2, None));
    assert_eq!(c.lines.values().sum::<u64>(), c.warp_instructions.iter().sum::<u64>());
}

#[test]
fn tensor_cores_dominate_when_they_do() {
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%t,%t,%t,%t}, {%t,%t}, {%f0,%f1,%f2,%f3};";
    let zero = "mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;";
    let c = count(32, &format!("{zero} {}", mma.repeat(100)));
    assert_eq!((c.mma, c.mma_flops, c.mma_cycles), (100, 409_600, 800.0));
    assert_eq!(c.issue_cycles, c.mma_cycles);
}
