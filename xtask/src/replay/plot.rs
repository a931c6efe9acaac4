//! A replay as SVG: a dot for each request where it came, as high as it took; then the share of layers it ran converted.

use super::Run;
use crate::peers::plot::escape;
use serde_json::Value;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 230.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 64.0;
const GAP: f64 = 56.0;
const COLOURS: [&str; 7] = ["#8a8f98", "#2e86ab", "#d1495b", "#e08e1b", "#7b4fa3", "#3b7d4f", "#1f1f1f"];

/// A request: when it was due, how high its dot is, and how many tokens its prompt has.
type Dot = (f64, f64, f64);

pub fn svg(title: &str, runs: &[Run]) -> String {
    let panels =
        [("whole request, s", "e2e_s"), ("first token, s", "ttft_s"), ("share of layers converted", "rate")];
    let height = TOP + panels.len() as f64 * (PANEL + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\" font-weight=\"bold\">{}</text>\n",
        WIDTH + LEFT + 30.0,
        escape(title)
    );
    for (i, (name, _)) in runs.iter().enumerate() {
        let x = LEFT + 150.0 * i as f64;
        let colour = COLOURS[i % COLOURS.len()];
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<circle cx=\"{x}\" cy=\"38\" r=\"5\" fill=\"{colour}\"/><text x=\"{}\" y=\"42\">{}</text>",
            x + 9.0,
            escape(name)
        );
    }
    for (i, (name, field)) in panels.into_iter().enumerate() {
        let all: Vec<Vec<Dot>> = runs.iter().map(|(_, run)| dots(run, field)).collect();
        panel(&mut out, TOP + (PANEL + GAP) * i as f64, name, &all);
    }
    out + "</svg>\n"
}

fn dots(run: &Value, field: &str) -> Vec<Dot> {
    let each = run["each"].as_array().into_iter().flatten();
    each.filter_map(|r| Some((r["at_s"].as_f64()?, r[field].as_f64()?, r["prompt_tokens"].as_f64()?)))
        .collect()
}

fn panel(out: &mut String, top: f64, name: &str, all: &[Vec<Dot>]) {
    let most = |of: fn(&Dot) -> f64| all.iter().flatten().map(of).fold(1e-9, f64::max);
    let (end, peak) = (most(|d| d.0), most(|d| d.1));
    let x = |v: f64| LEFT + WIDTH * v / end;
    let y = |v: f64| top + PANEL * (1.0 - v / peak);
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{name}</text>", top - 8.0);
    for tick in 0..=4 {
        let share = tick as f64 / 4.0;
        let (v, at) = (peak * share, y(peak * share));
        let digits = if peak < 10.0 { 2 } else { 0 };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{v:.digits$}</text>\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0} s</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0,
            x(end * share),
            top + PANEL + 16.0,
            end * share
        );
    }
    for (i, dots) in all.iter().enumerate() {
        for (at, v, prompt) in dots {
            // Long prompts are larger: what everyone waits for.
            let r = if *prompt >= 2048.0 { 4.5 } else { 2.5 };
            let colour = COLOURS[i % COLOURS.len()];
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{r}\" fill=\"{colour}\" fill-opacity=\"0.75\"/>",
                x(*at),
                y(*v)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dot_per_request_and_panel_and_none_for_what_is_not_known() {
        let ours = json!({"each": [
            {"at_s": 0.0, "prompt_tokens": 5000, "ttft_s": 1.0, "e2e_s": 2.0, "rate": 0.5},
            {"at_s": 9.0, "prompt_tokens": 10, "ttft_s": 0.5, "e2e_s": 1.0, "rate": 0.0},
        ]});
        let peer = json!({"each": [{"at_s": 0.0, "prompt_tokens": 5000, "ttft_s": 3.0, "e2e_s": 4.0, "rate": null}]});
        let text = svg("a < b", &[("ours".into(), ours), ("peer".into(), peer)]);
        assert_eq!(text.matches("fill-opacity").count(), 3 + 3 + 2);
        assert!(text.contains("a &lt; b") && text.contains(">4.00</text>"), "{text}");
        assert!(svg("nothing", &[]).ends_with("</svg>\n"));
    }
}
