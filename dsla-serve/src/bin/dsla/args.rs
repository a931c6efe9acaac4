//! Options that many commands share.

use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_model::core::kernels::par;
use dsla_model::{Device, Model, Plan, WeightFormat, hub};
use std::path::{Path, PathBuf};

/// Which model, where and how it runs.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// An HF-layout directory, a .gguf file, or a name that `fetch` knows.
    pub model: String,
    /// Adapter directory; for a fetched model the shipped one is used where this build has it.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// cpu, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// What linear weights are held in; with a quantised format the KV cache is bf16.
    #[arg(long, default_value = "bf16", value_parser = ["f32", "bf16", "q8_0", "q4_0", "q4_1"])]
    pub dtype: String,
    /// What the KV cache is held in: `model` (f32 or bf16, as --dtype says) or `int8` (a scale per token and head).
    #[arg(long, default_value = "model", value_parser = ["model", "int8"])]
    pub kv: String,
    /// Threads (0: one per core).
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

impl ModelArgs {
    /// Load the model, with the adapter if one is given.
    pub fn load(&self) -> Result<Model> {
        par::set_threads(self.threads);
        let device: Device = self.device.parse()?;
        let format: WeightFormat = self.dtype.parse()?;
        let path = hub::resolve(&self.model, &mut |line| eprintln!("{line}"))?;
        let mut model = Model::load(path, &device, format)?;
        if self.kv == "int8" {
            model = model.with_int8_cache()?;
        }
        match self.adapter_dir() {
            Some(dir) => Ok(model.with_adapter(dir)?),
            None => Ok(model),
        }
    }

    /// The adapter asked for, or the one that ships with this source tree for a model known by name.
    pub fn adapter_dir(&self) -> Option<PathBuf> {
        self.adapter.clone().or_else(|| shipped_adapter(&self.model))
    }
}

/// The adapter shipped in the source tree for a known model name.
pub fn shipped_adapter(name: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/adapters").join(name);
    (!name.contains(['/', '\\']) && dir.join(dsla_model::adapter::META).is_file()).then_some(dir)
}

/// How much of the model is converted.
#[derive(Args, Clone, Default)]
pub struct RateArgs {
    /// Share of layers converted, in the adapter's order.
    #[arg(long, conflicts_with = "layers")]
    pub rate: Option<f64>,
    /// Just these layers, by number: 3,7
    #[arg(long, value_delimiter = ',')]
    pub layers: Option<Vec<usize>>,
}

impl RateArgs {
    /// The plan; without either option nothing is converted.
    pub fn plan(&self, model: &Model) -> Result<Plan> {
        let n = model.config().num_layers;
        if let Some(layers) = &self.layers {
            if let Some(l) = layers.iter().find(|l| **l >= n) {
                bail!("--layers: got {l}, want layers below {n}");
            }
            if model.adapter().is_none() && !layers.is_empty() {
                bail!("--layers: got no adapter, want --adapter DIR");
            }
            return Ok(Plan::of_layers(n, layers));
        }
        plan_at(model, self.rate.unwrap_or(0.0))
    }
}

/// How much is converted, or several amounts: a curve from one run.
#[derive(Args, Clone, Default)]
pub struct Rates {
    #[command(flatten)]
    one: RateArgs,
    /// Several shares of layers converted, each measured: 0,0.5,1
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["rate", "layers"])]
    rates: Option<Vec<f64>>,
}

impl Rates {
    /// The plans, at least one.
    pub fn plans(&self, model: &Model) -> Result<Vec<Plan>> {
        match self.rates.as_deref() {
            None => Ok(vec![self.one.plan(model)?]),
            Some([]) => bail!("--rates: got none, want at least one"),
            Some(rates) => rates.iter().map(|&r| plan_at(model, r)).collect(),
        }
    }
}

/// The first `rate` of the adapter's order, rounded to whole layers.
pub fn plan_at(model: &Model, rate: f64) -> Result<Plan> {
    if !(0.0..=1.0).contains(&rate) {
        bail!("--rate: got {rate}, want a share between 0 and 1");
    }
    let converted = (rate * model.config().num_layers as f64).round() as usize;
    match model.adapter() {
        _ if converted == 0 => {}
        None => bail!("--rate: got {rate} without an adapter, want --adapter DIR"),
        Some(a) if converted > a.order.len() => {
            bail!("--rate: got {converted} layers, want at most the adapter's {}", a.order.len());
        }
        Some(_) => {}
    }
    Ok(model.plan(converted))
}

/// A whole text file as tokens; empty or invalid text is an error.
pub fn tokens_of(model: &Model, file: &Path) -> Result<Vec<u32>> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        anyhow::anyhow!(
            "{}: byte {}: got invalid UTF-8, want UTF-8 text",
            file.display(),
            e.utf8_error().valid_up_to()
        )
    })?;
    if text.trim().is_empty() {
        bail!("{}: got an empty text, want text", file.display());
    }
    Ok(model.tokenizer()?.encode(&text, false)?)
}
