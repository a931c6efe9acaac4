//! The number a specification computes in: f64 for the truth, f32 and bf16-with-f32 for the yardstick.

use half::bf16;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// What `naive.rs` needs of a number. `model()` marks the places where an op's contract stores in model dtype.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + std::fmt::Debug
    + 'static
{
    /// From f64, rounding.
    fn of(x: f64) -> Self;
    /// To f64, exact.
    fn f64(self) -> f64;
    /// Rounded to model dtype (the identity but for [`Bf16`]).
    fn model(self) -> Self {
        self
    }
    /// e^self.
    fn exp(self) -> Self {
        Self::of(self.f64().exp())
    }
    /// Natural logarithm.
    fn ln(self) -> Self {
        Self::of(self.f64().ln())
    }
    /// Square root.
    fn sqrt(self) -> Self {
        Self::of(self.f64().sqrt())
    }
    /// The larger one.
    fn max(self, o: Self) -> Self {
        if o > self { o } else { self }
    }
    /// Zero.
    fn zero() -> Self {
        Self::of(0.0)
    }
    /// One.
    fn one() -> Self {
        Self::of(1.0)
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn f64(self) -> f64 {
        self
    }
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn f64(self) -> f64 {
        self as f64
    }
}

/// f32 arithmetic with storage in bf16 where an op's contract says so.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Bf16(pub f32);

impl Real for Bf16 {
    fn of(x: f64) -> Bf16 {
        Bf16(x as f32)
    }
    fn f64(self) -> f64 {
        self.0 as f64
    }
    fn model(self) -> Bf16 {
        Bf16(bf16::from_f32(self.0).to_f32())
    }
}

macro_rules! bf16_op {
    ($($trait:ident $fn:ident $op:tt),*) => {$(
        impl $trait for Bf16 {
            type Output = Bf16;
            fn $fn(self, o: Bf16) -> Bf16 { Bf16(self.0 $op o.0) }
        }
    )*};
}
bf16_op!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Neg for Bf16 {
    type Output = Bf16;
    fn neg(self) -> Bf16 {
        Bf16(-self.0)
    }
}

impl AddAssign for Bf16 {
    fn add_assign(&mut self, o: Bf16) {
        self.0 += o.0;
    }
}

/// A slice of f64 in another number.
pub fn cast<R: Real>(x: &[f64]) -> Vec<R> {
    x.iter().map(|&v| R::of(v)).collect()
}

/// Back to f64.
pub fn uncast<R: Real>(x: &[R]) -> Vec<f64> {
    x.iter().map(|v| v.f64()).collect()
}
