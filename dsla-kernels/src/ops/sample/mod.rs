//! Choosing the next token: temperature, then min-p, top-k and top-p in vLLM's order, then one draw.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
mod rng;
#[cfg(test)]
mod tests;

pub use rng::uniform;

use super::embedding::check_below;
use crate::{Device, Error, Result, View};

const OP: &str = "sample";

/// How to choose. The default draws from the plain softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Logits are divided by it; 0 takes the largest logit and ignores all that follows.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Of what top-k left, keep the fewest likeliest tokens that hold this share of its probability, in (0, 1]; 1
    /// keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest, in [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Names the sequence of draws, see [`uniform`].
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Params {
        Params { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// The token id that draw number `index` of `params.seed` takes. logits: [V] f32; minus infinity masks a token.
///
/// Nothing but logits, params and index matters: a sequence gets the same text in any batch. Among equal logits the
/// lowest id counts as the likeliest, so top-k keeps exactly k (vLLM keeps the ties of the k-th).
///
/// Errors (`Error::Argument`): a NaN or plus infinity among the logits, or not one finite logit; params out of range.
/// A shape or dtype that does not fit.
pub fn forward(logits: View, params: &Params, index: u64) -> Result<u32> {
    check(params)?;
    if logits.device() != Device::Cpu {
        let [v] = logits.dims(OP, "logits")?;
        return Ok(cuda::forward(logits.reshape([1, v]), &[*params], &[index], [1, v])?[0]);
    }
    let xs = elements(&logits)?;
    let chosen = cpu::forward(xs, params, index);
    chosen.ok_or_else(unfit)
}

/// [`forward`] of every row: the ids that a batch of sequences takes, each with its own params and index. On a device
/// one launch and one copy of the ids to the host.
///
/// logits: [B, V] f32; params, indices: B.
/// Errors: as [`forward`], for any row.
pub fn forward_batch(logits: View, params: &[Params], indices: &[u64]) -> Result<Vec<u32>> {
    let [b, v] = logits.dims(OP, "logits")?;
    for (arg, n) in [("params", params.len()), ("indices", indices.len())] {
        if n != b {
            return Err(Error::Argument { op: OP, arg, got: n.to_string(), want: format!("{b}, one per row") });
        }
    }
    params.iter().try_for_each(check)?;
    if logits.device() != Device::Cpu {
        return cuda::forward(logits, params, indices, [b, v]);
    }
    let rows = params.iter().zip(indices).enumerate();
    rows.map(|(i, (p, &index))| forward(logits.rows(i, i + 1).reshape([v]), p, index)).collect()
}

/// Natural log-probability of `id` under the plain softmax, and those of the `n` likeliest ids, best first, the lowest
/// id first among equals; fewer when V < n. logits: [V] f32.
///
/// Errors: an id of V or more, or logits as [`forward`] refuses them (`Error::Argument`); a shape or dtype that does
/// not fit. Logits on a device are copied to the host.
pub fn top_logprobs(logits: View, id: u32, n: usize) -> Result<(f32, Vec<(u32, f32)>)> {
    // A device's logits come to the host, 4 V bytes: n is small, and the host's selection is exact.
    let hold;
    let logits = match logits.device() {
        Device::Cpu => logits,
        _ => {
            hold = logits.to_tensor()?.to_device(Device::Cpu)?;
            hold.view()
        }
    };
    let xs = elements(&logits)?;
    check_below(OP, "id", &[id], xs.len())?;
    let found = cpu::top_logprobs(xs, id, n);
    found.ok_or_else(unfit)
}

fn elements<'a>(logits: &View<'a>) -> Result<&'a [f32]> {
    let [v] = logits.dims(OP, "logits")?;
    logits.expect_f32(OP, "logits", &[v])
}

fn unfit() -> Error {
    Error::Argument {
        op: OP,
        arg: "logits",
        got: "NaN, plus infinity or nothing finite".into(),
        want: "finite or minus infinity, at least one finite".into(),
    }
}

fn check(p: &Params) -> Result<()> {
    let refuse = |arg, got: f32, want: &str| {
        Err(Error::Argument { op: OP, arg, got: got.to_string(), want: want.into() })
    };
    if !(p.temperature >= 0.0 && p.temperature.is_finite()) {
        return refuse("temperature", p.temperature, "finite, 0 or more");
    }
    if !(p.top_p > 0.0 && p.top_p <= 1.0) {
        return refuse("top_p", p.top_p, "in (0, 1]");
    }
    if !(0.0..=1.0).contains(&p.min_p) {
        return refuse("min_p", p.min_p, "in [0, 1]");
    }
    Ok(())
}
