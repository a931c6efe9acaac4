//! HF `config.json` and `generation_config.json`.

use super::{Config, Rope, RopeKind};
use crate::{Error, Result};
use dsla_kernels::DType;
use serde_json::{Map, Value};
use std::path::Path;

/// More end ids than any model has; a bound, because each new id is compared with the others.
const MAX_IDS: usize = 1024;

/// A JSON object and the file it came from, for errors.
struct Object<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl Object<'_> {
    /// The value, unless it is absent or null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, got: &Value, want: &str) -> Error {
        Error::file(self.path, key, got.to_string(), want)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let n = v.as_u64().ok_or_else(|| self.wrong(key, v, "a whole number, not negative"))?;
        // Too large for usize is too large for every bound: let the bounds check say so.
        Ok(Some(usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::file(self.path, key, "nothing", "a whole number"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_f64().map(Some).ok_or_else(|| self.wrong(key, v, "a number"))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        let Some(v) = self.get(key) else { return Ok(false) };
        v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_str().map(Some).ok_or_else(|| self.wrong(key, v, "a string"))
    }

    /// One id or a list of ids.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| {
            v.as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| self.wrong(key, v, "a token id or a list of them"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() > MAX_IDS => {
                Err(Error::file(self.path, key, format!("{} ids", list.len()), format!("at most {MAX_IDS}")))
            }
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(v) => Ok(vec![id(v)?]),
        }
    }
}

fn parse(text: &str, path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::file(path, "top level", "another JSON value", "an object")),
        Err(e) => Err(Error::file(path, "JSON", e.to_string(), "valid JSON")),
    }
}

pub(super) fn config(text: &str, path: &Path) -> Result<Config> {
    let map = parse(text, path)?;
    let o = Object { map: &map, path };
    architecture(&o)?;
    if let Some(v) = o.get("quantization_config") {
        return Err(o.wrong("quantization_config", v, "plain f32, f16 or bf16 weights, or a GGUF file"));
    }
    let act = o.text("hidden_act")?.unwrap_or("silu");
    if !matches!(act, "silu" | "swish") {
        return Err(Error::file(path, "hidden_act", act, "silu"));
    }
    // Defaults are those of transformers' LlamaConfig.
    let hidden_size = o.required("hidden_size")?;
    let num_heads = o.required("num_attention_heads")?;
    let head_dim = match o.size("head_dim")? {
        Some(d) => d,
        None if num_heads == 0 || hidden_size % num_heads != 0 => {
            let want = format!("a divisor of hidden_size = {hidden_size}, or an explicit head_dim");
            return Err(Error::file(path, "num_attention_heads", num_heads.to_string(), want));
        }
        None => hidden_size / num_heads,
    };
    let max_position = o.size("max_position_embeddings")?.unwrap_or(2048);
    let mut config = Config {
        hidden_size,
        intermediate_size: o.required("intermediate_size")?,
        num_layers: o.required("num_hidden_layers")?,
        num_heads,
        num_kv_heads: o.size("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim,
        vocab_size: o.required("vocab_size")?,
        max_position,
        rms_eps: o.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        tie_embeddings: o.flag("tie_word_embeddings")?,
        attention_bias: o.flag("attention_bias")?,
        mlp_bias: o.flag("mlp_bias")?,
        rope: rope(&o, max_position)?,
        eos: Vec::new(),
        bos: o.ids("bos_token_id")?.first().copied(),
        dtype: match o.text("dtype")?.or(o.text("torch_dtype")?) {
            Some("bfloat16") => Some(DType::BF16),
            Some("float32") => Some(DType::F32),
            _ => None,
        },
    };
    for id in o.ids("eos_token_id")? {
        if !config.eos.contains(&id) {
            config.eos.push(id);
        }
    }
    config.validate(path)?;
    Ok(config)
}

fn architecture(o: &Object<'_>) -> Result<()> {
    const WANT: &str = "LlamaForCausalLM";
    let model_type = o.text("model_type")?;
    match (o.get("architectures"), model_type) {
        (Some(Value::Array(list)), _) if list.iter().any(|v| v.as_str() == Some(WANT)) => {}
        (Some(v @ Value::Array(list)), _) if !list.is_empty() => {
            return Err(o.wrong("architectures", v, WANT));
        }
        (Some(v), _) if !v.is_array() => return Err(o.wrong("architectures", v, "a list of names")),
        (_, None) => return Err(Error::file(o.path, "architectures", "nothing", WANT)),
        _ => {}
    }
    match model_type {
        None | Some("llama") => Ok(()),
        Some(other) => Err(Error::file(o.path, "model_type", other, "llama")),
    }
}

/// The rope parameters in either spelling; as in transformers, `rope_scaling` wins where both are given.
fn rope(o: &Object<'_>, max_position: usize) -> Result<Rope> {
    let empty = Map::new();
    let mut map = &empty;
    for key in ["rope_parameters", "rope_scaling"] {
        match o.get(key) {
            None => {}
            Some(Value::Object(m)) if m.is_empty() => {}
            Some(Value::Object(m)) => map = m,
            Some(v) => return Err(o.wrong(key, v, "an object")),
        }
    }
    let r = Object { map, path: o.path };
    let need = |key: &str| {
        r.number(key)?.ok_or_else(|| Error::file(o.path, format!("rope {key}"), "nothing", "a number"))
    };
    let partial = match r.number("partial_rotary_factor")? {
        Some(x) => Some(x),
        None => o.number("partial_rotary_factor")?,
    };
    if let Some(x) = partial.filter(|&x| x != 1.0) {
        return Err(Error::file(o.path, "partial_rotary_factor", x.to_string(), "1"));
    }
    let theta = match r.number("rope_theta")? {
        Some(t) => t,
        None => o.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let kind = match r.text("rope_type")?.or(r.text("type")?).unwrap_or("default") {
        "default" => RopeKind::Default,
        "linear" => RopeKind::Linear { factor: need("factor")? },
        "llama3" => RopeKind::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            // A number at the top level comes first in transformers, then the one inside, then the context.
            original_max_position: match o.size("original_max_position_embeddings")? {
                Some(n) => n,
                None => r.size("original_max_position_embeddings")?.unwrap_or(max_position),
            },
        },
        other => return Err(Error::file(o.path, "rope_type", other, "default, linear or llama3")),
    };
    Ok(Rope { theta, kind })
}

pub(super) fn generation(config: &mut Config, text: &str, path: &Path) -> Result<()> {
    let map = parse(text, path)?;
    let o = Object { map: &map, path };
    let mut eos = Vec::new();
    for id in o.ids("eos_token_id")?.into_iter().chain(config.eos.iter().copied()) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    config.eos = eos;
    if config.bos.is_none() {
        config.bos = o.ids("bos_token_id")?.first().copied();
    }
    config.validate(path)
}
