//! One case table: every op lists its cases once, and conformance, gradient, poison and determinism tests, and the
//! benches, loop over the list.

use crate::{DType, Result, Tensor, bf16, f16};

/// One input of a case.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name in failure messages.
    pub name: &'static str,
    /// Its value.
    pub tensor: Tensor,
}

/// Which number a specification runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The truth.
    F64,
    /// The same dtype as the kernel: the yardstick of the 2x rule.
    Same,
    /// What tensor cores compute in: operands rounded to bf16 where the specification says `model()`, sums in f32.
    Bf16,
    /// The same with f16.
    F16,
}

/// The specification: inputs in f64, outputs in f64, computed in the precision asked for.
pub type Spec = Box<dyn Fn(Precision, &[Vec<f64>]) -> Vec<Vec<f64>> + Send + Sync>;
/// The public op on tensors.
pub type Run = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;
/// The public backward: inputs, gradients of the outputs -> gradient per input (None: not differentiable).
pub type Backward = Box<dyn Fn(&[Tensor], &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

/// One case of an op: inputs, specification, implementation, cost.
pub struct Case {
    /// Shapes and options, for failure messages.
    pub id: String,
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// The specification.
    pub spec: Spec,
    /// The public op.
    pub run: Run,
    /// The public backward, where there is one; checked against finite differences of the specification.
    pub backward: Option<Backward>,
    /// Floating-point operations of one run.
    pub flops: f64,
    /// Bytes the algorithm must move.
    pub bytes: f64,
    /// A representative size: benches run it, tests skip it.
    pub bench: bool,
}

/// Pick the spec's number type by precision: `spec!(|inputs| naive::<R>(...))` over a generic function.
#[macro_export]
macro_rules! spec {
    ($same:ty, |$x:ident| $body:expr) => {
        Box::new(move |p: $crate::case::Precision, inputs: &[Vec<f64>]| {
            fn cast<R: $crate::real::Real>(inputs: &[Vec<f64>]) -> Vec<Vec<R>> {
                inputs.iter().map(|x| $crate::real::cast(x)).collect()
            }
            match p {
                $crate::case::Precision::F64 => {
                    type R = f64;
                    let $x: Vec<Vec<R>> = cast(inputs);
                    let out: Vec<Vec<R>> = $body;
                    out.iter().map(|o| $crate::real::uncast(o)).collect()
                }
                $crate::case::Precision::Same => {
                    type R = $same;
                    let $x: Vec<Vec<R>> = cast(inputs);
                    let out: Vec<Vec<R>> = $body;
                    out.iter().map(|o| $crate::real::uncast(o)).collect()
                }
                $crate::case::Precision::Bf16 => {
                    type R = $crate::real::Bf16;
                    let $x: Vec<Vec<R>> = cast(inputs);
                    let out: Vec<Vec<R>> = $body;
                    out.iter().map(|o| $crate::real::uncast(o)).collect()
                }
                $crate::case::Precision::F16 => {
                    type R = $crate::real::F16;
                    let $x: Vec<Vec<R>> = cast(inputs);
                    let out: Vec<Vec<R>> = $body;
                    out.iter().map(|o| $crate::real::uncast(o)).collect()
                }
            }
        })
    };
}

/// Inputs of cases: a small counter-based generator, the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Elements of a tensor that are drawn; a prime, so that no two rows of it are the same.
    const PERIOD: usize = 65_537;

    /// A generator for this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits (SplitMix64: Steele, Lea, Flood 2014).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A normal tensor with deviation `scale`, rounded to `dtype`. It repeats after 65,537 elements: the inputs of the
    /// benches hold 80 million, and every test that loops over the cases would wait seconds for them.
    pub fn tensor(&mut self, shape: &[usize], scale: f64, dtype: DType) -> Tensor {
        let n: usize = shape.iter().product();
        let drawn: Vec<f32> = (0..n.min(Rng::PERIOD)).map(|_| (self.normal() * scale) as f32).collect();
        let v: Vec<f32> = drawn.iter().copied().cycle().take(n).collect();
        match dtype {
            DType::BF16 => Tensor::from_bf16(shape, v.into_iter().map(bf16::from_f32).collect()),
            DType::F16 => Tensor::from_f16(shape, v.into_iter().map(f16::from_f32).collect()),
            _ => Tensor::from_f32(shape, v),
        }
    }

    /// Indices below `n`.
    pub fn indices(&mut self, shape: &[usize], n: usize) -> Tensor {
        let len: usize = shape.iter().product();
        Tensor::from_u32(shape, (0..len).map(|_| (self.bits() % n as u64) as u32).collect())
    }
}
