//! Measurements of quality: perplexity, divergence from the teacher, synthetic recall, multiple choice, answers to
//! questions, summaries, and what a conversion in mid-flight costs.

mod choices;
mod divergence;
mod fold;
mod jsonl;
mod qa;
mod recall;
mod summary;
mod written;

pub use choices::{Choice, ChoiceScores, Question, choices, read_questions};
pub use divergence::{Divergence, PositionKl, divergence};
pub use fold::{FoldQuality, fold};
pub use qa::{Asked, QaScores, qa, read_asked};
pub use recall::{DepthBin, Recall, Setup, Task, recall};
pub use summary::{Document, Rouge, read_documents, rouge, summary};
pub use written::Prompting;

use crate::generate::PREFILL_CHUNK;
use crate::{Error, Model, Plan, Result, Step, Want};
use dsla_core::kernels::ops::cross_entropy;
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

/// Sum of negative log likelihoods of `next` under the first rows of logits.
fn nll(logits: &Tensor, next: &[u32]) -> Result<f64> {
    let rows: View = logits.rows(0, next.len());
    let targets = Tensor::from_u32([next.len()], next.to_vec()).to_device(logits.device())?;
    let mut loss = Tensor::empty_on(logits.device(), [next.len()], DType::F32)?;
    cross_entropy::forward(rows, targets.view(), loss.view_mut())?;
    Ok(values(&loss)?.iter().sum())
}

/// The numbers of an f32 tensor, on the host.
fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_device(Device::Cpu)?.f32().iter().map(|&x| x as f64).collect())
}
