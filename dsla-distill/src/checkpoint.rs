//! Checkpoints: masters and moments of every layer plus where the run stands, in one file that appears whole or not
//! at all.

use crate::optimizer::Moments;
use crate::{Config, Error, Result, Stage};
use dsla_core::attention::DslaAttention;
use dsla_model::adapter::write_atomic;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// File name inside the run's directory.
pub const FILE: &str = "checkpoint.bin";
const MAGIC: &[u8; 8] = b"dsla-ck1";

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The run's settings.
    pub config: Config,
    /// Fingerprint of the base model.
    pub base: String,
    /// Fingerprint of the texts' tokens.
    pub data: String,
    /// The stage under way.
    pub stage: Stage,
    /// Its steps done.
    pub step: u64,
    /// Tokens trained on so far, in all stages.
    pub tokens: u64,
    /// Lines of metrics so far.
    pub lines: usize,
    /// The order of conversion, as far as it is known.
    pub order: Vec<usize>,
}

impl Place {
    /// Go on to a stage.
    pub fn enter(&mut self, stage: Stage) {
        (self.stage, self.step) = (stage, 0);
    }
}

/// Write the state of a run.
pub fn save(
    path: &Path,
    place: &Place,
    layers: &[Option<DslaAttention>],
    moments: &[Option<Moments>],
) -> Result<()> {
    let head = serde_json::to_vec(place).map_err(|e| bad(path, "header", e.to_string(), "json"))?;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&head);
    for (layer, moments) in layers.iter().zip(moments) {
        let (Some(layer), Some(moments)) = (layer, moments) else { continue };
        for params in [&layer.params, &moments.m, &moments.v] {
            for (_, t) in params.tensors() {
                t.f32().iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
            }
        }
    }
    Ok(write_atomic(path, &bytes)?)
}

/// Read a run's state into `layers` and `moments`, which have the shapes of the run; its place must be of the same
/// run: same settings, base and texts.
pub fn load(
    path: &Path,
    run: &Place,
    layers: &mut [Option<DslaAttention>],
    moments: &mut [Option<Moments>],
) -> Result<Place> {
    let bytes =
        std::fs::read(path).map_err(|e| bad(path, "file", e.to_string(), "a checkpoint to resume from"))?;
    let short = || bad(path, "length", format!("{} bytes", bytes.len()), "a whole checkpoint");
    if bytes.get(..8) != Some(MAGIC) {
        return Err(bad(path, "start", "another kind of file".into(), "a checkpoint"));
    }
    let len = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(short)?;
    let end = usize::try_from(len).ok().and_then(|l| l.checked_add(16)).ok_or_else(short)?;
    let head = bytes.get(16..end).ok_or_else(short)?;
    let place: Place =
        serde_json::from_slice(head).map_err(|e| bad(path, "header", e.to_string(), "json"))?;
    for (at, same) in [
        ("settings", place.config == run.config),
        ("base model", place.base == run.base),
        ("texts", place.data == run.data),
    ] {
        if !same {
            return Err(bad(path, at, "those of another run".into(), "the same as in this one"));
        }
    }
    let mut rest = &bytes[end..];
    for (layer, moments) in layers.iter_mut().zip(moments.iter_mut()) {
        let (Some(layer), Some(moments)) = (layer, moments) else { continue };
        for params in [&mut layer.params, &mut moments.m, &mut moments.v] {
            for (_, t) in params.tensors_mut() {
                for v in t.f32_mut() {
                    let (b, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
                    *v = f32::from_le_bytes(*b);
                    rest = after;
                }
            }
        }
    }
    if !rest.is_empty() {
        return Err(short());
    }
    Ok(place)
}

fn bad(path: &Path, at: &str, got: String, want: &str) -> Error {
    Error::Checkpoint { file: path.display().to_string(), at: at.into(), got, want: want.into() }
}
