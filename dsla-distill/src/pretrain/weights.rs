//! The weights of a small Llama under training, all f32: sizes, random start, files.

use crate::tape::LayerWeights;
use crate::{Error, Result};
use dsla_core::{DType, Tensor};
use dsla_kernels::case::Rng;
use dsla_model::Config;
use dsla_model::adapter::write_atomic;
use dsla_model::weights::write_safetensors;
use std::path::Path;

/// Sizes of a Llama with tied embeddings and without biases.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Sizes {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream C.
    pub hidden: usize,
    /// Width of the MLP F.
    pub intermediate: usize,
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads G.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Token ids V.
    pub vocab: usize,
    /// Longest sequence.
    pub positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl Sizes {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "vocab_size": self.vocab, "max_position_embeddings": self.positions, "rope_theta": self.rope_theta,
            "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "torch_dtype": "float32",
        })
    }

    /// As the model's configuration.
    ///
    /// Errors: sizes that do not fit each other.
    pub fn config(&self) -> Result<Config> {
        let path = Path::new("sizes");
        let config = Config::from_json(&self.json().to_string(), path)?;
        config.validate(path)?;
        Ok(config)
    }
}

/// The weights, or their gradients, or moments.
#[derive(Clone, Debug)]
pub struct BaseWeights {
    /// [V, C], the output layer too.
    pub(super) embedding: Tensor,
    pub(super) layers: Vec<LayerWeights>,
    /// [C]
    pub(super) norm: Tensor,
}

impl BaseWeights {
    /// A random start: normal with deviation 1/sqrt(inputs), projections back to the residual stream by sqrt(2 L) less
    /// (GPT-2's scaling), norms at one. All embeddings share one random direction: without biases it is what attention
    /// by position alone, the first thing that recall needs, can be made of.
    pub fn random(sizes: &Sizes, seed: u64) -> BaseWeights {
        let mut rng = Rng::new(seed ^ 0x1417);
        let mut normal = |shape: [usize; 2], scale: f64| {
            let n = shape[0] * shape[1];
            Tensor::from_f32(shape, (0..n).map(|_| (rng.normal() * scale) as f32).collect())
        };
        let ones = || Tensor::from_f32([sizes.hidden], vec![1.0; sizes.hidden]);
        let (c, f, width) = (sizes.hidden, sizes.intermediate, sizes.heads * sizes.head_dim);
        let kv = sizes.kv_heads * sizes.head_dim;
        let inputs = |n: usize| 1.0 / (n as f64).sqrt();
        let back = 1.0 / (2.0 * sizes.layers as f64).sqrt();
        let mut embedding = normal([sizes.vocab, c], inputs(c));
        let shared = normal([1, c], inputs(c));
        for row in embedding.f32_mut().chunks_exact_mut(c) {
            row.iter_mut().zip(shared.f32()).for_each(|(e, s)| *e += s);
        }
        let layers = (0..sizes.layers)
            .map(|_| LayerWeights {
                attn_norm: ones(),
                qkv: normal([width + 2 * kv, c], inputs(c)),
                o: normal([c, width], back * inputs(width)),
                mlp_norm: ones(),
                gate_up: normal([2 * f, c], inputs(c)),
                down: normal([c, f], back * inputs(f)),
            })
            .collect();
        BaseWeights { embedding, layers, norm: ones() }
    }

    /// All zero, of the same shapes.
    pub fn zeros_like(&self) -> BaseWeights {
        let mut zeros = self.clone();
        zeros.tensors_mut().into_iter().for_each(|t| t.f32_mut().fill(0.0));
        zeros
    }

    /// Every tensor, in a fixed order.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.embedding, &self.norm];
        for l in &self.layers {
            all.extend([&l.attn_norm, &l.qkv, &l.o, &l.mlp_norm, &l.gate_up, &l.down]);
        }
        all
    }

    /// The same, mutable.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let mut all = vec![&mut self.embedding, &mut self.norm];
        for l in &mut self.layers {
            all.extend([
                &mut l.attn_norm,
                &mut l.qkv,
                &mut l.o,
                &mut l.mlp_norm,
                &mut l.gate_up,
                &mut l.down,
            ]);
        }
        all
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.tensors().iter().map(|t| t.len()).sum()
    }

    /// Write `config.json` and `model.safetensors` under Hugging Face's names: what [`dsla_model::Model::load`] takes.
    ///
    /// Errors: a directory that cannot be written.
    pub fn save(&self, sizes: &Sizes, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::Argument {
            arg: "directory",
            got: format!("{}: {e}", dir.display()),
            want: "one that can be written".into(),
        })?;
        let mut parts: Vec<(String, Tensor)> = vec![
            ("model.embed_tokens.weight".into(), self.embedding.clone()),
            ("model.norm.weight".into(), self.norm.clone()),
        ];
        let (q, kv) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        for (l, w) in self.layers.iter().enumerate() {
            let mut part = |name: &str, t: Tensor| parts.push((format!("model.layers.{l}.{name}.weight"), t));
            let rows = |t: &Tensor, a: usize, b: usize| -> Result<Tensor> { Ok(t.rows(a, b).to_tensor()?) };
            part("input_layernorm", w.attn_norm.clone());
            part("self_attn.q_proj", rows(&w.qkv, 0, q)?);
            part("self_attn.k_proj", rows(&w.qkv, q, q + kv)?);
            part("self_attn.v_proj", rows(&w.qkv, q + kv, q + 2 * kv)?);
            part("self_attn.o_proj", w.o.clone());
            part("post_attention_layernorm", w.mlp_norm.clone());
            part("mlp.gate_proj", rows(&w.gate_up, 0, sizes.intermediate)?);
            part("mlp.up_proj", rows(&w.gate_up, sizes.intermediate, 2 * sizes.intermediate)?);
            part("mlp.down_proj", w.down.clone());
        }
        let named: Vec<(String, &Tensor)> = parts.iter().map(|(n, t)| (n.clone(), t)).collect();
        write_safetensors(&dir.join("model.safetensors"), &named)?;
        let config = serde_json::to_vec_pretty(&sizes.json()).unwrap_or_default();
        Ok(write_atomic(&dir.join("config.json"), &config)?)
    }
}

/// The dtype all of it is in.
pub(super) const DTYPE: DType = DType::F32;
