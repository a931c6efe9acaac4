//! `dsla states`

use crate::args::{ModelArgs, tokens_of};
use crate::out::{self, Progress};
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_distill::states::{PARTS, layer_states, norms, page};
use dsla_model::adapter::write_atomic;
use std::path::PathBuf;

#[derive(Args)]
pub struct States {
    #[command(flatten)]
    model: ModelArgs,
    /// UTF-8 text to measure on.
    #[arg(long)]
    text: PathBuf,
    /// Directory of states.json and states.html.
    #[arg(long)]
    out: PathBuf,
    /// Tokens from the text's start for attention shares and half-lives.
    #[arg(long, default_value_t = 2048)]
    context: usize,
    /// Tokens from the text's start for the norms of the states; 0: leave them out.
    #[arg(long, default_value_t = 32_768)]
    tokens: usize,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl States {
    pub fn run(self) -> Result<()> {
        let model = self.model.load()?;
        // Room for the text: quality beyond the trained context is not what is measured here.
        let Some(adapter) = model.adapter().cloned() else {
            bail!("--adapter: got none, want a directory with an adapter");
        };
        let text = tokens_of(&model, &self.text)?;
        let want = self.context.max(self.tokens);
        if text.len() < want {
            bail!("{}: got {} tokens, want {want} (--context, --tokens)", self.text.display(), text.len());
        }
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("{}: cannot create", self.out.display()))?;
        let mut progress = Progress::new("layers");
        let layers = layer_states(&model, &adapter, &text[..self.context], |a, b| progress.at(a, b))?;
        drop(progress);
        let mut points = vec![];
        if self.tokens > 0 {
            let model = model.with_positions(self.tokens.max(self.context))?;
            let mut progress = Progress::new("tokens");
            points = norms(&model, &text[..self.tokens], |a, b| progress.at(a, b))?;
        }
        let file = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let about = format!(
            "{} with its adapter of {} layers on {}: {} tokens for attention and gates, {} for norms.",
            adapter.base_model.name,
            adapter.order.len(),
            file(&self.text),
            self.context,
            self.tokens
        );
        let json = serde_json::json!({
            "model": adapter.base_model.name, "text": file(&self.text), "context": self.context, "tokens": self.tokens,
            "parts": PARTS, "layers": layers, "norms": points,
        });
        let write = |name: &str, bytes: &[u8]| {
            let path = self.out.join(name);
            write_atomic(&path, bytes).with_context(|| format!("{}: cannot write", path.display()))
        };
        write("states.json", serde_json::to_string_pretty(&json)?.as_bytes())?;
        write("states.html", page::html(&about, &layers, &points).as_bytes())?;
        if self.json {
            out::json(&json);
            return Ok(());
        }
        println!("layer  half-lives (history, recency)  shares: history recency window sinks");
        for l in &layers {
            let share = |part: usize| 100.0 * l.mass[part].iter().sum::<f64>();
            println!(
                "{:5}  {:14.0} {:14.0}  {:14.1}% {:6.1}% {:5.1}% {:4.1}%",
                l.layer,
                l.mean_half_life[0],
                l.mean_half_life[1],
                share(1),
                share(2),
                share(3),
                share(4)
            );
        }
        Ok(())
    }
}
