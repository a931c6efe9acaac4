//! setp, set, selp, slct.

use crate::common::{b, d, f, h, t};

#[test]
fn integers() {
    // (a, b): less, equal, greater; by sign.
    for w in [16, 32, 64] {
        for (ty, ops, signed) in [
            (format!("b{w}"), &["eq", "ne"][..], false),
            (format!("u{w}"), &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"], false),
            (format!("s{w}"), &["eq", "ne", "lt", "le", "gt", "ge"], true),
        ] {
            for op in ops {
                let want = |a: i64, b: i64| {
                    let mask = u64::MAX >> (64 - w);
                    let o = if signed { a.cmp(&b) } else { (a as u64 & mask).cmp(&(b as u64 & mask)) };
                    i64::from(match *op {
                        "eq" => o.is_eq(),
                        "ne" => o.is_ne(),
                        "lt" | "lo" => o.is_lt(),
                        "le" | "ls" => o.is_le(),
                        "gt" | "hi" => o.is_gt(),
                        _ => o.is_ge(),
                    })
                };
                let pairs: [&[i64]; 5] = [&[1, 2], &[2, 1], &[7, 7], &[-1, 1], &[1, -1]];
                let rows: Vec<(&[i64], i64)> = pairs.into_iter().map(|p| (p, want(p[0], p[1]))).collect();
                t(&format!("setp.{op}.{ty}"), &format!("pred {ty} {ty}"), &rows);
            }
        }
    }
}

const FLOAT: [(&str, [i64; 6]); 14] = [
    // 1 ? 2, 2 ? 1, 1 ? 1, NaN ? 1, 1 ? NaN, -0 ? +0
    ("eq", [0, 0, 1, 0, 0, 1]),
    ("ne", [1, 1, 0, 0, 0, 0]),
    ("lt", [1, 0, 0, 0, 0, 0]),
    ("le", [1, 0, 1, 0, 0, 1]),
    ("gt", [0, 1, 0, 0, 0, 0]),
    ("ge", [0, 1, 1, 0, 0, 1]),
    ("equ", [0, 0, 1, 1, 1, 1]),
    ("neu", [1, 1, 0, 1, 1, 0]),
    ("ltu", [1, 0, 0, 1, 1, 0]),
    ("leu", [1, 0, 1, 1, 1, 1]),
    ("gtu", [0, 1, 0, 1, 1, 0]),
    ("geu", [0, 1, 1, 1, 1, 1]),
    ("num", [1, 1, 1, 0, 0, 1]),
    ("nan", [0, 0, 0, 1, 1, 0]),
];

#[test]
fn floats() {
    let pairs = [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0), (f32::NAN, 1.0), (1.0, f32::NAN), (-0.0, 0.0)];
    let types: [(&str, fn(f32) -> i64); 4] =
        [("f32", f), ("f64", |x| d(f64::from(x))), ("f16", h), ("bf16", b)];
    for (op, want) in FLOAT {
        for (ty, bits) in types {
            let operands = pairs.map(|(x, y)| [bits(x), bits(y)]);
            let rows: Vec<(&[i64], i64)> = operands.iter().zip(want).map(|(o, w)| (&o[..], w)).collect();
            t(&format!("setp.{op}.{ty}"), &format!("pred {ty} {ty}"), &rows);
        }
    }
    let sub = 1e-40;
    t("setp.gt.f32", "pred f32 f32", &[(&[f(sub), f(0.0)], 1)]);
    t("setp.gt.ftz.f32", "pred f32 f32", &[(&[f(sub), f(0.0)], 0)]);
    t("setp.eq.ftz.f32", "pred f32 f32", &[(&[f(sub), f(-sub)], 1)]);
}

#[test]
fn combined() {
    // p = (a < b) op c, q = !(a < b) op c.
    for (op, f) in
        [("and", (|x, y| x & y) as fn(i64, i64) -> i64), ("or", |x, y| x | y), ("xor", |x, y| x ^ y)]
    {
        let rows: [(&[i64], i64); 4] =
            [(&[1, 2, 0], f(1, 0)), (&[1, 2, 1], f(1, 1)), (&[2, 1, 0], f(0, 0)), (&[2, 1, 1], f(0, 1))];
        t(&format!("setp.lt.{op}.s32"), "pred s32 s32 pred", &rows);
        let both = format!("setp.lt.{op}.s32 %u|%d, %a, %b, %c;");
        let rows: [(&[i64], i64); 4] =
            [(&[1, 2, 0], f(0, 0)), (&[1, 2, 1], f(0, 1)), (&[2, 1, 0], f(1, 0)), (&[2, 1, 1], f(1, 1))];
        t(&both, "pred s32 s32 pred", &rows);
        let not = format!("setp.lt.{op}.s32 %d, %a, %b, !%c;");
        let rows: [(&[i64], i64); 2] = [(&[1, 2, 0], f(1, 1)), (&[2, 1, 1], f(0, 0))];
        t(&not, "pred s32 s32 pred", &rows);
    }
    t("setp.lt.s32 %u|%d, %a, %b;", "pred s32 s32", &[(&[1, 2], 0), (&[2, 1], 1)]);
}

#[test]
fn set() {
    t("set.lt.u32.s32", "u32 s32 s32", &[(&[-1, 2], -1), (&[2, -1], 0)]);
    t("set.lt.s32.f32", "s32 f32 f32", &[(&[f(1.0), f(2.0)], -1), (&[f(f32::NAN), f(2.0)], 0)]);
    t("set.ge.f32.u32", "f32 u32 u32", &[(&[-1, 2], f(1.0)), (&[1, 2], f(0.0))]);
    t("set.ltu.f32.f32", "f32 f32 f32", &[(&[f(f32::NAN), f(2.0)], f(1.0))]);
    t("set.eq.and.u32.u64", "u32 u64 u64 pred", &[(&[1 << 40, 1 << 40, 1], -1), (&[1 << 40, 1 << 40, 0], 0)]);
    t("set.gt.ftz.u32.f32", "u32 f32 f32", &[(&[f(1e-40), f(0.0)], 0)]);
}

#[test]
fn selp_slct() {
    for ty in ["b16", "u16", "s16", "b32", "u32", "s32", "b64", "u64", "s64"] {
        t(&format!("selp.{ty}"), &format!("{ty} {ty} {ty} pred"), &[(&[5, 9, 1], 5), (&[5, 9, 0], 9)]);
        t(
            &format!("slct.{ty}.s32"),
            &format!("{ty} {ty} {ty} s32"),
            &[(&[5, 9, 0], 5), (&[5, 9, 3], 5), (&[5, 9, -1], 9)],
        );
    }
    t("selp.f32", "f32 f32 f32 pred", &[(&[f(1.5), f(2.5), 1], f(1.5)), (&[f(1.5), f(2.5), 0], f(2.5))]);
    t("selp.u32 %d, %a, %b, !%c;", "u32 u32 u32 pred", &[(&[5, 9, 1], 9), (&[5, 9, 0], 5)]);
    t("selp.f64", "f64 f64 f64 pred", &[(&[d(1.5), d(2.5), 0], d(2.5))]);
    let rows: [(&[i64], i64); 5] = [
        (&[5, 9, f(1.0)], 5),
        (&[5, 9, f(-1.0)], 9),
        (&[5, 9, f(-0.0)], 5),
        (&[5, 9, f(f32::NAN)], 9),
        (&[5, 9, f(-1e-40)], 9),
    ];
    t("slct.u32.f32", "u32 u32 u32 f32", &rows);
    t("slct.ftz.u32.f32", "u32 u32 u32 f32", &[(&[5, 9, f(-1e-40)], 5), (&[5, 9, f(-1.0)], 9)]);
    t("slct.f32.s32", "f32 f32 f32 s32", &[(&[f(5.0), f(9.0), -1], f(9.0))]);
    t("slct.f64.s32", "f64 f64 f64 s32", &[(&[d(5.0), d(9.0), 1], d(5.0))]);
}
