//! The kernels of the good corpus compute what they say, in every numerics and order.

use crate::common::{bytes32, options, read32, words};
use ptxsim::{Launch, Memory, Mma, Module, Options, run};

fn load(text: &str) -> Module {
    Module::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn ways() -> impl Iterator<Item = Options> {
    let modes = [Mma::Exact, Mma::Sequential, Mma::Truncate];
    (0..6).map(move |i| Options { mma: modes[i as usize % 3], perturb: Some(i), schedule: i, ..options() })
}

fn go(m: &Module, mem: &mut Memory, grid: u32, block: u32, shared: u32, params: &[u64], o: &Options) {
    let entry = &m.entries()[0];
    let size = entry.params.last().map_or(0, |p| p.offset + p.size);
    let params = &words(params)[..size];
    let l = Launch { entry: &entry.name, grid: [grid, 1, 1], block: [block, 1, 1], shared, params };
    run(m, &l, mem, o).unwrap_or_else(|e| panic!("{e}"));
}

fn put(mem: &mut Memory, bytes: &[u8]) -> u64 {
    let at = mem.alloc(bytes.len() as u64).expect("room");
    mem.write(at, bytes).expect("live");
    at
}

fn bf16s(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect()
}

#[test]
fn copy() {
    let m = load(include_str!("../corpus/good/copy.ptx"));
    for o in ways() {
        let mut mem = Memory::new(1 << 20);
        let x: Vec<u32> = (0..4 * 100).map(|i| i * 3).collect();
        let (a, b) = (put(&mut mem, &bytes32(&x)), mem.alloc(1600).expect("room"));
        go(&m, &mut mem, 2, 64, 0, &[a, b, 100], &o);
        assert_eq!(read32(&mem, b, 400), x);
    }
}

#[test]
fn reduce() {
    let m = load(include_str!("../corpus/good/reduce.ptx"));
    for o in ways() {
        let mut mem = Memory::new(1 << 20);
        let x: Vec<u32> = (0..256).map(|i| (i as f32).to_bits()).collect();
        let (a, b) = (put(&mut mem, &bytes32(&x)), mem.alloc(4).expect("room"));
        go(&m, &mut mem, 1, 256, 0, &[a, b], &o);
        assert_eq!(f32::from_bits(read32(&mem, b, 1)[0]), 255.0 * 128.0);
    }
}

#[test]
fn histogram() {
    let m = load(include_str!("../corpus/good/histogram.ptx"));
    for o in ways() {
        let mut mem = Memory::new(1 << 20);
        let x: Vec<u8> = (0..3000u32).map(|i| (i * i % 251) as u8).collect();
        let (a, b) = (put(&mut mem, &x), put(&mut mem, &[0; 1024]));
        go(&m, &mut mem, 3, 256, 1024, &[a, b, 3000], &o);
        let mut want = vec![0; 256];
        x.iter().for_each(|v| want[*v as usize] += 1);
        assert_eq!(read32(&mem, b, 256), want);
    }
}

#[test]
fn gemm() {
    let m = load(include_str!("../corpus/good/gemm.ptx"));
    for (o, k) in ways().zip([16usize, 32, 48, 80, 64, 16]) {
        let a = |i: usize, l: usize| ((i * 5 + l * 3) % 11) as f32 - 5.0;
        let b = |l: usize, j: usize| ((l * 7 + j * 2) % 9) as f32 - 4.0;
        let mut mem = Memory::new(1 << 20);
        let pa = put(&mut mem, &bf16s((0..16 * k).map(|n| a(n / k, n % k))));
        let pb = put(&mut mem, &bf16s((0..8 * k).map(|n| b(n / 8, n % 8))));
        let pc = mem.alloc(512).expect("room");
        go(&m, &mut mem, 1, 32, 0, &[pa, pb, pc, k as u64], &o);
        for (n, got) in read32(&mem, pc, 128).into_iter().enumerate() {
            let want: f32 = (0..k).map(|l| a(n / 8, l) * b(l, n % 8)).sum();
            assert_eq!(f32::from_bits(got), want, "K {k}, element {n}");
        }
    }
}

#[test]
fn softmax() {
    let m = load(include_str!("../corpus/good/softmax.ptx"));
    let x = |i: usize| ((i * 13) % 32) as f32 / 8.0;
    let sum: f64 = (0..32).map(|i| f64::from(x(i)).exp()).sum();
    for o in ways() {
        let mut mem = Memory::new(1 << 20);
        let (a, b) = (put(&mut mem, &bf16s((0..32).map(x))), mem.alloc(64).expect("room"));
        go(&m, &mut mem, 1, 32, 0, &[a, b], &o);
        for (i, pair) in read32(&mem, b, 16).into_iter().enumerate() {
            for h in 0..2 {
                let want = f64::from(x(2 * i + h)).exp() / sum;
                let got = f64::from(f32::from_bits(pair >> (16 * h) << 16));
                assert!((got - want).abs() <= want * 0.005, "{got} {want}");
            }
        }
    }
}
