//! What a Llama is made of: sizes, rotary frequencies, the ids that end a text. From `config.json` or GGUF metadata.

mod gguf;
mod json;
mod rope;

use crate::{Error, Result};
use dsla_kernels::DType;
use std::path::Path;

pub use rope::{Rope, RopeKind};

// Sizes below are multiplied in pairs (vocabulary x hidden is 2^38 at the bounds): that needs 64-bit `usize`.
const _: () = assert!(usize::BITS >= 64, "dsla-model needs a 64-bit target");

/// Ten thousand times a usual `config.json`.
const MAX_CONFIG_BYTES: u64 = 1 << 24;
const MAX_HIDDEN: usize = 1 << 16;
const MAX_INTERMEDIATE: usize = 1 << 18;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 10;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_VOCAB: usize = 1 << 22;
const MAX_POSITION: usize = 1 << 26;

/// The shape of a Llama. A value made by this crate has passed [`Config::validate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements per head, even; need not be `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_position: usize,
    /// Added to the mean square in each RMS norm.
    pub rms_eps: f32,
    /// The output projection is the embedding.
    pub tie_embeddings: bool,
    /// q, k, v and o projections have a bias.
    pub attention_bias: bool,
    /// gate, up and down projections have a bias.
    pub mlp_bias: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// Ids that end a text, each below `vocab_size`, without repeats.
    pub eos: Vec<u32>,
    /// The id that begins a text, where the model has one.
    pub bos: Option<u32>,
    /// The dtype the weights were saved in, as the file says it (a hint: tensors carry their own).
    pub dtype: Option<DType>,
}

impl Config {
    /// Reads an HF `config.json` (old `rope_theta` + `rope_scaling` and new `rope_parameters` spelling).
    ///
    /// Errors: unreadable file, an architecture other than `LlamaForCausalLM`, unknown rope types, sizes out of bounds.
    pub fn open(path: &Path) -> Result<Config> {
        Config::from_json(&crate::weights::read_text(path, MAX_CONFIG_BYTES)?, path)
    }

    /// As [`Config::open`], from the text of a file; `path` is named in errors.
    pub fn from_json(text: &str, path: &Path) -> Result<Config> {
        json::config(text, path)
    }

    /// Adds what `generation_config.json` says: its end ids come first, those of `config.json` stay.
    pub fn merge_generation(&mut self, text: &str, path: &Path) -> Result<()> {
        json::generation(self, text, path)
    }

    /// Reads the `llama.*` keys of a GGUF file, and what its tensors imply (tied embeddings, biases, `rope_freqs`).
    pub(crate) fn from_gguf(gguf: &crate::weights::Gguf) -> Result<Config> {
        gguf::config(gguf)
    }

    /// Adds an end id unless it is there already.
    pub fn add_eos(&mut self, id: u32) {
        if (id as usize) < self.vocab_size && !self.eos.contains(&id) {
            self.eos.push(id);
        }
    }

    /// Checks every bound and relation; `path` is named in errors.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let bounds = [
            ("hidden_size", self.hidden_size, MAX_HIDDEN),
            ("intermediate_size", self.intermediate_size, MAX_INTERMEDIATE),
            ("num_hidden_layers", self.num_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("max_position_embeddings", self.max_position, MAX_POSITION),
        ];
        for (key, got, max) in bounds {
            if got == 0 || got > max {
                return Err(Error::file(path, key, got.to_string(), format!("1..={max}")));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let want = format!("a divisor of num_attention_heads = {}", self.num_heads);
            return Err(Error::file(path, "num_key_value_heads", self.num_kv_heads.to_string(), want));
        }
        if !self.head_dim.is_multiple_of(2) {
            let want = "an even number (rotary embedding turns pairs)";
            return Err(Error::file(path, "head_dim", self.head_dim.to_string(), want));
        }
        if !(self.rms_eps >= 0.0 && self.rms_eps < 1.0) {
            return Err(Error::file(path, "rms_norm_eps", self.rms_eps.to_string(), "0 <= eps < 1"));
        }
        for (key, id) in
            self.eos.iter().map(|&id| ("eos_token_id", id)).chain(self.bos.map(|id| ("bos_token_id", id)))
        {
            if id as usize >= self.vocab_size {
                return Err(Error::file(
                    path,
                    key,
                    id.to_string(),
                    format!("an id below {}", self.vocab_size),
                ));
            }
        }
        self.rope.validate(self.head_dim, path)
    }
}
