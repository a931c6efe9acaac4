//! When requests come and how long they are: from a file in the columns of Azure's LLM inference traces, or drawn.

use anyhow::{Context, Result, bail};
use dsla_model::sample::uniform;
use std::path::Path;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds after the first one.
    pub at: f64,
    /// Prompt tokens, 1 or more.
    pub prompt: usize,
    /// Tokens to generate, 1 or more.
    pub generated: usize,
}

/// Lengths to draw from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    /// Medians of prompt and generated tokens; log-normal around them.
    Spread { prompt: f64, generated: f64 },
    /// All alike.
    Exact { prompt: usize, generated: usize },
}

/// Standard deviation of the logarithm. The published medians do not say it: e^0.9 is our assumption, a factor of 2.5.
const SIGMA: f64 = 0.9;

impl Lengths {
    /// `conversation` and `code`: the medians of Azure's two services, Splitwise (Patel et al., ISCA 2024), figure 3.
    pub fn parse(text: &str) -> Result<Lengths, String> {
        match text {
            "conversation" => return Ok(Lengths::Spread { prompt: 1020.0, generated: 129.0 }),
            "code" => return Ok(Lengths::Spread { prompt: 1500.0, generated: 13.0 }),
            _ => {}
        }
        let two = text.split_once(',').and_then(|(p, g)| Some((p.parse().ok()?, g.parse().ok()?)));
        match two {
            Some((prompt, generated)) if prompt > 0 && generated > 0 => {
                Ok(Lengths::Exact { prompt, generated })
            }
            _ => Err(format!("got {text:?}, want conversation, code or PROMPT,GENERATED in tokens")),
        }
    }

    /// The lengths of request `i`.
    fn draw(self, seed: u64, i: u64) -> (usize, usize) {
        match self {
            Lengths::Exact { prompt, generated } => (prompt, generated),
            Lengths::Spread { prompt, generated } => {
                // Two independent normal draws of one pair of uniform ones (Box and Muller 1958).
                let (u, v) = (1.0 - uniform(seed, 3 * i), uniform(seed, 3 * i + 1));
                let radius = (-2.0 * u.ln()).sqrt() * SIGMA;
                let angle = std::f64::consts::TAU * v;
                let tokens = |median: f64, z: f64| ((median * z.exp()).round() as usize).max(1);
                (tokens(prompt, radius * angle.cos()), tokens(generated, radius * angle.sin()))
            }
        }
    }
}

/// Arrivals as a Poisson process of `rate` per second, for `seconds`. The same seed, the same trace.
pub fn poisson(rate: f64, seconds: f64, lengths: Lengths, seed: u64) -> Vec<Arrival> {
    let mut at = 0.0;
    let mut out = Vec::new();
    for i in 0.. {
        at += -(1.0 - uniform(seed, 3 * i + 2)).ln() / rate;
        if at >= seconds {
            break;
        }
        let (prompt, generated) = lengths.draw(seed, i);
        out.push(Arrival { at, prompt, generated });
    }
    // The clock of a trace starts at its first request.
    let first = out.first().map_or(0.0, |a: &Arrival| a.at);
    out.iter_mut().for_each(|a| a.at -= first);
    out
}

/// Columns of the file, by name.
const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// A file with these columns, ordered by time.
pub fn read(path: &Path) -> Result<Vec<Arrival>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Arrival>> {
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let header = lines.next().map_or("", |(_, l)| l).trim_start_matches('\u{feff}');
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let column = |name: &str| {
        let at = names.iter().position(|n| *n == name);
        at.with_context(|| format!("columns: got {header:?}, want {}", COLUMNS.join(",")))
    };
    let columns = [column(COLUMNS[0])?, column(COLUMNS[1])?, column(COLUMNS[2])?];
    let mut out = Vec::new();
    for (i, line) in lines {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |c: usize| cells.get(columns[c]).copied().unwrap_or_default();
        let wrong =
            |c: usize, want: &str| format!("line {}: {}: got {:?}, want {want}", i + 1, COLUMNS[c], cell(c));
        let at = seconds(cell(0)).with_context(|| wrong(0, "2023-11-16 18:15:46.68 or seconds"))?;
        let tokens = |c: usize| match cell(c).parse::<usize>() {
            // Requests that generated nothing are in the published files: the prompt is work all the same.
            Ok(n) => Ok(n.max(1)),
            Err(_) => bail!("{}", wrong(c, "a number of tokens")),
        };
        out.push(Arrival { at, prompt: tokens(1)?, generated: tokens(2)? });
    }
    if out.is_empty() {
        bail!("got no requests, want one or more");
    }
    out.sort_by(|a, b| a.at.total_cmp(&b.at));
    let first = out[0].at;
    out.iter_mut().for_each(|a| a.at -= first);
    Ok(out)
}

/// Seconds of a date with a time, or a plain number.
fn seconds(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let (date, time) = text.split_once([' ', 'T'])?;
    // All of a file are in one zone: which one makes no difference.
    let time = time.split(['+', 'Z']).next()?;
    let mut date = date.splitn(3, '-').map(|s| s.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<f64>().ok()?, time.next()?.parse::<f64>().ok()?);
    let second: f64 = time.next()?.trim().parse().ok()?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(0..=9999).contains(&year) {
        return None;
    }
    // Days since 1 March of year 0: years then end with February, so a leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day;
    // From 1970: of larger numbers an f64 would not hold the microseconds.
    Some((days - 719_469) as f64 * 86_400.0 + hour * 3600.0 + minute * 60.0 + second)
}

/// A trace as such a file. Times are seconds, which [`read`] takes, too.
pub fn csv(trace: &[Arrival]) -> String {
    let mut out = COLUMNS.join(",") + "\n";
    for a in trace {
        out.push_str(&format!("{:.6},{},{}\n", a.at, a.prompt, a.generated));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_columns_in_any_order_and_zone() {
        let text = "\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\n\
            2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n\n";
        let got = parse(text).expect("a trace");
        assert_eq!((got[0].at, got[0].prompt, got[0].generated), (0.0, 374, 44));
        assert!((got[1].at - 4.314579).abs() < 1e-6 && got[1].prompt == 396);
        let text = "GeneratedTokens,TIMESTAMP,ContextTokens\n0,2024-02-28 23:59:59+00:00,5\n1,2024-03-01 00:00:01+00:00,6\n";
        let got = parse(text).expect("a trace");
        assert_eq!((got[1].at, got[0].generated), (86_402.0, 1), "a leap day lies between");
        assert_eq!(
            seconds("2023-03-01 00:00:00").zip(seconds("2023-02-28 00:00:00")).map(|(a, b)| a - b),
            Some(86_400.0)
        );
        assert_eq!(
            seconds("2024-01-01T00:00:00Z").zip(seconds("2023-12-31 12:00:00")).map(|(a, b)| a - b),
            Some(43_200.0)
        );
    }

    #[test]
    fn what_is_wrong_with_a_file() {
        let refused = |text: &str, want: &str| {
            let error = format!("{:#}", parse(text).expect_err(want));
            assert!(error.contains(want), "{error}");
        };
        refused("", "columns: got \"\"");
        refused("TIMESTAMP,ContextTokens\n", "want TIMESTAMP,ContextTokens,GeneratedTokens");
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        refused(head, "no requests");
        refused(&format!("{head}yesterday,1,2\n"), "line 2: TIMESTAMP: got \"yesterday\"");
        refused(&format!("{head}2023-13-01 00:00:00,1,2\n"), "TIMESTAMP");
        refused(&format!("{head}1,2\n"), "line 2: GeneratedTokens: got \"\"");
        refused(&format!("{head}1,-2,3\n"), "ContextTokens: got \"-2\"");
    }

    #[test]
    fn a_drawn_trace_has_the_rate_and_the_medians_and_survives_a_file() {
        let lengths = Lengths::parse("conversation").expect("lengths");
        let trace = poisson(5.0, 1000.0, lengths, 7);
        assert!((4800..5200).contains(&trace.len()), "{}", trace.len());
        let median = |of: fn(&Arrival) -> usize| {
            let mut all: Vec<usize> = trace.iter().map(of).collect();
            all.sort_unstable();
            all[all.len() / 2] as f64
        };
        assert!((median(|a| a.prompt) / 1020.0 - 1.0).abs() < 0.06, "{}", median(|a| a.prompt));
        assert!((median(|a| a.generated) / 129.0 - 1.0).abs() < 0.06, "{}", median(|a| a.generated));
        // Exponential gaps: their standard deviation is their mean.
        let gaps: Vec<f64> = trace.windows(2).map(|w| w[1].at - w[0].at).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.06);
        assert_eq!(poisson(5.0, 1000.0, lengths, 7), trace);
        assert_ne!(poisson(5.0, 1000.0, lengths, 8), trace);
        let back = parse(&csv(&trace)).expect("a trace");
        assert!(back.iter().zip(&trace).all(|(a, b)| (a.at - b.at).abs() < 1e-6 && a.prompt == b.prompt));
        assert_eq!(Lengths::parse("64,8"), Ok(Lengths::Exact { prompt: 64, generated: 8 }));
        assert!(Lengths::parse("64,0").is_err() && Lengths::parse("poems").is_err());
    }
}
