//! The chain: converted layers train together on the teacher's logits, each step with another prefix of the order, so
//! that every prefix of it works: at run time any may be live. The paper's frozen chain, where each layer trains alone
//! behind those before it, is the other choice.

mod run;

use crate::Result;
use crate::transposed::Transposed;
use dsla_core::attention::DslaAttention;
use dsla_core::kernels::case::Rng;
use dsla_core::kernels::ops::kl_div;
use dsla_core::{DType, Device, DslaParams, Tensor};
use dsla_model::Model;
use run::{Run, Teacher};
use serde::{Deserialize, Serialize};

/// Rows of logits made at a time: 256 x 49152 f32 are 50 MB.
const ROWS: usize = 256;

/// Which layers a step of the chain trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefixes {
    /// All layers of a prefix of random length; long ones more often, since they lose more.
    #[default]
    Random,
    /// The paper's: prefixes grow layer by layer, the newest layer trains, those before it are frozen.
    Frozen,
}

impl std::str::FromStr for Prefixes {
    type Err = crate::Error;

    fn from_str(s: &str) -> Result<Prefixes> {
        match s {
            "random" => Ok(Prefixes::Random),
            "frozen" => Ok(Prefixes::Frozen),
            _ => Err(crate::Error::Argument {
                arg: "prefixes",
                got: s.into(),
                want: "random or frozen".into(),
            }),
        }
    }
}

/// What a step converts: the first `converted` layers of the order; it trains those from `trained` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub converted: usize,
    pub trained: usize,
}

/// The prefix of step `step` of `steps`, of an order of `layers` layers.
pub fn draw(prefixes: Prefixes, seed: u64, step: u64, steps: u64, layers: usize) -> Draw {
    match prefixes {
        Prefixes::Random => {
            let u = Rng::new(seed ^ 0xC4A1 ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)).uniform();
            // Density proportional to length.
            let converted = ((layers as f64 * u.sqrt()).ceil() as usize).clamp(1, layers);
            Draw { converted, trained: 0 }
        }
        Prefixes::Frozen => {
            let newest = (step as usize * layers / steps.max(1) as usize).min(layers - 1);
            Draw { converted: newest + 1, trained: newest }
        }
    }
}

/// A step's loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// Forward KL from teacher to student, nats per token.
    pub kl: f64,
    /// Error of the converted layers' attention outputs over the teacher's spread, mean over layers.
    pub aligned: f64,
}

/// One sequence to train on.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    pub tokens: &'a [u32],
    /// Positions whose logits count, sorted; None: all of them.
    pub counted: Option<&'a [usize]>,
}

impl Sample<'_> {
    /// Sequences whose every token counts.
    pub fn whole<'a>(batch: &[&'a [u32]]) -> Vec<Sample<'a>> {
        batch.iter().map(|tokens| Sample { tokens, counted: None }).collect()
    }

    /// The share of each position in the mean.
    fn shares(&self) -> Vec<f64> {
        let t = self.tokens.len();
        let Some(counted) = self.counted else { return vec![1.0 / t as f64; t] };
        let mut shares = vec![0.0; t];
        counted.iter().filter(|&&at| at < t).for_each(|&at| shares[at] += 1.0 / counted.len() as f64);
        shares
    }
}

/// One step's loss, and the gradients of the layers that `draw` trains, by layer of the model. `all`: the layers as they
/// are now; weight and recompute as in [`gradients`].
pub fn step(
    model: &Model,
    weights: &Transposed,
    all: &[Option<DslaAttention>],
    order: &[usize],
    draw: Draw,
    batch: &[&[u32]],
    (weight, recompute): (f64, bool),
) -> Result<(Loss, Vec<Option<DslaParams>>)> {
    let mut layers: Vec<Option<&DslaAttention>> = vec![None; all.len()];
    for &l in &order[..draw.converted] {
        layers[l] = all[l].as_ref();
    }
    let (loss, mut grads) = gradients(model, weights, &layers, &Sample::whole(batch), weight, recompute)?;
    order[..draw.trained].iter().for_each(|&l| grads[l] = None);
    Ok((loss, grads))
}

/// Loss of the student that converts `layers`, and the gradients of their parameters (on the host), over a batch of
/// sequences. `weight`: of the alignment error in the loss.
pub fn gradients(
    model: &Model,
    weights: &Transposed,
    layers: &[Option<&DslaAttention>],
    batch: &[Sample],
    weight: f64,
    recompute: bool,
) -> Result<(Loss, Vec<Option<DslaParams>>)> {
    let device = model.device();
    let ready: Vec<Option<DslaAttention>> = layers
        .iter()
        .map(|l| l.map(|l| l.ready(device, DType::F32)).transpose())
        .collect::<dsla_core::Result<_>>()?;
    let students: Vec<Option<&DslaAttention>> = ready.iter().map(Option::as_ref).collect();
    let converted: Vec<bool> = layers.iter().map(Option::is_some).collect();
    let mut grads: Vec<Option<DslaParams>> = ready
        .iter()
        .map(|l| l.as_ref().map(|l| l.params.zeros_like()).transpose())
        .collect::<dsla_core::Result<_>>()?;
    let tokens: usize = batch.iter().map(|s| s.tokens.len()).sum();
    let mut loss = Loss::default();
    for sample in batch {
        let share = sample.tokens.len() as f64 / tokens as f64;
        let teacher = Teacher::run(model, sample.tokens, &converted, weight > 0.0)?;
        let run = Run::forward(model, &students, &teacher, weight, recompute)?;
        let each = sample.shares();
        let (kl, d_hidden) = kl_backward(model, weights, &teacher.hidden, &run.hidden, (&each, share))?;
        loss.kl += kl * share;
        loss.aligned += run.aligned * share;
        run.backward(weights, d_hidden, share as f32, &mut grads)?;
    }
    let host = |g: Option<DslaParams>| g.map(|g| g.to_device(Device::Cpu)).transpose();
    Ok((loss, grads.into_iter().map(host).collect::<dsla_core::Result<_>>()?))
}

/// Mean KL over the rows of two final hidden states [T, C], row t with the share `each[t]`, and `share` times its
/// gradient for the student's.
fn kl_backward(
    model: &Model,
    weights: &Transposed,
    teacher: &Tensor,
    student: &Tensor,
    (each, share): (&[f64], f64),
) -> Result<(f64, Tensor)> {
    let (t, device) = (student.dims()[0], model.device());
    let mut sum = 0.0;
    let mut d_hidden = Tensor::zeros_on(device, [0, student.dims()[1]], DType::F32)?;
    for a in (0..t).step_by(ROWS) {
        let b = (a + ROWS).min(t);
        let (want, got) = (model.logits(teacher.rows(a, b))?, model.logits(student.rows(a, b))?);
        let mut kl = Tensor::empty_on(device, [b - a], DType::F32)?;
        kl_div::forward(want.view(), got.view(), kl.view_mut())?;
        let each = &each[a..b];
        sum += kl.to_device(Device::Cpu)?.f32().iter().zip(each).map(|(&v, e)| v as f64 * e).sum::<f64>();
        let d_kl = each.iter().map(|e| (share * e) as f32).collect();
        let d_kl = Tensor::from_f32([b - a], d_kl).to_device(device)?;
        let mut d_logits = Tensor::empty_on(device, got.shape(), DType::F32)?;
        kl_div::backward(want.view(), got.view(), d_kl.view(), d_logits.view_mut())?;
        let d_normed = weights.head.forward(d_logits.view())?;
        d_hidden.extend(model.norm().backward(student.rows(a, b), d_normed.view())?.view())?;
    }
    Ok((sum, d_hidden))
}
