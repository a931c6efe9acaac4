//! What softmax attention promises beyond its values: bits that depend on nothing but a sequence itself, and no access
//! outside a pool whatever the tables say.

mod common;
use common::*;
use dsla_kernels::case::Rng;
use dsla_kernels::ops::softmax_attention::{backward, forward, paged_decode};
use dsla_kernels::{DType, Device, Error, Tensor};
use ptxsim_cuda::{Fake, Options, Session};

const GPU: Device = Device::Cuda(0);

fn fake() -> Session {
    Fake::exclusive().expect("the fake driver is built beside this test")
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_device(Device::Cpu).unwrap().f32().iter().map(|x| x.to_bits()).collect()
}

/// A pool of 64-wide pages of 16 positions, two kv heads of three query heads each, on a device.
struct Pool {
    k: Tensor,
    v: Tensor,
    q: Tensor,
}

impl Pool {
    fn new(device: Device, dtype: DType) -> Pool {
        let mut rng = Rng::new(5);
        let mut on = |shape: &[usize], dtype| rng.tensor(shape, 1.0, dtype).to_device(device).unwrap();
        let (k, v) = (on(&[40, 16, 2, 64], dtype), on(&[40, 16, 2, 64], dtype));
        Pool { k, v, q: on(&[4, 6, 64], DType::F32) }
    }

    /// Sequences of `q`'s rows `who`, with these pages and lengths.
    fn run(&self, who: &[usize], table: &[Vec<u32>], lens: &[u32]) -> Result<Tensor, Error> {
        let device = self.q.device();
        let q: Vec<f32> = who
            .iter()
            .flat_map(|&i| self.q.to_device(Device::Cpu).unwrap().rows(i, i + 1).to_vec())
            .collect();
        let width = table.iter().map(Vec::len).max().unwrap();
        let rows =
            table.iter().flat_map(|r| r.iter().copied().chain(std::iter::repeat(9)).take(width)).collect();
        let q = Tensor::from_f32([who.len(), 6, 64], q).to_device(device)?;
        let table = Tensor::from_u32([who.len(), width], rows).to_device(device)?;
        let lens = Tensor::from_u32([lens.len()], lens.to_vec()).to_device(device)?;
        let mut out = Tensor::empty_on(device, [who.len(), 6, 64], DType::F32)?;
        paged_decode(q.view(), self.k.view(), self.v.view(), table.view(), lens.view(), out.view_mut())?;
        Ok(out)
    }
}

trait Values {
    fn to_vec(&self) -> Vec<f32>;
}

impl Values for dsla_kernels::View<'_> {
    fn to_vec(&self) -> Vec<f32> {
        match self.slice() {
            dsla_kernels::Slice::F32(v) => v.to_vec(),
            _ => unreachable!("f32 was asked for"),
        }
    }
}

/// Pages in no order: 20 of them hold the 300 positions of the longest sequence.
fn pages(seed: u64, n: usize) -> Vec<u32> {
    let mut free: Vec<u32> = (0..40).collect();
    let mut rng = Rng::new(seed);
    (0..n).map(|_| free.swap_remove(rng.bits() as usize % free.len())).collect()
}

#[test]
fn a_sequence_has_its_bits_in_every_batch() {
    let (_lock, fake) = (serial(), fake());
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let pool = Pool::new(GPU, dtype);
        let (a, b, c) = (pages(1, 19), pages(2, 5), pages(3, 9));
        fake.set(&Options { schedule: 4, reorder: 9, ..Options::default() });
        let together = pool.run(&[0, 1, 2], &[a.clone(), b.clone(), c], &[300, 65, 129]).unwrap();
        fake.set(&Options::default());
        let alone = pool.run(&[0], &[a], &[300]).unwrap();
        let second = pool.run(&[1], &[[b, vec![7; 30]].concat()], &[65]).unwrap();
        let (together, row) = (bits(&together), 6 * 64);
        assert_eq!(together[..row], bits(&alone), "{dtype}: a shorter batch, another schedule");
        assert_eq!(together[row..2 * row], bits(&second), "{dtype}: a wider table");
    }
    assert!(fake.take_faults().is_empty());
}

#[test]
fn pages_in_a_row_are_a_cache() {
    let (_lock, _fake) = (serial(), fake());
    let pool = Pool::new(GPU, DType::BF16);
    let paged = pool.run(&[0], &[(0..19).collect()], &[300]).unwrap();
    let q = pool.q.to_device(Device::Cpu).unwrap();
    let q = Tensor::from_f32([1, 6, 64], q.rows(0, 1).to_vec()).to_device(GPU).unwrap();
    let mut out = Tensor::empty_on(GPU, [1, 6, 64], DType::F32).unwrap();
    let flat = |t: &Tensor| t.try_clone().unwrap().reshape([640, 2, 64]);
    let (k, v) = (flat(&pool.k), flat(&pool.v));
    forward(q.view(), k.rows(0, 300), v.rows(0, 300), out.view_mut()).unwrap();
    assert_eq!(bits(&paged), bits(&out));
}

#[test]
fn nothing_outside_the_pool_is_read() {
    let (_lock, fake) = (serial(), fake());
    let wild = vec![u32::MAX, 40, 3, 1 << 20];
    let pool = Pool::new(GPU, DType::F16);
    let got = pool.run(&[0, 1], &[wild.clone(), vec![1]], &[64, u32::MAX]).unwrap();
    assert!(bits(&got).iter().all(|b| f32::from_bits(*b).is_finite()));
    assert!(fake.take_faults().is_empty());
    // The host says so.
    let pool = Pool::new(Device::Cpu, DType::F16);
    let page = pool.run(&[0], std::slice::from_ref(&wild), &[64]).unwrap_err().to_string();
    assert!(page.contains("table: got page 4294967295 in sequence 0, want below 40"), "{page}");
    let len = pool.run(&[0], &[vec![1, 2]], &[33]).unwrap_err().to_string();
    assert!(len.contains("lens: got 33 in sequence 0, want at most 32"), "{len}");
}

#[test]
fn chunks_of_a_prompt_have_the_bits_of_the_whole() {
    let (_lock, fake) = (serial(), fake());
    for (d, dtype) in [(64, DType::BF16), (128, DType::F16), (64, DType::F32)] {
        let (t, h, g) = (150, 3, 1);
        let mut rng = Rng::new(8);
        let mut on = |shape: &[usize], dtype| rng.tensor(shape, 2.0, dtype).to_device(GPU).unwrap();
        let (q, k, v) = (on(&[t, h, d], DType::F32), on(&[t, g, d], dtype), on(&[t, g, d], dtype));
        let mut out = Tensor::empty_on(GPU, [t, h, d], DType::F32).unwrap();
        forward(q.view(), k.view(), v.view(), out.view_mut()).unwrap();
        let mut chunked = Tensor::empty_on(GPU, [t, h, d], DType::F32).unwrap();
        for (a, b) in [(0, 43), (43, 100), (100, 150)] {
            fake.set(&Options { schedule: a as u64, ..Options::default() });
            forward(q.rows(a, b), k.rows(0, b), v.rows(0, b), chunked.view_mut().rows(a, b)).unwrap();
        }
        assert_eq!(bits(&out), bits(&chunked), "{dtype} {d}");
    }
}

#[test]
fn gradients_have_the_same_bits_under_every_schedule() {
    let (_lock, fake) = (serial(), fake());
    for dtype in [DType::BF16, DType::F32] {
        let (t, h, g, d) = (70, 2, 1, 64);
        let mut rng = Rng::new(9);
        let mut on = |shape: &[usize], dtype| rng.tensor(shape, 1.0, dtype).to_device(GPU).unwrap();
        let (q, k, v) = (on(&[t, h, d], DType::F32), on(&[t, g, d], dtype), on(&[t, g, d], dtype));
        let d_out = on(&[t, h, d], DType::F32);
        let mut all = vec![];
        for schedule in 0..3 {
            fake.set(&Options { schedule, reorder: schedule, ..Options::default() });
            let empty = |s: &[usize]| Tensor::empty_on(GPU, s, DType::F32).unwrap();
            let (mut out, mut dq) = (empty(&[t, h, d]), empty(&[t, h, d]));
            let (mut dk, mut dv) = (empty(&[t, g, d]), empty(&[t, g, d]));
            forward(q.view(), k.view(), v.view(), out.view_mut()).unwrap();
            let (q, k, v, o) = (q.view(), k.view(), v.view(), out.view());
            backward(q, k, v, o, d_out.view(), dq.view_mut(), dk.view_mut(), dv.view_mut()).unwrap();
            all.push([bits(&dq), bits(&dk), bits(&dv)]);
        }
        assert!(all.iter().all(|x| *x == all[0]), "{dtype}");
    }
    assert!(fake.take_faults().is_empty());
}
