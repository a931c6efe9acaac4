//! `dsla sensitivity`

use crate::args::{ModelArgs, tokens_of};
use crate::out::{self, Progress};
use anyhow::{Result, bail};
use clap::Args;
use dsla_distill::chart::{Panel, svg};
use dsla_distill::{Metric, prefixes, sensitivity};
use dsla_model::adapter::write_atomic;
use dsla_model::{Model, PrefixQuality};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Sensitivity {
    #[command(flatten)]
    model: ModelArgs,
    /// UTF-8 text.
    #[arg(long)]
    text: PathBuf,
    /// greedy, kl, entropy, entropy_desc, recall, depth, uniform, random, or adapter (its own order).
    #[arg(long, default_value = "greedy", value_parser = Metric::ALL.map(Metric::name), hide_possible_values = true)]
    metric: String,
    /// Measure what the first layers of several orders cost, on windows after those that the scores come from. Without
    /// a list: all but greedy, which takes longest and is what a shipped adapter's own order is.
    #[arg(
        long,
        value_name = "METRICS",
        value_delimiter = ',',
        num_args = 0..=1,
        default_missing_value = "adapter,kl,recall,entropy,entropy_desc,depth,uniform,random",
        value_parser = Metric::ALL.map(Metric::name),
        hide_possible_values = true,
        conflicts_with = "metric"
    )]
    compare: Option<Vec<String>>,
    /// With --compare: how many layers to convert.
    #[arg(long, value_delimiter = ',', default_value = "4,8,15,23", requires = "compare")]
    at: Vec<usize>,
    /// With --compare: windows to measure on.
    #[arg(long, default_value_t = 4, requires = "compare")]
    eval_windows: usize,
    /// With --compare: a chart of it, SVG.
    #[arg(long, value_name = "FILE.svg", requires = "compare")]
    plot: Option<PathBuf>,
    /// Tokens per window.
    #[arg(long, default_value_t = 1024)]
    context: usize,
    /// Windows that scores come from.
    #[arg(long, default_value_t = 2)]
    windows: usize,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Sensitivity {
    pub fn run(self) -> Result<()> {
        let model = self.model.load()?;
        let tokens = tokens_of(&model, &self.text)?;
        match &self.compare {
            Some(metrics) => self.compare(&model, metrics, &tokens),
            None => self.one(&model, &tokens),
        }
    }

    fn one(&self, model: &Model, tokens: &[u32]) -> Result<()> {
        let windows = dsla_model::eval::windows(tokens, self.context, Some(self.windows))?;
        let s = sensitivity(model, self.metric.parse()?, &windows, Progress::new("sensitivity").bar())?;
        if self.json {
            out::json(&json!({"metric": self.metric, "order": s.order, "scores": s.scores}));
        } else {
            println!("{}: {:?}", self.metric, s.order);
            for (l, score) in s.scores.iter().enumerate() {
                println!("  layer {l:2}: {score:.5}");
            }
        }
        Ok(())
    }

    fn compare(&self, model: &Model, metrics: &[String], tokens: &[u32]) -> Result<()> {
        let wanted = self.windows + self.eval_windows;
        let windows = dsla_model::eval::windows(tokens, self.context, Some(wanted))?;
        if self.windows == 0 || self.eval_windows == 0 || windows.len() < wanted {
            bail!(
                "{}: got {} windows of {} tokens, want {} to score and {} to measure, at least one of each",
                self.text.display(),
                windows.len(),
                self.context,
                self.windows,
                self.eval_windows
            );
        }
        let (score_on, measure_on) = windows.split_at(self.windows);
        let mut found: Vec<(&str, Vec<PrefixQuality>)> = vec![];
        let mut rows = vec![];
        for name in metrics {
            let metric: Metric = name.parse()?;
            let s = sensitivity(model, metric, score_on, Progress::new(metric.name()).bar())?;
            let q = prefixes(model, &s.order, &self.at, measure_on, Progress::new("windows").bar())?;
            rows.push(json!({"metric": name, "order": s.order, "scores": s.scores, "quality": q}));
            if !self.json {
                println!("{name}: {:?}", s.order);
                for q in &q {
                    println!("  {:2} layers: kl {:.4}, ppl ratio {:.4}", q.converted, q.kl, q.ppl_ratio);
                }
            }
            found.push((metric.name(), q));
        }
        if let Some(file) = &self.plot {
            write_atomic(file, plot(&found).as_bytes())?;
        }
        if self.json {
            let tokens: usize = measure_on.iter().map(|w| w.len()).sum();
            out::json(&json!({"orders": rows, "tokens": tokens}));
        }
        Ok(())
    }
}

/// KL and perplexity ratio by converted layers, a line per order.
fn plot(found: &[(&str, Vec<PrefixQuality>)]) -> String {
    let lines = |f: fn(&PrefixQuality) -> f64| {
        let line = |q: &Vec<PrefixQuality>| {
            std::iter::once((0.0, 0.0)).chain(q.iter().map(|q| (q.converted as f64, f(q)))).collect()
        };
        found.iter().map(|(_, q)| line(q)).collect()
    };
    let panels = [
        Panel {
            title: "KL from the teacher, nats per token, by converted layers".into(),
            lines: lines(|q| q.kl),
        },
        Panel {
            title: "perplexity over the teacher's, minus 1".into(),
            lines: lines(|q| (q.ppl_ratio - 1.0).max(0.0)),
        },
    ];
    svg(&found.iter().map(|f| f.0).collect::<Vec<_>>(), "layers", &panels)
}
