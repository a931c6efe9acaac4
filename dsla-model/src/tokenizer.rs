//! Text to ids and back, by the `tokenizers` crate: from `tokenizer.json`, or built from GGUF metadata.

mod gguf;
mod json;
mod stream;

use crate::weights::{Gguf, read_text_if_there};
use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use stream::DecodeStream;

/// Vocabularies of 100 languages take 20 MB.
const MAX_JSON_BYTES: u64 = 1 << 27;

/// A tokenizer and the special tokens its files name.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
    /// GGUF says by flags what `tokenizer.json` says by a post-processor.
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// The tokenizer of an HF directory: `tokenizer.json`, and `tokenizer_config.json` for the names of the special
    /// tokens. `None` without the first.
    ///
    /// Which tokens `encode` adds is what the post-processor in `tokenizer.json` says; flags such as `add_bos_token`
    /// in `tokenizer_config.json` are not read.
    pub fn open(dir: &Path) -> Result<Option<Tokenizer>> {
        let path = dir.join("tokenizer.json");
        let Some(text) = read_text_if_there(&path, MAX_JSON_BYTES)? else { return Ok(None) };
        let config_path = dir.join("tokenizer_config.json");
        let config = read_text_if_there(&config_path, MAX_JSON_BYTES)?;
        Tokenizer::from_json(&text, &path, config.as_deref().map(|c| (c, config_path.as_path()))).map(Some)
    }

    /// As [`Tokenizer::open`], from the files' texts, each with the path to name in errors.
    ///
    /// Errors: invalid JSON, a model other than BPE, merges of tokens that the vocabulary does not have, dropout.
    pub fn from_json(text: &str, path: &Path, config: Option<(&str, &Path)>) -> Result<Tokenizer> {
        json::tokenizer(text, path, config)
    }

    /// The tokenizer of a GGUF file; `None` when it has none.
    ///
    /// Errors: a `tokenizer.ggml.model` other than `gpt2` (byte-level BPE), an unknown `tokenizer.ggml.pre`.
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Option<Tokenizer>> {
        gguf::tokenizer(gguf)
    }

    /// The ids of a text. `add_special` adds what the model wants around a text (a begin token for Llama 3, nothing
    /// for SmolLM2); special tokens spelled out in the text become their ids either way.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = fenced("encode", || self.inner.encode_fast(text, add_special))?;
        let before = self.bos.filter(|_| add_special && self.add_bos);
        let after = self.eos.first().copied().filter(|_| add_special && self.add_eos);
        Ok(before.into_iter().chain(encoding.get_ids().iter().copied()).chain(after).collect())
    }

    /// The text of ids; bytes that are no UTF-8 become U+FFFD, ids without a token nothing. `skip_special` leaves
    /// special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        fenced("decode", || self.inner.decode(ids, skip_special))
    }

    /// The id of a token in its written form (`<|im_end|>`, `Ġthe`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The written form of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that begins a text, where the files name one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a text, as far as the tokenizer's files name them.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("Tokenizer");
        s.field("vocab_size", &self.vocab_size()).field("bos", &self.bos).field("eos", &self.eos).finish()
    }
}

/// Runs code of the `tokenizers` crate, which panics on some inputs it finds impossible (a template that names an id
/// it does not define, added ids at the end of u32). What it was given is a file's content, so a panic is an error.
fn fenced<T>(at: &'static str, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let message = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(e)) => crate::error::one_line(&e.to_string()),
        Err(_) => "the tokenizers crate panicked".to_owned(),
    };
    Err(Error::Tokenizer { at, message })
}
