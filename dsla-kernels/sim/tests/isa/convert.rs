//! cvt, mov, cvta.

use crate::common::{Lab, b, d, f, h, pair, t};

const INTS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

fn value(bits: i64, w: u32, signed: bool) -> i128 {
    let v = bits as i128 & ((1 << w) - 1);
    if signed && v >> (w - 1) & 1 == 1 { v - (1 << w) } else { v }
}

fn range(w: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (w - 1)), (1 << (w - 1)) - 1) } else { (0, (1 << w) - 1) }
}

#[test]
fn integer_to_integer() {
    let values: [i64; 8] = [0, 1, -1, 0x7f, 0x80, 0x1234_5678_9abc_def0, i64::MIN, 0x8000_0000];
    for (to, tw, ts) in INTS {
        for (from, fw, fs) in INTS {
            let (lo, hi) = range(tw, ts);
            let operands = values.map(|v| [v]);
            // Truncated to the destination's width, extended by its own sign where the register is wider.
            let plain: Vec<(&[i64], i64)> =
                operands.iter().map(|o| (&o[..], value(value(o[0], fw, fs) as i64, tw, ts) as i64)).collect();
            t(&format!("cvt.{to}.{from}"), &format!("{to} {from}"), &plain);
            // ptxas takes .sat only where it can matter.
            let (flo, fhi) = range(fw, fs);
            if flo < lo || fhi > hi {
                let sat: Vec<(&[i64], i64)> =
                    operands.iter().map(|o| (&o[..], value(o[0], fw, fs).clamp(lo, hi) as i64)).collect();
                t(&format!("cvt.sat.{to}.{from}"), &format!("{to} {from}"), &sat);
            }
        }
    }
    // A register wider than the type: only the type's bits count, the result is extended.
    t("cvt.s32.s8 %d, %a;", "s32 u32", &[(&[0x1280], -128)]);
    t("cvt.u32.u8 %d, %a;", "u32 u32", &[(&[0x1280], 0x80)]);
    t("cvt.u8.u32 %d, %a;", "u32 u32", &[(&[0x1280], 0x80)]);
    t("cvt.s8.s32 %d, %a;", "s32 s32", &[(&[0x1280], -128)]);
    t("cvt.s16.s32 %d, %a;", "s32 s32", &[(&[0x1_8000], -0x8000)]);
}

#[test]
fn float_to_integer() {
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, 2.75, -2.75, 100.25, 300.0, -300.0, 40000.0, -40000.0, 65504.0];
    let round: [(&str, fn(f64) -> f64); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    let from: [(&str, fn(f64) -> i64); 4] =
        [("f16", |x| h(x as f32)), ("f32", |x| f(x as f32)), ("f64", d), ("bf16", |x| b(x as f32))];
    for (to, tw, ts) in INTS {
        let (lo, hi) = range(tw, ts);
        for (ty, bits) in from {
            // bf16 converts to integers of 16 bits and more.
            if ty == "bf16" && tw == 8 {
                continue;
            }
            for (mode, r) in round {
                let x = x.map(|x| {
                    if ty == "bf16" {
                        f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_0000))
                    } else {
                        x
                    }
                });
                let x = x.map(|x| if ty == "f16" { f64::from(::half::f16::from_f64(x).to_f32()) } else { x });
                let nan = if ty == "f64" || tw == 64 { (1i128 << (tw - 1)) as i64 } else { 0 };
                let inf = f64::INFINITY;
                let operands: Vec<([i64; 1], i64)> = x
                    .iter()
                    .map(|&x| ([bits(x)], (r(x) as i128).clamp(lo, hi) as i64))
                    .chain([([bits(inf)], hi as i64), ([bits(-inf)], lo as i64), ([bits(f64::NAN)], nan)])
                    .collect();
                // A NaN of the narrow types comes out as 0 or the top bit, as the width says, then is extended.
                let rows: Vec<(&[i64], i64)> =
                    operands.iter().map(|o| (&o.0[..], value(o.1, tw, ts) as i64)).collect();
                t(&format!("cvt.{mode}.{to}.{ty}"), &format!("{to} {ty}"), &rows);
            }
        }
    }
    t("cvt.rpi.s32.f32", "s32 f32", &[(&[f(1e-40)], 1)]);
    t("cvt.rpi.ftz.s32.f32", "s32 f32", &[(&[f(1e-40)], 0)]);
    t("cvt.rzi.s32.f32", "s32 f32", &[(&[f(3e9)], i64::from(i32::MAX)), (&[f(-3e9)], i64::from(i32::MIN))]);
    t("cvt.rzi.u64.f32", "u64 f32", &[(&[f(1e30)], -1), (&[f(2f32.powi(40))], 1 << 40)]);
    t("cvt.rzi.sat.u8.f32", "u8 f32", &[(&[f(1e30)], 255)]);
}

#[test]
fn integer_to_float() {
    t(
        "cvt.rn.f32.s32",
        "f32 s32",
        &[(&[-5], f(-5.0)), (&[16_777_217], f(16_777_216.0)), (&[16_777_219], f(16_777_220.0))],
    );
    t("cvt.rz.f32.s32", "f32 s32", &[(&[16_777_219], f(16_777_218.0)), (&[-16_777_219], f(-16_777_218.0))]);
    t("cvt.rm.f32.s32", "f32 s32", &[(&[16_777_217], f(16_777_216.0)), (&[-16_777_217], f(-16_777_218.0))]);
    t("cvt.rp.f32.s32", "f32 s32", &[(&[16_777_217], f(16_777_218.0)), (&[-16_777_217], f(-16_777_216.0))]);
    t("cvt.rn.f32.u32", "f32 u32", &[(&[-1], f(4_294_967_296.0)), (&[7], f(7.0))]);
    t("cvt.rz.f32.u64", "f32 u64", &[(&[-1], 0x5f7f_ffff)]);
    t("cvt.rn.f32.s64", "f32 s64", &[(&[i64::MIN], f(-9_223_372_036_854_775_808.0))]);
    t("cvt.rn.f32.u8", "f32 u8", &[(&[0x1ff], f(255.0))]);
    t("cvt.rn.f32.s8", "f32 s8", &[(&[0x1ff], f(-1.0))]);
    t("cvt.rn.f32.u16", "f32 u16", &[(&[0xffff], f(65535.0))]);
    t("cvt.rn.f32.s16", "f32 s16", &[(&[0xffff], f(-1.0))]);
    t(
        "cvt.rn.f16.s32",
        "f16 s32",
        &[(&[2049], h(2048.0)), (&[2051], h(2052.0)), (&[70000], h(f32::INFINITY))],
    );
    t("cvt.rz.f16.u32", "f16 u32", &[(&[70000], h(65504.0))]);
    t("cvt.rn.bf16.s32", "bf16 s32", &[(&[257], b(256.0)), (&[-3], b(-3.0))]);
    t("cvt.rn.f64.s64", "f64 s64", &[(&[(1 << 53) + 1], d(9_007_199_254_740_992.0))]);
    t("cvt.rn.f64.u32", "f64 u32", &[(&[-1], d(4_294_967_295.0))]);
    t("cvt.rn.f64.s32", "f64 s32", &[(&[-7], d(-7.0))]);
}

#[test]
fn float_to_float() {
    let inf = f32::INFINITY;
    let nan = f32::NAN;
    t(
        "cvt.f32.f16",
        "f32 f16",
        &[(&[h(1.5)], f(1.5)), (&[1], f(2f32.powi(-24))), (&[h(inf)], f(inf)), (&[h(nan)], f(nan))],
    );
    t("cvt.f32.bf16", "f32 bf16", &[(&[b(1.5)], f(1.5)), (&[1], 1 << 16), (&[b(nan)], f(nan))]);
    t("cvt.f64.f32", "f64 f32", &[(&[f(1.5)], d(1.5)), (&[f(1e-40)], d(f64::from(1e-40f32)))]);
    t("cvt.ftz.f64.f32", "f64 f32", &[(&[f(1e-40)], d(0.0))]);
    t("cvt.f64.f16", "f64 f16", &[(&[h(1.5)], d(1.5))]);
    // A unit of f16 at 1 is 2^-10, of bf16 2^-7.
    let u = 2f32.powi(-10);
    for (mode, above, below) in
        [("rn", 1.0, -1.0), ("rz", 1.0, -1.0), ("rm", 1.0, -1.0 - u), ("rp", 1.0 + u, -1.0)]
    {
        let x = 1.0 + u / 4.0;
        t(&format!("cvt.{mode}.f16.f32"), "f16 f32", &[(&[f(x)], h(above)), (&[f(-x)], h(below))]);
    }
    t(
        "cvt.rn.f16.f32",
        "f16 f32",
        &[
            (&[f(1.0 + u / 2.0)], h(1.0)),
            (&[f(1.0 + 1.5 * u)], h(1.0 + 2.0 * u)),
            (&[f(65519.0)], h(65504.0)),
            (&[f(65520.0)], h(inf)),
            (&[f(1e-7)], 2),
            (&[f(nan)], h(nan)),
            (&[f(-0.0)], h(-0.0)),
        ],
    );
    t("cvt.rn.ftz.f16.f32", "f16 f32", &[(&[f(1e-7)], 2), (&[f(1.5)], h(1.5))]);
    t("cvt.rn.sat.f16.f32", "f16 f32", &[(&[f(1.5)], h(1.0)), (&[f(-1.5)], h(0.0)), (&[f(nan)], h(0.0))]);
    t("cvt.rn.relu.f16.f32", "f16 f32", &[(&[f(-1.5)], h(0.0)), (&[f(nan)], h(nan)), (&[f(1.5)], h(1.5))]);
    t("cvt.rz.relu.f16.f32", "f16 f32", &[(&[f(65520.0)], h(65504.0)), (&[f(-1.5)], h(0.0))]);
    let u = 2f32.powi(-7);
    t(
        "cvt.rn.bf16.f32",
        "bf16 f32",
        &[
            (&[f(1.0 + u / 2.0)], b(1.0)),
            (&[f(1.0 + 1.5 * u)], b(1.0 + 2.0 * u)),
            (&[f(f32::MAX)], b(inf)),
            (&[f(nan)], b(nan)),
        ],
    );
    t("cvt.rz.bf16.f32", "bf16 f32", &[(&[f(1.0 + 0.75 * u)], b(1.0)), (&[f(f32::MAX)], 0x7f7f)]);
    t("cvt.rn.relu.bf16.f32", "bf16 f32", &[(&[f(-1.5)], b(0.0)), (&[f(nan)], b(nan))]);
    t("cvt.rz.relu.bf16.f32", "bf16 f32", &[(&[f(-1.5)], b(0.0))]);
    for (mode, want) in [("rn", 1.0f32), ("rz", 1.0), ("rm", 1.0), ("rp", 1.0 + f32::EPSILON)] {
        t(&format!("cvt.{mode}.f32.f64"), "f32 f64", &[(&[d(1.0 + 1e-9)], f(want))]);
    }
    t(
        "cvt.rn.f32.f64",
        "f32 f64",
        &[(&[d(1e300)], f(inf)), (&[d(1e-40)], f(1e-40)), (&[d(f64::NAN)], f(nan))],
    );
    t("cvt.rn.ftz.f32.f64", "f32 f64", &[(&[d(1e-40)], f(0.0))]);
    t("cvt.rn.sat.f32.f64", "f32 f64", &[(&[d(2.5)], f(1.0)), (&[d(-2.5)], f(0.0))]);
    t("cvt.rn.f16.f64", "f16 f64", &[(&[d(1.0 + 2f64.powi(-11) + 2f64.powi(-40))], h(1.0 + 2f32.powi(-10)))]);
    t("cvt.rni.f32.f32", "f32 f32", &[(&[f(2.5)], f(2.0)), (&[f(-0.25)], f(-0.0)), (&[f(1e30)], f(1e30))]);
    t("cvt.rzi.f32.f32", "f32 f32", &[(&[f(-2.75)], f(-2.0))]);
    t("cvt.rmi.f32.f32", "f32 f32", &[(&[f(-2.25)], f(-3.0))]);
    t("cvt.rpi.f32.f32", "f32 f32", &[(&[f(2.25)], f(3.0)), (&[f(-0.5)], f(-0.0))]);
    t("cvt.rmi.ftz.f32.f32", "f32 f32", &[(&[f(-1e-40)], f(-0.0))]);
    t("cvt.sat.f32.f32", "f32 f32", &[(&[f(2.5)], f(1.0)), (&[f(nan)], f(0.0)), (&[f(0.25)], f(0.25))]);
    t("cvt.ftz.f32.f32", "f32 f32", &[(&[f(-1e-40)], f(-0.0))]);
    t("cvt.rni.f64.f64", "f64 f64", &[(&[d(2.5)], d(2.0)), (&[d(3.5)], d(4.0))]);
    t("cvt.rni.f16.f16", "f16 f16", &[(&[h(2.5)], h(2.0))]);
    t(
        "cvt.rna.tf32.f32",
        "b32 f32",
        &[(&[0x3f80_1000], 0x3f80_2000), (&[0x3f80_0fff], 0x3f80_0000), (&[0xbf80_1000], 0xbf80_2000)],
    );
}

#[test]
fn packed() {
    let (x, y) = (1.5, -2.25);
    // The first source becomes the upper half.
    t(
        "cvt.rn.f16x2.f32",
        "f16x2 f32 f32",
        &[(&[f(x), f(y)], pair(h(x), h(y))), (&[f(65520.0), f(1e-7)], pair(h(f32::INFINITY), 2))],
    );
    t("cvt.rn.bf16x2.f32", "bf16x2 f32 f32", &[(&[f(x), f(y)], pair(b(x), b(y)))]);
    t("cvt.rz.f16x2.f32", "f16x2 f32 f32", &[(&[f(65520.0), f(y)], pair(h(65504.0), h(y)))]);
    t("cvt.rz.bf16x2.f32", "bf16x2 f32 f32", &[(&[f(f32::MAX), f(y)], pair(0x7f7f, b(y)))]);
    t(
        "cvt.rn.relu.f16x2.f32",
        "f16x2 f32 f32",
        &[(&[f(x), f(y)], pair(h(x), h(0.0))), (&[f(f32::NAN), f(1.0)], pair(h(f32::NAN), h(1.0)))],
    );
    t("cvt.rn.relu.bf16x2.f32", "bf16x2 f32 f32", &[(&[f(y), f(x)], pair(b(0.0), b(x)))]);
    t("cvt.rz.relu.bf16x2.f32", "bf16x2 f32 f32", &[(&[f(y), f(x)], pair(b(0.0), b(x)))]);
}

#[test]
fn mov() {
    for ty in ["b16", "u16", "s16", "b32", "u32", "s32", "b64", "u64", "s64", "f32", "f64"] {
        t(&format!("mov.{ty}"), &format!("{ty} {ty}"), &[(&[0x1234_5678_9abc_def0], 0x1234_5678_9abc_def0)]);
    }
    t("mov.b32 %d, {%a, %b};", "b32 b16 b16", &[(&[0x1234, 0x5678], 0x5678_1234)]);
    t("mov.b64 %d, {%a, %b};", "b64 b32 b32", &[(&[0x1234_5678, 7], 0x7_1234_5678)]);
    t("mov.b64 %d, {%a, %b, %c, %e};", "b64 b16 b16 b16 b16", &[(&[1, 2, 3, 4], 0x0004_0003_0002_0001)]);
    t("mov.b32 {%h1, %d}, %a;", "b16 b32", &[(&[0x1234_5678], 0x1234)]);
    t("mov.b32 {%d, %h1}, %a;", "b16 b32", &[(&[0x1234_5678], 0x5678)]);
    t("mov.b64 {%d, %r1}, %a;", "b32 b64", &[(&[0x7_1234_5678], 0x1234_5678)]);
    t("mov.b64 {%r1, %d}, %a;", "b32 b64", &[(&[0x7_1234_5678], 7)]);
    t("mov.b64 {%h1, %h2, %d, _}, %a;", "b16 b64", &[(&[0x0004_0003_0002_0001], 3)]);
    t("mov.u32 %d, 0xdeadbeef;", "u32", &[(&[], 0xdead_beef)]);
    t("mov.s32 %d, -5;", "s32", &[(&[], -5)]);
    t("mov.u64 %d, 0x123456789abcdef;", "u64", &[(&[], 0x0123_4567_89ab_cdef)]);
    t("mov.u32 %d, 0b101;", "u32", &[(&[], 5)]);
    t("mov.u32 %d, 017;", "u32", &[(&[], 15)]);
    t("mov.f32 %d, 0f3FC00000;", "f32", &[(&[], f(1.5))]);
    t("mov.f32 %d, 1.5;", "f32", &[(&[], f(1.5))]);
    t("mov.f32 %d, -1.5e2;", "f32", &[(&[], f(-150.0))]);
    t("mov.f64 %d, 0d3FF8000000000000;", "f64", &[(&[], d(1.5))]);
    t("mov.f64 %d, 1.5;", "f64", &[(&[], d(1.5))]);
    t("mov.u32 %d, WARP_SZ;", "u32", &[(&[], 32)]);
}

#[test]
fn cvta() {
    // There and back again.
    let body = "cvta.global.u64 %rd1, %out;\ncvta.to.global.u64 %rd2, %rd1;\nmad.wide.u32 %rd2, %t, 4, %rd2;\nst.global.u32 [%rd2], %t;";
    assert_eq!(Lab::new(body).run(), (0..32).collect::<Vec<_>>());
    let body = ".shared .align 16 .b8 s[128];\nmov.u64 %rd1, s;\ncvta.shared.u64 %rd2, %rd1;\ncvta.to.shared.u64 %rd3, %rd2;\n\
                mad.wide.u32 %rd3, %t, 4, %rd3;\nst.shared.u32 [%rd3], %t;\nld.shared.u32 %r1, [%rd3];\nst.global.u32 [%mine], %r1;";
    assert_eq!(Lab::new(body).run(), (0..32).collect::<Vec<_>>());
}
