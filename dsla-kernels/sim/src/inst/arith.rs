//! Arithmetic: which modifiers each opcode takes, by type.

use super::{Built, Ins, Lanes, float, half, int};
use crate::num::{Approx, Fp, Half, Round};
use crate::op::{Class, CmpFn, CmpTo, Kind, Pipe};
use crate::parse::Res;
use crate::types::Type::{self, *};

const INTS: [Type; 6] = [U16, U32, U64, S16, S32, S64];

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    if base == "testp" {
        return testp(x);
    }
    match x.last_type() {
        Some(F32) => f32s(x, base),
        Some(F64) => f64s(x, base),
        Some(t @ (F16 | F16x2 | Bf16 | Bf16x2)) => halves(x, base, t),
        Some(t) if INTS.contains(&t) => ints(x, base),
        Some(t) => x.error(format!("type .{} does not fit", t.name())),
        None => x.error("a type must end it"),
    }
}

/// The key of a table: the base and the flags that were there.
fn key(base: &str, flags: &[(&str, bool)]) -> String {
    flags.iter().filter(|f| f.1).fold(base.to_string(), |k, f| k + "." + f.0)
}

fn found(x: &Ins, f: Option<Lanes>) -> Res<Lanes> {
    f.map_or_else(|| x.error("this combination is not supported"), Ok)
}

fn f32s(x: &mut Ins, base: &str) -> Res<Built> {
    let ty = F32;
    match base {
        "add" | "sub" | "mul" | "fma" | "mad" if directed(x.peek()).is_some() => {
            let Some(round) = x.one(&["rz", "rm", "rp"]).and_then(directed) else {
                return x.error("rounding");
            };
            let (ftz, sat) = (x.flag("ftz"), x.flag("sat"));
            x.ty(&[ty])?;
            rounded(x, base, ty, round, (ftz, sat))
        }
        "div" | "sqrt" | "rcp" if directed(x.peek()).is_some() => {
            let Some(round) = x.one(&["rz", "rm", "rp"]).and_then(directed) else {
                return x.error("rounding");
            };
            let ftz = x.flag("ftz");
            x.ty(&[ty])?;
            rounded(x, base, ty, round, (ftz, false))
        }
        "add" | "sub" | "mul" => {
            x.flag("rn");
            let (ftz, sat) = (x.flag("ftz"), x.flag("sat"));
            x.ty(&[ty])?;
            let f = found(x, float::binary32(&key(base, &[("ftz", ftz), ("sat", sat)])))?;
            x.simple(f, ty, &[ty; 2], Class::Fma, Pipe::Fp32)
        }
        "fma" | "mad" => {
            x.must("rn")?;
            let (ftz, sat) = (x.flag("ftz"), x.flag("sat"));
            x.ty(&[ty])?;
            let f = found(x, float::fma32(&key("fma", &[("ftz", ftz), ("sat", sat)])))?;
            x.simple(f, ty, &[ty; 3], Class::Fma, Pipe::Fp32)
        }
        "min" | "max" => {
            let (ftz, nan) = (x.flag("ftz"), x.flag("NaN"));
            if nan {
                x.b.need(70, 80, "`.NaN`")?;
            }
            x.ty(&[ty])?;
            let f = found(x, float::binary32(&key(base, &[("ftz", ftz), ("NaN", nan)])))?;
            x.simple(f, ty, &[ty; 2], Class::Alu, Pipe::Int)
        }
        "neg" | "abs" => {
            let ftz = x.flag("ftz");
            x.ty(&[ty])?;
            let f = found(x, float::unary32(&key(base, &[("ftz", ftz)])))?;
            x.simple(f, ty, &[ty], Class::Alu, Pipe::Int)
        }
        "copysign" => {
            x.ty(&[ty])?;
            let f = found(x, float::binary32(base))?;
            x.simple(f, ty, &[ty; 2], Class::Alu, Pipe::Int)
        }
        "div" => {
            let how = x.choose(&["rn", "approx", "full"])?;
            let ftz = x.flag("ftz");
            x.ty(&[ty])?;
            if how == "rn" {
                let f = found(x, float::binary32(&key(base, &[("ftz", ftz)])))?;
                return x.simple(f, ty, &[ty; 2], Class::Sfu, Pipe::Sfu);
            }
            x.count(3)?;
            let kind = Kind::DivApprox {
                full: how == "full",
                ftz,
                d: x.dst(0, ty)?.ix,
                a: x.src32(1, ty)?,
                b: x.src32(2, ty)?,
            };
            Ok((kind, Class::Sfu, Pipe::Sfu))
        }
        "sqrt" | "rcp" if x.flag("rn") => {
            let ftz = x.flag("ftz");
            x.ty(&[ty])?;
            let f = found(x, float::unary32(&key(base, &[("ftz", ftz)])))?;
            x.simple(f, ty, &[ty], Class::Sfu, Pipe::Sfu)
        }
        _ => {
            let Some(op) = approx(base) else { return x.error("this opcode has no .f32 form") };
            x.must("approx")?;
            // tanh has no .ftz form: it keeps subnormals.
            let ftz = op != Approx::Tanh && x.flag("ftz");
            x.ty(&[ty])?;
            x.count(2)?;
            let kind = Kind::Approx { op, ftz, d: x.dst(0, ty)?.ix, a: x.src32(1, ty)? };
            Ok((kind, Class::Sfu, Pipe::Sfu))
        }
    }
}

fn directed(m: &str) -> Option<Round> {
    match m {
        "rz" => Some(Round::Rz),
        "rm" => Some(Round::Rm),
        "rp" => Some(Round::Rp),
        _ => None,
    }
}

/// Rounding other than to nearest.
fn rounded(x: &mut Ins, base: &str, ty: Type, round: Round, (ftz, sat): (bool, bool)) -> Res<Built> {
    let (op, n) = match base {
        "add" => (Fp::Add, 2),
        "sub" => (Fp::Sub, 2),
        "mul" => (Fp::Mul, 2),
        "div" => (Fp::Div, 2),
        "rcp" => (Fp::Rcp, 1),
        "sqrt" => (Fp::Sqrt, 1),
        _ => (Fp::Fma, 3),
    };
    x.count(n + 1)?;
    let d = x.dst(0, ty)?;
    let a = x.src(1, ty)?;
    let mut s = [a; 3];
    for (i, s) in s.iter_mut().enumerate().take(n).skip(1) {
        *s = x.src(i + 1, ty)?;
    }
    let sfu = matches!(op, Fp::Div | Fp::Rcp | Fp::Sqrt);
    let class = if sfu { Class::Sfu } else { Class::Fma };
    let pipe = match ty {
        F64 => Pipe::Fp64,
        _ if sfu => Pipe::Sfu,
        _ => Pipe::Fp32,
    };
    Ok((Kind::Rounded { op, round, ftz, sat, d, s }, class, pipe))
}

fn approx(base: &str) -> Option<Approx> {
    Some(match base {
        "ex2" => Approx::Ex2,
        "lg2" => Approx::Lg2,
        "rcp" => Approx::Rcp,
        "rsqrt" => Approx::Rsqrt,
        "sqrt" => Approx::Sqrt,
        "sin" => Approx::Sin,
        "cos" => Approx::Cos,
        "tanh" => Approx::Tanh,
        _ => return None,
    })
}

fn f64s(x: &mut Ins, base: &str) -> Res<Built> {
    let n = match base {
        "min" | "max" | "copysign" => 2,
        "neg" | "abs" => 1,
        "add" | "sub" | "mul" | "div" | "sqrt" | "rcp" | "fma" | "mad" => {
            if let Some(round) = x.one(&["rz", "rm", "rp"]).and_then(directed) {
                x.ty(&[F64])?;
                return rounded(x, base, F64, round, (false, false));
            }
            let plain = matches!(base, "add" | "sub" | "mul");
            if !x.flag("rn") && !plain {
                return x.error("want a rounding");
            }
            match base {
                "sqrt" | "rcp" => 1,
                "fma" | "mad" => 3,
                _ => 2,
            }
        }
        _ => return x.error("this opcode has no .f64 form"),
    };
    x.ty(&[F64])?;
    let f = found(x, float::any64(if base == "mad" { "fma" } else { base }))?;
    x.simple(f, F64, &[F64; 3][..n], Class::Fma, Pipe::Fp64)
}

fn halves(x: &mut Ins, base: &str, ty: Type) -> Res<Built> {
    let bf = matches!(ty, Bf16 | Bf16x2);
    let packed = matches!(ty, F16x2 | Bf16x2);
    let mut flags: Vec<(&str, bool)> = Vec::new();
    let n = match base {
        "add" | "sub" | "mul" => {
            x.flag("rn");
            if bf {
                x.b.need(78, 90, "bf16 add, sub and mul")?;
            } else {
                flags = vec![("ftz", x.flag("ftz")), ("sat", x.flag("sat"))];
            }
            2
        }
        "fma" => {
            x.must("rn")?;
            let ftz = !bf && x.flag("ftz");
            let sat = !bf && x.flag("sat");
            flags = vec![("ftz", ftz), ("sat", sat), ("relu", !sat && x.flag("relu"))];
            3
        }
        "min" | "max" => {
            let ftz = !bf && x.flag("ftz");
            flags = vec![("ftz", ftz), ("NaN", x.flag("NaN"))];
            2
        }
        "neg" | "abs" => {
            flags.push(("ftz", !bf && x.flag("ftz")));
            1
        }
        "ex2" | "tanh" => {
            x.must("approx")?;
            let ftz = base == "ex2" && bf;
            if ftz {
                x.must("ftz")?;
            }
            if bf {
                x.b.need(78, 90, "bf16 ex2 and tanh")?;
            }
            x.ty(&[ty])?;
            x.count(2)?;
            let kind = Kind::Approx16 {
                op: if base == "ex2" { Approx::Ex2 } else { Approx::Tanh },
                kind: if bf { Half::Bf16 } else { Half::F16 },
                ftz,
                halves: if packed { 2 } else { 1 },
                d: x.dst(0, ty)?.ix,
                a: x.src32(1, ty)?,
            };
            return Ok((kind, Class::Sfu, Pipe::Sfu));
        }
        _ => return x.error("this opcode has no sixteen-bit float form"),
    };
    x.ty(&[ty])?;
    let k = key(base, &flags);
    let f = found(x, if bf { half::bf16_op(&k, packed) } else { half::f16_op(&k, packed) })?;
    x.simple(f, ty, &[ty; 3][..n], Class::Fma, Pipe::Fp32)
}

fn ints(x: &mut Ins, base: &str) -> Res<Built> {
    let (class, pipe) = (Class::Alu, Pipe::Int);
    match base {
        "add" | "sub" if x.flag("sat") => {
            let ty = x.ty(&[S32])?;
            let f = found(x, int::binary(&format!("{base}.sat"), ty))?;
            x.simple(f, ty, &[ty; 2], class, pipe)
        }
        "add" | "sub" if x.flag("cc") => carry(x, base == "sub", false, true),
        "addc" | "subc" => {
            let write = x.flag("cc");
            carry(x, base == "subc", true, write)
        }
        "mul" => {
            let half = x.choose(&["lo", "hi", "wide"])?;
            let ty = x.ty(&INTS)?;
            if half == "wide" {
                let f = found(x, int::widening(base, ty))?;
                return x.simple(f, double(ty), &[ty; 2], class, pipe);
            }
            let f = found(x, int::binary(&format!("mul.{half}"), ty))?;
            x.simple(f, ty, &[ty; 2], class, pipe)
        }
        "mad" => {
            let half = x.choose(&["lo", "hi", "wide"])?;
            let ty = x.ty(&INTS)?;
            if half == "wide" {
                let f = found(x, int::widening(base, ty))?;
                return x.simple(f, double(ty), &[ty, ty, double(ty)], class, pipe);
            }
            let f = found(x, int::mad(half, ty))?;
            x.simple(f, ty, &[ty; 3], class, pipe)
        }
        "add" | "sub" | "div" | "rem" | "min" | "max" => {
            let ty = x.ty(&INTS)?;
            let f = found(x, int::binary(base, ty))?;
            x.simple(f, ty, &[ty; 2], class, pipe)
        }
        "abs" | "neg" => {
            let ty = x.ty(&[S16, S32, S64])?;
            let f = found(x, int::unary(base, ty))?;
            x.simple(f, ty, &[ty], class, pipe)
        }
        _ => x.error("this opcode has no integer form"),
    }
}

fn double(ty: Type) -> Type {
    match ty {
        U16 => U32,
        S16 => S32,
        U32 => U64,
        _ => S64,
    }
}

fn carry(x: &mut Ins, sub: bool, read: bool, write: bool) -> Res<Built> {
    let ty = x.ty(&[U32, S32, U64, S64])?;
    x.count(3)?;
    let (d, a, b) = (x.dst(0, ty)?, x.src(1, ty)?, x.src(2, ty)?);
    Ok((Kind::Carry { sub, read, write, d, a, b }, Class::Alu, Pipe::Int))
}

fn testp(x: &mut Ins) -> Res<Built> {
    let what = x.choose(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])?;
    let ty = x.ty(&[F32, F64])?;
    x.count(2)?;
    let p = x.pred(0)?;
    let a = x.src(1, ty)?;
    macro_rules! test {
        ($m:ident) => {
            if ty == F32 {
                CmpFn::Short(|a, _| mask(|i| f32::from_bits(a[i]).$m()))
            } else {
                CmpFn::Long(|a, _| mask(|i| f64::from_bits(a[i]).$m()))
            }
        };
    }
    let f = match what {
        "finite" => test!(is_finite),
        "infinite" => test!(is_infinite),
        "notanumber" => test!(is_nan),
        "normal" => test!(is_normal),
        "subnormal" => test!(is_subnormal),
        _ if ty == F32 => CmpFn::Short(|a, _| mask(|i| !f32::from_bits(a[i]).is_nan())),
        _ => CmpFn::Long(|a, _| mask(|i| !f64::from_bits(a[i]).is_nan())),
    };
    Ok((Kind::Cmp { f, a, b: a, to: CmpTo::Pred(Some(p), None), with: None }, Class::Alu, Pipe::Int))
}

/// Lanes where `f` holds.
fn mask(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |m, i| m | u32::from(f(i)) << i)
}
