//! Where results and progress go: one JSON object or lines on stdout; a bar or lines on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Print one JSON object.
pub fn json(value: &serde_json::Value) {
    println!("{value}");
}

/// A progress bar on a terminal; otherwise a line now and then.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    last: Instant,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} left {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what);
            bar
        });
        Progress { bar, what, last: Instant::now() }
    }

    pub fn at(&mut self, done: usize, of: usize) {
        self.note(done, of, "");
    }

    /// Progress with a word on how it goes.
    pub fn note(&mut self, done: usize, of: usize, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            if !note.is_empty() {
                bar.set_message(format!("{} {note}", self.what));
            }
        } else if done == of || self.last.elapsed() > Duration::from_secs(5) {
            self.last = Instant::now();
            eprintln!("{}", format!("{} {done}/{of} {note}", self.what).trim_end());
        }
    }
}

impl Progress {
    /// As the callback that measurements take.
    pub fn bar(mut self) -> impl FnMut(usize, usize) {
        move |done, of| self.at(done, of)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Bytes for people.
pub fn bytes(n: usize) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}
