//! `tokenizer.json` and the special tokens of `tokenizer_config.json`.

use super::{Tokenizer, fenced};
use crate::chat::Token;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// No vocabulary has more; the crate counts on from the largest id.
const MAX_ID: u32 = 1 << 24;

pub(super) fn tokenizer(text: &str, path: &Path, config: Option<(&str, &Path)>) -> Result<Tokenizer> {
    check(text, path)?;
    let mut inner = fenced("load", || tokenizers::Tokenizer::from_bytes(text.as_bytes()))
        .map_err(|e| Error::file(path, "tokenizer", e.to_string(), "a tokenizer.json"))?;
    // Training leftovers: a model's input is neither cut nor filled here.
    fenced("load", || inner.with_truncation(None).map(|_| ()))?;
    inner.with_padding(None);
    let (mut bos, mut eos) = (None, None);
    if let Some((text, path)) = config {
        let names: Names = serde_json::from_str(text)
            .map_err(|e| Error::file(path, "JSON", e.to_string(), "a tokenizer_config.json"))?;
        bos = names.bos_token.and_then(|t| inner.token_to_id(&t.content()));
        eos = names.eos_token.and_then(|t| inner.token_to_id(&t.content()));
    }
    Ok(Tokenizer { inner, bos, eos: eos.into_iter().collect(), add_bos: false, add_eos: false })
}

#[derive(Deserialize)]
struct Names {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    #[serde(default)]
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Vec<Merge>,
    continuing_subword_prefix: Option<String>,
    dropout: Option<f64>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// Refuses what `tokenizers` 0.23 panics on: `BpeBuilder::build` copies each merge into a buffer as long as the longest
/// token before it asks whether the merged token exists, and subtracts the prefix's length unchecked.
fn check(text: &str, path: &Path) -> Result<()> {
    let error = |at: &str, got: String, want: &str| Err(Error::file(path, at, got, want));
    let file: File = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(e) => return error("JSON", e.to_string(), "a tokenizer.json"),
    };
    let model = file.model;
    if let Some(kind) = model.r#type.filter(|k| k != "BPE") {
        return error("model.type", kind, "BPE");
    }
    if let Some(prefix) = model.continuing_subword_prefix.filter(|p| !p.is_empty()) {
        return error("model.continuing_subword_prefix", prefix, "none");
    }
    if let Some(p) = model.dropout.filter(|&p| p != 0.0) {
        return error("model.dropout", p.to_string(), "none (encoding must not be random)");
    }
    let vocab: HashMap<String, u32> = match serde_json::from_value(model.vocab) {
        Ok(vocab) => vocab,
        Err(e) => return error("model.vocab", e.to_string(), "tokens and their ids"),
    };
    if let Some(id) =
        vocab.values().copied().chain(file.added_tokens.iter().map(|t| t.id)).find(|&id| id > MAX_ID)
    {
        return error("token id", id.to_string(), "at most 2^24");
    }
    for (i, merge) in model.merges.iter().enumerate() {
        let (a, b) = match merge {
            Merge::Pair(a, b) => (a.as_str(), b.as_str()),
            // The header line of old merges files.
            Merge::Line(line) if line.starts_with("#version") => continue,
            Merge::Line(line) => match line.split_once(' ') {
                Some(pair) => pair,
                None => return error(&format!("merge {i}"), line.clone(), "two tokens"),
            },
        };
        for token in [a, b, format!("{a}{b}").as_str()] {
            if !vocab.contains_key(token) {
                return error(&format!("merge {i}"), format!("{token:?}"), "a token of the vocabulary");
            }
        }
    }
    Ok(())
}
