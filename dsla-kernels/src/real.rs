//! The number a specification computes in: f64 for the truth, f32 and bf16-with-f32 for the yardstick.

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
    /// Rounded to model dtype (the identity but for [`Bf16`] and [`F16`]).
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

// One definition for both 16-bit floats.
macro_rules! stored {
    ($(#[$doc:meta])* $name:ident, $half:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
        pub struct $name(pub f32);

        impl Real for $name {
            fn of(x: f64) -> $name {
                $name(x as f32)
            }
            fn f64(self) -> f64 {
                self.0 as f64
            }
            fn model(self) -> $name {
                $name(<$half>::from_f32(self.0).to_f32())
            }
        }

        stored!(@ops $name, Add add +, Sub sub -, Mul mul *, Div div /);

        impl Neg for $name {
            type Output = $name;
            fn neg(self) -> $name {
                $name(-self.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, o: $name) {
                self.0 += o.0;
            }
        }
    };
    (@ops $name:ident, $($trait:ident $fn:ident $op:tt),*) => {$(
        impl $trait for $name {
            type Output = $name;
            fn $fn(self, o: $name) -> $name { $name(self.0 $op o.0) }
        }
    )*};
}

stored!(
    /// f32 arithmetic with storage in bf16 where an op's contract says so.
    Bf16,
    half::bf16
);
stored!(
    /// f32 arithmetic with storage in f16 where an op's contract says so.
    F16,
    half::f16
);

/// A slice of f64 in another number.
pub fn cast<R: Real>(x: &[f64]) -> Vec<R> {
    x.iter().map(|&v| R::of(v)).collect()
}

/// Back to f64.
pub fn uncast<R: Real>(x: &[R]) -> Vec<f64> {
    x.iter().map(|v| v.f64()).collect()
}
