//! The fingerprint of a machine that a record carries, and nothing that says where on it the project lives.

use serde_json::{Value, json};
use xshell::{Shell, cmd};

/// Instruction sets that decide which kernels an engine can run.
const SIMD: [&str; 11] = [
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
];

pub fn fingerprint(sh: &Shell, threads: usize) -> Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let run = |program: &str, args: &[&str]| {
        cmd!(sh, "{program} {args...}").quiet().ignore_stderr().read().unwrap_or_default()
    };
    let kib: Option<f64> = field(&memory, "MemTotal").and_then(|v| v.split_whitespace().next()?.parse().ok());
    let clean = run("git", &["status", "--porcelain"]).is_empty();
    json!({
        "cpu": field(&cpuinfo, "model name").unwrap_or(std::env::consts::ARCH),
        "cores": std::thread::available_parallelism().map_or(1, |n| n.get()),
        "threads": threads,
        "simd": simd(&cpuinfo),
        // Work of others when the run began: ratios bear some, a record should have none.
        "load": std::fs::read_to_string("/proc/loadavg").ok().and_then(|l| l.split(' ').next()?.parse::<f64>().ok()),
        "memory_gb": kib.map(|k| (k / 1e5).round() / 10.0),
        "kernel": run("uname", &["-sr"]),
        "date": run("date", &["-u", "+%F"]),
        "commit": run("git", &["rev-parse", "HEAD"]),
        "clean": clean,
    })
}

/// The value after `key :` in the style of /proc.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == key))?;
    line.split_once(':').map(|(_, v)| v.trim())
}

fn simd(cpuinfo: &str) -> Vec<&'static str> {
    let have: Vec<&str> = field(cpuinfo, "flags").unwrap_or("").split(' ').collect();
    SIMD.into_iter().filter(|s| have.contains(s)).collect()
}

/// The name of a record of some kind: processor and date, readable.
pub fn record_name(kind: &str, machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_lowercase();
    let name = format!("{kind}-{}-{}-threads-{}", text("cpu"), machine["threads"], text("date"));
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_read_and_named() {
        let info = "processor\t: 0\nmodel name\t: AMD EPYC (TM)\nflags\t\t: fpu fma avx2 avx512\n";
        assert_eq!(field(info, "model name"), Some("AMD EPYC (TM)"));
        assert_eq!(simd(info), ["avx2", "fma"]);
        let machine = json!({"cpu": "AMD EPYC (TM)", "date": "2026-11-28", "threads": 2});
        assert_eq!(record_name("peers", &machine), "peers-amd-epyc-tm-2-threads-2026-11-28");
    }
}
