//! The `llama.*` metadata of a GGUF file (ggml's `docs/gguf.md`), and what its tensors imply.

use super::{Config, Rope, RopeKind};
use crate::weights::Gguf;
use crate::{Error, Result};

pub(super) fn config(g: &Gguf) -> Result<Config> {
    let path = g.path();
    match g.text("general.architecture")? {
        Some("llama") => {}
        Some(other) => return Err(Error::file(path, "general.architecture", other, "llama")),
        None => return Err(g.missing("general.architecture", "llama")),
    }
    let size = |key: &str| -> Result<Option<usize>> {
        Ok(g.unsigned(key)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    };
    let required =
        |key: &str| -> Result<usize> { size(key)?.ok_or_else(|| g.missing(key, "a whole number")) };
    if let Some(n) = size("llama.expert_count")?.filter(|&n| n > 0) {
        return Err(Error::file(path, "llama.expert_count", n.to_string(), "0 (no mixture of experts)"));
    }
    let hidden_size = required("llama.embedding_length")?;
    let num_heads = required("llama.attention.head_count")?;
    let head_dim = match size("llama.attention.key_length")? {
        Some(d) => d,
        None if num_heads == 0 || hidden_size % num_heads != 0 => {
            let want = format!("a divisor of embedding_length = {hidden_size}");
            return Err(Error::file(path, "llama.attention.head_count", num_heads.to_string(), want));
        }
        None => hidden_size / num_heads,
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(d) = size(key)?.filter(|&d| d != head_dim) {
            return Err(Error::file(path, key, d.to_string(), format!("the head size {head_dim}")));
        }
    }
    let vocab_size = match (size("llama.vocab_size")?, g.tensors.get("token_embd.weight")) {
        (Some(n), _) => n,
        (None, Some(t)) => t.shape.first().copied().unwrap_or(0),
        (None, None) => return Err(g.missing("llama.vocab_size", "a whole number")),
    };
    let rms_eps = g
        .float("llama.attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| g.missing("llama.attention.layer_norm_rms_epsilon", "a number"))?;
    let mut config = Config {
        hidden_size,
        intermediate_size: required("llama.feed_forward_length")?,
        num_layers: required("llama.block_count")?,
        num_heads,
        num_kv_heads: size("llama.attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        vocab_size,
        max_position: required("llama.context_length")?,
        rms_eps: rms_eps as f32,
        tie_embeddings: !g.tensors.contains_key("output.weight"),
        attention_bias: g.tensors.contains_key("blk.0.attn_q.bias"),
        mlp_bias: g.tensors.contains_key("blk.0.ffn_down.bias"),
        rope: rope(g)?,
        eos: Vec::new(),
        bos: None,
        dtype: None,
    };
    config.bos = id(g, "tokenizer.ggml.bos_token_id")?;
    // `eot` ends a turn where a model has a separate token for that.
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        if let Some(id) = id(g, key)?.filter(|id| !config.eos.contains(id)) {
            config.eos.push(id);
        }
    }
    config.validate(path)?;
    Ok(config)
}

fn id(g: &Gguf, key: &str) -> Result<Option<u32>> {
    g.unsigned(key)?
        .map(|n| u32::try_from(n).map_err(|_| Error::file(g.path(), key, n.to_string(), "a token id")))
        .transpose()
}

fn rope(g: &Gguf) -> Result<Rope> {
    let path = g.path();
    let theta = g.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
    if let Some(x) = g.float("llama.rope.scaling.attn_factor")?.filter(|&x| x != 1.0) {
        return Err(Error::file(path, "llama.rope.scaling.attn_factor", x.to_string(), "1"));
    }
    // The converter bakes Llama 3.1's parameters into a tensor of divisors and leaves the type out or `none`.
    let factors = rope_factors(g)?;
    // An old spelling without a type.
    let old = g.float("llama.rope.scale_linear")?;
    let kind = match (g.text("llama.rope.scaling.type")?, factors, old) {
        (None | Some("none"), Some(factors), None) => RopeKind::Factors { factors },
        (None, None, Some(factor)) => RopeKind::Linear { factor },
        (None | Some("none"), None, None) => RopeKind::Default,
        (Some("linear"), None, None) => RopeKind::Linear {
            factor: g
                .float("llama.rope.scaling.factor")?
                .ok_or_else(|| g.missing("llama.rope.scaling.factor", "a number"))?,
        },
        (kind, factors, _) => {
            let with = if factors.is_some() { " with rope_freqs.weight" } else { "" };
            let got = format!("{}{with}", kind.unwrap_or("llama.rope.scale_linear"));
            return Err(Error::file(
                path,
                "llama.rope.scaling.type",
                got,
                "none, linear, or rope_freqs.weight alone",
            ));
        }
    };
    Ok(Rope { theta, kind })
}

fn rope_factors(g: &Gguf) -> Result<Option<Vec<f32>>> {
    const NAME: &str = "rope_freqs.weight";
    let Some(t) = g.tensors.get(NAME) else { return Ok(None) };
    // F32 always: the converter writes it so, and a quantised divisor would bend every position.
    let bytes = &g.file.bytes()[t.offset..t.offset + t.bytes];
    let count: usize = t.shape.iter().product();
    if count.checked_mul(4) != Some(t.bytes) || t.shape.len() != 1 {
        return Err(Error::file(
            g.path(),
            NAME,
            format!("shape {:?}, {} bytes", t.shape, t.bytes),
            "[head_dim / 2] F32",
        ));
    }
    Ok(Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
}
