//! Decode attention over caches in pages that no processor cache holds, against reading the same bytes: `cargo run --release
//! -p dsla-kernels --example decode -- THREADS [KEYS [SEQUENCES [MB]]]`. The machine has other work: medians, and both by turns.

use dsla_kernels::case::Rng;
use dsla_kernels::ops::softmax_attention::forward_pages;
use dsla_kernels::{DType, Tensor, View, par, simd};
use std::time::Instant;

/// Of SmolLM2-135M.
const HEADS: [usize; 3] = [9, 3, 64];
const PAGE: usize = 64;
const ROUNDS: usize = 25;

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    par::set_threads(args.first().copied().unwrap_or(0));
    let (keys, sequences) = (args.get(1).copied().unwrap_or(2048), args.get(2).copied().unwrap_or(8));
    println!("{} threads, {:?}, {sequences} sequences of {keys} keys", par::threads(), simd::level());
    let [h, g, d] = HEADS;
    let layers = ((args.get(3).copied().unwrap_or(400) << 20) / (sequences * keys * 2 * g * d * 2)).max(1);
    let mut rng = Rng::new(1);
    let q = rng.tensor(&[1, h, d], 1.0, DType::F32);
    let mut out = Tensor::empty([1, h, d], DType::F32);
    for dtype in [DType::BF16, DType::F32] {
        // As prompts leave them: a page of every layer after the other, keys beside values.
        let page = rng.tensor(&[2 * PAGE, g, d], 1.0, dtype);
        let mut caches = vec![vec![]; sequences * layers];
        for sequence in caches.chunks_mut(layers) {
            for _ in (0..keys).step_by(PAGE) {
                for cache in sequence.iter_mut() {
                    cache.push(page.clone());
                }
            }
        }
        let bytes = keys * 2 * g * d * dtype.size();
        let mut plain = vec![1u64; caches.len() * bytes / 8];
        let (mut ours, mut reads) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            let start = Instant::now();
            // A layer of all sequences, then the next: as a step takes them.
            for layer in 0..layers {
                for sequence in 0..sequences {
                    let pages = &caches[sequence * layers + layer];
                    let (k, v): (Vec<View>, Vec<View>) =
                        pages.iter().map(|p| (p.view().rows(0, PAGE), p.view().rows(PAGE, 2 * PAGE))).unzip();
                    forward_pages(q.view(), &k, &v, out.view_mut()).expect("attention");
                }
            }
            ours.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            par::for_each_chunk(&mut plain, 1 << 14, |_, part| {
                // A sum that is stored: the reads cannot be left out.
                part[0] = part.iter().fold(0, |s: u64, v| s.wrapping_add(*v));
            });
            reads.push(start.elapsed().as_secs_f64());
        }
        let total = (caches.len() * bytes) as f64;
        let speed = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            total / times[times.len() / 2] / 1e9
        };
        let each = total / caches.len() as f64;
        let (ours, reads) = (speed(&mut ours), speed(&mut reads));
        println!(
            "{dtype:?}: {ours:.1} GB/s ({:.0} us per sequence and layer), plain read {reads:.1} GB/s, {:.0}%",
            each / ours / 1e3,
            100.0 * ours / reads
        );
    }
}
