//! f16 and bf16, alone and in pairs.

use crate::common::{b, eval, h, options, pair, t};
use ptxsim::Options;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
/// The smallest f16 subnormal.
const SUB: f32 = 5.960_464_5e-8;

type Bits = fn(f32) -> i64;

/// The same table for one type and its pair: the second half of each pair holds the next row's operands.
fn both(op: &str, ty: &str, rows: &[(&[i64], i64)]) {
    let n = rows[0].0.len() + 1;
    t(&format!("{op}.{ty}"), &vec![ty; n].join(" "), rows);
    let two: Vec<(Vec<i64>, i64)> = (0..rows.len())
        .map(|i| {
            let (low, high) = (&rows[i], &rows[(i + 1) % rows.len()]);
            (low.0.iter().zip(high.0).map(|(l, h)| pair(*h, *l)).collect(), pair(high.1, low.1))
        })
        .collect();
    let two: Vec<(&[i64], i64)> = two.iter().map(|r| (&r.0[..], r.1)).collect();
    t(&format!("{op}.{ty}x2"), &vec![format!("{ty}x2"); n].join(" "), &two);
}

#[test]
fn arithmetic() {
    for (ty, v) in [("f16", h as Bits), ("bf16", b as Bits)] {
        both(
            "add",
            ty,
            &[(&[v(1.5), v(2.25)], v(3.75)), (&[v(INF), v(-INF)], v(NAN)), (&[v(1.0), v(-1.0)], v(0.0))],
        );
        both("add.rn", ty, &[(&[v(1.5), v(2.25)], v(3.75))]);
        both("sub", ty, &[(&[v(1.5), v(2.25)], v(-0.75)), (&[v(0.0), v(NAN)], v(NAN))]);
        both("mul", ty, &[(&[v(1.5), v(-2.0)], v(-3.0)), (&[v(0.0), v(INF)], v(NAN))]);
        both("fma.rn", ty, &[(&[v(1.5), v(2.0), v(0.5)], v(3.5)), (&[v(0.0), v(INF), v(1.0)], v(NAN))]);
        both(
            "fma.rn.relu",
            ty,
            &[
                (&[v(1.0), v(-2.0), v(0.5)], v(0.0)),
                (&[v(1.0), v(2.0), v(0.5)], v(2.5)),
                (&[v(1.0), v(2.0), v(NAN)], v(NAN)),
            ],
        );
        both("neg", ty, &[(&[v(1.5)], v(-1.5)), (&[v(-0.0)], v(0.0))]);
        both("abs", ty, &[(&[v(-1.5)], v(1.5)), (&[v(-INF)], v(INF))]);
        both(
            "min",
            ty,
            &[(&[v(1.5), v(-2.0)], v(-2.0)), (&[v(NAN), v(2.0)], v(2.0)), (&[v(0.0), v(-0.0)], v(-0.0))],
        );
        both(
            "max",
            ty,
            &[(&[v(1.5), v(-2.0)], v(1.5)), (&[v(2.0), v(NAN)], v(2.0)), (&[v(-0.0), v(0.0)], v(0.0))],
        );
        both("min.NaN", ty, &[(&[v(1.5), v(-2.0)], v(-2.0)), (&[v(NAN), v(2.0)], v(NAN))]);
        both("max.NaN", ty, &[(&[v(1.5), v(-2.0)], v(1.5)), (&[v(2.0), v(NAN)], v(NAN))]);
    }
}

#[test]
fn f16_flags() {
    both(
        "add.sat",
        "f16",
        &[(&[h(0.75), h(0.5)], h(1.0)), (&[h(-1.0), h(0.5)], h(0.0)), (&[h(NAN), h(0.5)], h(0.0))],
    );
    both("sub.sat", "f16", &[(&[h(0.75), h(1.5)], h(0.0))]);
    both("mul.sat", "f16", &[(&[h(3.0), h(1.5)], h(1.0)), (&[h(0.5), h(0.5)], h(0.25))]);
    both("fma.rn.sat", "f16", &[(&[h(3.0), h(1.5), h(1.0)], h(1.0))]);
    both("add.ftz", "f16", &[(&[h(SUB), h(SUB)], h(0.0)), (&[h(1.0), h(2.0)], h(3.0))]);
    both("sub.ftz", "f16", &[(&[h(SUB), h(0.0)], h(0.0))]);
    both("mul.ftz", "f16", &[(&[h(SUB), h(1.0)], h(0.0))]);
    both("fma.rn.ftz", "f16", &[(&[h(SUB), h(2.0), h(1.0)], h(1.0)), (&[h(0.0), h(2.0), h(-SUB)], h(0.0))]);
    both("add", "f16", &[(&[h(SUB), h(SUB)], h(2.0 * SUB))]);
    both("min.ftz", "f16", &[(&[h(SUB), h(1.0)], h(0.0))]);
    both("max.ftz.NaN", "f16", &[(&[h(SUB), h(0.0)], h(0.0)), (&[h(SUB), h(NAN)], h(NAN))]);
}

#[test]
fn results_are_rounded_once() {
    // 0x479f * 0x2433 = 0.12501, just above half a unit of 0xdc26.
    t("fma.rn.f16", "f16 f16 f16 f16", &[(&[0x479f, 0x2433, 0xdc26], 0xdc25)]);
    // 2048 + 1 is a tie to even; 2048 + 1.0009765 is not.
    t(
        "fma.rn.f16",
        "f16 f16 f16 f16",
        &[(&[h(1.0), h(1.0), h(2048.0)], h(2048.0)), (&[0x3c01, h(1.0), h(2048.0)], h(2050.0))],
    );
    // The addend 2^-24 of the product breaks a tie far above it.
    t(
        "fma.rn.f16",
        "f16 f16 f16 f16",
        &[(&[h(2.0), h(0.5), h(2048.0)], h(2048.0)), (&[0x3c01, 0x3c01, h(2048.0)], h(2050.0))],
    );
    t("add.f16", "f16 f16 f16", &[(&[h(65504.0), h(16.0)], h(INF)), (&[h(65504.0), h(8.0)], h(65504.0))]);
    // bf16 has 8 significant bits: 256 + 1 is a tie; 3 * 2^-100 more tips it.
    t("fma.rn.bf16", "bf16 bf16 bf16 bf16", &[(&[b(1.0), b(1.0), b(256.0)], b(256.0))]);
    t("add.bf16", "bf16 bf16 bf16", &[(&[b(256.0), b(1.0)], b(256.0)), (&[b(258.0), b(1.0)], b(260.0))]);
}

#[test]
fn approximations() {
    t(
        "ex2.approx.f16",
        "f16 f16",
        &[
            (&[h(3.0)], h(8.0)),
            (&[h(-INF)], h(0.0)),
            (&[h(INF)], h(INF)),
            (&[h(NAN)], h(NAN)),
            (&[h(0.0)], h(1.0)),
        ],
    );
    t("ex2.approx.f16x2", "f16x2 f16x2", &[(&[pair(h(1.0), h(-1.0))], pair(h(2.0), h(0.5)))]);
    t("ex2.approx.ftz.bf16", "bf16 bf16", &[(&[b(3.0)], b(8.0)), (&[b(-INF)], b(0.0)), (&[b(NAN)], b(NAN))]);
    t("ex2.approx.ftz.bf16x2", "bf16x2 bf16x2", &[(&[pair(b(1.0), b(-1.0))], pair(b(2.0), b(0.5)))]);
    t(
        "tanh.approx.f16",
        "f16 f16",
        &[(&[h(0.0)], h(0.0)), (&[h(INF)], h(1.0)), (&[h(-INF)], h(-1.0)), (&[h(NAN)], h(NAN))],
    );
    t("tanh.approx.f16x2", "f16x2 f16x2", &[(&[pair(h(INF), h(-0.0))], pair(h(1.0), h(-0.0)))]);
    t("tanh.approx.bf16", "bf16 bf16", &[(&[b(INF)], b(1.0))]);
    t("tanh.approx.bf16x2", "bf16x2 bf16x2", &[(&[pair(b(INF), b(-INF))], pair(b(1.0), b(-1.0)))]);
    // ex2.approx.f16: 2^-9.9 relative; tanh.approx.f16: 2^-10.987 absolute; a rounding to f16 is within both here.
    let inputs: Vec<[i64; 1]> = (0..128i64).map(|i| [0x3000 + i * 37]).collect();
    let rows: Vec<&[i64]> = inputs.iter().map(|r| &r[..]).collect();
    let value = |x: u64| ::half::f16::from_bits(x as u16).to_f64();
    for (op, tanh) in [("ex2.approx.f16", false), ("tanh.approx.f16", true)] {
        let seeds = [None, Some(1), Some(2)].map(|perturb| {
            eval(op, "f16 f16", &rows, &Options { perturb, ..options() }).unwrap_or_else(|e| panic!("{e}"))
        });
        assert_ne!(seeds[1], seeds[2]);
        for got in &seeds {
            for (x, got) in inputs.iter().zip(got) {
                let x = value(x[0] as u64);
                let (want, bound) = if tanh {
                    (x.tanh(), (-10.987f64).exp2())
                } else {
                    (x.exp2(), x.exp2() * (-9.9f64).exp2())
                };
                assert!((value(*got) - want).abs() <= bound.max(want.abs() * 2f64.powi(-11)), "{op} {x}");
            }
        }
    }
}
