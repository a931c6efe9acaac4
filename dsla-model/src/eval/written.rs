//! Text that the model writes after a prompt, greedily, to be held against what people wrote.

use crate::generate::{Options, generate};
use crate::{Error, Message, Model, Plan, Result};
use dsla_core::kernels::ops::sample::Params;

/// How a prompt is put and how much may come back.
#[derive(Clone, Copy, Debug)]
pub struct Prompting {
    /// Through the model's chat template, as a user's turn; else the plain text.
    pub chat: bool,
    /// New tokens at most.
    pub max_tokens: usize,
}

impl Prompting {
    /// The prompt's tokens.
    ///
    /// Errors: more than fit the model's positions with the new ones, by `line` of the file they came from.
    pub(super) fn encode(&self, model: &Model, prompt: &str, line: &super::jsonl::Row) -> Result<Vec<u32>> {
        let text = match self.chat {
            true => model.chat_template()?.render(&[Message::new("user", prompt)], true, None)?,
            false => prompt.into(),
        };
        // A chat template writes the begin token itself.
        let tokens = model.tokenizer()?.encode(&text, !self.chat)?;
        let room = model.table().positions().saturating_sub(self.max_tokens);
        match tokens.is_empty() || tokens.len() > room {
            true => {
                Err(line.refuse("", &format!("a prompt of {} tokens", tokens.len()), &format!("1 to {room}")))
            }
            false => Ok(tokens),
        }
    }

    /// What the model writes, up to `until`.
    pub(super) fn write(&self, model: &Model, plan: &Plan, prompt: &[u32], until: &str) -> Result<String> {
        let tokenizer = model.tokenizer()?;
        let options = Options {
            max_tokens: self.max_tokens,
            params: Params { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
            ignore_eos: false,
            logprobs: None,
        };
        let (mut ids, mut failed) = (vec![], None::<Error>);
        let out = generate(model, plan, prompt, &options, |id| {
            ids.push(id);
            match tokenizer.decode(&ids, true) {
                Ok(text) => !text.trim_start().contains(until),
                Err(e) => {
                    failed = Some(e);
                    false
                }
            }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        let text = tokenizer.decode(&out.ids, true)?;
        Ok(text.trim_start().split(until).next().unwrap_or_default().trim_end().to_owned())
    }
}
