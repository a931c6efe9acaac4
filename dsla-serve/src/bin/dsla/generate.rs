//! `dsla generate`

use crate::args::{ModelArgs, RateArgs};
use crate::out;
use anyhow::{Result, bail};
use clap::Args;
use dsla_model::generate::{Finish, Options, generate};
use dsla_model::sample::Params;
use dsla_model::{DecodeStream, Message, Model};
use std::io::Write;

#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    #[command(flatten)]
    prompt: Prompt,
    /// At most this many new tokens.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// 0: greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep the K best (0: all).
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the smallest set with this much probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Keep tokens at least this likely, relative to the best.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Same seed, same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stop before this text; may be given several times.
    #[arg(long)]
    stop: Vec<String>,
    /// Go on past end-of-sequence tokens.
    #[arg(long)]
    ignore_eos: bool,
    /// Log probabilities of the N best tokens at every place.
    #[arg(long)]
    logprobs: Option<usize>,
    /// Lift the model's position limit to this many (quality beyond the trained context is its own affair).
    #[arg(long)]
    positions: Option<usize>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// Text to continue.
    #[arg(long)]
    prompt: Option<String>,
    /// Token ids to continue.
    #[arg(long, value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,
    /// A user's message, put through the model's chat template.
    #[arg(long)]
    chat: Option<String>,
}

impl Prompt {
    fn ids(&self, model: &Model) -> Result<Vec<u32>> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(ids.clone());
        }
        if let Some(text) = &self.prompt {
            return Ok(model.tokenizer()?.encode(text, true)?);
        }
        chat_ids(model, self.chat.as_deref().unwrap_or_default())
    }
}

/// One user message as the model's template puts it.
pub fn chat_ids(model: &Model, text: &str) -> Result<Vec<u32>> {
    let text = model.chat_template()?.render(&[Message::new("user", text)], true, None)?;
    Ok(model.tokenizer()?.encode(&text, false)?)
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let mut model = self.model.load()?;
        if let Some(p) = self.positions {
            model = model.with_positions(p)?;
        }
        let plan = self.rate.plan(&model)?;
        let prompt = self.prompt.ids(&model)?;
        if self.stop.iter().any(String::is_empty) {
            bail!("--stop: got an empty text, want at least one character");
        }
        let options = Options {
            max_tokens: self.max_tokens,
            params: Params {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                seed: self.seed,
            },
            ignore_eos: self.ignore_eos,
            logprobs: self.logprobs,
        };
        let mut text = String::new();
        let mut stream = model.tokenizer().ok().map(|t| (t, DecodeStream::new(true)));
        let mut stdout = std::io::stdout();
        let mut shown = 0;
        let keep = self.stop.iter().map(String::len).max().unwrap_or(0);
        let (mut failed, mut stopped) = (None, false);
        let done = generate(&model, &plan, &prompt, &options, |id| {
            let Some((tokenizer, s)) = &mut stream else { return true };
            match s.push(tokenizer, id) {
                Ok(piece) => text.push_str(&piece),
                Err(e) => {
                    failed = Some(e);
                    return false;
                }
            }
            if let Some(at) = self.stop.iter().filter_map(|s| text.find(s)).min() {
                text.truncate(at);
                stopped = true;
                return false;
            }
            if !self.json {
                // Hold back what could still become a stop text.
                let mut safe = text.len().saturating_sub(keep);
                while !text.is_char_boundary(safe) {
                    safe -= 1;
                }
                if safe > shown {
                    let _ = stdout.write_all(&text.as_bytes()[shown..safe]).and_then(|()| stdout.flush());
                    shown = safe;
                }
            }
            true
        })?;
        if let Some(e) = failed {
            return Err(e.into());
        }
        if let (Some((tokenizer, s)), false) = (&mut stream, stopped) {
            text.push_str(&s.finish(tokenizer)?);
        }
        if !self.json {
            println!("{}", &text[shown.min(text.len())..]);
            return Ok(());
        }
        let per_second = |n: usize, t: std::time::Duration| n as f64 / t.as_secs_f64().max(1e-9);
        let logprobs: Vec<_> = done
            .logprobs
            .iter()
            .zip(&done.ids)
            .map(|((lp, top), id)| serde_json::json!({"id": id, "logprob": lp, "top": top}))
            .collect();
        out::json(&serde_json::json!({
            "prompt_ids": prompt,
            "ids": done.ids,
            "text": text,
            "finish_reason": match done.finish { Finish::Stop => "stop", Finish::Length => "length" },
            "logprobs": if self.logprobs.is_some() { serde_json::Value::from(logprobs) } else { serde_json::Value::Null },
            "rate": plan.rate(),
            "timings": {
                "prefill_tok_s": per_second(prompt.len(), done.prefill),
                "decode_tok_s": per_second(done.ids.len().saturating_sub(1), done.decode),
            },
            "memory": {
                "weights": model.bytes(),
                "kv": done.sequence.kv_bytes(),
                "state": done.sequence.state_bytes(),
            },
        }));
        Ok(())
    }
}
