//! candle's Llama behind the protocol of `xtask/peers/peer.py`, over the HF-layout directory that `convert.py` writes.

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::Instant;

/// Its attention materialises all scores of a call: 2.4 GB for 8,192 tokens at once, and several times over.
const CHUNK: usize = 512;

struct Engine {
    model: Llama,
    config: Config,
    dtype: DType,
    cache: Cache,
    /// Sequences at once, tokens in the cache of each.
    filled: (usize, usize),
    logits: Option<Tensor>,
}

impl Engine {
    fn load(flags: &HashMap<String, String>) -> Result<Engine> {
        let flag = |name: &str| flags.get(name).with_context(|| format!("--{name} is missing"));
        let dir = std::path::Path::new(flag("model")?);
        let dtype = match flag("format")?.as_str() {
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            other => bail!("--format: got {other}, want f32 or bf16"),
        };
        let text = std::fs::read(dir.join("config.json")).context("config.json")?;
        let mut config = serde_json::from_slice::<LlamaConfig>(&text)?.into_config(false);
        config.max_position_embeddings = flag("positions")?.parse()?;
        let weights = std::fs::read(dir.join("model.safetensors")).context("model.safetensors")?;
        let weights = VarBuilder::from_buffered_safetensors(weights, dtype, &Device::Cpu)?;
        let model = Llama::load(weights, &config)?;
        let cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
        let mut engine = Engine { model, config, dtype, cache, filled: (1, 0), logits: None };
        engine.prefill(64, 1)?;
        engine.decode(2)?;
        Ok(engine)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<()> {
        let (batch, at) = self.filled;
        let x = Tensor::from_slice(&tokens.repeat(batch), (batch, tokens.len()), &Device::Cpu)?;
        self.logits = Some(self.model.forward(&x, at, &mut self.cache)?);
        self.filled.1 += tokens.len();
        Ok(())
    }

    fn prefill(&mut self, context: usize, batch: usize) -> Result<()> {
        let vocabulary = self.config.vocab_size;
        let prompt: Vec<u32> = (0..context).map(|i| ((100 + i * 7 % 4000) % vocabulary) as u32).collect();
        self.cache = Cache::new(true, self.dtype, &self.config, &Device::Cpu)?;
        self.filled = (batch, 0);
        prompt.chunks(CHUNK).try_for_each(|part| self.step(part))
    }

    fn decode(&mut self, tokens: usize) -> Result<()> {
        (0..tokens).try_for_each(|_| self.step(&[1]))
    }

    fn next(&self) -> Result<u32> {
        let logits = self.logits.as_ref().context("nothing was computed")?;
        Ok(logits.get(0)?.argmax(D::Minus1)?.to_scalar()?)
    }

    /// One answer. `kept` is the context and batch of a prefill that no decode has used.
    fn answer(&mut self, line: &str, format: &str, kept: &mut Option<(usize, usize)>) -> Result<Value> {
        let job: Value = serde_json::from_str(line)?;
        let number = |key: &str, default: u64| job[key].as_u64().unwrap_or(default) as usize;
        let (context, batch, tokens) = (number("context", 512), number("batch", 1), number("tokens", 32));
        if job["rate"].as_f64().unwrap_or(0.0) != 0.0 {
            bail!("rate: got {}, want 0: only dsla converts layers", job["rate"]);
        }
        if let Some(other) = job["format"].as_str().filter(|f| *f != format) {
            bail!("format: got {other}, want {format}, which this process loaded");
        }
        let mut answer = Value::Null;
        if job["job"] == "prefill" || kept.take() != Some((context, batch)) {
            let start = Instant::now();
            self.prefill(context, batch)?;
            let seconds = start.elapsed().as_secs_f64();
            answer = json!({"tok_s": (context * batch) as f64 / seconds, "next": self.next()?});
            *kept = Some((context, batch));
        }
        match job["job"].as_str() {
            Some("prefill") => Ok(answer),
            Some("decode") => {
                *kept = None;
                let start = Instant::now();
                self.decode(tokens)?;
                Ok(json!({"tok_s": (tokens * batch) as f64 / start.elapsed().as_secs_f64()}))
            }
            _ => bail!("job: got {}, want prefill or decode", job["job"]),
        }
    }
}

/// GFLOP/s of candle's own product, best of five.
fn gemm(dtype: DType) -> Result<f64> {
    let x = Tensor::rand(0f32, 1f32, (1024, 1024), &Device::Cpu)?.to_dtype(dtype)?;
    let w = Tensor::rand(0f32, 1f32, (1024, 2048), &Device::Cpu)?.to_dtype(dtype)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        std::hint::black_box(x.matmul(&w)?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * 1024.0 * 1024.0 * 2048.0 / best / 1e9)
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn refusal(e: &anyhow::Error) -> Value {
    // candle appends a backtrace to its errors.
    let text = format!("{e:#}");
    json!({"error": text.lines().next().unwrap_or("unknown")})
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let flags: HashMap<String, String> =
        words.chunks_exact(2).map(|p| (p[0].trim_start_matches('-').into(), p[1].clone())).collect();
    let format = flags.get("format").cloned().unwrap_or_default();
    // candle and its GEMM read this when their pools start.
    let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
    if flags.get("threads").is_some_and(|t| *t != threads) {
        let e = anyhow::anyhow!("RAYON_NUM_THREADS: got `{threads}`, want the number of --threads");
        return say(&refusal(&e));
    }
    let loaded = Engine::load(&flags).and_then(|engine| Ok((gemm(engine.dtype)?, engine)));
    let (gflops, mut engine) = match loaded {
        Ok(loaded) => loaded,
        Err(e) => return say(&refusal(&e)),
    };
    say(&json!({"ready": true, "version": "candle 0.11.1", "gemm_gflops": gflops}))?;
    let mut kept = None;
    for line in std::io::stdin().lock().lines() {
        say(&engine.answer(&line?, &format, &mut kept).unwrap_or_else(|e| refusal(&e)))?;
    }
    Ok(())
}
