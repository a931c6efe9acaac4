//! A byte-level BPE tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.
//!
//! The file names its pre-tokenizer only (`tokenizer.ggml.pre`); what each name means stands in llama.cpp's
//! `llama-vocab.cpp` (`llm_tokenizer_bpe`) and, for models that came from HF, in the `tokenizer.json` they came with.

use super::Tokenizer;
use crate::weights::Gguf;
use crate::{Error, Result};
use std::collections::HashSet;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

/// GPT-2's pattern, as the `ByteLevel` pre-tokenizer has it built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// ggml's token types.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What a pre-tokenizer's name implies.
struct Pre {
    steps: Vec<PreTokenizerWrapper>,
    /// A piece that is a token as a whole is that token, whatever the merges say.
    ignore_merges: bool,
    add_bos: bool,
}

pub(super) fn tokenizer(g: &Gguf) -> Result<Option<Tokenizer>> {
    let path = g.path();
    match g.text("tokenizer.ggml.model")? {
        None => return Ok(None),
        Some("gpt2") => {}
        Some(other) => {
            let want = "gpt2 (byte-level BPE); for SentencePiece models take the HF directory";
            return Err(Error::file(path, "tokenizer.ggml.model", other, want));
        }
    }
    let tokens = g
        .texts("tokenizer.ggml.tokens")?
        .ok_or_else(|| Error::file(path, "tokenizer.ggml.tokens", "nothing", "an array of strings"))?;
    let size = u32::try_from(tokens.len()).map_err(|_| {
        Error::file(path, "tokenizer.ggml.tokens", format!("{} tokens", tokens.len()), "fewer")
    })?;
    let vocab: tokenizers::models::bpe::Vocab = tokens.iter().cloned().zip(0..size).collect();
    if vocab.len() != tokens.len() {
        let mut seen = HashSet::new();
        let twice = tokens.iter().find(|t| !seen.insert(*t)).map_or("", String::as_str);
        return Err(Error::file(
            path,
            "tokenizer.ggml.tokens",
            format!("{twice:?} twice"),
            "each token once",
        ));
    }
    let merges = merges(g, &vocab)?;
    let pre = pre_tokenizer(g)?;
    let wrong =
        |e: tokenizers::Error| Error::file(path, "tokenizer", e.to_string(), "a byte-level BPE tokenizer");
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(wrong)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(Sequence::new(pre.steps)));
    inner.with_decoder(Some(ByteLevel::default()));
    inner.add_special_tokens(added(g, tokens, true)?).map_err(wrong)?;
    inner.add_tokens(added(g, tokens, false)?).map_err(wrong)?;

    let id = |key: &str| match g.unsigned(key)? {
        None => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(id) if id < size => Ok(Some(id)),
            _ => Err(Error::file(path, key, n.to_string(), format!("an id below {size}"))),
        },
    };
    let mut eos = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        if let Some(id) = id(key)?.filter(|id| !eos.contains(id)) {
            eos.push(id);
        }
    }
    Ok(Some(Tokenizer {
        inner,
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos,
        add_bos: g.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.add_bos),
        add_eos: g.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    }))
}

/// Pairs of tokens that are both known, and their merger too: `BpeBuilder` panics on some that are not.
fn merges(g: &Gguf, vocab: &tokenizers::models::bpe::Vocab) -> Result<Vec<(String, String)>> {
    const KEY: &str = "tokenizer.ggml.merges";
    let lines = g.texts(KEY)?.ok_or_else(|| Error::file(g.path(), KEY, "nothing", "an array of strings"))?;
    let mut out = Vec::new();
    for line in lines {
        let pair = line.split_once(' ').filter(|&(a, b)| {
            vocab.contains_key(a) && vocab.contains_key(b) && vocab.contains_key(&format!("{a}{b}"))
        });
        let Some((a, b)) = pair else {
            return Err(Error::file(g.path(), KEY, format!("{line:?}"), "two tokens that make a third"));
        };
        out.push((a.to_owned(), b.to_owned()));
    }
    Ok(out)
}

/// The tokens that are cut out of a text before anything else, by their type.
fn added(g: &Gguf, tokens: &[String], special: bool) -> Result<Vec<AddedToken>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = g.integers(KEY)? else { return Ok(Vec::new()) };
    if types.len() != tokens.len() {
        let want = format!("{}, as many as tokens", tokens.len());
        return Err(Error::file(g.path(), KEY, types.len().to_string(), want));
    }
    let wanted = |&t: &i64| if special { matches!(t, CONTROL | UNKNOWN) } else { t == USER_DEFINED };
    let chosen = tokens.iter().zip(types).filter(|(_, t)| wanted(t));
    Ok(chosen.map(|(text, _)| AddedToken::from(text.clone(), special)).collect())
}

fn pre_tokenizer(g: &Gguf) -> Result<Pre> {
    const KEY: &str = "tokenizer.ggml.pre";
    let byte_level = |regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, regex));
    let split = |pattern: &str| -> Result<PreTokenizerWrapper> {
        Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map(PreTokenizerWrapper::from)
            .map_err(|e| Error::file(g.path(), KEY, e.to_string(), "a pattern that compiles"))
    };
    let (steps, llama3) = match g.text(KEY)?.unwrap_or("default") {
        // Digits one by one, then GPT-2's pattern.
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            (vec![Digits::new(true).into(), byte_level(true)], false)
        }
        "gpt-2" | "mpt" | "olmo" | "phi-2" => (vec![byte_level(true)], false),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => (vec![split(LLAMA3)?, byte_level(false)], true),
        "dbrx" | "smaug-bpe" => (vec![split(LLAMA3)?, byte_level(false)], false),
        "qwen2" | "stablelm2" => (vec![split(QWEN2)?, byte_level(false)], false),
        // What llama.cpp does with files from before there was such a key.
        "default" => {
            let steps = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"].map(split);
            let mut steps = steps.into_iter().collect::<Result<Vec<_>>>()?;
            steps.push(byte_level(false));
            (steps, false)
        }
        other => {
            let want = "smollm, starcoder, refact, command-r, codeshell, gpt-2, mpt, olmo, phi-2, llama-bpe, llama3, \
                        llama-v3, falcon3, dbrx, smaug-bpe, qwen2, stablelm2 or default";
            return Err(Error::file(g.path(), KEY, other, want));
        }
    };
    Ok(Pre { steps, ignore_merges: llama3, add_bos: llama3 })
}
