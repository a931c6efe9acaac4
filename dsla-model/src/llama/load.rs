//! From files to packed weights.

use super::{Base, Layer, Model};
use crate::weights::{ModelFiles, WeightFormat, quantised};
use crate::{Config, Error, Quant, Result};
use dsla_core::kernels::ops::rope::Table;
use dsla_core::{DType, Device, Linear, Mlp, RmsNorm, Tensor};
use std::path::Path;
use std::sync::Arc;

impl Model {
    /// Load from an HF directory or a `.gguf` file, with weights in `format`: `DType::F32`, `DType::BF16` (weights and KV
    /// cache; sums stay f32), on a GPU `DType::F16`, on the host a [`Quant`].
    pub fn load(path: impl AsRef<Path>, device: &Device, format: impl Into<WeightFormat>) -> Result<Model> {
        let (device, format) = (*device, format.into());
        format.check(device)?;
        let dtype = format.dtype();
        let ModelFiles { config, weights, tokenizer, chat_template } = ModelFiles::open(path.as_ref())?;
        weights.check(&expected(&config))?;
        let read = |name: &str| Ok::<_, Error>(weights.read(name)?.to_dtype(dtype)?);
        let bias = |name: String, on: bool| -> Result<Option<Tensor>> {
            if on { Ok(Some(weights.read(&name)?.to_dtype(DType::F32)?)) } else { Ok(None) }
        };
        let mut layers = Vec::with_capacity(config.num_layers);
        for l in 0..config.num_layers {
            let name = |part: &str| format!("model.layers.{l}.{part}");
            let fused = |parts: &[&str]| -> Result<Tensor> {
                let mut all = read(&name(&format!("{}.weight", parts[0])))?;
                for part in &parts[1..] {
                    all.extend(read(&name(&format!("{part}.weight")))?.view())?;
                }
                Ok(all)
            };
            let fused_bias = |parts: &[&str], on: bool| -> Result<Option<Tensor>> {
                let mut all: Option<Tensor> = None;
                for part in parts {
                    if let Some(b) = bias(name(&format!("{part}.bias")), on)? {
                        match &mut all {
                            Some(a) => a.extend(b.view())?,
                            None => all = Some(b),
                        }
                    }
                }
                Ok(all)
            };
            let linear = |parts: &[&str], on: bool| -> Result<Linear> {
                let bias = fused_bias(parts, on)?.map(|b| b.to_device(device)).transpose()?;
                if let WeightFormat::Quantised(quant) = format {
                    let names: Vec<_> = parts.iter().map(|p| name(&format!("{p}.weight"))).collect();
                    return Ok(Linear::packed(quantised(&weights, &names, quant)?, bias));
                }
                Ok(Linear::new(&fused(parts)?.to_device(device)?, bias)?)
            };
            let norm = |part: &str| {
                Ok::<_, Error>(RmsNorm::new(weights.read(&name(part))?.to_device(device)?, config.rms_eps)?)
            };
            let (ab, mb) = (config.attention_bias, config.mlp_bias);
            layers.push(Layer {
                attn_norm: norm("input_layernorm.weight")?,
                qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ab)?,
                o: linear(&["self_attn.o_proj"], ab)?,
                mlp_norm: norm("post_attention_layernorm.weight")?,
                mlp: Mlp {
                    gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"], mb)?,
                    down: linear(&["mlp.down_proj"], mb)?,
                },
            });
        }
        let (tied, table) = (config.tie_embeddings, "model.embed_tokens.weight");
        let output = if tied { table } else { "lm_head.weight" };
        // A tied table is read out of the packed output layer: no second copy.
        let embedding = if tied { None } else { Some(read(table)?.to_device(device)?) };
        let head = match format {
            WeightFormat::Quantised(_) => {
                Linear::packed(quantised(&weights, &[output.to_owned()], Quant::Q8_0)?, None)
            }
            _ => Linear::new(&read(output)?.to_device(device)?, None)?,
        };
        let norm = RmsNorm::new(weights.read("model.norm.weight")?.to_device(device)?, config.rms_eps)?;
        let table = Table::new(&config.rope.inv_freq(config.head_dim), config.max_position, 1.0);
        let table = table.to_device(device)?;
        let base = Base {
            config,
            weights,
            tokenizer,
            chat_template,
            device,
            format,
            embedding,
            layers,
            norm,
            head,
            table,
        };
        Ok(Model {
            base: Arc::new(base),
            adapter: None,
            mixers: Arc::new(vec![]),
            int8_cache: false,
            pages: Arc::default(),
        })
    }
}

/// Names and shapes of all tensors of a model.
fn expected(c: &Config) -> Vec<(String, Vec<usize>)> {
    let (hidden, mlp) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
    let mut all = vec![
        ("model.embed_tokens.weight".into(), vec![c.vocab_size, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    if !c.tie_embeddings {
        all.push(("lm_head.weight".into(), vec![c.vocab_size, hidden]));
    }
    for l in 0..c.num_layers {
        let mut linear = |part: &str, n: usize, k: usize, bias: bool| {
            all.push((format!("model.layers.{l}.{part}.weight"), vec![n, k]));
            if bias {
                all.push((format!("model.layers.{l}.{part}.bias"), vec![n]));
            }
        };
        linear("self_attn.q_proj", q, hidden, c.attention_bias);
        linear("self_attn.k_proj", kv, hidden, c.attention_bias);
        linear("self_attn.v_proj", kv, hidden, c.attention_bias);
        linear("self_attn.o_proj", hidden, q, c.attention_bias);
        linear("mlp.gate_proj", mlp, hidden, c.mlp_bias);
        linear("mlp.up_proj", mlp, hidden, c.mlp_bias);
        linear("mlp.down_proj", hidden, mlp, c.mlp_bias);
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("model.layers.{l}.{norm}.weight"), vec![hidden]));
        }
    }
    all
}
