//! The `.approx` instructions, exact or with an error drawn at random within the bound that the PTX ISA states.
//!
//! Bounds and section numbers are those of PTX ISA 9.1, chapters 9.7.3 (Floating Point Instructions) and 9.7.4 (Half
//! Precision Floating Point Instructions), the notes of each instruction.

use super::round::{decode, encode};
use super::{Half, NAN_F32, Round, Ty, mix};

/// An approximated function of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approx {
    /// `2^x`; at most 2 ulp from the correctly rounded result (9.7.3.21).
    Ex2,
    /// `log2 x`; 2^-22 absolute for x in (0.5, 2), else 2^-22 relative (9.7.3.20).
    Lg2,
    /// `1 / x`; 1 ulp (9.7.3.13).
    Rcp,
    /// `1 / sqrt x`; 2^-22.9 relative (9.7.3.16).
    Rsqrt,
    /// `sqrt x`; 2^-23 relative (9.7.3.15).
    Sqrt,
    /// `sin x`; 2^-20.5 absolute for |x| up to 2 pi, 2^-14.7 up to 100 pi (9.7.3.18).
    Sin,
    /// `cos x`; as `sin` (9.7.3.19).
    Cos,
    /// `tanh x`; 2^-11 relative (9.7.3.22).
    Tanh,
}

/// Uniform in [-1, 1).
fn uniform(hash: u64) -> f64 {
    (mix(hash) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn nan() -> f32 {
    f32::from_bits(NAN_F32)
}

fn flush(x: f32, ftz: bool) -> f32 {
    if ftz && x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `op.approx{.ftz}.f32`. `perturb` None: correctly rounded (but for the rare double rounding through f64). Some(hash): off by a
/// uniformly random error within the stated bound, a function of the hash alone. Special values follow the ISA's tables and are never
/// perturbed. Beyond 100 pi, where the ISA promises nothing for `sin` and `cos`, their error grows in proportion.
pub fn approx(op: Approx, ftz: bool, x: f32, perturb: Option<u64>) -> f32 {
    let x = flush(x, ftz);
    if let Some(r) = special(op, x) {
        return flush(r, ftz);
    }
    let exact = function(op, x as f64);
    let near = exact as f32;
    let Some(hash) = perturb else { return flush(near, ftz) };
    // The one bound that the ISA counts from the rounded result.
    let from = if op == Approx::Ex2 { near as f64 } else { exact };
    flush(displace(from, bound(op, x as f64, from), hash), ftz)
}

fn function(op: Approx, x: f64) -> f64 {
    match op {
        Approx::Ex2 => x.exp2(),
        Approx::Lg2 => x.log2(),
        Approx::Rcp => 1.0 / x,
        Approx::Rsqrt => 1.0 / x.sqrt(),
        Approx::Sqrt => x.sqrt(),
        Approx::Sin => x.sin(),
        Approx::Cos => x.cos(),
        Approx::Tanh => x.tanh(),
    }
}

fn special(op: Approx, x: f32) -> Option<f32> {
    if x.is_nan() {
        return Some(nan());
    }
    let inf = f32::INFINITY;
    match op {
        Approx::Ex2 if x == inf => Some(inf),
        Approx::Ex2 if x == -inf => Some(0.0),
        Approx::Ex2 if x == 0.0 || x.is_subnormal() => Some(1.0),
        Approx::Lg2 if x == 0.0 => Some(-inf),
        Approx::Rsqrt if x == 0.0 => Some(inf.copysign(x)),
        Approx::Sqrt if x == 0.0 => Some(x),
        Approx::Lg2 | Approx::Rsqrt | Approx::Sqrt if x < 0.0 => Some(nan()),
        Approx::Lg2 | Approx::Sqrt if x == inf => Some(inf),
        Approx::Rsqrt if x == inf => Some(0.0),
        Approx::Rcp if x == 0.0 || x.is_infinite() => Some(1.0 / x),
        Approx::Sin | Approx::Cos if x.is_infinite() => Some(nan()),
        Approx::Sin if x == 0.0 || x.is_subnormal() => Some(x),
        Approx::Cos if x == 0.0 || x.is_subnormal() => Some(1.0),
        Approx::Tanh if x == 0.0 || x.is_subnormal() => Some(x),
        Approx::Tanh if x.is_infinite() => Some(1f32.copysign(x)),
        _ => None,
    }
}

/// The largest absolute error.
fn bound(op: Approx, x: f64, exact: f64) -> f64 {
    let pi = std::f64::consts::PI;
    match op {
        Approx::Ex2 => 2.0 * ulp(exact),
        Approx::Rcp => ulp(exact),
        Approx::Lg2 if x > 0.5 && x < 2.0 => (-22f64).exp2(),
        Approx::Lg2 => exact.abs() * (-22f64).exp2(),
        Approx::Rsqrt => exact.abs() * (-22.9f64).exp2(),
        Approx::Sqrt => exact.abs() * (-23f64).exp2(),
        Approx::Tanh => exact.abs() * (-11f64).exp2(),
        Approx::Sin | Approx::Cos if x.abs() <= 2.0 * pi => (-20.5f64).exp2(),
        Approx::Sin | Approx::Cos => (-14.7f64).exp2() * (x.abs() / (100.0 * pi)).max(1.0),
    }
}

/// A unit in the last place of an f32 result.
fn ulp(exact: f64) -> f64 {
    let e = (exact.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    ((e.max(-126) - 23) as f64).exp2()
}

/// An f32 within `bound` of `exact`; the nearest where the draw, once rounded, leaves it.
fn displace(exact: f64, bound: f64, hash: u64) -> f32 {
    let r = (exact + uniform(hash) * bound) as f32;
    if (r as f64 - exact).abs() <= bound { r } else { exact as f32 }
}

/// `ex2.approx`, `tanh.approx` on f16 or bf16 bits: relative errors 2^-9.9 and 2^-7 of ex2 (9.7.4.10), absolute 2^-10.987 and
/// 2^-8 of tanh (9.7.4.9). Other functions do not exist in these types and give NaN.
pub fn approx_half(op: Approx, kind: Half, ftz: bool, x: u16, perturb: Option<u64>) -> u16 {
    let exponent = if kind == Half::F16 { 0x7c00 } else { 0x7f80 };
    let flush = |x: u16| if ftz && x & exponent == 0 { x & 0x8000 } else { x };
    let ty = if kind == Half::F16 { Ty::F16 } else { Ty::Bf16 };
    let narrow = |v: f64| encode(ty, decode(Ty::F64, v.to_bits()), Round::Rn) as u16;
    let v = kind.value(flush(x)) as f64;
    let (exact, bound) = match op {
        Approx::Ex2 => (v.exp2(), v.exp2() * if kind == Half::F16 { -9.9f64 } else { -7.0 }.exp2()),
        Approx::Tanh => (v.tanh(), if kind == Half::F16 { -10.987f64 } else { -8.0 }.exp2()),
        _ => (f64::NAN, 0.0),
    };
    let near = narrow(exact);
    let plain = v == 0.0 || !v.is_finite() || !exact.is_finite();
    let r = match perturb {
        Some(hash) if !plain => {
            let r = narrow(exact + uniform(hash) * bound);
            if (kind.value(r) as f64 - exact).abs() <= bound { r } else { near }
        }
        _ => near,
    };
    flush(r)
}

/// `div.approx{.ftz}.f32` (`full` false) or `div.full{.ftz}.f32`, `x / y`, at most 2 ulp off
/// (9.7.3.8).
///
/// `div.approx` is `x * (1 / y)`: for |y| above 2^126 it is 0, or NaN where x is infinite; below 2^-126 the ISA promises nothing and the
/// quotient is computed just so, in f32.
pub fn div_approx(x: f32, y: f32, full: bool, ftz: bool, perturb: Option<u64>) -> f32 {
    let (x, y) = (flush(x, ftz), flush(y, ftz));
    if x.is_nan() || y.is_nan() {
        return nan();
    }
    let plain = x / y;
    let clean = |r: f32| if r.is_nan() { nan() } else { flush(r, ftz) };
    if !full && y.is_finite() && y != 0.0 {
        if y.abs() > 2f32.powi(126) {
            return clean(x * 0f32.copysign(y));
        }
        if y.is_subnormal() {
            return clean(x * (1.0 / y));
        }
    }
    if x == 0.0 || y == 0.0 || x.is_infinite() || y.is_infinite() {
        return clean(plain);
    }
    match perturb {
        None => clean(plain),
        Some(hash) => {
            let exact = x as f64 / y as f64;
            clean(displace(exact, 2.0 * ulp(exact), hash))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Approx; 8] = [
        Approx::Ex2,
        Approx::Lg2,
        Approx::Rcp,
        Approx::Rsqrt,
        Approx::Sqrt,
        Approx::Sin,
        Approx::Cos,
        Approx::Tanh,
    ];

    fn inputs() -> impl Iterator<Item = f32> {
        (0..20_000u64).map(|i| {
            let r = mix(i);
            f32::from_bits(r as u32 & 0x807f_ffff | (110 + (r >> 40) as u32 % 24) << 23)
        })
    }

    #[test]
    fn errors_stay_in_their_bounds_and_fill_them() {
        for op in ALL {
            let (mut moved, mut widest) = (0, 0f64);
            for (i, x) in inputs().enumerate() {
                let x = if matches!(op, Approx::Lg2 | Approx::Rsqrt | Approx::Sqrt) { x.abs() } else { x };
                let exact = function(op, x as f64);
                let near = approx(op, false, x, None);
                let off = approx(op, false, x, Some(i as u64));
                let err = (off as f64 - exact).abs();
                let (x, exact_abs) = (x as f64, exact.abs());
                let relative = err / exact_abs;
                let share = match op {
                    Approx::Ex2 => (off as f64 - near as f64).abs() / ulp(near as f64) / 2.0,
                    Approx::Rcp => err / ulp(exact),
                    Approx::Lg2 => {
                        if x > 0.5 && x < 2.0 {
                            err * 4194304.0
                        } else {
                            relative * 4194304.0
                        }
                    }
                    Approx::Rsqrt => relative * 22.9f64.exp2(),
                    Approx::Sqrt => relative * 23f64.exp2(),
                    Approx::Tanh => relative * 11f64.exp2(),
                    _ => err * if x.abs() <= std::f64::consts::TAU { 20.5f64.exp2() } else { 14.7f64.exp2() },
                };
                assert!(share <= 1.0 + 1e-9, "{op:?} {x} {share}");
                widest = widest.max(share);
                moved += u32::from(off != near);
                assert_eq!(off, approx(op, false, x as f32, Some(i as u64)));
            }
            assert!(widest > 0.9, "{op:?} {widest}");
            assert!(moved > 1000, "{op:?} {moved}");
        }
    }

    #[test]
    fn the_tables_of_special_values() {
        let inf = f32::INFINITY;
        let n = f32::NAN;
        let s = 1e-40f32;
        // Inputs: -inf, -subnormal, -0, +0, +subnormal, +inf, NaN, with .ftz.
        let rows: [(Approx, [f32; 7]); 8] = [
            (Approx::Ex2, [0.0, 1.0, 1.0, 1.0, 1.0, inf, n]),
            (Approx::Lg2, [n, -inf, -inf, -inf, -inf, inf, n]),
            (Approx::Rcp, [-0.0, -inf, -inf, inf, inf, 0.0, n]),
            (Approx::Rsqrt, [n, -inf, -inf, inf, inf, 0.0, n]),
            (Approx::Sqrt, [n, -0.0, -0.0, 0.0, 0.0, inf, n]),
            (Approx::Sin, [n, -0.0, -0.0, 0.0, 0.0, n, n]),
            (Approx::Cos, [n, 1.0, 1.0, 1.0, 1.0, n, n]),
            (Approx::Tanh, [-1.0, -0.0, -0.0, 0.0, 0.0, 1.0, n]),
        ];
        for (op, want) in rows {
            for (x, w) in [-inf, -s, -0.0, 0.0, s, inf, n].into_iter().zip(want) {
                for p in [None, Some(1), Some(2)] {
                    let got = approx(op, true, x, p);
                    let w = if w.is_nan() { nan() } else { w };
                    assert_eq!(got.to_bits(), w.to_bits(), "{op:?} {x} {got} {w}");
                }
            }
        }
        assert_eq!(approx(Approx::Tanh, false, s, Some(3)), s);
        assert_eq!(approx(Approx::Ex2, false, -130.0, None), 2f32.powi(-130));
        assert_eq!(approx(Approx::Ex2, true, -130.0, None), 0.0);
        assert_eq!(approx(Approx::Rcp, true, 2f32.powi(127), None), 0.0);
        assert_eq!(approx(Approx::Lg2, false, 2f32.powi(-140), None), -140.0);
        assert!(approx(Approx::Sqrt, false, -1.0, Some(1)).is_nan());
    }

    #[test]
    fn division() {
        let big = 1.5 * 2f32.powi(126);
        for p in [None, Some(5)] {
            assert_eq!(div_approx(3.0, big, false, false, p), 0.0);
            assert!(div_approx(f32::INFINITY, big, false, false, p).is_nan());
            assert_eq!(div_approx(f32::INFINITY, big, true, false, p), f32::INFINITY);
            assert!(div_approx(big, big, true, false, p) > 0.999);
            assert_eq!(div_approx(1.0, 0.0, false, false, p), f32::INFINITY);
            assert!(div_approx(0.0, 0.0, true, false, p).is_nan());
            assert_eq!(div_approx(1.0, f32::NEG_INFINITY, true, false, p).to_bits(), 0x8000_0000);
            assert_eq!(div_approx(1.0, -1e-40, true, true, p), f32::NEG_INFINITY);
        }
        let mut moved = 0;
        for (i, (x, y)) in inputs().zip(inputs().skip(77)).enumerate() {
            for full in [false, true] {
                let exact = x as f64 / y as f64;
                let r = div_approx(x, y, full, false, Some(i as u64));
                assert!((r as f64 - exact).abs() <= 2.0 * ulp(exact));
                moved += u32::from(r != x / y);
            }
        }
        assert!(moved > 10_000);
    }

    #[test]
    fn halves() {
        assert_eq!(approx_half(Approx::Ex2, Half::F16, false, 0x4200, None), 0x4800);
        assert_eq!(approx_half(Approx::Tanh, Half::Bf16, false, 0x7f80, Some(1)), 0x3f80);
        for i in 0..5000u64 {
            let x = (mix(i) as u16) & 0x83ff | (10 + (i % 8) as u16) << 10;
            let v = half::f16::from_bits(x).to_f64();
            let r = half::f16::from_bits(approx_half(Approx::Tanh, Half::F16, false, x, Some(i))).to_f64();
            assert!((r - v.tanh()).abs() <= (-10.987f64).exp2());
        }
    }
}
