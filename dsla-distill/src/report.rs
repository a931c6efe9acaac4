//! One page per run: how the loss fell and what every prefix of the order costs. Self-contained HTML.

use crate::chart::{Panel, svg};
use dsla_model::Adapter;
use std::fmt::Write;

/// File name inside the run's directory.
pub const FILE: &str = "report.html";

/// The page from the run's metrics (JSON lines) and its adapter.
pub fn html(metrics: &str, adapter: &Adapter) -> String {
    let rows: Vec<serde_json::Value> = metrics.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let mut page = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>distillation report</title><body style=\"font-family:sans-serif;max-width:900px;margin:2em auto\">\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "<h1>{}</h1><p>{} converted layers at most; form <code>{}</code></p>",
        escape(&adapter.base_model.name),
        adapter.order.len(),
        escape(&serde_json::to_string(&adapter.form).unwrap_or_default())
    );
    let mut lengths: Vec<u64> = rows.iter().filter_map(|r| r["length"].as_u64()).collect();
    lengths.sort();
    lengths.dedup();
    if !rows.is_empty() {
        let line = |n: u64| {
            rows.iter()
                .filter(|r| r["length"] == n)
                .filter_map(|r| Some((r["step"].as_f64()?, r["loss"].as_f64()?)))
                .collect()
        };
        let names: Vec<String> = lengths.iter().map(|n| format!("{n} tokens")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let panel = Panel {
            title: "alignment: error over the teacher's variance, mean over layers, by sequence length"
                .into(),
            lines: lengths.iter().map(|&n| line(n)).collect(),
        };
        page += &svg(&names, "steps", &[panel]);
    }
    if !adapter.quality.is_empty() {
        let line = |f: fn(&dsla_model::PrefixQuality) -> f64| {
            vec![adapter.quality.iter().map(|q| (q.converted as f64, f(q))).collect::<Vec<_>>()]
        };
        let panels = [
            Panel {
                title: "KL from the teacher, nats per token, by converted layers".into(),
                lines: line(|q| q.kl),
            },
            Panel {
                title: "perplexity over the teacher's, minus 1".into(),
                lines: line(|q| (q.ppl_ratio - 1.0).max(0.0)),
            },
        ];
        page += &svg(&["held-out text"], "layers", &panels);
        page += "<table border=\"1\" cellpadding=\"4\" style=\"border-collapse:collapse\"><tr><th>layers<th>last converted<th>KL<th>perplexity ratio<th>arg max agrees</tr>\n";
        for q in &adapter.quality {
            let last = q
                .converted
                .checked_sub(1)
                .and_then(|i| adapter.order.get(i))
                .map_or(String::new(), usize::to_string);
            let _ = writeln!(
                page,
                "<tr><td>{}<td>{last}<td>{:.4}<td>{:.4}<td>{:.1}%</tr>",
                q.converted,
                q.kl,
                q.ppl_ratio,
                100.0 * q.top1_agreement
            );
        }
        page += "</table>\n";
    }
    page
}

pub(crate) fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;")
}
