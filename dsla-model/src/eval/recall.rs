//! Passkey retrieval: a five-digit number hidden in filler, asked for at the end, scored by exact match of greedy text.

use crate::generate::{Options, generate};
use crate::{Error, Model, Plan, Result};
use dsla_core::kernels::case::Rng;
use dsla_core::kernels::ops::sample::Params;

const INTRO: &str = "Somewhere in the following text a pass key is hidden. Remember it, you will be asked for it at the end.\n";
const FILLER: &str = "The river runs past the mill. The bread is in the oven. A cart rolls down the lane. Then it is quiet again. ";
const QUESTION: &str = "\nWhat is the pass key? The pass key is";
const BINS: usize = 5;

/// Outcome of a recall task.
#[derive(Clone, Debug)]
pub struct Recall {
    /// Share answered exactly.
    pub accuracy: f64,
    /// Cases.
    pub count: usize,
    /// By depth of the needle, five bins from start to end: (cases, share answered); bins without cases are left out.
    pub by_depth: Vec<(f64, usize, f64)>,
}

/// Run `count` cases of `length` prompt tokens.
pub fn passkey(
    model: &Model,
    plan: &Plan,
    length: usize,
    count: usize,
    seed: u64,
    mut progress: impl FnMut(usize, usize),
) -> Result<Recall> {
    let tokenizer = model.tokenizer()?;
    let filler = tokenizer.encode(FILLER, false)?;
    let (intro, question) = (tokenizer.encode(INTRO, false)?, tokenizer.encode(QUESTION, false)?);
    let room = intro.len() + question.len() + 40;
    if length < room + filler.len() || count == 0 {
        let got = format!("length {length}, count {count}");
        return Err(Error::Argument {
            op: "passkey",
            arg: "length",
            got,
            want: format!("at least {}, at least one case", room + filler.len()),
        });
    }
    let mut rng = Rng::new(seed);
    let mut bins = [(0usize, 0usize); BINS];
    for case in 0..count {
        let key = format!("{}", 10_000 + rng.bits() % 90_000);
        let needle = tokenizer
            .encode(&format!("\nThe pass key is {key}. Remember it: {key} is the pass key.\n"), false)?;
        // Depths are spread evenly over the cases, so that every bin has its share.
        let depth = (case as f64 + rng.uniform()) / count as f64;
        let body = length - intro.len() - question.len() - needle.len();
        let before = (depth * body as f64) as usize;
        let fill = |n: usize| filler.iter().copied().cycle().take(n);
        let mut prompt = intro.clone();
        prompt.extend(fill(before));
        prompt.extend(&needle);
        prompt.extend(fill(body - before));
        prompt.extend(&question);
        let options = Options {
            max_tokens: 8,
            params: Params { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
            ignore_eos: false,
            logprobs: None,
        };
        let out = generate(model, plan, &prompt, &options, |_| true)?;
        let text = tokenizer.decode(&out.ids, true)?;
        let hit = text.trim_start().starts_with(&key);
        let bin = &mut bins[((depth * BINS as f64) as usize).min(BINS - 1)];
        *bin = (bin.0 + 1, bin.1 + hit as usize);
        progress(case + 1, count);
    }
    let hits: usize = bins.iter().map(|b| b.1).sum();
    let by_depth = bins.iter().enumerate().filter(|(_, b)| b.0 > 0);
    Ok(Recall {
        accuracy: hits as f64 / count as f64,
        count,
        by_depth: by_depth
            .map(|(i, b)| ((i as f64 + 0.5) / BINS as f64, b.0, b.1 as f64 / b.0 as f64))
            .collect(),
    })
}
