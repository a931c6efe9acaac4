//! Bars as SVG text: one panel for each context and batch, prefill to the left and decode to the right.

use super::rows::{OURS, Row};
use super::table::speed;
use std::fmt::Write;

const WIDTH: f64 = 520.0;
const NAMES: f64 = 130.0;
const BAR: f64 = 15.0;
const HEAD: f64 = 26.0;

pub fn svg(title: &str, rows: &[Row]) -> String {
    let mut groups: Vec<(usize, usize)> = rows.iter().map(|r| (r.context, r.batch)).collect();
    groups.dedup();
    let panel = |job: &str, group: (usize, usize)| -> Vec<&Row> {
        rows.iter().filter(|r| r.job == job && (r.context, r.batch) == group).collect()
    };
    let mut body = String::new();
    let mut top = 40.0;
    for &group in &groups {
        let mut most = 0;
        for (k, job) in ["prefill", "decode"].into_iter().enumerate() {
            let rows = panel(job, group);
            most = most.max(rows.len());
            draw(&mut body, 10.0 + WIDTH * k as f64, top, job, group, &rows);
        }
        top += HEAD + BAR * most as f64 + 16.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {top}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"13\" font-weight=\"bold\">{}</text>\n{body}</svg>\n",
        2.0 * WIDTH + 10.0,
        escape(title)
    )
}

/// Writing to a String cannot fail.
fn draw(out: &mut String, left: f64, top: f64, job: &str, (context, batch): (usize, usize), rows: &[&Row]) {
    let at_once = if batch > 1 { format!(", {batch} at once") } else { String::new() };
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{job}, {context} tokens{at_once}: tokens/s</text>",
        top + 12.0
    );
    let most = rows.iter().filter(|r| r.median().is_some()).map(|r| r.range().1).fold(1e-9, f64::max);
    let (zero, room) = (left + NAMES, WIDTH - NAMES - 70.0);
    for (i, row) in rows.iter().enumerate() {
        let y = top + HEAD + BAR * i as f64;
        let text = y + BAR - 4.5;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>",
            zero - 6.0,
            escape(&row.label())
        );
        let Some(median) = row.median() else {
            let why = row.error.as_deref().unwrap_or("not measured");
            let why: String = why.chars().take(60).collect();
            let _ = writeln!(out, "<text x=\"{zero}\" y=\"{text}\" fill=\"#8a8f98\">{}</text>", escape(&why));
            continue;
        };
        let colour = if row.engine == OURS { "#d1495b" } else { "#8a8f98" };
        let (low, high) = row.range();
        let x = |v: f64| zero + room * v / most;
        let _ = writeln!(
            out,
            "<rect x=\"{zero}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{mid:.1}\" y2=\"{mid:.1}\" stroke=\"#222\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            y + 1.0,
            room * median / most,
            BAR - 3.0,
            x(low),
            x(high),
            x(high) + 5.0,
            speed(median),
            mid = y + BAR / 2.0 - 0.5,
        );
    }
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_inside_and_refusals_are_written() {
        let row = |job, engine: &str, samples: &[Option<f64>]| Row {
            job,
            context: 512,
            batch: 8,
            engine: engine.into(),
            format: "bf16".into(),
            samples: samples.to_vec(),
            error: samples.contains(&None).then(|| "no <memory>".into()),
            ..Row::default()
        };
        let rows = [
            row("prefill", OURS, &[Some(10.0), Some(30.0)]),
            row("prefill", "torch", &[None]),
            row("decode", OURS, &[Some(5.0)]),
        ];
        let text = svg("a & b", &rows);
        assert!(
            text.starts_with("<svg")
                && text.ends_with("</svg>\n")
                && !text.contains("NaN")
                && !text.contains("inf")
        );
        assert!(
            text.contains("no &lt;memory&gt;") && text.contains("a &amp; b") && text.contains("8 at once")
        );
        let widths: Vec<f64> = text
            .lines()
            .filter(|l| l.contains("fill=\"#d1495b\""))
            .map(|l| l.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!(widths.iter().all(|w| (0.0..=WIDTH).contains(w)), "{widths:?}");
        // The median of 10 and 30 is two thirds of the longest.
        assert!((widths[0] / widths[1] - 2.0 / 3.0).abs() < 0.01, "{widths:?}");
    }
}
