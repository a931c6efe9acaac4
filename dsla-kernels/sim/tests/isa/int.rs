//! Integer arithmetic.

use crate::common::{Lab, t};

const MIN32: i64 = i32::MIN as i64;
const MAX32: i64 = i32::MAX as i64;
const MIN64: i64 = i64::MIN;
const MAX64: i64 = i64::MAX;

#[test]
fn add_sub() {
    t("add.u16", "u16 u16 u16", &[(&[0xffff, 1], 0), (&[3, 4], 7)]);
    t("add.s16", "s16 s16 s16", &[(&[0x7fff, 1], 0x8000), (&[-3, 1], -2)]);
    t("add.u32", "u32 u32 u32", &[(&[-1, 2], 1)]);
    t("add.s32", "s32 s32 s32", &[(&[MAX32, 1], MIN32), (&[-5, 3], -2)]);
    t("add.u64", "u64 u64 u64", &[(&[-1, 2], 1), (&[0xffff_ffff, 1], 0x1_0000_0000)]);
    t("add.s64", "s64 s64 s64", &[(&[MAX64, 1], MIN64)]);
    t("add.sat.s32", "s32 s32 s32", &[(&[MAX32, 1], MAX32), (&[MIN32, -1], MIN32), (&[1, 2], 3)]);
    t("sub.u16", "u16 u16 u16", &[(&[0, 1], 0xffff)]);
    t("sub.s16", "s16 s16 s16", &[(&[-0x8000, 1], 0x7fff)]);
    t("sub.u32", "u32 u32 u32", &[(&[0, 1], -1)]);
    t("sub.s32", "s32 s32 s32", &[(&[3, 5], -2)]);
    t("sub.u64", "u64 u64 u64", &[(&[0, 1], -1)]);
    t("sub.s64", "s64 s64 s64", &[(&[MIN64, 1], MAX64)]);
    t("sub.sat.s32", "s32 s32 s32", &[(&[MIN32, 1], MIN32), (&[MAX32, -1], MAX32), (&[0, MIN32], MAX32)]);
    t("add.u32 %d, %a, 7;", "u32 u32", &[(&[1], 8)]);
    t("add.s32 %d, %a, -7;", "s32 s32", &[(&[1], -6)]);
}

#[test]
fn mul() {
    t("mul.lo.u16", "u16 u16 u16", &[(&[300, 300], 90000 & 0xffff)]);
    t("mul.lo.s16", "s16 s16 s16", &[(&[-3, 5], -15)]);
    t("mul.lo.u32", "u32 u32 u32", &[(&[0x1_0001, 0x1_0001], 0x2_0001)]);
    t("mul.lo.s32", "s32 s32 s32", &[(&[-3, 5], -15), (&[MIN32, -1], MIN32)]);
    t("mul.lo.u64", "u64 u64 u64", &[(&[0x1_0000_0001, 0x1_0000_0001], 0x2_0000_0001)]);
    t("mul.lo.s64", "s64 s64 s64", &[(&[-3, 5], -15)]);
    t("mul.hi.u16", "u16 u16 u16", &[(&[0xffff, 0xffff], 0xfffe)]);
    t("mul.hi.s16", "s16 s16 s16", &[(&[-1, 1], -1), (&[-0x8000, -0x8000], 0x4000)]);
    t("mul.hi.u32", "u32 u32 u32", &[(&[-1, -1], -2)]);
    t("mul.hi.s32", "s32 s32 s32", &[(&[-1, 1], -1), (&[MIN32, MIN32], 0x4000_0000)]);
    t("mul.hi.u64", "u64 u64 u64", &[(&[-1, -1], -2)]);
    t("mul.hi.s64", "s64 s64 s64", &[(&[-1, 1], -1), (&[MIN64, MIN64], 1 << 62)]);
    t("mul.wide.u16", "u32 u16 u16", &[(&[0xffff, 0xffff], 0xfffe_0001)]);
    t("mul.wide.s16", "s32 s16 s16", &[(&[-1, 2], -2)]);
    t("mul.wide.u32", "u64 u32 u32", &[(&[-1, -1], 0xffff_fffe_0000_0001u64 as i64)]);
    t("mul.wide.s32", "s64 s32 s32", &[(&[-1, 2], -2), (&[MIN32, MIN32], 1 << 62)]);
}

#[test]
fn mad() {
    t("mad.lo.u16", "u16 u16 u16 u16", &[(&[300, 300, 1], (90001) & 0xffff)]);
    t("mad.lo.s16", "s16 s16 s16 s16", &[(&[-3, 5, 1], -14)]);
    t("mad.lo.u32", "u32 u32 u32 u32", &[(&[3, 5, 7], 22)]);
    t("mad.lo.s32", "s32 s32 s32 s32", &[(&[-3, 5, 7], -8)]);
    t("mad.lo.u64", "u64 u64 u64 u64", &[(&[1 << 40, 3, 7], (3 << 40) + 7)]);
    t("mad.lo.s64", "s64 s64 s64 s64", &[(&[-3, 5, 7], -8)]);
    t("mad.hi.u16", "u16 u16 u16 u16", &[(&[0xffff, 0xffff, 3], 1)]);
    t("mad.hi.s16", "s16 s16 s16 s16", &[(&[-1, 1, 3], 2)]);
    t("mad.hi.u32", "u32 u32 u32 u32", &[(&[-1, -1, 3], 1)]);
    t("mad.hi.s32", "s32 s32 s32 s32", &[(&[-1, 1, 3], 2)]);
    t("mad.hi.u64", "u64 u64 u64 u64", &[(&[-1, -1, 3], 1)]);
    t("mad.hi.s64", "s64 s64 s64 s64", &[(&[-1, 1, 3], 2)]);
    t("mad.wide.u16", "u32 u16 u16 u32", &[(&[0xffff, 0xffff, 1], 0xfffe_0002)]);
    t("mad.wide.s16", "s32 s16 s16 s32", &[(&[-1, 2, 1], -1)]);
    t("mad.wide.u32", "u64 u32 u32 u64", &[(&[-1, 2, 2], 0x2_0000_0000)]);
    t("mad.wide.s32", "s64 s32 s32 s64", &[(&[-1, 2, 1], -1)]);
}

#[test]
fn div_rem() {
    t("div.u16", "u16 u16 u16", &[(&[0xffff, 10], 6553)]);
    t("div.s16", "s16 s16 s16", &[(&[-7, 2], -3)]);
    t("div.u32", "u32 u32 u32", &[(&[-1, 10], 429_496_729)]);
    t("div.s32", "s32 s32 s32", &[(&[-7, 2], -3), (&[7, -2], -3)]);
    t("div.u64", "u64 u64 u64", &[(&[-1, 10], 1_844_674_407_370_955_161)]);
    t("div.s64", "s64 s64 s64", &[(&[-7, 2], -3)]);
    t("rem.u16", "u16 u16 u16", &[(&[0xffff, 10], 5)]);
    t("rem.s16", "s16 s16 s16", &[(&[-7, 2], -1)]);
    t("rem.u32", "u32 u32 u32", &[(&[-1, 10], 5)]);
    t("rem.s32", "s32 s32 s32", &[(&[-7, 2], -1), (&[7, -2], 1)]);
    t("rem.u64", "u64 u64 u64", &[(&[-1, 10], 5)]);
    t("rem.s64", "s64 s64 s64", &[(&[-7, 2], -1)]);
}

#[test]
fn min_max_neg_abs() {
    for (ty, small, large) in
        [("u16", 3, 0xffff), ("u32", 3, 0xffff_ffff), ("u64", 3, -1), ("s16", -4, 3), ("s32", -4, 3)]
    {
        let types = format!("{ty} {ty} {ty}");
        t(&format!("min.{ty}"), &types, &[(&[small, large], small), (&[large, small], small)]);
        t(&format!("max.{ty}"), &types, &[(&[small, large], large), (&[large, small], large)]);
    }
    t("min.s64", "s64 s64 s64", &[(&[-4, 3], -4)]);
    t("max.s64", "s64 s64 s64", &[(&[-4, 3], 3)]);
    t("neg.s16", "s16 s16", &[(&[5], -5), (&[-0x8000], -0x8000)]);
    t("neg.s32", "s32 s32", &[(&[5], -5), (&[MIN32], MIN32)]);
    t("neg.s64", "s64 s64", &[(&[5], -5)]);
    t("abs.s16", "s16 s16", &[(&[-5], 5), (&[5], 5)]);
    t("abs.s32", "s32 s32", &[(&[-5], 5)]);
    t("abs.s64", "s64 s64", &[(&[-5], 5)]);
}

#[test]
fn carries() {
    let add = "add.cc.u32 %r1, %a, %b; addc.u32 %d, %c, 0;";
    t(add, "u32 u32 u32 u32", &[(&[-1, 1, 5], 6), (&[1, 1, 5], 5)]);
    let chain = "add.cc.u32 %r1, %a, %b; addc.cc.u32 %r2, %a, 0; addc.u32 %d, %c, 0;";
    t(chain, "u32 u32 u32 u32", &[(&[-1, 1, 5], 6), (&[-2, 1, 5], 5)]);
    let sub = "sub.cc.u32 %r1, %a, %b; subc.u32 %d, %c, 0;";
    t(sub, "u32 u32 u32 u32", &[(&[0, 1, 5], 4), (&[1, 1, 5], 5)]);
    let chain = "sub.cc.s32 %r1, %a, %b; subc.cc.s32 %r2, %a, 0; subc.s32 %d, %c, 0;";
    t(chain, "s32 s32 s32 s32", &[(&[0, 1, 5], 4), (&[1, 1, 5], 5)]);
    t("add.cc.u64 %l1, %a, %b; addc.u64 %d, %c, 0;", "u64 u64 u64 u64", &[(&[-1, 1, 5], 6)]);
}

#[test]
fn special_registers() {
    let body = |r: &str| format!("mov.u32 %r1, {r};\nst.global.u32 [%mine], %r1;");
    let one = |r: &str| Lab::new(&body(r)).threads(64).run();
    let lane = |i: u32| i % 32;
    let each = |f: &dyn Fn(u32) -> u32| (0..64).map(f).collect::<Vec<_>>();
    assert_eq!(one("%tid.x"), each(&|i| i));
    assert_eq!(one("%tid.y"), each(&|_| 0));
    assert_eq!(one("%ntid.x"), each(&|_| 64));
    assert_eq!(one("%ntid.z"), each(&|_| 1));
    assert_eq!(one("%ctaid.x"), each(&|_| 0));
    assert_eq!(one("%nctaid.x"), each(&|_| 1));
    assert_eq!(one("%laneid"), each(&lane));
    assert_eq!(one("%warpid"), each(&|i| i / 32));
    assert_eq!(one("%lanemask_eq"), each(&|i| 1 << lane(i)));
    assert_eq!(one("%lanemask_lt"), each(&|i| (1 << lane(i)) - 1));
    assert_eq!(one("%lanemask_le"), each(&|i| ((1u32 << lane(i)) - 1) | (1 << lane(i))));
    assert_eq!(one("%lanemask_gt"), each(&|i| !(((1u32 << lane(i)) - 1) | (1 << lane(i)))));
    assert_eq!(one("%lanemask_ge"), each(&|i| !((1u32 << lane(i)) - 1)));
    let body = body("%dynamic_smem_size");
    assert_eq!(Lab::new(&body).shared(4096).run(), vec![4096; 32]);
    // Threads of a block are numbered x fastest.
    let flat = "mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %laneid; mov.u32 %r6, %ntid.x;\n\
                mad.lo.u32 %r4, %r2, 4, %r1; mad.lo.u32 %r4, %r4, 4, %t; mad.wide.u32 %rd1, %r4, 4, %out;\n\
                shl.b32 %r5, %r6, 8; or.b32 %r5, %r5, %r3; st.global.u32 [%rd1], %r5;";
    let lab = Lab { block: [4, 4, 4], ..Lab::new(flat).output(64) };
    assert_eq!(lab.run(), each(&|i| (4 << 8) | (i % 32)));
}
