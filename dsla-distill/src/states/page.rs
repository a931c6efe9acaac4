//! The page of `dsla states`: self-contained HTML with SVG.

use super::{LayerStates, NormPoint, PARTS};
use crate::chart::{Panel, svg};
use crate::page::escape;
use std::fmt::Write;

const COLOURS: [&str; 5] = ["#8a8f98", "#2e86ab", "#d1495b", "#3b7d4f", "#c29b2b"];
/// One small plot, and how many stand side by side.
const CELL: (f64, f64) = (150.0, 96.0);
const COLUMNS: usize = 6;

/// The page; `about` is a line under its title.
pub fn html(about: &str, layers: &[LayerStates], norms: &[NormPoint]) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>what the states do</title><body style=\"font-family:sans-serif;max-width:960px;margin:2em auto\">\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(page, "<h1>What the two states do</h1><p>{}</p>", escape(about));
    page += "<h2>Where attention lies</h2><p>Share of attention by log2 of the distance in tokens (0: the token itself), mean over heads, on the teacher's own inputs.</p>\n";
    let mass: Vec<(String, Vec<&[f64]>)> = layers
        .iter()
        .map(|l| (format!("layer {}", l.layer), l.mass.iter().map(|m| m.as_slice()).collect()))
        .collect();
    page += &grid(&PARTS, &mass);
    page += "<h2>How long the gates remember</h2><p>Share of gates by log2 of their half-life in tokens, over all tokens and kv heads.</p>\n";
    let lives: Vec<(String, Vec<&[f64]>)> = layers
        .iter()
        .map(|l| {
            let title =
                format!("layer {}: {:.0} and {:.0}", l.layer, l.mean_half_life[0], l.mean_half_life[1]);
            (title, vec![&[][..], &l.half_lives[0][..], &l.half_lives[1][..]])
        })
        .collect();
    page += &grid(&PARTS[..3], &lives);
    if !norms.is_empty() {
        page += "<h2>Norms of the states</h2><p>Over those after 2,048 tokens (or the nearest place measured); root mean square over kv heads.</p>\n";
        page += &norm_charts(norms);
    }
    page
}

/// Small line plots, one per layer, each with its own scale; the lines' names once above them. x: the bins' numbers.
fn grid(names: &[&str], plots: &[(String, Vec<&[f64]>)]) -> String {
    let (w, h) = CELL;
    let rows = plots.len().div_ceil(COLUMNS);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"9\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        w * COLUMNS as f64,
        24.0 + h * rows as f64
    );
    for (i, name) in names.iter().enumerate().filter(|(i, _)| plots.iter().any(|p| !p.1[*i].is_empty())) {
        let (x, colour) = (10.0 + 110.0 * i as f64, COLOURS[i]);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"6\" width=\"14\" height=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"12\" font-size=\"11\">{name}</text>",
            x + 18.0
        );
    }
    for (i, (title, lines)) in plots.iter().enumerate() {
        let (left, top) = (w * (i % COLUMNS) as f64 + 8.0, 24.0 + h * (i / COLUMNS) as f64);
        let (x1, y0, y1) = (left + w - 16.0, top + 16.0, top + h - 16.0);
        let most = lines.iter().flat_map(|l| l.iter()).copied().fold(1e-9, f64::max);
        let bins = lines.iter().map(|l| l.len()).max().unwrap_or(1).max(2) as f64 - 1.0;
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{}\">{title} <tspan fill=\"#8a8f98\">max {most:.2}</tspan></text><line x1=\"{left}\" x2=\"{x1}\" y1=\"{y1}\" y2=\"{y1}\" stroke=\"#c8ccd1\"/>",
            top + 11.0
        );
        for tick in [0.0, bins / 3.0, 2.0 * bins / 3.0, bins] {
            let x = left + (x1 - left) * tick / bins;
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#8a8f98\">{tick:.0}</text>",
                y1 + 10.0
            );
        }
        for (line, colour) in lines.iter().zip(COLOURS) {
            let points: Vec<String> = line
                .iter()
                .enumerate()
                .map(|(b, v)| {
                    format!("{:.1},{:.1}", left + (x1 - left) * b as f64 / bins, y1 - (y1 - y0) * v / most)
                })
                .collect();
            if !points.is_empty() {
                let _ = writeln!(
                    out,
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\" points=\"{}\"/>",
                    points.join(" ")
                );
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Median and extremes over layers, relative to the training length.
fn norm_charts(norms: &[NormPoint]) -> String {
    let Some(base) = norms.iter().min_by_key(|p| p.tokens.abs_diff(2048)) else { return String::new() };
    let panel = |title: &str, of: fn(&NormPoint) -> &[f64]| {
        let ratios = |p: &NormPoint| {
            let mut r: Vec<f64> = of(p).iter().zip(of(base)).map(|(v, b)| v / b.max(1e-30)).collect();
            r.sort_by(f64::total_cmp);
            r
        };
        let line =
            |pick: fn(&[f64]) -> f64| norms.iter().map(|p| (p.tokens as f64, pick(&ratios(p)))).collect();
        let lines = vec![
            line(|r| r.get(r.len() / 2).copied().unwrap_or(f64::NAN)),
            line(|r| r.last().copied().unwrap_or(f64::NAN)),
            line(|r| r.first().copied().unwrap_or(f64::NAN)),
        ];
        Panel { title: title.into(), lines }
    };
    let panels = [
        panel("S of history", |p| &p.s[0]),
        panel("z of history", |p| &p.z[0]),
        panel("S of recency", |p| &p.s[1]),
        panel("z of recency", |p| &p.z[1]),
    ];
    svg(&["median of layers", "largest", "smallest"], "tokens", &panels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::BINS;

    #[test]
    fn the_page_holds_every_layer_and_escapes_its_title() {
        let layers: Vec<LayerStates> = (0..7)
            .map(|layer| LayerStates {
                layer,
                mass: [[0.1; BINS]; 5],
                half_lives: [[0.2; BINS]; 2],
                mean_half_life: [4096.0, 77.0],
                gamma: [0.5; 2],
            })
            .collect();
        let point =
            |tokens| NormPoint { tokens, s: [vec![1.0; 7], vec![2.0; 7]], z: [vec![1.0; 7], vec![1.0; 7]] };
        let page = html("<model> & text", &layers, &[point(512), point(2048)]);
        assert!(page.contains("&lt;model&gt; &amp; text") && !page.contains("NaN"));
        assert_eq!(page.matches("<svg").count(), 3);
        assert!((0..7).all(|l| page.matches(&format!("layer {l}")).count() == 2));
        assert_eq!(page.matches("<polyline").count(), 7 * 5 + 7 * 2 + 4 * 3);
        assert_eq!(html("x", &layers, &[]).matches("<svg").count(), 2);
    }
}
