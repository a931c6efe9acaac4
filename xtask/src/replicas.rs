//! `cargo xtask replicas`: two `dsla serve` behind nginx, with the configuration that dsla-serve/SCALE.md shows.
//!
//! Requests spread and say what one server alone says; streams come as they are made; while clients keep asking, one
//! replica is drained, replaced, and the other killed, and none of their requests fails.

use crate::http;
use crate::served::Served;
use crate::steps::{MODEL, Steps};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xshell::cmd;

const COMPLETIONS: &str = "/v1/completions";
const CLIENTS: usize = 6;

pub fn run(steps: &Steps, flags: &crate::Replicas) -> Result<()> {
    let nginx = steps.step("nginx is there, or Debian's package of it", || nginx(steps))?;
    let dsla = match &flags.dsla {
        Some(path) => path.clone(),
        None => steps.step("build the release binary", || steps.release())?,
    };
    steps.step("two replicas behind nginx", || check(steps, &nginx, &dsla))
}

/// The one on the path; else Debian's, unpacked and not installed.
fn nginx(steps: &Steps) -> Result<PathBuf> {
    let sh = &steps.sh;
    if cmd!(sh, "nginx -v").quiet().ignore_stderr().run().is_ok() {
        return Ok("nginx".into());
    }
    let dir = steps.target().join("nginx");
    let program = dir.join("usr/sbin/nginx");
    if !program.exists() {
        sh.create_dir(&dir)?;
        let _there = sh.push_dir(&dir);
        let what = "nginx does not run, and Debian's package of it cannot be had: install nginx";
        cmd!(sh, "apt-get download nginx").run().context(what)?;
        let package = sh.read_dir(&dir)?.into_iter().find(|p| p.extension().is_some_and(|e| e == "deb"));
        let package = package.context("apt-get download left no package")?;
        cmd!(sh, "dpkg -x {package} {dir}").run().context(what)?;
    }
    Ok(program)
}

/// A running nginx; killed when dropped.
struct Proxy {
    child: Child,
    at: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // TERM: it ends its workers, which KILL would leave behind.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn proxy(steps: &Steps, nginx: &Path, replicas: [&str; 2]) -> Result<Proxy> {
    let dir = steps.target().join("replicas");
    steps.sh.create_dir(&dir)?;
    let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut text = steps.sh.read_file(steps.root.join("dsla-serve/scale/nginx.conf"))?;
    for (from, to) in
        ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"].iter().zip([&*at, replicas[0], replicas[1]])
    {
        ensure!(text.matches(from).count() == 1, "nginx.conf: got no or several {from}, want one");
        text = text.replace(from, to);
    }
    let file = dir.join("nginx.conf");
    steps.sh.write_file(&file, text)?;
    let mut command = Command::new(nginx);
    command.arg("-p").arg(&dir).arg("-c").arg(&file).args(["-g", "daemon off;", "-e", "error.log"]);
    let proxy = Proxy { child: command.spawn().context("nginx")?, at };
    let until = Instant::now() + Duration::from_secs(10);
    while http::get(&proxy.at, "/health").is_err() {
        ensure!(
            Instant::now() < until,
            "nginx does not answer; {} says why",
            dir.join("error.log").display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(proxy)
}

fn body(seed: usize) -> Value {
    json!({"prompt": format!("{seed} and {} are", seed + 1), "max_tokens": 4, "temperature": 1, "seed": seed,
        "ignore_eos": true, "dsla": {"rate": 0}})
}

fn text(answer: &Value) -> Result<String> {
    Ok(answer["choices"][0]["text"].as_str().with_context(|| format!("no text in {answer}"))?.to_owned())
}

fn ask(at: &str, seed: usize) -> Result<String> {
    text(&serde_json::from_str(&http::send(at, COMPLETIONS, Some(&body(seed)))?.ok()?)?)
}

fn check(steps: &Steps, nginx: &Path, dsla: &Path) -> Result<()> {
    let options = ["--threads", "1", "--model-name", "replica"];
    let start = || Served::start(dsla, MODEL, &options);
    let (first, second) = (start()?, start()?);
    let proxy = proxy(steps, nginx, [&first.at, &second.at])?;
    let want: Vec<String> = (0..2 * CLIENTS).map(|seed| ask(&first.at, seed)).collect::<Result<_>>()?;

    // Spread, and the same texts wherever they are made.
    let before = [ended(&first)?, ended(&second)?];
    let asked = under_load(&proxy.at, &want, |count| more(count, 4 * CLIENTS))?;
    let each = [ended(&first)? - before[0], ended(&second)? - before[1]];
    eprintln!("{asked} requests: {} and {}", each[0], each[1]);
    ensure!(each[0] + each[1] == asked, "got {each:?} requests at the replicas, want {asked} in all");
    ensure!(
        each.iter().all(|n| n * 4 >= asked),
        "got {each:?} requests at the replicas, want a quarter at each"
    );

    streams(&proxy.at, [&first, &second])?;

    // Drained and replaced at the same address.
    let mut first = first;
    let asked = under_load(&proxy.at, &want, |count| {
        more(count, CLIENTS)?;
        first.signal("TERM")?;
        let status = first.end(Duration::from_secs(60))?;
        ensure!(status.code() == Some(0), "a drained replica: got {status}, want exit code 0");
        more(count, 2 * CLIENTS)
    })?;
    eprintln!("one replica drained: {asked} requests, none failed");
    let port = first.at.rsplit(':').next().context("a port")?.to_owned();
    let replaced = Served::start(dsla, MODEL, &[&options[..], &["--port", &port]].concat())?;
    ensure!(replaced.at == first.at, "the replacement: got {}, want {}", replaced.at, first.at);
    let until = Instant::now() + Duration::from_secs(30);
    while ended(&replaced)? == 0 {
        ensure!(Instant::now() < until, "the replacement: got no requests for 30 s, want its share");
        under_load(&proxy.at, &want, |_| Ok(()))?;
    }
    eprintln!("its replacement has requests again");

    // Killed.
    let asked = under_load(&proxy.at, &want, |count| {
        more(count, CLIENTS)?;
        second.signal("KILL")?;
        more(count, 2 * CLIENTS)
    })?;
    eprintln!("the other replica killed: {asked} requests, none failed");
    ensure!(http::get(&second.at, "/health").is_err(), "a killed replica: got an answer, want none");
    http::get(&replaced.at, "/health")?;
    http::get(&proxy.at, "/health")?;
    ensure!(replaced.metrics()?.one("request_failure_total") == 0.0, "got failed requests, want none");
    Ok(())
}

/// Requests that ended at a replica. A step is counted after its answers are out: not before it is idle.
fn ended(served: &Served) -> Result<usize> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let page = served.metrics()?;
        if page.one("num_requests_running") + page.one("num_requests_waiting") == 0.0 {
            return Ok(page.sum("request_success_total", "") as usize);
        }
        ensure!(Instant::now() < until, "got a replica that is busy for 30 s, want an idle one");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for `n` more answers.
fn more(count: &AtomicUsize, n: usize) -> Result<()> {
    let (until, begin) = (Instant::now() + Duration::from_secs(300), count.load(Ordering::Relaxed));
    while count.load(Ordering::Relaxed) < begin + n {
        ensure!(Instant::now() < until, "got fewer than {n} answers in 300 s, want them");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Clients that ask all the time while `meanwhile`, which sees how many answers there are, runs; each at least once. How
/// many requests; all were answered, and rightly.
fn under_load(
    at: &str,
    want: &[String],
    meanwhile: impl FnOnce(&AtomicUsize) -> Result<()>,
) -> Result<usize> {
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = |i: usize| {
            let (done, count) = (&done, &count);
            scope.spawn(move || -> Result<()> {
                for seed in (0..want.len()).cycle().skip(i * want.len() / CLIENTS) {
                    let got = ask(at, seed).with_context(|| format!("request {seed} through nginx"))?;
                    ensure!(
                        got == want[seed],
                        "request {seed} through nginx: got {got:?}, want {:?}",
                        want[seed]
                    );
                    count.fetch_add(1, Ordering::Relaxed);
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(())
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let result = meanwhile(&count);
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client panicked")?;
        }
        result
    })?;
    Ok(count.into_inner())
}

/// The first piece is there while the rest is still being made.
fn streams(at: &str, replicas: [&Served; 2]) -> Result<()> {
    let mut long = body(0);
    long["max_tokens"] = 60.into();
    let whole = text(&serde_json::from_str(&http::send(at, COMPLETIONS, Some(&long))?.ok()?)?)?;
    long["stream"] = true.into();
    let mut answer = http::send(at, COMPLETIONS, Some(&long))?;
    let (mut streamed, mut pieces) = (String::new(), 0);
    while let Some(data) = answer.event()? {
        if data == "[DONE]" {
            ensure!(streamed == whole, "a stream through nginx: got {streamed:?}, want {whole:?}");
            eprintln!("a stream of {pieces} pieces");
            return Ok(());
        }
        streamed.push_str(&text(&serde_json::from_str(&data)?)?);
        pieces += 1;
        if pieces == 1 {
            let running = |r: &Served| Ok::<_, anyhow::Error>(r.metrics()?.one("num_requests_running"));
            let running = running(replicas[0])? + running(replicas[1])?;
            ensure!(
                running == 1.0,
                "at the first piece: got {running} running requests, want 1: nginx held it back"
            );
        }
    }
    bail!("a stream through nginx: got no [DONE]")
}
