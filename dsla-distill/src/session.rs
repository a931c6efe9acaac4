//! A run in memory and on disk: adapter, moments, where it stands, and the metrics so far.

use crate::chain;
use crate::checkpoint::{self, Place};
use crate::optimizer::{self, Moments};
use crate::schedule::adamw;
use crate::trainer::{Event, METRICS};
use crate::transposed::Transposed;
use crate::{Config, Corpus, Error, Fnv, Result, Stage, Training};
use dsla_core::{DslaParams, Form};
use dsla_model::adapter::write_atomic;
use dsla_model::{Adapter, Model};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub struct Session<'a> {
    pub model: &'a Model,
    pub corpus: &'a Corpus,
    pub config: &'a Config,
    pub adapter: Adapter,
    pub place: Place,
    pub metrics: String,
    moments: Vec<Option<Moments>>,
    out: &'a Path,
}

impl<'a> Session<'a> {
    /// From the start (of the form, or of `start`), or from the checkpoint in `out`.
    pub fn open(
        model: &'a Model,
        corpus: &'a Corpus,
        config: &'a Config,
        start: Option<&Adapter>,
        out: &'a Path,
        resume: bool,
    ) -> Result<Session<'a>> {
        let trained = config.trained(model.config().num_layers);
        let (mut adapter, base) = first(model, config, start)?;
        for (l, layer) in adapter.layers.iter_mut().enumerate() {
            if !trained.contains(&l) {
                *layer = None;
            }
        }
        adapter.order.retain(|l| trained.contains(l));
        std::fs::create_dir_all(out).map_err(|e| file_error(out, &e))?;
        let moments = Moments::of(&adapter.layers)?;
        let place = Place {
            config: config.clone(),
            base,
            data: corpus.fingerprint(),
            stage: Stage::Calibrate,
            step: 0,
            tokens: 0,
            lines: 0,
            order: adapter.order.clone(),
        };
        let mut s = Session { model, corpus, config, adapter, place, metrics: String::new(), moments, out };
        // Killed before its first checkpoint, a run has nothing to continue: from the start is the same run.
        if resume && s.checkpoint().exists() {
            s.place = checkpoint::load(&s.checkpoint(), &s.place, &mut s.adapter.layers, &mut s.moments)?;
            s.adapter.order = s.place.order.clone();
            s.metrics = kept_metrics(&out.join(METRICS), s.place.lines)?;
        }
        Ok(s)
    }

    fn checkpoint(&self) -> PathBuf {
        self.out.join(checkpoint::FILE)
    }

    /// Metrics, then the state that counts their lines.
    pub fn save(&self) -> Result<()> {
        if self.place.lines > 0 {
            write_atomic(&self.out.join(METRICS), self.metrics.as_bytes())?;
        }
        checkpoint::save(&self.checkpoint(), &self.place, &self.adapter.layers, &self.moments)
    }

    /// On to a stage, with fresh moments: another loss has another scale.
    pub fn enter(&mut self, stage: Stage) -> Result<()> {
        self.place.enter(stage);
        self.place.order = self.adapter.order.clone();
        self.moments = Moments::of(&self.adapter.layers)?;
        self.save()
    }

    /// The alignment of every layer, to the end.
    pub fn align(&mut self, on: &mut impl FnMut(Event)) -> Result<()> {
        let (config, model) = (self.config, self.model);
        let layers = crate::align::Layers::of(model, &self.adapter)?;
        self.train(Stage::Align, &config.align, on, |s, batch| {
            let found = layers.gradients(model, &s.adapter, batch)?;
            let mut losses = vec![];
            let mut grads = Vec::with_capacity(found.len());
            for (l, found) in found.into_iter().enumerate() {
                let Some((loss, g)) = found else {
                    grads.push(None);
                    continue;
                };
                s.check(l, loss)?;
                losses.push(loss);
                grads.push(Some(g));
            }
            let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            Ok(Found { loss, more: serde_json::json!({"losses": losses}), losses, grads })
        })
    }

    /// The chain, to the end.
    pub fn chain(&mut self, on: &mut impl FnMut(Event)) -> Result<()> {
        let (config, model) = (self.config, self.model);
        let weights = Transposed::of(model)?;
        let steps = steps(&config.chain.training);
        self.train(Stage::Chain, &config.chain.training, on, |s, batch| {
            let order = &s.adapter.order;
            let draw = chain::draw(config.chain.prefixes, config.seed, s.place.step, steps, order.len());
            let how = (config.chain.aligned, config.chain.recompute);
            let (loss, grads) = chain::step(model, &weights, &s.adapter.layers, order, draw, batch, how)?;
            for (l, g) in grads.iter().enumerate() {
                let finite =
                    |g: &DslaParams| g.tensors().iter().all(|(_, t)| t.f32().iter().all(|v| v.is_finite()));
                if g.as_ref().is_some_and(|g| !finite(g)) {
                    s.check(l, f64::NAN)?;
                }
            }
            s.check(order[draw.converted - 1], loss.kl)?;
            let more = serde_json::json!({"converted": draw.converted, "aligned": loss.aligned});
            Ok(Found { loss: loss.kl, losses: vec![], more, grads })
        })
    }

    /// An error where a loss is no number any more.
    fn check(&self, layer: usize, loss: f64) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let path = self.checkpoint();
        let checkpoint = if path.exists() { path.display().to_string() } else { "none".into() };
        Err(Error::Diverged { step: self.place.step, layer, loss, checkpoint })
    }

    /// Steps of a stage from where the run stands to the stage's end.
    fn train(
        &mut self,
        stage: Stage,
        settings: &Training,
        on: &mut impl FnMut(Event),
        mut find: impl FnMut(&Session, &[&[u32]]) -> Result<Found>,
    ) -> Result<()> {
        let (config, steps) = (self.config, steps(settings));
        let (begun, first) = (Instant::now(), self.place.step);
        while self.place.step < steps {
            let began = Instant::now();
            let step = self.place.step;
            let seed = config.seed ^ (stage as u64) << 32;
            let batch = self.corpus.batch(seed, step, settings.batch_tokens, &settings.lengths)?;
            let mut found = find(self, &batch)?;
            let options = adamw(settings.lr, config.warmup, config.weight_decay, step, steps);
            let (layers, moments) = (&mut self.adapter.layers, &mut self.moments);
            optimizer::step_layers(layers, &mut found.grads, moments, config.clip, &options)?;
            let lr = options.lr;
            let tokens: usize = batch.iter().map(|s| s.len()).sum();
            self.place.step += 1;
            self.place.tokens += tokens as u64;
            self.log(stage, batch[0].len(), lr, &found);
            on(Event::Step {
                stage,
                step: self.place.step,
                steps,
                tokens: self.place.tokens,
                tokens_per_second: tokens as f64 / began.elapsed().as_secs_f64(),
                loss: found.loss,
                losses: found.losses,
                lr,
                seconds_left: begun.elapsed().as_secs_f64() / (self.place.step - first) as f64
                    * (steps - self.place.step) as f64,
            });
            if self.place.step.is_multiple_of(config.checkpoint_every) || self.place.step == steps {
                self.save()?;
                on(Event::Checkpoint { step: self.place.step });
            }
        }
        Ok(())
    }

    fn log(&mut self, stage: Stage, length: usize, lr: f64, found: &Found) {
        let mut line = serde_json::json!({
            "stage": stage, "step": self.place.step, "tokens": self.place.tokens, "length": length, "lr": lr,
            "loss": found.loss,
        });
        if let (Some(line), Some(more)) = (line.as_object_mut(), found.more.as_object()) {
            line.extend(more.clone());
        }
        self.metrics.push_str(&line.to_string());
        self.metrics.push('\n');
        self.place.lines += 1;
    }
}

/// What one step found.
struct Found {
    /// Loss as the stage counts it.
    loss: f64,
    /// Per trained layer, where the stage has that.
    losses: Vec<f64>,
    /// Fields of the metrics' line beside those that every step has.
    more: serde_json::Value,
    /// Gradients by layer of the model.
    grads: Vec<Option<DslaParams>>,
}

/// Steps of a stage.
pub fn steps(settings: &Training) -> u64 {
    settings.tokens.div_ceil(settings.batch_tokens as u64).max(1)
}

/// The parameters a run starts from, and what identifies them together with the base model.
fn first(model: &Model, config: &Config, start: Option<&Adapter>) -> Result<(Adapter, String)> {
    let mut adapter = Adapter::init(model, &config.form)?;
    let base = model.weights().fingerprint()?;
    let Some(before) = start else { return Ok((adapter, base)) };
    // No parameter's shape depends on the window or on the sinks.
    let Form { projections, window, sinks, .. } = config.form;
    let same = Form { projections, window, sinks, ..before.form };
    if same != config.form {
        let (got, want) = (format!("{:?}", before.form), format!("{:?}", config.form));
        return Err(Error::Argument { arg: "the adapter to start from", got, want });
    }
    let mut hash = Fnv::default();
    for (layer, before) in adapter.layers.iter_mut().zip(&before.layers) {
        let (Some(layer), Some(before)) = (layer, before) else { continue };
        let before = before.params.tensors();
        for (name, t) in layer.params.tensors_mut() {
            if let Some((_, from)) = before.iter().find(|(n, f)| *n == name && f.shape() == t.shape()) {
                *t = (*from).clone();
                hash.extend(from.f32().iter().map(|v| v.to_bits()));
            }
        }
    }
    if before.order.len() == adapter.order.len() {
        adapter.order = before.order.clone();
    }
    Ok((adapter, format!("{base}+{hash}")))
}

/// Metrics up to the checkpoint: later lines belong to steps that will be run again.
fn kept_metrics(path: &Path, lines: usize) -> Result<String> {
    if lines == 0 {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(path).map_err(|e| file_error(path, &e))?;
    Ok(text.lines().take(lines).flat_map(|l| [l, "\n"]).collect())
}

fn file_error(path: &Path, e: &std::io::Error) -> Error {
    Error::Checkpoint {
        file: path.display().to_string(),
        at: "file".into(),
        got: e.to_string(),
        want: "to read and write there".into(),
    }
}
