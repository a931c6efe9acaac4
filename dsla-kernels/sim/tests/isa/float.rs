//! f32 and f64 arithmetic.

use crate::common::{d, eval, f, options, t};
use ptxsim::Options;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
/// A subnormal.
const SUB: f32 = 1e-40;
const ULP: f32 = f32::EPSILON;

#[test]
fn add_sub_mul() {
    let three = "f32 f32 f32";
    for op in ["add.f32", "add.rn.f32"] {
        t(
            op,
            three,
            &[(&[f(1.5), f(2.25)], f(3.75)), (&[f(INF), f(-INF)], f(NAN)), (&[f(SUB), f(0.0)], f(SUB))],
        );
        t(
            op,
            three,
            &[
                (&[f(1.0), f(-1.0)], f(0.0)),
                (&[f(-0.0), f(-0.0)], f(-0.0)),
                (&[f(1.0), f(ULP / 2.0)], f(1.0)),
            ],
        );
    }
    t(
        "add.ftz.f32",
        three,
        &[(&[f(SUB), f(SUB)], f(0.0)), (&[f(-SUB), f(-0.0)], f(-0.0)), (&[f(1.0), f(2.0)], f(3.0))],
    );
    t(
        "add.sat.f32",
        three,
        &[(&[f(0.75), f(0.5)], f(1.0)), (&[f(-1.0), f(0.5)], f(0.0)), (&[f(NAN), f(0.5)], f(0.0))],
    );
    t("add.rn.ftz.sat.f32", three, &[(&[f(0.25), f(0.5)], f(0.75)), (&[f(SUB), f(SUB)], f(0.0))]);
    t("sub.f32", three, &[(&[f(1.5), f(2.0)], f(-0.5)), (&[f(1.0), f(NAN)], f(NAN))]);
    t("sub.ftz.f32", three, &[(&[f(SUB), f(0.0)], f(0.0))]);
    t("sub.sat.f32", three, &[(&[f(1.0), f(2.0)], f(0.0))]);
    t(
        "mul.f32",
        three,
        &[(&[f(1.5), f(-2.0)], f(-3.0)), (&[f(0.0), f(INF)], f(NAN)), (&[f(1e-20), f(1e-20)], f(SUB))],
    );
    t("mul.ftz.f32", three, &[(&[f(1e-20), f(-1e-20)], f(-0.0)), (&[f(SUB), f(1e38)], f(0.0))]);
    t("mul.sat.f32", three, &[(&[f(3.0), f(3.0)], f(1.0)), (&[f(-3.0), f(3.0)], f(0.0))]);
    t("mul.rn.f32 %d, %a, 0f40000000;", "f32 f32", &[(&[f(1.5)], f(3.0))]);
    let three = "f64 f64 f64";
    t("add.f64", three, &[(&[d(1.5), d(2.25)], d(3.75))]);
    t("add.rn.f64", three, &[(&[d(1.0), d(f64::EPSILON / 2.0)], d(1.0))]);
    t("sub.f64", three, &[(&[d(1.5), d(2.25)], d(-0.75))]);
    t("mul.f64", three, &[(&[d(1.5), d(-2.0)], d(-3.0)), (&[d(1e-200), d(1e-200)], d(0.0))]);
}

#[test]
fn fma() {
    // (1 + ulp)^2 - (1 + 2 ulp) = ulp^2: lost when the product is rounded by itself.
    let x = 1.0 + ULP;
    let rows = [(&[f(x), f(x), f(-(1.0 + 2.0 * ULP))][..], f(ULP * ULP))];
    t("fma.rn.f32", "f32 f32 f32 f32", &rows);
    t("mad.rn.f32", "f32 f32 f32 f32", &rows);
    t(
        "fma.rn.ftz.f32",
        "f32 f32 f32 f32",
        &[(&[f(SUB), f(1e20), f(2.0)], f(2.0)), (&[f(1.0), f(SUB), f(0.0)], f(0.0))],
    );
    t(
        "fma.rn.sat.f32",
        "f32 f32 f32 f32",
        &[(&[f(2.0), f(2.0), f(2.0)], f(1.0)), (&[f(2.0), f(-2.0), f(2.0)], f(0.0))],
    );
    t("fma.rn.ftz.sat.f32", "f32 f32 f32 f32", &[(&[f(0.5), f(0.5), f(0.25)], f(0.5))]);
    let e = f64::EPSILON;
    t("fma.rn.f64", "f64 f64 f64 f64", &[(&[d(1.0 + e), d(1.0 + e), d(-(1.0 + 2.0 * e))], d(e * e))]);
}

#[test]
fn division_and_roots() {
    let rows = [
        (&[f(1.0), f(3.0)][..], f(1.0 / 3.0)),
        (&[f(1.0), f(0.0)], f(INF)),
        (&[f(0.0), f(0.0)], f(NAN)),
        (&[f(-1.0), f(INF)], f(-0.0)),
    ];
    t("div.rn.f32", "f32 f32 f32", &rows);
    t("div.rn.f32", "f32 f32 f32", &[(&[f(1e-30), f(1e10)], f(1e-40))]);
    t("div.rn.ftz.f32", "f32 f32 f32", &[(&[f(1e-30), f(1e10)], f(0.0)), (&[f(6.0), f(1.5)], f(4.0))]);
    t("div.full.f32", "f32 f32 f32", &[(&[f(6.0), f(1.5)], f(4.0)), (&[f(1e38), f(1e38)], f(1.0))]);
    t(
        "div.approx.f32",
        "f32 f32 f32",
        &[(&[f(6.0), f(1.5)], f(4.0)), (&[f(1.0), f(1.7e38)], f(0.0)), (&[f(INF), f(1.7e38)], f(NAN))],
    );
    t("div.approx.ftz.f32", "f32 f32 f32", &[(&[f(6.0), f(1.5)], f(4.0)), (&[f(1.0), f(-SUB)], f(-INF))]);
    t("div.full.ftz.f32", "f32 f32 f32", &[(&[f(6.0), f(1.5)], f(4.0)), (&[f(1e-30), f(1e10)], f(0.0))]);
    t("div.rn.f64", "f64 f64 f64", &[(&[d(1.0), d(3.0)], d(1.0 / 3.0))]);
    t("rcp.rn.f32", "f32 f32", &[(&[f(3.0)], f(1.0 / 3.0)), (&[f(-0.0)], f(-INF))]);
    t(
        "rcp.rn.ftz.f32",
        "f32 f32",
        &[(&[f(4.0)], f(0.25)), (&[f(SUB)], f(INF)), (&[f(2f32.powi(127))], f(0.0))],
    );
    t("rcp.rn.f64", "f64 f64", &[(&[d(3.0)], d(1.0 / 3.0))]);
    t(
        "sqrt.rn.f32",
        "f32 f32",
        &[(&[f(2.0)], f(2f32.sqrt())), (&[f(-1.0)], f(NAN)), (&[f(-0.0)], f(-0.0)), (&[f(INF)], f(INF))],
    );
    t("sqrt.rn.ftz.f32", "f32 f32", &[(&[f(4.0)], f(2.0)), (&[f(SUB)], f(0.0))]);
    t("sqrt.rn.f64", "f64 f64", &[(&[d(2.0)], d(2f64.sqrt()))]);
}

#[test]
fn directed_rounding() {
    let u = ULP;
    for (mode, up, down) in [("rz", 0.0, 0.0), ("rm", 0.0, 1.0), ("rp", 1.0, 0.0)] {
        // 1 + ulp / 4 and its negative.
        let (above, below) = (1.0 + up * u, -(1.0 + down * u));
        let q = u / 4.0;
        t(
            &format!("add.{mode}.f32"),
            "f32 f32 f32",
            &[(&[f(1.0), f(q)], f(above)), (&[f(-1.0), f(-q)], f(below))],
        );
        t(
            &format!("sub.{mode}.f32"),
            "f32 f32 f32",
            &[(&[f(1.0), f(-q)], f(above)), (&[f(-1.0), f(q)], f(below))],
        );
        // (1 + 2^-12)^2 = 1 + 2^-11 + ulp / 2.
        let x = 1.0 + 2f32.powi(-12);
        let (above, below) = (1.0 + 2f32.powi(-11) + up * u, -(1.0 + 2f32.powi(-11) + down * u));
        t(
            &format!("mul.{mode}.f32"),
            "f32 f32 f32",
            &[(&[f(x), f(x)], f(above)), (&[f(-x), f(x)], f(below))],
        );
        let rows: [(&[i64], i64); 2] =
            [(&[f(x), f(x), f(0.0)], f(above)), (&[f(-x), f(x), f(-0.0)], f(below))];
        t(&format!("fma.{mode}.f32"), "f32 f32 f32 f32", &rows);
        // 1 / 3 lies above 0x3eaaaaaa, sqrt 2 above 0x3fb504f3.
        let third = 0x3eaa_aaaa + up as i64;
        t(&format!("div.{mode}.f32"), "f32 f32 f32", &[(&[f(1.0), f(3.0)], third)]);
        t(&format!("rcp.{mode}.f32"), "f32 f32", &[(&[f(3.0)], third)]);
        t(&format!("sqrt.{mode}.f32"), "f32 f32", &[(&[f(2.0)], 0x3fb5_04f3 + up as i64)]);
        let e = f64::EPSILON;
        let (above, below) = (1.0 + f64::from(up) * e, -(1.0 + f64::from(down) * e));
        t(
            &format!("add.{mode}.f64"),
            "f64 f64 f64",
            &[(&[d(1.0), d(e / 4.0)], d(above)), (&[d(-1.0), d(-e / 4.0)], d(below))],
        );
        t(&format!("fma.{mode}.f64"), "f64 f64 f64 f64", &[(&[d(1.0), d(1.0), d(e / 4.0)], d(above))]);
        t(
            &format!("div.{mode}.f64"),
            "f64 f64 f64",
            &[(&[d(1.0), d(3.0)], 0x3fd5_5555_5555_5555 + up as i64)],
        );
    }
    t("add.rm.f32", "f32 f32 f32", &[(&[f(1.0), f(-1.0)], f(-0.0))]);
    t("add.rp.ftz.f32", "f32 f32 f32", &[(&[f(SUB), f(SUB)], f(0.0))]);
    t("add.rz.sat.f32", "f32 f32 f32", &[(&[f(2.0), f(2.0)], f(1.0))]);
}

#[test]
fn min_max_neg_abs() {
    let three = "f32 f32 f32";
    t(
        "min.f32",
        three,
        &[
            (&[f(1.0), f(-2.0)], f(-2.0)),
            (&[f(NAN), f(3.0)], f(3.0)),
            (&[f(3.0), f(NAN)], f(3.0)),
            (&[f(NAN), f(NAN)], f(NAN)),
        ],
    );
    t(
        "max.f32",
        three,
        &[
            (&[f(1.0), f(-2.0)], f(1.0)),
            (&[f(NAN), f(3.0)], f(3.0)),
            (&[f(3.0), f(NAN)], f(3.0)),
            (&[f(NAN), f(NAN)], f(NAN)),
        ],
    );
    // -0 is less than +0.
    t("min.f32", three, &[(&[f(0.0), f(-0.0)], f(-0.0)), (&[f(-0.0), f(0.0)], f(-0.0))]);
    t("max.f32", three, &[(&[f(0.0), f(-0.0)], f(0.0)), (&[f(-0.0), f(0.0)], f(0.0))]);
    t("min.ftz.f32", three, &[(&[f(SUB), f(1.0)], f(0.0))]);
    t("max.ftz.f32", three, &[(&[f(-SUB), f(-1.0)], f(-0.0))]);
    t(
        "min.NaN.f32",
        three,
        &[(&[f(NAN), f(3.0)], f(NAN)), (&[f(3.0), f(NAN)], f(NAN)), (&[f(3.0), f(2.0)], f(2.0))],
    );
    t(
        "max.NaN.f32",
        three,
        &[(&[f(NAN), f(3.0)], f(NAN)), (&[f(3.0), f(NAN)], f(NAN)), (&[f(3.0), f(2.0)], f(3.0))],
    );
    t("min.ftz.NaN.f32", three, &[(&[f(SUB), f(3.0)], f(0.0)), (&[f(3.0), f(NAN)], f(NAN))]);
    t("max.ftz.NaN.f32", three, &[(&[f(-SUB), f(-3.0)], f(-0.0)), (&[f(3.0), f(NAN)], f(NAN))]);
    t("min.f64", "f64 f64 f64", &[(&[d(1.0), d(-2.0)], d(-2.0)), (&[d(f64::NAN), d(3.0)], d(3.0))]);
    t("max.f64", "f64 f64 f64", &[(&[d(1.0), d(-2.0)], d(1.0)), (&[d(f64::NAN), d(3.0)], d(3.0))]);
    t("neg.f32", "f32 f32", &[(&[f(1.0)], f(-1.0)), (&[f(-0.0)], f(0.0)), (&[f(SUB)], f(-SUB))]);
    t("neg.ftz.f32", "f32 f32", &[(&[f(SUB)], f(-0.0))]);
    t("abs.f32", "f32 f32", &[(&[f(-1.0)], f(1.0)), (&[f(-SUB)], f(SUB)), (&[f(-INF)], f(INF))]);
    t("abs.ftz.f32", "f32 f32", &[(&[f(-SUB)], f(0.0))]);
    t("neg.f64", "f64 f64", &[(&[d(1.0)], d(-1.0))]);
    t("abs.f64", "f64 f64", &[(&[d(-1.0)], d(1.0))]);
    // The sign of a on the value of b.
    t("copysign.f32", "f32 f32 f32", &[(&[f(-1.0), f(2.0)], f(-2.0)), (&[f(1.0), f(-2.0)], f(2.0))]);
    t("copysign.f64", "f64 f64 f64", &[(&[d(-1.0), d(2.0)], d(-2.0))]);
}

#[test]
fn testp() {
    let values = [f(1.0), f(SUB), f(0.0), f(INF), f(NAN)];
    for (op, want) in [
        ("finite", [1, 1, 1, 0, 0]),
        ("infinite", [0, 0, 0, 1, 0]),
        ("number", [1, 1, 1, 1, 0]),
        ("notanumber", [0, 0, 0, 0, 1]),
        ("normal", [1, 0, 0, 0, 0]),
        ("subnormal", [0, 1, 0, 0, 0]),
    ] {
        for (v, w) in values.into_iter().zip(want) {
            t(&format!("testp.{op}.f32"), "pred f32", &[(&[v], w)]);
        }
    }
    t("testp.notanumber.f64", "pred f64", &[(&[d(f64::NAN)], 1), (&[d(1.0)], 0)]);
}

/// The instructions whose special values the ISA's tables give: -inf, -subnormal, -0, +0, +subnormal, +inf, NaN.
#[test]
fn special_values_of_approximations() {
    let x = [-INF, -SUB, -0.0, 0.0, SUB, INF, NAN];
    let n = NAN;
    let table: [(&str, [f32; 7]); 8] = [
        ("ex2.approx.ftz.f32", [0.0, 1.0, 1.0, 1.0, 1.0, INF, n]),
        ("lg2.approx.ftz.f32", [n, -INF, -INF, -INF, -INF, INF, n]),
        ("rcp.approx.ftz.f32", [-0.0, -INF, -INF, INF, INF, 0.0, n]),
        ("rsqrt.approx.ftz.f32", [n, -INF, -INF, INF, INF, 0.0, n]),
        ("sqrt.approx.ftz.f32", [n, -0.0, -0.0, 0.0, 0.0, INF, n]),
        ("sin.approx.ftz.f32", [n, -0.0, -0.0, 0.0, 0.0, n, n]),
        ("cos.approx.ftz.f32", [n, 1.0, 1.0, 1.0, 1.0, n, n]),
        ("tanh.approx.f32", [-1.0, -SUB, -0.0, 0.0, SUB, 1.0, n]),
    ];
    for (op, want) in table {
        for (x, w) in x.into_iter().zip(want) {
            t(op, "f32 f32", &[(&[f(x)], f(w))]);
        }
    }
    t("ex2.approx.f32", "f32 f32", &[(&[f(-130.0)], f(2f32.powi(-130))), (&[f(3.0)], f(8.0))]);
    t("lg2.approx.f32", "f32 f32", &[(&[f(2f32.powi(-130))], f(-130.0)), (&[f(8.0)], f(3.0))]);
    t("rcp.approx.f32", "f32 f32", &[(&[f(4.0)], f(0.25)), (&[f(2f32.powi(127))], f(2f32.powi(-127)))]);
    t("rsqrt.approx.f32", "f32 f32", &[(&[f(4.0)], f(0.5)), (&[f(2f32.powi(-130))], f(2f32.powi(65)))]);
    t("sqrt.approx.f32", "f32 f32", &[(&[f(4.0)], f(2.0))]);
    t("sin.approx.f32", "f32 f32", &[(&[f(SUB)], f(SUB))]);
    t("cos.approx.f32", "f32 f32", &[(&[f(0.0)], f(1.0))]);
}

/// Bounds as the ISA states them; that of ex2 counts from the correctly rounded result.
#[test]
fn perturbation_stays_inside_the_bounds_and_depends_on_the_seed() {
    type Case = (&'static str, fn(f64) -> f64, fn(f64, f64) -> f64, f32, f32);
    let cases: [Case; 9] = [
        ("ex2.approx.ftz.f32", |x| f64::from(x.exp2() as f32), |_, y| 2.0 * ulp(y), -20.0, 20.0),
        (
            "lg2.approx.f32",
            f64::log2,
            |x, y| if x > 0.5 && x < 2.0 { 2f64.powi(-22) } else { y.abs() * 2f64.powi(-22) },
            0.1,
            9.0,
        ),
        ("rcp.approx.f32", |x| 1.0 / x, |_, y| ulp(y), 0.1, 30.0),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), |_, y| y * (-22.9f64).exp2(), 0.1, 30.0),
        ("sqrt.approx.f32", f64::sqrt, |_, y| y * 2f64.powi(-23), 0.1, 30.0),
        ("sin.approx.f32", f64::sin, |_, _| (-20.5f64).exp2(), -6.2, 6.2),
        ("cos.approx.f32", f64::cos, |_, _| (-20.5f64).exp2(), -6.2, 6.2),
        ("tanh.approx.f32", f64::tanh, |_, y| y.abs() * 2f64.powi(-11), -3.0, 3.0),
        ("div.full.f32 %d, 0f3F800000, %a;", |x| 1.0 / x, |_, y| 2.0 * ulp(y), 0.1, 30.0),
    ];
    for (op, exact, bound, lo, hi) in cases {
        let inputs: Vec<[i64; 1]> = (0..256).map(|i| [f(lo + (hi - lo) * i as f32 / 256.0)]).collect();
        let rows: Vec<&[i64]> = inputs.iter().map(|r| &r[..]).collect();
        let run = |perturb| match eval(op, "f32 f32", &rows, &Options { perturb, ..options() }) {
            Ok(v) => v,
            Err(e) => panic!("{op}: {e}"),
        };
        let (none, one, again, two) = (run(None), run(Some(1)), run(Some(1)), run(Some(2)));
        assert_eq!(one, again, "{op}: the same seed");
        assert_ne!(one, two, "{op}: another seed");
        let mut moved = 0;
        for (i, r) in inputs.iter().enumerate() {
            let x = f64::from(f32::from_bits(r[0] as u32));
            let y = exact(x);
            for got in [&none, &one, &two] {
                let got = f64::from(f32::from_bits(got[i] as u32));
                assert!(
                    (got - y).abs() <= bound(x, y).max(0.5 * ulp(y)) * (1.0 + 1e-9),
                    "{op} {x}: {got}, want {y}"
                );
            }
            moved += usize::from(one[i] != none[i]);
        }
        assert!(moved > 20, "{op}: {moved} of 256 moved");
    }
}

fn ulp(y: f64) -> f64 {
    let y = y.abs() as f32;
    f64::from(f32::from_bits(y.to_bits() + 1)) - f64::from(y)
}
