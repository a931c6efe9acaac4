//! What a request may do to its logits before a token is drawn: bias, the three penalties, a least number of tokens.
//! In vLLM's order: masks and bias first, then penalties.

use crate::request::SamplingParams;
use std::collections::HashMap;

/// Where a token has been.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// In the prompt or the text so far.
    anywhere: bool,
    /// Times it was generated.
    generated: u32,
}

/// The tokens of one sequence, counted.
#[derive(Clone, Debug)]
pub(crate) struct Adjust {
    seen: HashMap<u32, Seen>,
}

impl Adjust {
    /// `None` when `params` leave the logits alone, apart from what [`mask`] does.
    pub fn new(prompt: &[u32], params: &SamplingParams) -> Option<Adjust> {
        let penalties = [params.presence_penalty, params.frequency_penalty];
        let counts = params.repetition_penalty != 1.0 || penalties != [0.0; 2];
        if !counts && params.logit_bias.is_empty() {
            return None;
        }
        let of_prompt = prompt.iter().filter(|_| params.repetition_penalty != 1.0);
        let seen = of_prompt.map(|&id| (id, Seen { anywhere: true, generated: 0 })).collect();
        Some(Adjust { seen })
    }

    /// Notes a generated token.
    pub fn push(&mut self, id: u32) {
        let seen = self.seen.entry(id).or_default();
        seen.anywhere = true;
        seen.generated += 1;
    }

    /// Changes `logits` [V].
    pub fn apply(&self, params: &SamplingParams, logits: &mut [f32]) {
        for &(id, bias) in &params.logit_bias {
            if let Some(x) = logits.get_mut(id as usize) {
                *x += bias;
            }
        }
        for (&id, seen) in &self.seen {
            let Some(x) = logits.get_mut(id as usize).filter(|_| seen.anywhere) else { continue };
            let r = params.repetition_penalty;
            *x = if *x > 0.0 { *x / r } else { *x * r };
            if seen.generated > 0 {
                *x -= params.frequency_penalty * seen.generated as f32 + params.presence_penalty;
            }
            // A tiny divisor overflows: still the likeliest, and a number.
            *x = x.min(f32::MAX);
        }
    }
}

/// Makes `ids` impossible.
pub(crate) fn mask(ids: &[u32], logits: &mut [f32]) {
    for &id in ids {
        if let Some(x) = logits.get_mut(id as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(params: SamplingParams, prompt: &[u32], text: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut adjust = Adjust::new(prompt, &params).expect("something to do");
        text.iter().for_each(|&id| adjust.push(id));
        let mut out = logits.to_vec();
        adjust.apply(&params, &mut out);
        out
    }

    #[test]
    fn each_by_its_formula() {
        let plain = SamplingParams::default();
        assert!(Adjust::new(&[1, 2], &plain).is_none(), "nothing is copied for plain requests");
        let logits = [4.0, 4.0, -4.0, 1.0];
        // Prompt and text count, once each; positive logits are divided, negative ones multiplied.
        let repetition = SamplingParams { repetition_penalty: 2.0, ..plain.clone() };
        assert_eq!(applied(repetition, &[1, 1], &[2, 2], &logits), [4.0, 2.0, -8.0, 1.0]);
        // Only the text counts.
        let frequency = SamplingParams { frequency_penalty: 0.5, ..plain.clone() };
        assert_eq!(applied(frequency, &[1], &[2, 2, 3], &logits), [4.0, 4.0, -5.0, 0.5]);
        let presence = SamplingParams { presence_penalty: 0.5, ..plain.clone() };
        assert_eq!(applied(presence, &[1], &[2, 2, 3], &logits), [4.0, 4.0, -4.5, 0.5]);
        let bias = SamplingParams { logit_bias: vec![(0, -100.0), (3, 5.0)], ..plain.clone() };
        assert_eq!(applied(bias, &[], &[0], &logits), [-96.0, 4.0, -4.0, 6.0]);
        // Bias comes before penalties, and what overflows stays finite.
        let both = SamplingParams { logit_bias: vec![(0, -6.0)], repetition_penalty: 2.0, ..plain.clone() };
        assert_eq!(applied(both, &[0], &[], &logits)[0], -4.0);
        let tiny = SamplingParams { repetition_penalty: 1e-40, ..plain };
        assert_eq!(applied(tiny, &[0], &[], &logits)[0], f32::MAX);
        let mut masked = logits;
        mask(&[1, 77], &mut masked);
        assert_eq!(masked, [4.0, f32::NEG_INFINITY, -4.0, 1.0]);
    }
}
