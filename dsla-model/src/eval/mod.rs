//! Measurements: perplexity, divergence from the teacher, synthetic recall.

mod recall;

pub use recall::{Recall, passkey};

use crate::generate::PREFILL_CHUNK;
use crate::{Error, Model, Plan, Result, Step, Want};
use dsla_core::kernels::ops::{cross_entropy, kl_div};
use dsla_core::{DType, Device, Tensor, View};

/// Rows of logits made at a time: 256 x 49152 f32 are 50 MB.
const ROWS: usize = 256;

/// Non-overlapping windows of `context` tokens from the start, at most `limit`; the last may be shorter, but predicts
/// at least one token.
pub fn windows(tokens: &[u32], context: usize, limit: Option<usize>) -> Result<Vec<&[u32]>> {
    let all: Vec<_> =
        tokens.chunks(context.max(1)).filter(|w| w.len() > 1).take(limit.unwrap_or(usize::MAX)).collect();
    if context < 2 || all.is_empty() {
        let got = format!("{} tokens in windows of {context}", tokens.len());
        return Err(Error::Argument {
            op: "eval",
            arg: "text",
            got,
            want: "at least 2 tokens and a context of at least 2".into(),
        });
    }
    Ok(all)
}

/// Mean negative log likelihood.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity {
    /// Tokens scored.
    pub tokens: usize,
    /// Nats per token.
    pub nll: f64,
}

impl Perplexity {
    /// e^nll
    pub fn ppl(&self) -> f64 {
        self.nll.exp()
    }
}

/// Each window scored on all tokens but its first. `progress` sees (windows done, windows).
pub fn perplexity(
    model: &Model,
    plan: &Plan,
    windows: &[&[u32]],
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity> {
    let (mut sum, mut count) = (0.0, 0);
    for (i, w) in windows.iter().enumerate() {
        let mut seq = model.new_sequence(plan)?;
        let inputs = &w[..w.len() - 1];
        for (c, tokens) in inputs.chunks(PREFILL_CHUNK).enumerate() {
            let hidden = model.hidden(&mut [Step { seq: &mut seq, tokens, logits: Want::All }])?;
            for a in (0..tokens.len()).step_by(ROWS) {
                let b = (a + ROWS).min(tokens.len());
                let logits = model.logits(hidden.rows(a, b))?;
                let first = c * PREFILL_CHUNK + a + 1;
                sum += nll(&logits, &w[first..first + b - a])?;
            }
        }
        count += inputs.len();
        progress(i + 1, windows.len());
    }
    Ok(Perplexity { tokens: count, nll: sum / count as f64 })
}

/// How far a hybrid is from its teacher.
#[derive(Clone, Copy, Debug)]
pub struct Divergence {
    /// Tokens compared.
    pub tokens: usize,
    /// Forward KL(teacher, hybrid), nats per token.
    pub kl: f64,
    /// Share of places where the arg max agrees.
    pub top1_agreement: f64,
    /// Perplexity of the teacher on the same tokens.
    pub teacher_ppl: f64,
    /// Perplexity of the hybrid on the same tokens.
    pub ppl: f64,
}

/// Both models side by side over each window; one teacher pass serves all `plans`. KL is over every position, the
/// perplexities over positions that have a next token.
pub fn divergence(
    model: &Model,
    plans: &[Plan],
    windows: &[&[u32]],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Divergence>> {
    let mut sums = vec![[0.0f64; 3]; plans.len()];
    let (mut tokens, mut scored, mut teacher_nll) = (0usize, 0usize, 0.0f64);
    let exact = Plan::teacher(model.config().num_layers);
    for (i, w) in windows.iter().enumerate() {
        let mut teacher = model.new_sequence(&exact)?;
        let mut hybrids = plans.iter().map(|p| model.new_sequence(p)).collect::<Result<Vec<_>>>()?;
        for (c, chunk) in w.chunks(PREFILL_CHUNK).enumerate() {
            let run = |seq: &mut crate::Sequence| {
                model.hidden(&mut [Step { seq, tokens: chunk, logits: Want::All }])
            };
            let want = run(&mut teacher)?;
            let got = hybrids.iter_mut().map(&run).collect::<Result<Vec<_>>>()?;
            for a in (0..chunk.len()).step_by(ROWS) {
                let b = (a + ROWS).min(chunk.len());
                let want = model.logits(want.rows(a, b))?;
                let first = c * PREFILL_CHUNK + a + 1;
                let next = &w[first.min(w.len())..(first + b - a).min(w.len())];
                teacher_nll += nll(&want, next)?;
                scored += next.len();
                for (hidden, sum) in got.iter().zip(&mut sums) {
                    let logits = model.logits(hidden.rows(a, b))?;
                    let mut kl = Tensor::empty_on(logits.device(), [b - a], DType::F32)?;
                    kl_div::forward(want.view(), logits.view(), kl.view_mut())?;
                    sum[0] += total(&kl)?;
                    sum[1] += kl_div::agree(want.view(), logits.view())? as f64;
                    sum[2] += nll(&logits, next)?;
                }
            }
        }
        tokens += w.len();
        progress(i + 1, windows.len());
    }
    let (n, s) = (tokens as f64, scored as f64);
    Ok(sums
        .iter()
        .map(|[kl, agree, nll]| Divergence {
            tokens,
            kl: kl / n,
            top1_agreement: agree / n,
            teacher_ppl: (teacher_nll / s).exp(),
            ppl: (nll / s).exp(),
        })
        .collect())
}

/// Sum of negative log likelihoods of `next` under the first rows of logits.
fn nll(logits: &Tensor, next: &[u32]) -> Result<f64> {
    let rows: View = logits.rows(0, next.len());
    let targets = Tensor::from_u32([next.len()], next.to_vec()).to_device(logits.device())?;
    let mut loss = Tensor::empty_on(logits.device(), [next.len()], DType::F32)?;
    cross_entropy::forward(rows, targets.view(), loss.view_mut())?;
    total(&loss)
}

fn total(x: &Tensor) -> Result<f64> {
    Ok(x.to_device(Device::Cpu)?.f32().iter().map(|&x| x as f64).sum())
}
