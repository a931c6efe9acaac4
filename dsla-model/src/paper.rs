//! One layer of the paper's own code: upstream's tensor names in, outputs and final states out, all f32.

use crate::adapter::write_atomic;
use crate::{Error, Result};
use dsla_core::attention::{DslaAttention, Projected};
use dsla_core::kernels::ops::rope::Table;
use dsla_core::{DType, DslaParams, Form, Heads, Linear, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::path::Path;

/// Runs the layer in `input` and writes `output`.
///
/// In: `hidden_states` [B, T, C]; `{q,k,v,o}_proj.weight`, `gk_proj.{weight,bias}` (history), `gk_proj2.{weight,bias}`
/// (recency), `alpha_list` [2], with or without a leading `self_attn.`; metadata `num_heads` and optionally
/// `gate_logit_normalizer` (16). Out: `attn_output` [B, T, C], `state_history` and `state_recency` [B, G, D, D] (key by value).
pub fn run_layer(input: &Path, output: &Path) -> Result<()> {
    let bytes = std::fs::read(input).map_err(|e| Error::io(input, "read", &e))?;
    let file = File {
        path: input,
        tensors: SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::file(input, "header", e.to_string(), "safetensors"))?,
    };
    let meta = SafeTensors::read_metadata(&bytes)
        .map_err(|e| Error::file(input, "header", e.to_string(), "safetensors"))?
        .1;
    let meta = meta.metadata().clone().unwrap_or_default();
    let number = |key: &str, default: Option<f32>| -> Result<f32> {
        match (meta.get(key), default) {
            (Some(s), _) => s.parse().map_err(|_| Error::file(input, key, s, "a number")),
            (None, Some(d)) => Ok(d),
            (None, None) => Err(Error::file(input, key, "nothing", "a number in the metadata")),
        }
    };
    let x = file.tensor("hidden_states", None)?;
    let [b, t, c] =
        <[usize; 3]>::try_from(x.dims()).map_err(|_| file.shape("hidden_states", x.dims(), "[B, T, C]"))?;
    let q = file.tensor("q_proj.weight", None)?;
    let k = file.tensor("k_proj.weight", None)?;
    let heads = number("num_heads", None)?;
    let (rows, kv_rows) = (q.dims()[0], k.dims()[0]);
    let fits = heads >= 1.0
        && heads.fract() == 0.0
        && rows % heads as usize == 0
        && kv_rows.is_multiple_of((rows / heads as usize).max(1));
    if !fits || b * t * rows * kv_rows == 0 {
        let got = format!("{heads} heads for q_proj {:?} and k_proj {:?}", q.dims(), k.dims());
        return Err(Error::file(input, "num_heads", got, "whole heads of one size, and no empty tensor"));
    }
    let n = Heads {
        heads: heads as usize,
        kv_heads: kv_rows / (rows / heads as usize),
        head_dim: rows / heads as usize,
    };
    if !n.heads.is_multiple_of(n.kv_heads) {
        return Err(Error::file(
            input,
            "num_heads",
            format!("{} query and {} kv heads", n.heads, n.kv_heads),
            "a multiple",
        ));
    }
    let form = Form { gate_scale: number("gate_logit_normalizer", Some(16.0))?, ..Form::paper() };
    form.check().map_err(|e| Error::file(input, "gate_logit_normalizer", e, "a positive number"))?;
    let linear =
        |name: &str, shape: [usize; 2]| Ok::<_, Error>(Linear::new(&file.tensor(name, Some(&shape))?, None)?);
    let (wq, wk) = (linear("q_proj.weight", [rows, c])?, linear("k_proj.weight", [kv_rows, c])?);
    let (wv, wo) = (linear("v_proj.weight", [kv_rows, c])?, linear("o_proj.weight", [c, rows])?);
    let params = DslaParams::build(&form, n, c, |name, shape| {
        let two = |a: &str, b: &str, one: &[usize]| -> Result<Tensor> {
            let mut both = file.tensor(a, Some(one))?;
            both.extend(file.tensor(b, Some(one))?.view())?;
            Ok(both.reshape(shape))
        };
        match name {
            "gate_w" => two("gk_proj.weight", "gk_proj2.weight", &[kv_rows, c]),
            "gate_b" => two("gk_proj.bias", "gk_proj2.bias", &[kv_rows]),
            _ => Ok(file.tensor("alpha_list", Some(&[2]))?.reshape(shape)),
        }
    })?;
    let layer = DslaAttention::new(form, params, n);
    let table = Table::new(&[], 0, 1.0);
    let (mut out, mut states) = (vec![], [vec![], vec![]]);
    for i in 0..b {
        let hidden = Tensor::from_f32([t, c], x.f32()[i * t * c..(i + 1) * t * c].to_vec());
        let heads_of = |w: &Linear, heads: usize| {
            Ok::<_, Error>(w.forward(hidden.view())?.reshape([t, heads, n.head_dim]))
        };
        let (q, k, v) = (heads_of(&wq, n.heads)?, heads_of(&wk, n.kv_heads)?, heads_of(&wv, n.kv_heads)?);
        let mut state = layer.state(DType::F32)?;
        let y = layer.forward(Projected { q, k, v, hidden: Some(hidden) }, &table, &mut state, DType::F32)?;
        out.extend_from_slice(wo.forward(y.reshape([t, rows]).view())?.f32());
        let half = state.s.len() / 2;
        states[0].extend_from_slice(&state.s.f32()[..half]);
        states[1].extend_from_slice(&state.s.f32()[half..]);
    }
    let raw = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let state_shape = vec![b, n.kv_heads, n.head_dim, n.head_dim];
    let [history, recency] = states;
    let parts = [
        ("attn_output", vec![b, t, c], raw(&out)),
        ("state_history", state_shape.clone(), raw(&history)),
        ("state_recency", state_shape, raw(&recency)),
    ];
    let views = parts
        .iter()
        .map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data);
            Ok((*name, view.map_err(|e| Error::file(output, *name, e.to_string(), "a tensor"))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None)
        .map_err(|e| Error::file(output, "tensors", e.to_string(), "safetensors"))?;
    write_atomic(output, &bytes)
}

struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl File<'_> {
    fn shape(&self, name: &str, got: &[usize], want: &str) -> Error {
        Error::file(self.path, name, format!("shape {got:?}"), want)
    }

    fn tensor(&self, name: &str, shape: Option<&[usize]>) -> Result<Tensor> {
        let full = format!("self_attn.{name}");
        let t = self.tensors.tensor(name).or_else(|_| self.tensors.tensor(&full));
        let t = t.map_err(|_| Error::file(self.path, name, "nothing", "a tensor"))?;
        if t.dtype() != Dtype::F32 {
            return Err(Error::file(self.path, name, format!("dtype {:?}", t.dtype()), "F32"));
        }
        if t.shape().is_empty() || t.shape().len() > 3 || shape.is_some_and(|s| s != t.shape()) {
            return Err(self.shape(
                name,
                t.shape(),
                &shape.map_or("1 to 3 dimensions".into(), |s| format!("{s:?}")),
            ));
        }
        let data: Vec<f32> =
            t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if data.iter().any(|v| !v.is_finite()) {
            return Err(Error::file(self.path, name, "NaN or infinity", "finite numbers"));
        }
        Ok(Tensor::from_f32(t.shape(), data))
    }
}
