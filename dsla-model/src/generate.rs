//! The readable batch-1 loop, which the engine is tested against.

use crate::{Error, Model, Plan, Result, Sequence, Step, Want};
use dsla_core::kernels::ops::sample::{self, Params};
use std::time::{Duration, Instant};

/// Tokens per prefill step: bounds the memory of activations, not the result.
pub const PREFILL_CHUNK: usize = 512;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token, or the caller said stop.
    Stop,
    /// The limit of tokens.
    Length,
}

/// One completion.
#[derive(Debug)]
pub struct Generated {
    /// New tokens, without the end-of-sequence token.
    pub ids: Vec<u32>,
    /// Log probability of each and of the `logprobs` best at its place.
    pub logprobs: Vec<(f32, Vec<(u32, f32)>)>,
    /// Why it ended.
    pub finish: Finish,
    /// Time for the prompt.
    pub prefill: Duration,
    /// Time for the tokens after the first.
    pub decode: Duration,
    /// The sequence as it stands.
    pub sequence: Sequence,
}

/// How to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// Sampling.
    pub params: Params,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Also report this many best tokens at every place.
    pub logprobs: Option<usize>,
}

/// Feed a prompt into a sequence in chunks; the logits [1, V] of its last token.
pub fn prefill(model: &Model, seq: &mut Sequence, prompt: &[u32]) -> Result<dsla_core::Tensor> {
    let chunks = prompt.len().div_ceil(PREFILL_CHUNK);
    let mut logits = None;
    for (i, tokens) in prompt.chunks(PREFILL_CHUNK).enumerate() {
        let want = if i + 1 == chunks { Want::Last } else { Want::None };
        logits = Some(model.forward(&mut [Step { seq, tokens, logits: want }])?);
    }
    logits.ok_or_else(|| Error::Argument {
        op: "generate",
        arg: "prompt",
        got: "no tokens".into(),
        want: "at least one".into(),
    })
}

/// Continue `prompt`. `on_token` sees every new token and says whether to go on.
pub fn generate(
    model: &Model,
    plan: &Plan,
    prompt: &[u32],
    options: &Options,
    on_token: impl FnMut(u32) -> bool,
) -> Result<Generated> {
    generate_from(model, model.new_sequence(plan)?, prompt, options, on_token)
}

/// As [`generate`], after what `seq` has taken in already.
pub fn generate_from(
    model: &Model,
    mut seq: Sequence,
    prompt: &[u32],
    options: &Options,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<Generated> {
    let room = model.table().positions();
    let taken = seq.len() + prompt.len();
    if taken + options.max_tokens > room + 1 {
        let got = format!("{taken} tokens and up to {} new ones", options.max_tokens);
        return Err(Error::Argument {
            op: "generate",
            arg: "prompt",
            got,
            want: format!("at most {room} in all"),
        });
    }
    let start = Instant::now();
    let mut logits = prefill(model, &mut seq, prompt)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    let (mut ids, mut logprobs, mut finish) = (vec![], vec![], Finish::Length);
    while ids.len() < options.max_tokens {
        let row = logits.view().reshape([model.config().vocab_size]);
        let id = sample::forward(row, &options.params, ids.len() as u64)?;
        if !options.ignore_eos && model.config().eos.contains(&id) {
            finish = Finish::Stop;
            break;
        }
        if let Some(n) = options.logprobs {
            logprobs.push(sample::top_logprobs(row, id, n)?);
        }
        ids.push(id);
        if !on_token(id) {
            finish = Finish::Stop;
            break;
        }
        if ids.len() < options.max_tokens {
            logits = model.forward(&mut [Step { seq: &mut seq, tokens: &[id], logits: Want::Last }])?;
        }
    }
    Ok(Generated { ids, logprobs, finish, prefill, decode: start.elapsed(), sequence: seq })
}
