//! Log-probabilities in the two shapes that OpenAI's API has for them.

use super::job::Kind;
use crate::{Logprob, PromptToken};
use dsla_model::{Model, Tokenizer};
use serde_json::{Map, Value, json};

/// What stands for minus infinity, which JSON does not have; vLLM's number.
const LEAST: f32 = -9999.0;

/// The tokens of one choice, or of one chunk of a stream.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Without one where nothing comes before the token.
    items: Vec<(u32, Option<Logprob>)>,
}

impl Tokens {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn push(&mut self, id: u32, logprob: Logprob) {
        self.items.push((id, Some(logprob)));
    }

    /// A prompt's tokens: `first`, and `rest` after it.
    pub fn push_prompt(&mut self, first: u32, rest: &[PromptToken], n: usize) {
        self.items.push((first, None));
        let short = |t: &PromptToken| {
            let top = t.logprob.top.iter().take(n).copied().collect();
            (t.id, Some(Logprob { logprob: t.logprob.logprob, top }))
        };
        self.items.extend(rest.iter().map(short));
    }

    /// `offset`: characters before them; moved behind them.
    pub fn json(&self, kind: Kind, model: &Model, offset: &mut usize) -> Value {
        let tokenizer = model.tokenizer().ok();
        match kind {
            Kind::Chat => self.chat(tokenizer),
            Kind::Completion => self.completion(tokenizer, offset),
        }
    }

    fn chat(&self, tokenizer: Option<&Tokenizer>) -> Value {
        let entry = |id: u32, logprob: f32| {
            let (token, bytes) = spelled(tokenizer, id);
            json!({"token": token, "logprob": logprob.max(LEAST), "bytes": bytes})
        };
        let content = self.items.iter().filter_map(|(id, l)| Some((id, l.as_ref()?))).map(|(id, l)| {
            let mut out = entry(*id, l.logprob);
            out["top_logprobs"] = l.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
            out
        });
        json!({"content": content.collect::<Vec<_>>(), "refusal": null})
    }

    fn completion(&self, tokenizer: Option<&Tokenizer>, offset: &mut usize) -> Value {
        let (mut tokens, mut values, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for (id, l) in &self.items {
            let token = spelled(tokenizer, *id).0;
            let top = l.as_ref().map(|l| {
                let mut top = Map::new();
                for (id, logprob) in l.top.iter().chain([&(*id, l.logprob)]) {
                    top.insert(spelled(tokenizer, *id).0, logprob.max(LEAST).into());
                }
                top
            });
            offsets.push(*offset);
            *offset += token.chars().count();
            tokens.push(token);
            values.push(l.as_ref().map(|l| l.logprob.max(LEAST)));
            tops.push(top);
        }
        json!({"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
    }
}

/// A prompt's, in vLLM's shape: null for the first token; for each other one itself and `n` likeliest ones by their ids.
pub(super) fn of_prompt(rest: &[PromptToken], n: usize, model: &Model) -> Value {
    let tokenizer = model.tokenizer().ok();
    let one = |t: &PromptToken| {
        let entry = |id: u32, logprob: f32, rank: usize| json!({"logprob": logprob.max(LEAST), "rank": rank, "decoded_token": spelled(tokenizer, id).0});
        let mut out = Map::new();
        out.insert(t.id.to_string(), entry(t.id, t.logprob.logprob, t.rank));
        for (i, (id, logprob)) in t.logprob.top.iter().take(n).enumerate() {
            out.entry(id.to_string()).or_insert_with(|| entry(*id, *logprob, i + 1));
        }
        Value::from(out)
    };
    [Value::Null].into_iter().chain(rest.iter().map(one)).collect()
}

/// A token's text and bytes. Bytes that are no character of their own show as U+FFFD in the text.
fn spelled(tokenizer: Option<&Tokenizer>, id: u32) -> (String, Vec<u8>) {
    let Some(tokenizer) = tokenizer else {
        let name = format!("token_id:{id}");
        return (name.clone(), name.into_bytes());
    };
    let text = tokenizer.decode(&[id], false).unwrap_or_default();
    let bytes = match text.contains(char::REPLACEMENT_CHARACTER) {
        true => tokenizer.token(id).and_then(|t| raw_bytes(&t)),
        false => None,
    };
    let bytes = bytes.unwrap_or_else(|| text.clone().into_bytes());
    (text, bytes)
}

/// The bytes that a token's written form stands for: `<0xE6>` of byte-fallback vocabularies, or GPT-2's alphabet, in
/// which printable bytes stand for themselves and the others, in order, for U+0100 and up.
fn raw_bytes(token: &str) -> Option<Vec<u8>> {
    if let Some(hex) = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')) {
        return u8::from_str_radix(hex, 16).ok().map(|byte| vec![byte]);
    }
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let byte = |c: char| match u32::from(c) {
        c @ 0..=0xff => u8::try_from(c).ok().filter(printable),
        c => (0..=0xff).filter(|b| !printable(b)).nth((c - 0x100) as usize),
    };
    token.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_written_forms() {
        assert_eq!(raw_bytes("Ġthe"), Some(b" the".to_vec()));
        assert_eq!(raw_bytes("Ċ"), Some(b"\n".to_vec()));
        assert_eq!(raw_bytes("Ã©"), Some("é".as_bytes().to_vec()));
        assert_eq!(raw_bytes("ł"), Some(vec![0xa0]));
        assert_eq!(raw_bytes("Ń"), Some(vec![0xad]));
        assert_eq!(raw_bytes("<0xE6>"), Some(vec![0xe6]));
        assert_eq!(raw_bytes("本"), None);
        let all: Vec<u8> =
            (0x100..0x144).filter_map(|c| raw_bytes(&char::from_u32(c)?.to_string())).flatten().collect();
        assert_eq!(all.len(), 68, "every unprintable byte once");
    }

    #[test]
    fn minus_infinity_is_a_number() {
        let mut tokens = Tokens::default();
        tokens.push(3, Logprob { logprob: f32::NEG_INFINITY, top: vec![(4, -0.5)] });
        let chat = tokens.chat(None);
        assert_eq!(chat["content"][0]["logprob"], -9999.0);
        assert_eq!(chat["content"][0]["top_logprobs"][0]["token"], "token_id:4");
        let mut offset = 7;
        let completion = tokens.completion(None, &mut offset);
        assert_eq!(completion["text_offset"], json!([7]));
        assert_eq!(completion["top_logprobs"][0], json!({"token_id:4": -0.5, "token_id:3": -9999.0}));
        assert_eq!(offset, 17);
    }
}
