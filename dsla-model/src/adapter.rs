//! Adapters: DSLA parameters for a base model's layers, the order to convert them in, and the measured quality of
//! every prefix of that order. The base weights are shared and untouched.
//!
//! A directory holds `dsla_adapter.safetensors` (`layers.N.NAME`, bf16 or f32) and `dsla_adapter.json`.

use crate::{Error, Model, Result};
use dsla_core::attention::DslaAttention;
use dsla_core::{DType, DslaParams, Form, Tensor};
use safetensors::{Dtype as StDtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// File of the tensors.
pub const TENSORS: &str = "dsla_adapter.safetensors";
/// File of everything else.
pub const META: &str = "dsla_adapter.json";

/// Measured quality with the first `converted` layers of the order converted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrefixQuality {
    /// Converted layers.
    pub converted: usize,
    /// Forward KL from teacher to hybrid, nats per token.
    pub kl: f64,
    /// Hybrid perplexity over teacher perplexity.
    pub ppl_ratio: f64,
    /// How often the arg max agrees.
    pub top1_agreement: f64,
    /// Tokens it was measured on.
    pub tokens: usize,
}

/// The base model an adapter belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseModel {
    /// The file or directory it was made from, for people.
    pub name: String,
    /// Fingerprint of its weights.
    pub sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    format: u32,
    base_model: BaseModel,
    form: Form,
    order: Vec<usize>,
    quality: Vec<PrefixQuality>,
    #[serde(default)]
    training: serde_json::Value,
}

/// An adapter in memory.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The model it was made for.
    pub base_model: BaseModel,
    /// The form of its layers.
    pub form: Form,
    /// Conversion order: any prefix may be live.
    pub order: Vec<usize>,
    /// Quality of prefixes, as far as measured, by number of converted layers.
    pub quality: Vec<PrefixQuality>,
    /// How it was trained: stages, tokens, commands.
    pub training: serde_json::Value,
    /// Per layer of the model; None: not convertible.
    pub layers: Vec<Option<DslaAttention>>,
}

impl Adapter {
    /// Untrained: the form's start, all layers, last layer first.
    pub fn init(model: &Model, form: &Form) -> Result<Adapter> {
        form.check().map_err(|e| bad("form", "form", &e, "a form that can be"))?;
        let c = model.config();
        let params = DslaParams::init(form, model.heads(), c.hidden_size);
        let layer = DslaAttention::new(*form, params, model.heads());
        Ok(Adapter {
            base_model: BaseModel {
                name: model.weights().path().file_name().unwrap_or_default().to_string_lossy().into(),
                sha256: model.weights().fingerprint()?,
            },
            form: *form,
            order: (0..c.num_layers).rev().collect(),
            quality: vec![],
            training: serde_json::Value::Null,
            layers: vec![Some(layer); c.num_layers],
        })
    }

    /// Read `dir` for `model`.
    pub fn open(dir: &Path, model: &Model) -> Result<Adapter> {
        let (meta_path, tensors_path) = (dir.join(META), dir.join(TENSORS));
        let text = crate::weights::read_text(&meta_path, 1 << 24)?;
        let file = meta_path.display().to_string();
        let meta: Meta = serde_json::from_str(&text)
            .map_err(|e| bad(&file, "json", &e.to_string(), "an adapter of format 1"))?;
        if meta.format != 1 {
            return Err(bad(&file, "format", &meta.format.to_string(), "1"));
        }
        meta.form.check().map_err(|e| bad(&file, "form", &e, "a form that can be"))?;
        let ours = model.weights().fingerprint()?;
        if meta.base_model.sha256 != ours {
            let got = format!("an adapter for {} ({})", meta.base_model.name, short(&meta.base_model.sha256));
            return Err(bad(
                &file,
                "base_model",
                &got,
                &format!("one for {} ({})", model.weights().path().display(), short(&ours)),
            ));
        }
        let bytes = std::fs::read(&tensors_path).map_err(|e| Error::io(&tensors_path, "read", &e))?;
        let file = tensors_path.display().to_string();
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| bad(&file, "header", &e.to_string(), "safetensors"))?;
        let c = model.config();
        let layers = (0..c.num_layers)
            .map(|l| {
                let prefix = format!("layers.{l}.");
                if !tensors.names().iter().any(|n| n.starts_with(&prefix)) {
                    return Ok(None);
                }
                let params = DslaParams::build(&meta.form, model.heads(), c.hidden_size, |name, shape| {
                    read_tensor(&tensors, &file, &format!("{prefix}{name}"), shape)
                })?;
                Ok(Some(DslaAttention::new(meta.form, params, model.heads())))
            })
            .collect::<Result<_>>()?;
        let Meta { base_model, form, order, quality, training, .. } = meta;
        Ok(Adapter { base_model, form, order, quality, training, layers })
    }

    /// Whether it fits `model`: layers of the order exist, once each, and have parameters.
    pub(crate) fn check(&self, model: &Model) -> Result<()> {
        let n = model.config().num_layers;
        let mut seen = vec![false; n];
        for &l in &self.order {
            let ok = l < n && !seen[l] && self.layers.get(l).is_some_and(Option::is_some);
            if !ok {
                return Err(bad(
                    "adapter",
                    "order",
                    &format!("layer {l}"),
                    &format!("each of its own layers below {n} once"),
                ));
            }
            seen[l] = true;
        }
        Ok(())
    }

    /// Measured quality of the first `converted` layers, if it was measured.
    pub fn quality_at(&self, converted: usize) -> Option<&PrefixQuality> {
        self.quality.iter().find(|q| q.converted == converted)
    }

    /// Write to `dir`, tensors in `dtype`; each file appears whole or not at all.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create", &e))?;
        let mut data = vec![];
        for (l, layer) in self.layers.iter().enumerate() {
            for (name, t) in layer.iter().flat_map(|a| a.params.tensors()) {
                let (kind, bytes) = to_bytes(t, dtype);
                data.push((format!("layers.{l}.{name}"), kind, t.dims().to_vec(), bytes));
            }
        }
        let views = data
            .iter()
            .map(|(n, k, s, b)| {
                Ok((
                    n.clone(),
                    TensorView::new(*k, s.clone(), b)
                        .map_err(|e| bad(n, "shape", &e.to_string(), "a tensor"))?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let bytes = safetensors::serialize(views, None)
            .map_err(|e| bad(TENSORS, "write", &e.to_string(), "safetensors"))?;
        write_atomic(&dir.join(TENSORS), &bytes)?;
        let meta = Meta {
            format: 1,
            base_model: self.base_model.clone(),
            form: self.form,
            order: self.order.clone(),
            quality: self.quality.clone(),
            training: self.training.clone(),
        };
        let text =
            serde_json::to_string_pretty(&meta).map_err(|e| bad(META, "write", &e.to_string(), "json"))?;
        write_atomic(&dir.join(META), text.as_bytes())
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn bad(file: &str, at: &str, got: &str, want: &str) -> Error {
    Error::Adapter { file: file.into(), at: at.into(), got: got.into(), want: want.into() }
}

fn read_tensor(tensors: &SafeTensors, file: &str, name: &str, shape: &[usize]) -> Result<Tensor> {
    let t = tensors.tensor(name).map_err(|_| bad(file, name, "nothing", &format!("shape {shape:?}")))?;
    if t.shape() != shape {
        return Err(bad(file, name, &format!("shape {:?}", t.shape()), &format!("{shape:?}")));
    }
    let data: Vec<f32> = match t.dtype() {
        StDtype::F32 => {
            t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        StDtype::BF16 => {
            t.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => return Err(bad(file, name, &format!("dtype {other:?}"), "F32 or BF16")),
    };
    if data.iter().any(|v| !v.is_finite()) {
        return Err(bad(file, name, "NaN or infinity", "finite numbers"));
    }
    Ok(Tensor::from_f32(shape, data))
}

fn to_bytes(t: &Tensor, dtype: DType) -> (StDtype, Vec<u8>) {
    let v = t.to_vec_f32();
    match dtype {
        DType::BF16 => {
            (StDtype::BF16, v.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect())
        }
        _ => (StDtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}

/// Write a file so that it appears whole or not at all: to `PATH.partial`, flushed, then renamed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = std::path::PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut f = std::fs::File::create(&partial)?;
        std::io::Write::write_all(&mut f, bytes)?;
        f.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| {
        // The error is what matters; a partial file that cannot be removed is harmless.
        let _ = std::fs::remove_file(&partial);
        Error::io(path, "write", &e)
    })
}
