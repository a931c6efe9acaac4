//! The page of `dsla mqar`: recall by distance as self-contained HTML with SVG, and the tables of its numbers.

use super::{RecallBin, Row, accuracy};
use crate::chart::{Panel, svg};
use crate::pretrain::tasks::{Ask, Task};
use std::fmt::Write;

/// One task: its model's recall by seed, and the rows of all forms, windows and seeds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskResult {
    /// Which.
    pub task: Task,
    /// Tokens of a sequence under test.
    pub length: usize,
    /// The trained model's recall, by seed.
    pub teachers: Vec<Vec<RecallBin>>,
    /// What became of it.
    pub rows: Vec<Row>,
}

/// The page; `about` is a line under its title.
pub fn html(about: &str, results: &[TaskResult]) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>recall of converted models</title><body style=\"font-family:sans-serif;max-width:900px;margin:2em auto\">\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(page, "<h1>Recall of converted models</h1><p>{}</p>", crate::page::escape(about));
    for r in results {
        let _ = writeln!(page, "<h2>{:?}, {} tokens</h2>", r.task, r.length);
        page += &markdown_as_html(&table(r));
        let mut windows: Vec<usize> = r.rows.iter().map(|row| row.window).collect();
        windows.sort();
        windows.dedup();
        for window in windows {
            let _ = writeln!(page, "<h3>window {window}: the forms</h3>");
            page += &forms(r, window);
            let _ = writeln!(page, "<h3>window {window}: two states, one silenced</h3>");
            page += &silenced(r, window);
        }
    }
    page
}

/// Recall by log2 distance, in percent, pooled over seeds.
fn line<'a>(bins: impl Iterator<Item = &'a RecallBin>, ask: Ask) -> Vec<(f64, f64)> {
    let mut sums: Vec<[usize; 2]> = vec![];
    for b in bins.filter(|b| b.ask == ask) {
        sums.resize(sums.len().max(b.log2_distance + 1), [0; 2]);
        sums[b.log2_distance][0] += b.right;
        sums[b.log2_distance][1] += b.of;
    }
    let share = |(n, [right, of]): (usize, [usize; 2])| {
        (of > 0).then(|| (n as f64, 100.0 * right as f64 / of as f64))
    };
    sums.into_iter().enumerate().filter_map(share).collect()
}

fn title(ask: Ask) -> String {
    format!("{ask:?} value: right answers in %, by log2 of the distance").to_lowercase()
}

fn forms(r: &TaskResult, window: usize) -> String {
    let mut names: Vec<&str> = vec![];
    for row in r.rows.iter().filter(|row| row.window == window) {
        if !names.contains(&row.form) {
            names.push(row.form);
        }
    }
    let of = |name: &str, ask| {
        let rows = r.rows.iter().filter(|row| row.window == window && row.form == name);
        line(rows.flat_map(|row| &row.whole), ask)
    };
    let panels: Vec<Panel> = r
        .task
        .asks()
        .iter()
        .map(|&ask| Panel { title: title(ask), lines: names.iter().map(|name| of(name, ask)).collect() })
        .collect();
    svg(&names, "", &panels)
}

fn silenced(r: &TaskResult, window: usize) -> String {
    let rows: Vec<&Row> =
        r.rows.iter().filter(|row| row.window == window && !row.no_history.is_empty()).collect();
    let Some(name) = rows.first().map(|row| row.form) else { return String::new() };
    let parts: [fn(&Row) -> &[RecallBin]; 3] = [|r| &r.whole, |r| &r.no_history, |r| &r.no_recency];
    let of = |ask, part: fn(&Row) -> &[RecallBin]| {
        line(rows.iter().filter(|row| row.form == name).flat_map(|row| part(row)), ask)
    };
    let panels: Vec<Panel> = r
        .task
        .asks()
        .iter()
        .map(|&ask| Panel { title: title(ask), lines: parts.iter().map(|part| of(ask, *part)).collect() })
        .collect();
    svg(&["whole", "no history", "no recency"], "", &panels)
}

/// Markdown: one line per form, window and question; per cell the seeds' recalls in percent.
pub fn table(r: &TaskResult) -> String {
    let mut text = String::from(
        "| form | window | state bytes | value | whole | no history | no recency |\n|---|---|---|---|---|---|---|\n",
    );
    let cell = |bins: Vec<&[RecallBin]>, ask: Ask| {
        let of = bins.iter().filter(|b| !b.is_empty());
        let all: Vec<String> = of.map(|b| format!("{:.1}", 100.0 * accuracy(b, Some(ask)))).collect();
        all.join(", ")
    };
    for &ask in r.task.asks() {
        let teachers = cell(r.teachers.iter().map(Vec::as_slice).collect(), ask);
        let _ = writeln!(text, "| softmax | | | {ask:?} | {teachers} | | |");
    }
    let mut seen: Vec<(&str, usize)> = vec![];
    for row in &r.rows {
        let at = (row.form, row.window);
        if seen.contains(&at) {
            continue;
        }
        seen.push(at);
        let same: Vec<&Row> = r.rows.iter().filter(|o| (o.form, o.window) == at).collect();
        for &ask in r.task.asks() {
            let part = |f: fn(&Row) -> &[RecallBin]| cell(same.iter().map(|r| f(r)).collect(), ask);
            let (whole, no_history, no_recency) =
                (part(|r| &r.whole), part(|r| &r.no_history), part(|r| &r.no_recency));
            let (form, window, bytes) = (row.form, row.window, row.state_bytes);
            let _ = writeln!(
                text,
                "| {form} | {window} | {bytes} | {ask:?} | {whole} | {no_history} | {no_recency} |"
            );
        }
    }
    text
}

fn markdown_as_html(table: &str) -> String {
    let row = |line: &str| {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|c| format!("<td>{}", c.trim())).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    let rows: String = table.lines().filter(|l| !l.starts_with("|---")).map(row).collect();
    format!("<table border=\"1\" cellpadding=\"4\" style=\"border-collapse:collapse\">\n{rows}</table>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_pooled_in_plots_and_apart_in_tables() {
        let bins = |right| vec![RecallBin { ask: Ask::Latest, log2_distance: 3, right, of: 4 }];
        let row = |seed, right| Row {
            form: "two",
            window: 0,
            seed,
            state_bytes: 8,
            parameters: 1,
            kl: 0.1,
            half_lives: vec![],
            whole: bins(right),
            no_history: bins(1),
            no_recency: vec![],
        };
        let r = TaskResult {
            task: Task::Mqar,
            length: 64,
            teachers: vec![bins(4)],
            rows: vec![row(0, 4), row(1, 2)],
        };
        assert_eq!(line(r.rows.iter().flat_map(|r| &r.whole), Ask::Latest), [(3.0, 75.0)]);
        assert!(
            table(&r).contains("| two | 0 | 8 | Latest | 100.0, 50.0 | 25.0, 25.0 |  |"),
            "{}",
            table(&r)
        );
        let page = html("about", &[r]);
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(!page.contains("NaN"));
    }
}
