//! What a request asks for, and the checks it passes before it may queue.

use crate::adapt::Ladder;
use crate::footprint::Footprint;
use crate::{Error, Result};
use dsla_model::sample::Params;

/// How to continue a prompt. The default is greedy, up to 256 tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens to generate, 1 or more; 0 where only `prompt_logprobs` are wanted. Together with the prompt they have to
    /// fit the context.
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
    /// Above 1 discourages tokens of the prompt and the text so far, below 1 encourages them: positive logits are
    /// divided by it, negative ones multiplied (Keskar et al. 2019). Above 0; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens that were generated, in [-2, 2].
    pub presence_penalty: f32,
    /// Taken off the logits of tokens for each time they were generated, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of these ids, each in [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    /// Before this many tokens nothing but `max_tokens` ends the generation: end tokens are not drawn, stop strings
    /// not looked for.
    pub min_tokens: usize,
    /// Texts that end the generation, found across token borders; they are not part of the text. None empty.
    pub stop: Vec<String>,
    /// Tokens that end the generation as the model's end tokens do, `ignore_eos` or not.
    pub stop_ids: Vec<u32>,
    /// Go on past end tokens.
    pub ignore_eos: bool,
    /// Special tokens are part of the text.
    pub keep_special: bool,
    /// Report each token's natural log-probability and those of this many likeliest ones, under the plain softmax.
    pub logprobs: Option<usize>,
    /// Use the prefix cache: begin with what it holds of the prompt, and keep a part of this prompt for others.
    pub cache_prompt: bool,
    /// Report the same of each token of the prompt but the first, with the first event. It takes the logits of the whole
    /// prompt, a prefill piece at a time.
    pub prompt_logprobs: Option<usize>,
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
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            min_tokens: 0,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            keep_special: false,
            logprobs: None,
            cache_prompt: true,
            prompt_logprobs: None,
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
        if p.max_tokens == 0 && p.prompt_logprobs.is_none() {
            return Err(Error::request("max_tokens", 0, "1 or more"));
        }
        if p.min_tokens > p.max_tokens {
            let want = format!("at most max_tokens = {}", p.max_tokens);
            return Err(Error::request("min_tokens", p.min_tokens, want));
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
        if !(p.repetition_penalty > 0.0 && p.repetition_penalty.is_finite()) {
            return Err(Error::request(
                "repetition_penalty",
                p.repetition_penalty,
                "a finite number above 0",
            ));
        }
        for (field, x) in
            [("presence_penalty", p.presence_penalty), ("frequency_penalty", p.frequency_penalty)]
        {
            if !(-2.0..=2.0).contains(&x) {
                return Err(Error::request(field, x, "a number in [-2, 2]"));
            }
        }
        if let Some((id, bias)) = p.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
            return Err(Error::request(
                "logit_bias",
                format!("{bias} for id {id}"),
                "numbers in [-100, 100]",
            ));
        }
        let biased = p.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stops = p.stop_ids.iter().map(|id| ("stop_token_ids", *id));
        if let Some((field, id)) = biased.chain(stops).find(|(_, id)| *id as usize >= self.vocab) {
            return Err(Error::request(field, format!("id {id}"), format!("ids below {}", self.vocab)));
        }
        for (field, n) in [("logprobs", p.logprobs), ("prompt_logprobs", p.prompt_logprobs)] {
            if let Some(n) = n.filter(|&n| n > self.vocab) {
                return Err(Error::request(field, n, format!("at most {}", self.vocab)));
            }
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

    /// The most tokens that a prompt of `prompt` tokens can ask for; 0 when it can ask for none.
    pub fn room(&self, prompt: usize, rate: Option<f64>) -> usize {
        let pinned = rate.and_then(|rate| self.ladder.pin(rate).ok());
        let fits = |new: usize| self.start(prompt + new, pinned, self.policy.0).is_ok();
        // More tokens never take fewer bytes: find where it ends.
        let (mut good, mut bad) = (0, self.context.saturating_sub(prompt) + 1);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits(middle) { good = middle } else { bad = middle }
        }
        good
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
        assert!(one(|p| p.logprobs = Some(101)).contains("request: logprobs: got 101, want at most 100"));
        assert!(one(|p| p.prompt_logprobs = Some(101)).contains("prompt_logprobs: got 101"));
        let scored = SamplingParams { max_tokens: 0, prompt_logprobs: Some(0), ..SamplingParams::default() };
        assert!(facts(None).check(&Request { prompt: vec![1], params: scored }).is_ok());
        assert!(one(|p| p.min_tokens = 5).contains("min_tokens: got 5, want at most max_tokens = 4"));
        assert!(one(|p| p.repetition_penalty = 0.0).contains("repetition_penalty: got 0"));
        assert!(
            one(|p| p.presence_penalty = 2.5).contains("presence_penalty: got 2.5, want a number in [-2, 2]")
        );
        assert!(one(|p| p.frequency_penalty = f32::NAN).contains("frequency_penalty: got NaN"));
        assert!(one(|p| p.logit_bias = vec![(7, 101.0)]).contains("logit_bias: got 101 for id 7"));
        assert!(
            one(|p| p.logit_bias = vec![(100, 1.0)]).contains("logit_bias: got id 100, want ids below 100")
        );
        assert!(one(|p| p.stop_ids = vec![100]).contains("stop_token_ids: got id 100"));
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
    fn room_is_what_a_check_would_allow() {
        let free = facts(None);
        assert_eq!((free.room(4, None), free.room(64, None), free.room(99, None)), (60, 0, 0));
        // 350 bytes: 3 of 4 layers converted hold 150 in states and 10 per token.
        let tight = facts(Some(350));
        assert_eq!(tight.room(10, None), 10);
        assert_eq!(tight.room(10, Some(0.0)), 0, "10 tokens of the teacher are 400 bytes");
        assert_eq!(tight.room(5, Some(0.0)), 3);
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
