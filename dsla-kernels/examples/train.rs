//! Speed of what training runs on the CPU, at the sizes of SmolLM2-135M, against the speed of an f32 product:
//! `cargo run --release -p dsla-kernels --example train -- THREADS [SECONDS [TOKENS]]`. Every number is the best of many
//! runs: the machine has other work. Flops are the algorithm's: of a causal square only the triangle counts.

use dsla_kernels::case::Rng;
use dsla_kernels::ops::{dsla, feature_map, gate, kl_div, linear, rms_norm, softmax_attention, swiglu};
use dsla_kernels::{DType, Result, Tensor, par, simd};
use std::time::{Duration, Instant};

/// Query heads, kv heads, head size, features, window, sinks.
const H: usize = 9;
const G: usize = 3;
const D: usize = 64;
const F: usize = 128;
const W: usize = 64;
const SINKS: usize = 4;
/// Keys of a chunk of the dual-state passes.
const CHUNK: usize = 64;
/// Model width, width of the MLP, vocabulary.
const C: usize = 576;
const MLP: usize = 1536;
const VOCAB: usize = 49_152;

/// Shortest time of `f`, called for `seconds`.
fn best(seconds: f64, mut f: impl FnMut() -> Result<()>) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let t = Instant::now();
        f().expect("an op that runs");
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

struct Report {
    seconds: f64,
    /// GFLOP/s of an f32 product of 512 rows.
    limit: f64,
}

impl Report {
    /// `flops` 0: time and traffic alone.
    fn line(&self, name: &str, flops: f64, bytes: f64, f: impl FnMut() -> Result<()>) {
        let t = best(self.seconds, f);
        let (rate, gb) = (flops / t / 1e9, bytes / t / 1e9);
        println!(
            "{name:34} {:8.3} ms {rate:7.1} GFLOP/s {:4.0}% {gb:6.1} GB/s",
            t * 1e3,
            100.0 * rate / self.limit
        );
    }
}

fn zeros(dims: &[usize]) -> Tensor {
    Tensor::zeros(dims, DType::F32)
}

fn main() {
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    par::set_threads(args.first().map_or(0, |&n| n as usize));
    let seconds = args.get(1).copied().unwrap_or(1.0);
    let lengths: Vec<usize> = args.get(2).map_or(vec![1024, 2048], |&t| vec![t as usize]);
    let mut rng = Rng::new(1);
    let mut random = |dims: &[usize]| rng.tensor(dims, 1.0, DType::F32);
    let (x, w) = (random(&[512, C]), linear::Packed::new(random(&[MLP, C]).view()).expect("a weight"));
    let mut y = zeros(&[512, MLP]);
    let t = best(seconds, || linear::forward(x.view(), &w, None, linear::Into::Store, y.view_mut()));
    let limit = 2.0 * (512 * C * MLP) as f64 / t / 1e9;
    println!("{} threads, {:?}, f32 product {limit:.1} GFLOP/s", par::threads(), simd::level());
    let report = Report { seconds, limit };
    for t in lengths {
        println!("{t} tokens");
        attention(&report, t, &mut random);
        dual_state(&report, t, &mut random);
        small(&report, t, &mut random);
    }
}

fn attention(report: &Report, t: usize, random: &mut dyn FnMut(&[usize]) -> Tensor) {
    let (q, k, v) = (random(&[t, H, D]), random(&[t, G, D]), random(&[t, G, D]));
    let (mut out, d_out) = (zeros(&[t, H, D]), random(&[t, H, D]));
    let (mut dq, mut dk, mut dv) = (zeros(&[t, H, D]), zeros(&[t, G, D]), zeros(&[t, G, D]));
    let pairs = (H * t * (t + 1) / 2) as f64;
    report.line("softmax_attention forward", 4.0 * D as f64 * pairs, 0.0, || {
        softmax_attention::forward(q.view(), k.view(), v.view(), out.view_mut())
    });
    // Scores again, then four products.
    report.line("softmax_attention backward", 10.0 * D as f64 * pairs, 0.0, || {
        softmax_attention::backward(
            q.view(),
            k.view(),
            v.view(),
            out.view(),
            d_out.view(),
            dq.view_mut(),
            dk.view_mut(),
            dv.view_mut(),
        )
    });
}

fn dual_state(report: &Report, t: usize, random: &mut dyn FnMut(&[usize]) -> Tensor) {
    let l = t - W;
    let (q, k, v) = (random(&[t, H, D]), random(&[t, G, D]), random(&[t, G, D]));
    let maps = [random(&[H, D, D]), random(&[G, D, D])];
    let (mut phi_q, mut phi_k) = (zeros(&[t, H, F]), zeros(&[l, G, F]));
    report.line("feature_map forward, q", (2 * t * H * D * D) as f64, 0.0, || {
        feature_map::forward(q.view(), maps[0].view(), phi_q.view_mut())
    });
    feature_map::forward(k.rows(0, l), maps[1].view(), phi_k.view_mut()).expect("features");
    let log_decay =
        Tensor::from_f32([l, 2, G, 1], random(&[l, 2, G, 1]).f32().iter().map(|x| -0.02 * x.abs()).collect());
    let gamma = Tensor::from_f32([2, H], vec![0.5; 2 * H]);
    let (mix, slope) = (zeros(&[H]), Tensor::from_f32([H], vec![1.0; H]));
    let args = dsla::Args {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        sink_k: k.rows(0, SINKS),
        sink_v: v.rows(0, SINKS),
        position: 0,
        phi_q: phi_q.view(),
        phi_k: phi_k.view(),
        log_decay: log_decay.view(),
        gamma: gamma.view(),
        mix: mix.view(),
        slope: slope.view(),
        window: W,
        normalizer: dsla::Normalizer::Sum,
    };
    let (mut s, mut z) = (zeros(&[2, G, F, D]), zeros(&[2, G, F]));
    let (s0, z0) = (s.clone(), z.clone());
    let (mut den, mut peak, mut out) = (zeros(&[t, H]), zeros(&[t, H]), zeros(&[t, H, D]));
    // Multiply-adds per query head and token that reads the states: half the keys of its chunk, both states.
    let (near, read) = (CHUNK / 2, 2 * F * D);
    // Per kv head and token that enters the states: both written.
    let write = 2 * F * D;
    // Of `products` in the window.
    let window = |products: usize| 2.0 * (products * t * H * (W + SINKS) * D) as f64;
    let flops = |per_head: usize, per_kv: usize| 2.0 * (l * (H * per_head + G * per_kv)) as f64;
    report.line("dsla forward", flops(near * (F + D) + read, write) + window(2), 0.0, || {
        let state = dsla::State { s: s.view_mut(), z: z.view_mut() };
        let saved = dsla::Saved { den: den.view_mut(), peak: peak.view_mut() };
        dsla::forward(&args, state, Some(saved), out.view_mut())
    });
    let d_out = random(&[t, H, D]);
    let (mut d_phi_q, mut d_phi_k, mut d_decay) =
        (zeros(&[t, H, F]), zeros(&[l, G, F]), zeros(&[l, 2, G, 1]));
    let (mut d_gamma, mut d_mix, mut d_slope) = (zeros(&[2, H]), zeros(&[H]), zeros(&[H]));
    let mut qkv = [
        zeros(&[t, H, D]),
        zeros(&[t, G, D]),
        zeros(&[t, G, D]),
        zeros(&[SINKS, G, D]),
        zeros(&[SINKS, G, D]),
    ];
    // dA, the scores, d phi_q and d phi_k; the states' gradients read and written; the states made again.
    let (head, kv) = (near * (D + 3 * F) + 2 * read, 2 * write);
    // The window's five products, values inside a chunk, values from the states.
    let more = window(5) + flops(near * D, write);
    for (name, more, with) in [("dsla backward", 0.0, false), ("dsla backward with q, k, v", more, true)] {
        report.line(name, flops(head, kv) + more, 0.0, || {
            (s, z) = (s0.clone(), z0.clone());
            let grads = dsla::Grads {
                phi_q: d_phi_q.view_mut(),
                phi_k: d_phi_k.view_mut(),
                log_decay: d_decay.view_mut(),
                gamma: d_gamma.view_mut(),
                mix: d_mix.view_mut(),
                slope: d_slope.view_mut(),
                s: s.view_mut(),
                z: z.view_mut(),
                qkv: with.then(|| qkv.each_mut().map(|x| x.view_mut())),
            };
            dsla::backward(
                &args,
                s0.view(),
                z0.view(),
                den.view(),
                peak.view(),
                out.view(),
                d_out.view(),
                grads,
            )
        });
    }
    let (mut dw, mut du) = (zeros(&[H, D, D]), zeros(&[t, H, D]));
    for (name, products, with) in
        [("feature_map backward, q", 1, false), ("feature_map backward, q, with dx", 2, true)]
    {
        report.line(name, (2 * products * t * H * D * D) as f64, 0.0, || {
            let du = with.then(|| du.view_mut());
            feature_map::backward(q.view(), maps[0].view(), phi_q.view(), d_phi_q.view(), dw.view_mut(), du)
        });
    }
    let (x, w, b) = (random(&[t, G, 2 * D]), random(&[2, G, 1, 2 * D]), random(&[2, G, 1]));
    let (mut y, dy) = (zeros(&[t, 2, G, 1]), random(&[t, 2, G, 1]));
    report.line("gate forward", (2 * t * 2 * G * 2 * D) as f64, 0.0, || {
        gate::forward(x.view(), w.view(), b.view(), 1.0, y.view_mut())
    });
    let (mut dw, mut db, mut dx) = (zeros(&[2, G, 1, 2 * D]), zeros(&[2, G, 1]), zeros(&[t, G, 2 * D]));
    report.line("gate backward with dx", (4 * t * 2 * G * 2 * D) as f64, 0.0, || {
        let (dw, db) = (dw.view_mut(), db.view_mut());
        gate::backward(x.view(), w.view(), 1.0, y.view(), dy.view(), dw, db, Some(dx.view_mut()))
    });
}

/// Ops that are bound by reads and writes.
fn small(report: &Report, t: usize, random: &mut dyn FnMut(&[usize]) -> Tensor) {
    let (x, w, dy, mut dx) = (random(&[t, C]), random(&[C]), random(&[t, C]), zeros(&[t, C]));
    let mut dw = zeros(&[C]);
    report.line("rms_norm backward", 0.0, (12 * t * C) as f64, || {
        rms_norm::backward(x.view(), w.view(), 1e-5, dy.view(), dx.view_mut(), None)
    });
    report.line("rms_norm backward with dw", 0.0, (20 * t * C) as f64, || {
        rms_norm::backward(x.view(), w.view(), 1e-5, dy.view(), dx.view_mut(), Some(dw.view_mut()))
    });
    let (x, dy, mut d) = (random(&[t, 2 * MLP]), random(&[t, MLP]), zeros(&[t, 2 * MLP]));
    report.line("swiglu backward", 0.0, (20 * t * MLP) as f64, || {
        swiglu::backward(x.view(), dy.view(), d.view_mut())
    });
    let rows = t / 8;
    let (a, b, dkl) = (random(&[rows, VOCAB]), random(&[rows, VOCAB]), random(&[rows]));
    let (mut kl, mut d) = (zeros(&[rows]), zeros(&[rows, VOCAB]));
    report.line("kl_div forward, 1/8 of the tokens", 0.0, (8 * rows * VOCAB) as f64, || {
        kl_div::forward(a.view(), b.view(), kl.view_mut())
    });
    report.line("kl_div backward, 1/8 of the tokens", 0.0, (12 * rows * VOCAB) as f64, || {
        kl_div::backward(a.view(), b.view(), dkl.view(), d.view_mut())
    });
}
