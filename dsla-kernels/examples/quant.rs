//! Speed of products with quantised weights, against reading the same bytes: `cargo run --release -p dsla-kernels
//! --example quant -- THREADS [SECONDS]`. Every number is the best of many runs: the machine has other work.

use dsla_kernels::case::Rng;
use dsla_kernels::ops::linear::{Into, Packed, Quant, forward};
use dsla_kernels::{DType, Tensor, par, simd};
use std::time::{Duration, Instant};

/// Shortest time of `f`, called for `seconds`.
fn best(seconds: f64, mut f: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    par::set_threads(args.first().map_or(0, |&n| n as usize));
    let seconds = args.get(1).copied().unwrap_or(2.0);
    println!("{} threads, {:?}", par::threads(), simd::level());
    // More than the caches hold: matrices taken in turn.
    let (n, k) = (4096, 4096);
    let mut rng = Rng::new(1);
    let w = rng.tensor(&[n, k], 0.02, DType::F32);
    let bf16 = w.to_dtype(DType::BF16).expect("a copy");
    let mut formats: Vec<(&str, Vec<Packed>)> = vec![];
    let copies = |f: &dyn Fn() -> Packed| {
        let one = f();
        let more = (200 << 20) / one.bytes();
        std::iter::once(one).chain((0..more).map(|_| f())).collect::<Vec<_>>()
    };
    formats.push(("f32", copies(&|| Packed::new(w.view()).expect("a weight"))));
    formats.push(("bf16", copies(&|| Packed::new(bf16.view()).expect("a weight"))));
    for quant in Quant::ALL {
        let bytes = quant.quantise(w.view()).expect("blocks");
        formats.push((quant.name(), copies(&|| Packed::from_blocks(quant, &bytes, n, k).expect("a weight"))));
    }
    for (name, weights) in &formats {
        for m in [1, 8] {
            let x = rng.tensor(&[m, k], 1.0, DType::F32);
            let mut y = Tensor::empty([m, n], DType::F32);
            let all = weights.iter().map(Packed::bytes).sum::<usize>();
            // The same bytes to read and sum, in as many pieces; shortest time of each piece and of each matrix, taken in turn:
            // a run over all of them is seldom left alone, and a quiet moment must serve both.
            let piece = weights[0].bytes() / 8;
            let mut data = vec![1u64; piece * weights.len()];
            let mut each = vec![(f64::INFINITY, f64::INFINITY); weights.len()];
            best(2.0 * seconds, || {
                for ((w, data), t) in weights.iter().zip(data.chunks_mut(piece)).zip(&mut each) {
                    let start = Instant::now();
                    forward(x.view(), w, None, Into::Store, y.view_mut()).expect("a product");
                    t.0 = t.0.min(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    par::for_each_chunk(data, 1 << 16, |_, part| {
                        // A sum that is stored: the reads cannot be left out.
                        part[0] = part.iter().fold(0, |s: u64, v| s.wrapping_add(*v));
                    });
                    t.1 = t.1.min(start.elapsed().as_secs_f64());
                }
            });
            let speed = |t: f64| all as f64 / t / 1e9;
            let (time, read) = (speed(each.iter().map(|t| t.0).sum()), speed(each.iter().map(|t| t.1).sum()));
            println!("{name}: {m} rows of {k} by {n}: {time:.2} GB/s of weights, plain read {read:.2} GB/s");
        }
        for (m, n, k) in [(1, 1536, 576), (4, 4096, 4096), (32, 1536, 576), (512, 1536, 576)] {
            let w = match Quant::ALL.iter().find(|q| q.name() == *name) {
                Some(&q) => Packed::quantised(rng.tensor(&[n, k], 0.02, DType::F32).view(), q),
                None if *name == "f32" => Packed::new(rng.tensor(&[n, k], 0.02, DType::F32).view()),
                None => Packed::new(rng.tensor(&[n, k], 0.02, DType::BF16).view()),
            };
            let (w, x) = (w.expect("a weight"), rng.tensor(&[m, k], 1.0, DType::F32));
            let mut y = Tensor::empty([m, n], DType::F32);
            let time = best(seconds, || {
                forward(x.view(), &w, None, Into::Store, y.view_mut()).expect("a product");
            });
            println!(
                "  {m} x {k} by {n}: {:.1} us, {:.1} GFLOP/s",
                time * 1e6,
                2e-9 * (m * n * k) as f64 / time
            );
        }
    }
}
