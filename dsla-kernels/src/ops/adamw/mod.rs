//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), in PyTorch's order of operations.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
#[cfg(test)]
mod tests;

use crate::{Device, Error, Result, View, ViewMut};

const OP: &str = "adamw";

/// What a step depends on beside the tensors. f64, as in PyTorch: 1 - beta2^step has few digits left in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean gradient, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean squared gradient, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub eps: f64,
    /// Share of the parameter that decays per step, times `lr`.
    pub weight_decay: f64,
    /// The number of this step; the first is 1.
    pub step: u64,
}

/// The scalars of one step, computed in f64 and rounded once.
struct Scalars {
    keep: f32,
    beta1: f32,
    new1: f32,
    beta2: f32,
    new2: f32,
    rate: f32,
    inv_root: f32,
    eps: f32,
}

impl Scalars {
    fn new(o: &AdamW) -> Scalars {
        let (c1, c2) = (1.0 - o.beta1.powf(o.step as f64), 1.0 - o.beta2.powf(o.step as f64));
        Scalars {
            keep: (1.0 - o.lr * o.weight_decay) as f32,
            beta1: o.beta1 as f32,
            new1: (1.0 - o.beta1) as f32,
            beta2: o.beta2 as f32,
            new2: (1.0 - o.beta2) as f32,
            rate: (o.lr / c1) as f32,
            inv_root: (1.0 / c2.sqrt()) as f32,
            eps: o.eps as f32,
        }
    }
}

/// One step, in place:
/// `m = beta1 m + (1 - beta1) grad`, `v = beta2 v + (1 - beta2) grad^2`,
/// `param = param (1 - lr weight_decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)`.
/// param, grad, m, v: [N] f32.
///
/// Errors: a shape or dtype that does not fit; a step of 0 or a beta outside [0, 1) (`Error::Argument`).
pub fn step(mut param: ViewMut, grad: View, mut m: ViewMut, mut v: ViewMut, options: &AdamW) -> Result<()> {
    let [n] = grad.dims(OP, "grad")?;
    if options.step == 0 {
        return Err(Error::Argument { op: OP, arg: "step", got: "0".into(), want: "1 or more".into() });
    }
    for (arg, beta) in [("beta1", options.beta1), ("beta2", options.beta2)] {
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::Argument { op: OP, arg, got: beta.to_string(), want: "in [0, 1)".into() });
        }
    }
    if grad.device() != Device::Cpu {
        return cuda::step(&mut param, grad, &mut m, &mut v, options);
    }
    let grads = grad.expect_f32(OP, "grad", &[n])?;
    let params = param.expect_f32(OP, "param", &[n])?;
    let ms = m.expect_f32(OP, "m", &[n])?;
    let vs = v.expect_f32(OP, "v", &[n])?;
    cpu::step(params, grads, ms, vs, options);
    Ok(())
}
