//! `dsla fetch` and `dsla info`

use crate::args::ModelArgs;
use crate::out;
use anyhow::Result;
use clap::Args;
use dsla_model::hub;

#[derive(Args)]
pub struct Fetch {
    /// smollm2-135m-instruct
    name: String,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Fetch {
    pub fn run(self) -> Result<()> {
        let path = hub::fetch(&self.name, &mut |line| eprintln!("{line}"))?;
        if self.json {
            out::json(&serde_json::json!({"path": path}));
        } else {
            println!("{}", path.display());
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Info {
    #[command(flatten)]
    model: ModelArgs,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Info {
    pub fn run(self) -> Result<()> {
        let model = self.model.load()?;
        let c = model.config();
        let parameters: usize = model
            .weights()
            .names()
            .filter_map(|n| model.weights().shape(n))
            .map(|s| s.iter().product::<usize>())
            .sum();
        let layers: usize = model.layers().iter().map(|l| l.bytes()).sum();
        let attention: usize = model.layers().iter().map(|l| l.qkv.bytes() + l.o.bytes()).sum();
        let mlp: usize = model.layers().iter().map(|l| l.mlp.bytes()).sum();
        let kv_token = model.token_bytes();
        let adapter = model.adapter();
        let mixers: Vec<_> = (0..c.num_layers)
            .map(|l| match adapter.and_then(|a| a.layers[l].as_ref()) {
                Some(d) => serde_json::json!({"layer": l, "mixer": "softmax or dsla", "dsla_parameters": d.params.count(), "state_bytes": d.state_bytes(model.dtype())}),
                None => serde_json::json!({"layer": l, "mixer": "softmax"}),
            })
            .collect();
        let value = serde_json::json!({
            "config": {
                "layers": c.num_layers, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size,
                "heads": c.num_heads, "kv_heads": c.num_kv_heads, "head_dim": c.head_dim,
                "vocab_size": c.vocab_size, "context": c.max_position, "rope_theta": c.rope.theta,
                "tied_embeddings": c.tie_embeddings,
            },
            "parameters": parameters,
            "dtype": model.format().to_string(),
            "sha256": model.weights().fingerprint()?,
            "bytes": {"total": model.bytes(), "attention": attention, "mlp": mlp, "embedding_and_head": model.bytes() - layers, "kv_per_token_and_layer": kv_token},
            "layers": mixers,
            "adapter": adapter.map(|a| serde_json::json!({"base_model": a.base_model, "form": a.form, "order": a.order, "quality": a.quality, "training": a.training})),
        });
        if self.json {
            out::json(&value);
            return Ok(());
        }
        println!(
            "{} parameters, {} layers of {} heads ({} kv) of {}, hidden {}, vocabulary {}, context {}",
            parameters,
            c.num_layers,
            c.num_heads,
            c.num_kv_heads,
            c.head_dim,
            c.hidden_size,
            c.vocab_size,
            c.max_position
        );
        println!(
            "weights in {}: {} (attention {}, mlp {}, embedding and head {})",
            model.format(),
            out::bytes(model.bytes()),
            out::bytes(attention),
            out::bytes(mlp),
            out::bytes(model.bytes() - layers)
        );
        println!("kv cache: {} per token and layer", out::bytes(kv_token));
        let Some(a) = adapter else {
            println!("no adapter: every layer is softmax attention");
            return Ok(());
        };
        if let Some(d) = a.layers.iter().flatten().next() {
            println!(
                "adapter for {}: {} parameters and {} of state per converted layer",
                a.base_model.name,
                d.params.count(),
                out::bytes(d.state_bytes(model.dtype()))
            );
        }
        println!("order: {:?}", a.order);
        for q in &a.quality {
            println!(
                "  {:2} layers: kl {:.4}, ppl ratio {:.4}, arg max agrees {:.1}%",
                q.converted,
                q.kl,
                q.ppl_ratio,
                100.0 * q.top1_agreement
            );
        }
        Ok(())
    }
}
