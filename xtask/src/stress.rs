//! `cargo xtask stress`: many streaming clients against one `dsla serve`, for as long as one likes.
//!
//! Every client asks one of a few dozen requests, whose texts a quiet run has told before: same seed, same text, so a
//! lost, doubled or crossed token shows. A quarter close their connection half way. Memory has to be flat, and back at
//! nothing when the clients have gone; a SIGTERM while some stream has to let them end.

use crate::http::{self, Answer};
use crate::peers::{self, machine};
use crate::served::Served;
use crate::steps::Steps;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";
/// Requests that the quiet run tells.
const CASES: u64 = 32;
/// Streams that are there when the signal comes.
const DRAINED: usize = 24;
/// What resident memory may gain from the run's second quarter to its last: this share, and these bytes.
const GROWTH: (f64, f64) = (0.05, 8e6);

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// What a choice said, whether it came whole or in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    tokens: u64,
    hash: u64,
}

/// A request and its text.
struct Case {
    body: Value,
    want: Said,
}

#[derive(Default)]
struct Tally {
    completed: u64,
    cancelled: u64,
    tokens: u64,
    wrong: Vec<String>,
}

pub fn run(steps: &Steps, flags: &crate::Stress) -> Result<()> {
    let dsla = match &flags.dsla {
        Some(path) => path.clone(),
        None => steps.step("build the release binary", || steps.release())?,
    };
    let (clients, seconds) = (flags.clients.unwrap_or(64), flags.seconds.unwrap_or(600));
    ensure!(
        clients > 0 && seconds > 3,
        "stress: got {clients} clients for {seconds} s, want 1 for 4 s or more"
    );
    steps.step(&format!("{clients} clients for {seconds} s"), || {
        let fixture = steps.root.join("dsla-model/tests/fixtures/tiny_tied").display().to_string();
        let (model, options) = match &flags.model {
            Some(model) => (model.as_str(), vec![]),
            None => (fixture.as_str(), vec!["--dtype", "f32"]),
        };
        let machine = machine::fingerprint(&steps.sh, std::thread::available_parallelism()?.get());
        let mut result = stress(&dsla, model, &options, clients, Duration::from_secs(seconds))?;
        // The fixture's own name, not where it lies.
        let name = Path::new(model).file_name().context("a model's name")?.to_string_lossy();
        result["model"] = name.into();
        result["machine"] = machine;
        for (field, value) in result.as_object().context("an object")? {
            if field != "samples" && field != "machine" {
                eprintln!("{field}: {value}");
            }
        }
        match &flags.out {
            Some(out) => write(out, &result),
            None => Ok(()),
        }
    })
}

fn write(out: &Path, result: &Value) -> Result<()> {
    let stem = out.file_stem().context("--out: got no file name")?.to_string_lossy().into_owned();
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).map_or(PathBuf::from("."), PathBuf::from);
    peers::write(&folder, &stem, &[("json", peers::pretty(result)?)])
}

fn stress(dsla: &Path, model: &str, options: &[&str], clients: usize, time: Duration) -> Result<Value> {
    let mut options = options.to_vec();
    options.extend(["--drain", "120"]);
    let mut served = Served::start(dsla, model, &options)?;
    let cases = cases(&served.at)?;
    let begin = Instant::now();
    let done = AtomicBool::new(false);
    let (tallies, samples) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&served, begin, &done));
        let each = (0..clients as u64).map(|seed| {
            let (at, cases) = (&served.at, &cases);
            scope.spawn(move || client(at, cases, Draw(seed << 20), begin + time))
        });
        let each: Vec<_> = each.collect();
        let tallies: Vec<Tally> = each.into_iter().map(|c| c.join().expect("a client panicked")).collect();
        done.store(true, Ordering::Relaxed);
        (tallies, watch.join().expect("the watch panicked"))
    });
    let (samples, took) = (samples?, begin.elapsed().as_secs_f64());
    let all = tallies.into_iter().fold(Tally::default(), |mut all, t| {
        all.completed += t.completed;
        all.cancelled += t.cancelled;
        all.tokens += t.tokens;
        all.wrong.extend(t.wrong);
        all
    });
    if let Some(first) = all.wrong.first() {
        bail!("{} wrong answers, the first: {first}", all.wrong.len());
    }
    let idle = idle(&served)?;
    let server = counts(&served, cases.len() as u64 + all.completed, all.cancelled)?;
    let memory = memory(&samples)?;
    let drain = drain(&mut served, &cases)?;
    // Enough of them for a curve.
    let every = samples.len().div_ceil(60);
    Ok(json!({
        "model": null,
        "machine": null,
        "settings": {"clients": clients, "seconds": time.as_secs()},
        "clients": {"completed": all.completed, "cancelled": all.cancelled, "wrong": 0, "tokens": all.tokens,
            "requests_per_s": rounded((all.completed + all.cancelled) as f64 / took),
            "tokens_per_s": rounded(all.tokens as f64 / took)},
        "server": server,
        "memory": memory,
        "idle": idle,
        "drain": drain,
        "samples": samples.iter().step_by(every).map(Sample::json).collect::<Vec<_>>(),
    }))
}

/// The requests, and what each says when it runs alone.
fn cases(at: &str) -> Result<Vec<Case>> {
    let about: Value = serde_json::from_str(&http::get(at, "/v1/dsla")?)?;
    let number =
        |value: &Value| value.as_u64().with_context(|| format!("/v1/dsla: got {value}, want a number"));
    let vocab = number(&about["vocab_size"])?;
    let (most, layers) = (number(&about["target"]["max_layers"])?, number(&about["target"]["of"])?);
    let mut draw = Draw(7);
    let one = |seed: u64| {
        let length = 1 + draw.below(80);
        let prompt: Vec<u64> = (0..length).map(|_| draw.below(vocab)).collect();
        // Pinned: where the policy converts a running sequence its text follows.
        let rate = (seed % 3 * most / 2) as f64 / layers as f64;
        let body = json!({"prompt": prompt, "max_tokens": 8 + draw.below(48), "temperature": 1, "seed": seed,
            "ignore_eos": true, "return_token_ids": true, "dsla": {"rate": rate}});
        let want = whole(at, &body)?;
        // A stream says the same before anything else is looked at.
        let streamed = streamed(http::send(at, COMPLETIONS, Some(&stream(&body)))?, usize::MAX)?;
        ensure!(streamed == Some(want), "case {seed}: got {streamed:?} streamed, want {want:?}");
        Ok(Case { body, want })
    };
    (0..CASES).map(one).collect()
}

fn stream(body: &Value) -> Value {
    let mut body = body.clone();
    body["stream"] = true.into();
    body
}

#[derive(Default)]
struct Heard {
    tokens: u64,
    ids: DefaultHasher,
    text: DefaultHasher,
}

impl Heard {
    /// Takes a choice, or a piece of one.
    fn push(&mut self, choice: &Value) -> Result<()> {
        for id in choice["token_ids"].as_array().context("no token ids")? {
            self.tokens += 1;
            id.as_u64().hash(&mut self.ids);
        }
        self.text.write(choice["text"].as_str().context("no text")?.as_bytes());
        Ok(())
    }

    fn said(&self) -> Said {
        Said { tokens: self.tokens, hash: self.ids.finish() ^ self.text.finish().rotate_left(1) }
    }
}

fn whole(at: &str, body: &Value) -> Result<Said> {
    let answer: Value = serde_json::from_str(&http::send(at, COMPLETIONS, Some(body))?.ok()?)?;
    let mut said = Heard::default();
    said.push(&answer["choices"][0])?;
    Ok(said.said())
}

/// Reads a stream to its end; `None` after `most` pieces.
fn streamed(mut answer: Answer, most: usize) -> Result<Option<Said>> {
    if answer.status != 200 {
        return answer.ok().map(|_| None);
    }
    let (mut said, mut id, mut finish) = (Heard::default(), None, Value::Null);
    for piece in 0.. {
        if piece == most {
            return Ok(None);
        }
        let data = answer.event()?.context("the stream ended without [DONE]")?;
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(&data)?;
        let choice = &chunk["choices"][0];
        ensure!(choice.is_object() && finish.is_null(), "got {data}, want a choice or [DONE]");
        let first = id.get_or_insert_with(|| chunk["id"].clone());
        ensure!(*first == chunk["id"], "got a piece of {}, want one of {first}", chunk["id"]);
        said.push(choice)?;
        finish = choice["finish_reason"].clone();
    }
    ensure!(finish == "length", "got finish_reason {finish}, want length");
    Ok(Some(said.said()))
}

fn client(at: &str, cases: &[Case], mut draw: Draw, until: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let number = draw.below(cases.len() as u64) as usize;
        let case = &cases[number];
        let got = match draw.below(8) {
            0 | 1 => http::send(at, COMPLETIONS, Some(&stream(&case.body)))
                .and_then(|answer| streamed(answer, draw.below(case.want.tokens) as usize)),
            2 => whole(at, &case.body).map(Some),
            _ => http::send(at, COMPLETIONS, Some(&stream(&case.body)))
                .and_then(|answer| streamed(answer, usize::MAX)),
        };
        match got {
            Ok(None) => tally.cancelled += 1,
            Ok(Some(said)) if said == case.want => {
                tally.completed += 1;
                tally.tokens += said.tokens;
            }
            Ok(Some(said)) => tally.wrong.push(format!("case {number}: got {said:?}, want {:?}", case.want)),
            Err(error) => tally.wrong.push(format!("case {number}: {error:#}")),
        }
    }
    tally
}

/// The server at one moment.
struct Sample {
    seconds: f64,
    resident: f64,
    kv: f64,
    state: f64,
    running: f64,
    waiting: f64,
}

impl Sample {
    fn take(served: &Served, begin: Instant) -> Result<Sample> {
        let page = served.metrics()?;
        Ok(Sample {
            seconds: begin.elapsed().as_secs_f64(),
            resident: served.resident()? as f64,
            kv: page.one("kv_bytes"),
            state: page.one("state_bytes"),
            running: page.one("num_requests_running"),
            waiting: page.one("num_requests_waiting"),
        })
    }

    fn json(&self) -> Value {
        json!({"s": self.seconds.round(), "rss_mb": mb(self.resident), "kv_mb": mb(self.kv), "state_mb": mb(self.state),
            "running": self.running, "waiting": self.waiting})
    }
}

fn rounded(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

fn mb(bytes: f64) -> f64 {
    (bytes / 1e4).round() / 100.0
}

/// A sample a second until all clients are through.
fn watch(served: &Served, begin: Instant, done: &AtomicBool) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while !done.load(Ordering::Relaxed) {
        samples.push(Sample::take(served, begin)?);
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(samples)
}

/// Resident memory is flat: the medians of the run's second quarter and of its last.
fn memory(samples: &[Sample]) -> Result<Value> {
    let n = samples.len();
    let median = |part: &[Sample]| -> Result<f64> {
        let mut all: Vec<f64> = part.iter().map(|s| s.resident).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().context("too few samples of memory")
    };
    let (early, late) = (median(&samples[n / 4..n / 2])?, median(&samples[n * 3 / 4..])?);
    let limit = early * (1.0 + GROWTH.0) + GROWTH.1;
    ensure!(
        late <= limit,
        "memory: got {} MB at the end, want at most {} (of {} before)",
        mb(late),
        mb(limit),
        mb(early)
    );
    let most = |of: fn(&Sample) -> f64| mb(samples.iter().map(of).fold(0.0, f64::max));
    Ok(
        json!({"rss_second_quarter_mb": mb(early), "rss_last_quarter_mb": mb(late), "rss_most_mb": most(|s| s.resident),
        "kv_most_mb": most(|s| s.kv), "state_most_mb": most(|s| s.state)}),
    )
}

/// Nobody asks any more: everything is back at nothing, within seconds.
fn idle(served: &Served) -> Result<Value> {
    let (until, begin) = (Instant::now() + Duration::from_secs(30), Instant::now());
    loop {
        let page = served.metrics()?;
        let names =
            ["num_requests_running", "num_requests_waiting", "kv_bytes", "state_bytes", "reserved_bytes"];
        let left: Vec<_> = names.into_iter().filter(|name| page.one(name) != 0.0).collect();
        if left.is_empty() {
            return Ok(
                json!({"after_s": rounded(begin.elapsed().as_secs_f64()), "rss_mb": mb(served.resident()? as f64)}),
            );
        }
        ensure!(Instant::now() < until, "idle: got {left:?} above 0, want all at 0");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The server counted what the clients saw. `completed`: by the clients, and each case once more for its stream.
fn counts(served: &Served, completed: u64, cancelled: u64) -> Result<Value> {
    let completed = completed + CASES;
    let page = served.metrics()?;
    let by =
        |reason: &str| page.sum("request_success_total", &format!("finished_reason=\"{reason}\"")) as u64;
    let (ended, aborted) = (by("length") + by("stop"), by("abort"));
    let failed = page.one("request_failure_total") as u64;
    // A request may end before its client's goodbye is heard, and one whose client left at once may never have begun.
    ensure!(
        ended >= completed && ended + aborted <= completed + cancelled && failed == 0,
        "counters: got {ended} ended, {aborted} aborted and {failed} failed, want {completed} and {cancelled} cancelled"
    );
    Ok(json!({"ended": ended, "aborted": aborted, "failed": failed, "steps": page.one("steps_total"),
        "tokens": page.one("generation_tokens_total")}))
}

/// SIGTERM while clients stream: all get the rest of their texts, nobody new is let in, and the exit code is 0.
fn drain(served: &mut Served, cases: &[Case]) -> Result<Value> {
    let mut open = Vec::new();
    for case in cases.iter().cycle().take(DRAINED) {
        open.push((case, http::send(&served.at, COMPLETIONS, Some(&stream(&case.body)))?));
    }
    let begin = Instant::now();
    served.signal("TERM")?;
    for (i, (case, answer)) in open.into_iter().enumerate() {
        let said = streamed(answer, usize::MAX).with_context(|| format!("stream {i} after SIGTERM"))?;
        ensure!(said == Some(case.want), "stream {i} after SIGTERM: got {said:?}, want {:?}", case.want);
    }
    let status = served.end(Duration::from_secs(60))?;
    ensure!(status.code() == Some(0), "after SIGTERM: got {status}, want exit code 0");
    ensure!(
        http::send(&served.at, "/health", None).is_err(),
        "after SIGTERM: got an answer, want no connection"
    );
    Ok(json!({"streams": DRAINED, "after_s": rounded(begin.elapsed().as_secs_f64()), "exit": 0}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_pieces_is_the_text() {
        let mut whole = Heard::default();
        whole.push(&json!({"text": "abc", "token_ids": [1, 2, 3]})).unwrap();
        let mut pieces = Heard::default();
        for piece in [json!({"text": "a", "token_ids": [1, 2]}), json!({"text": "bc", "token_ids": [3]})] {
            pieces.push(&piece).unwrap();
        }
        assert_eq!(pieces.said(), whole.said());
        pieces.push(&json!({"text": "", "token_ids": [3]})).unwrap();
        assert_ne!(pieces.said(), whole.said());
        assert!(pieces.push(&json!({"text": "x"})).is_err());
    }

    #[test]
    fn memory_that_grows_is_seen() {
        let samples = |grows: f64| {
            let one = |i: u32| Sample {
                seconds: f64::from(i),
                resident: 1e8 + grows * f64::from(i),
                kv: 5.0,
                state: 0.0,
                running: 1.0,
                waiting: 0.0,
            };
            (0..100).map(one).collect::<Vec<_>>()
        };
        assert_eq!(memory(&samples(0.0)).unwrap()["rss_last_quarter_mb"], 100.0);
        let error = memory(&samples(1e6)).unwrap_err().to_string();
        assert!(error.starts_with("memory: got 187"), "{error}");
    }
}
