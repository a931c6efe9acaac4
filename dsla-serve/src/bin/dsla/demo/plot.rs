//! The demo's picture: three panels over time, both engines in each. Plain SVG, no dependency.

use dsla_serve::StepReport;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 44.0;
const COLOURS: [&str; 2] = ["#8a8f98", "#d1495b"];

/// Draw teacher-only and adaptive runs.
pub fn draw(teacher: &[StepReport], adaptive: &[StepReport]) -> String {
    let panels: [(&str, Vec<Vec<(f64, f64)>>); 3] = [
        ("layers converted for new sequences", both(teacher, adaptive, |r| r.stats.converted_target as f64)),
        ("KV cache and states, MB", both(teacher, adaptive, |r| (r.stats.kv_bytes + r.stats.state_bytes) as f64 / 1e6)),
        ("tokens per second (prompt and new)", [teacher, adaptive].map(speed).into()),
    ];
    let end = [teacher, adaptive].iter().flat_map(|r| r.last()).map(|r| r.at.as_secs_f64()).fold(1.0, f64::max);
    let height = 40.0 + 3.0 * (PANEL + GAP);
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _ = write!(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n", WIDTH + LEFT + 20.0);
    for (i, name) in ["teacher only", "adaptive"].iter().enumerate() {
        let x = LEFT + 140.0 * i as f64;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"4\" fill=\"{}\"/><text x=\"{}\" y=\"18\">{name}</text>", COLOURS[i], x + 20.0);
    }
    for (p, (title, lines)) in panels.iter().enumerate() {
        let top = 40.0 + p as f64 * (PANEL + GAP);
        let most = lines.iter().flatten().map(|p| p.1).fold(1.0, f64::max) * 1.05;
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>", top + 8.0);
        let (y0, y1) = (top + 16.0, top + PANEL);
        for tick in 0..=3 {
            let (v, y) = (most * tick as f64 / 3.0, y1 - (y1 - y0) * tick as f64 / 3.0);
            let _ = writeln!(svg, "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e6e8eb\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{v:.0}</text>", LEFT + WIDTH, LEFT - 6.0, y + 4.0);
        }
        for tick in 0..=5 {
            let t = end * tick as f64 / 5.0;
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{t:.0} s</text>", LEFT + WIDTH * t / end, y1 + 16.0);
        }
        for (line, colour) in lines.iter().zip(COLOURS) {
            let points: Vec<String> = line.iter().map(|(t, v)| format!("{:.1},{:.1}", LEFT + WIDTH * t / end, y1 - (y1 - y0) * v / most)).collect();
            let _ = writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>", points.join(" "));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn both(a: &[StepReport], b: &[StepReport], f: impl Fn(&StepReport) -> f64) -> Vec<Vec<(f64, f64)>> {
    [a, b].map(|r| r.iter().map(|r| (r.at.as_secs_f64(), f(r))).collect()).into()
}

/// Tokens per second over windows of a second.
fn speed(reports: &[StepReport]) -> Vec<(f64, f64)> {
    let mut points = vec![];
    let (mut from, mut sum) = (0.0, 0);
    for r in reports {
        sum += r.prompt_tokens + r.generated_tokens;
        let now = r.at.as_secs_f64();
        if now - from >= 1.0 {
            points.push((now, sum as f64 / (now - from)));
            (from, sum) = (now, 0);
        }
    }
    points
}
