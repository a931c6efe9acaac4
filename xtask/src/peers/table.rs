//! The one table of a run.

use super::engine::Engine;
use super::rows::{Limits, Ratio, Row};
use std::fmt::Write as _;

pub fn render(engines: &[Engine], rows: &[Row], limits: Limits) -> String {
    let mut lines = vec![
        [
            "job",
            "context",
            "batch",
            "engine",
            "tok/s",
            "min - max",
            "of limit",
            "dsla / best peer, comparable format; any",
        ]
        .map(String::from),
    ];
    for row in rows {
        lines.push([
            row.job.into(),
            row.context.to_string(),
            row.batch.to_string(),
            row.label(),
            row.median().map_or("-".into(), speed),
            row.median()
                .map_or("-".into(), |_| format!("{} - {}", speed(row.range().0), speed(row.range().1))),
            row.share.map_or("-".into(), |s| format!("{s:.0}%")),
            verdict(row),
        ]);
    }
    let mut widths = [0; 8];
    for line in &lines {
        for (w, cell) in widths.iter_mut().zip(line) {
            *w = cell.chars().count().max(*w);
        }
    }
    let mut out = String::new();
    let mut last = ("", "", "");
    for (i, line) in lines.iter().enumerate() {
        let group = (line[0].as_str(), line[1].as_str(), line[2].as_str());
        if i > 1 && group != last {
            out.push('\n');
        }
        last = group;
        let mut text = String::new();
        for (k, (cell, &w)) in line.iter().zip(&widths).enumerate() {
            // Names to the left, numbers to the right.
            let _ = if matches!(k, 0 | 3 | 7) {
                write!(text, "{cell:<w$}  ")
            } else {
                write!(text, "{cell:>w$}  ")
            };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
    out.push('\n');
    for engine in engines {
        match &engine.error {
            Some(reason) => {
                let _ = writeln!(out, "{}: {reason}", engine.label());
            }
            None => {
                let (version, gflops) =
                    (engine.facts["version"].as_str().unwrap_or("?"), &engine.facts["gemm_gflops"]);
                let gflops = gflops
                    .as_f64()
                    .map_or(String::new(), |g| format!(", {} GFLOP/s in its own products", speed(g)));
                let _ = writeln!(out, "{}: {version}{gflops}", engine.label());
            }
        }
    }
    let _ = writeln!(
        out,
        "limits, the largest that any of them measured: {:.0} GFLOP/s in products (prefill), {:.1} GB/s of reads (decode)",
        limits.gflops, limits.gb_s
    );
    out
}

pub fn speed(v: f64) -> String {
    if v >= 100.0 { format!("{v:.0}") } else { format!("{v:.1}") }
}

fn verdict(row: &Row) -> String {
    if let Some(reason) = &row.error {
        let of = row.samples.len();
        let got = row.samples.iter().flatten().count();
        return if got > 0 { format!("{got} of {of} rounds: {reason}") } else { reason.clone() };
    }
    let say = |r: &Ratio| format!("{:.2}x {}", r.value, r.peer);
    match (&row.same, &row.any) {
        (Some(a), Some(b)) if a != b => format!("{}; {}", say(a), say(b)),
        (Some(a), _) => say(a),
        (None, Some(b)) => format!("-; {}", say(b)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_reason_has_a_line() {
        let base = Row { job: "prefill", context: 512, batch: 1, rate: 0.0, ..Row::default() };
        let ratio = |peer: &str, value| Some(Ratio { peer: peer.into(), value });
        let rows = [
            Row {
                engine: "dsla".into(),
                format: "bf16".into(),
                rate: 0.75,
                samples: vec![Some(1000.0), Some(1100.0)],
                share: Some(24.6),
                same: ratio("torch f32", 2.0),
                any: ratio("llama.cpp q4_1", 0.5),
                ..base.clone()
            },
            Row {
                engine: "torch".into(),
                format: "f32".into(),
                samples: vec![None, Some(40.0)],
                error: Some("out of memory".into()),
                ..base.clone()
            },
            Row {
                job: "decode",
                engine: "torch".into(),
                samples: vec![None],
                error: Some("died".into()),
                ..base
            },
        ];
        let engines = [Engine::refused("vllm", "bf16", "needs AVX-512")];
        let text = render(&engines, &rows, Limits { gflops: 250.0, gb_s: 21.5 });
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("dsla bf16 at 0.75") && lines[1].contains("1050") && lines[1].contains("25%"),
            "{text}"
        );
        assert!(lines[1].ends_with("2.00x torch f32; 0.50x llama.cpp q4_1"), "{text}");
        assert!(
            lines[2].contains("40.0 - 40.0") && lines[2].ends_with("1 of 2 rounds: out of memory"),
            "{text}"
        );
        assert!(
            lines[3].is_empty() && lines[4].starts_with("decode") && lines[4].ends_with("died"),
            "{text}"
        );
        assert!(
            text.contains("vllm bf16: needs AVX-512\n")
                && text.contains("250 GFLOP/s")
                && text.contains("21.5 GB/s")
        );
    }
}
