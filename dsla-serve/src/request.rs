//! What a request asks for, and the checks it passes before it may queue.

use crate::adapt::Ladder;
use crate::footprint::Footprint;
use crate::{Error, Result};
use dsla_model::sample::Params;

/// How to continue a prompt. The default is greedy, up to 256 tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens to generate, 1 or more. Together with the prompt they have to fit the context.
    pub max_tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token and ignores the filters.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Of what top-k left, keep the fewest likeliest tokens that hold this share of its probability, in (0, 1].
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest, in [0, 1].
    pub min_p: f32,
    /// Names the sequence of draws: the same seed and request give the same text, whatever else runs.
    pub seed: u64,
    /// Texts that end the generation, found across token borders; they are not part of the text. None empty.
    pub stop: Vec<String>,
    /// Go on past end tokens.
    pub ignore_eos: bool,
    /// Report each token's natural log-probability and those of this many likeliest ones, under the plain softmax.
    pub logprobs: Option<usize>,
    /// Share of layers to convert, in [0, 1]: the sequence starts and stays there, 0 = the exact teacher. `None`
    /// follows the engine's policy.
    pub rate: Option<f64>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            max_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            stop: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            rate: None,
        }
    }
}

impl SamplingParams {
    pub(crate) fn draw(&self) -> Params {
        Params {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        }
    }
}

/// A prompt and how to continue it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How to continue.
    pub params: SamplingParams,
}

/// What requests are checked against.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub vocab: usize,
    /// Positions of the model.
    pub context: usize,
    /// The model can turn ids into text.
    pub text: bool,
    pub ladder: Ladder,
    /// The fewest and the most layers that the policy will ever convert.
    pub policy: (usize, usize),
    pub footprint: Footprint,
    pub budget: Option<usize>,
}

impl Facts {
    /// Whether `request` can be served at all. The number of layers it pins, if it does.
    pub fn check(&self, request: &Request) -> Result<Option<usize>> {
        let Request { prompt, params: p } = request;
        if prompt.is_empty() {
            return Err(Error::request("prompt", "no tokens", "1 token or more"));
        }
        if let Some((at, id)) = prompt.iter().enumerate().find(|(_, id)| **id as usize >= self.vocab) {
            let want = format!("ids below {}", self.vocab);
            return Err(Error::request("prompt", format!("id {id} at {at}"), want));
        }
        if p.max_tokens == 0 {
            return Err(Error::request("max_tokens", 0, "1 or more"));
        }
        let total = prompt.len().saturating_add(p.max_tokens);
        if total > self.context {
            let got = format!("{} + {} tokens", prompt.len(), p.max_tokens);
            return Err(Error::request(
                "prompt + max_tokens",
                got,
                format!("at most {} in all", self.context),
            ));
        }
        if !(p.temperature >= 0.0 && p.temperature.is_finite()) {
            return Err(Error::request("temperature", p.temperature, "a finite number, 0 or more"));
        }
        if !(p.top_p > 0.0 && p.top_p <= 1.0) {
            return Err(Error::request("top_p", p.top_p, "a number in (0, 1]"));
        }
        if !(0.0..=1.0).contains(&p.min_p) {
            return Err(Error::request("min_p", p.min_p, "a number in [0, 1]"));
        }
        if let Some(n) = p.logprobs.filter(|&n| n > self.vocab) {
            return Err(Error::request("logprobs", n, format!("at most {}", self.vocab)));
        }
        if p.stop.iter().any(String::is_empty) {
            return Err(Error::request("stop", "an empty text", "texts of 1 byte or more"));
        }
        if !p.stop.is_empty() && !self.text {
            return Err(Error::request("stop", "texts", "none: the model has no tokenizer"));
        }
        let pin = |rate| self.ladder.pin(rate).map_err(|(got, want)| Error::request("rate", got, want));
        let pinned = p.rate.map(pin).transpose()?;
        self.start(total, pinned, self.policy.0)?;
        Ok(pinned)
    }

    /// Converted layers that a request of `total` tokens starts with while the target is `target`: the target, unless
    /// it would then exceed the byte budget even alone; the nearest number of layers above it that fits, else below.
    ///
    /// Errors: it does not fit with anything the policy and the guard allow.
    pub fn start(&self, total: usize, pinned: Option<usize>, target: usize) -> Result<usize> {
        let (wish, low, high) = match pinned {
            Some(k) => (k, k, k),
            None => (target, self.policy.0.min(target), self.policy.1.max(target)),
        };
        let Some(budget) = self.budget else { return Ok(wish) };
        let need = |k: usize| self.footprint.peak(total, k);
        if let Some(k) = (wish..=high).chain((low..wish).rev()).find(|&k| need(k) <= budget) {
            return Ok(k);
        }
        let (need, converted) = (low..=high).map(|k| (need(k), k)).min().unwrap_or((need(wish), wish));
        Err(Error::NeverFits { tokens: total, converted, need, budget })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(budget: Option<usize>) -> Facts {
        Facts {
            vocab: 100,
            context: 64,
            text: false,
            ladder: Ladder::new(4, 4, &[], None),
            policy: (0, 3),
            footprint: Footprint::new(4, 10, vec![0, 50, 100, 150, 200]),
            budget,
        }
    }

    fn refusal(params: SamplingParams, prompt: Vec<u32>) -> String {
        facts(None).check(&Request { prompt, params }).expect_err("refused").to_string()
    }

    #[test]
    fn refusals_say_got_and_want() {
        let p = SamplingParams { max_tokens: 4, ..SamplingParams::default() };
        let one = |change: fn(&mut SamplingParams)| {
            let mut params = p.clone();
            change(&mut params);
            refusal(params, vec![1])
        };
        assert_eq!(refusal(p.clone(), vec![]), "request: prompt: got no tokens, want 1 token or more");
        assert_eq!(refusal(p.clone(), vec![5, 100]), "request: prompt: got id 100 at 1, want ids below 100");
        assert_eq!(
            refusal(p.clone(), vec![0; 61]),
            "request: prompt + max_tokens: got 61 + 4 tokens, want at most 64 in all"
        );
        assert_eq!(one(|p| p.max_tokens = 0), "request: max_tokens: got 0, want 1 or more");
        assert!(one(|p| p.max_tokens = usize::MAX).contains("want at most 64 in all"));
        assert!(one(|p| p.temperature = f32::NAN).contains("temperature: got NaN"));
        assert!(one(|p| p.temperature = -1.0).contains("temperature: got -1"));
        assert_eq!(one(|p| p.top_p = 0.0), "request: top_p: got 0, want a number in (0, 1]");
        assert!(one(|p| p.min_p = 1.5).contains("min_p: got 1.5"));
        assert!(one(|p| p.logprobs = Some(101)).contains("logprobs: got 101, want at most 100"));
        assert!(one(|p| p.stop = vec!["".into()]).contains("stop: got an empty text"));
        assert!(one(|p| p.stop = vec!["x".into()]).contains("no tokenizer"));
        assert!(one(|p| p.rate = Some(-0.5)).contains("rate: got -0.5"));
        assert_eq!(facts(None).check(&Request { prompt: vec![1], params: p }).ok(), Some(None));
    }

    #[test]
    fn what_can_never_fit_is_refused_with_numbers() {
        // 4 layers x 10 bytes x 20 tokens = 800 for the teacher; 3 converted: 200 + 150.
        let request = |rate| Request {
            prompt: vec![1; 10],
            params: SamplingParams { max_tokens: 10, rate, ..SamplingParams::default() },
        };
        assert_eq!(facts(Some(350)).check(&request(None)).ok(), Some(None));
        assert_eq!(facts(Some(349)).check(&request(Some(1.0))).ok(), Some(Some(4)));
        let error = facts(Some(349)).check(&request(None)).expect_err("refused").to_string();
        let want =
            "memory: a request of 20 tokens: got 350 bytes of caches at 3 converted layers, want at most 349";
        assert_eq!(error, want);
        let pinned = facts(Some(350)).check(&request(Some(0.0))).expect_err("refused").to_string();
        assert!(pinned.contains("got 800 bytes of caches at 0 converted layers"), "{pinned}");
    }

    #[test]
    fn a_large_request_starts_as_converted_as_it_must() {
        let f = facts(Some(500));
        assert_eq!(f.start(20, None, 0).ok(), Some(2));
        assert_eq!(f.start(20, None, 3).ok(), Some(3));
        assert_eq!(f.start(5, None, 0).ok(), Some(0));
        // A short one whose states would be larger than its keys and values starts less converted.
        assert_eq!(facts(Some(120)).start(3, None, 3).ok(), Some(0));
    }
}
