//! A cache in pages is a cache in one piece, bit for bit; clones share pages until they append to one.

use dsla_core::attention::{DslaAttention, softmax_attention, softmax_attention_pages};
use dsla_core::kernels::case::Rng;
use dsla_core::kernels::ops::rope::Table;
use dsla_core::kernels::poison_empty;
use dsla_core::{
    DType, Device, DslaParams, Form, Heads, KvCache, KvPages, PAGE, PagePool, Projected, Tensor,
};
use std::sync::Arc;

const HEADS: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 32 };

fn table() -> Table {
    Table::new(&(0..16).map(|i| 10f64.powf(-i as f64 / 4.0)).collect::<Vec<_>>(), 512, 1.0)
}

fn draw(rng: &mut Rng, t: usize) -> Projected {
    let mut x = |heads| rng.tensor(&[t, heads, HEADS.head_dim], 1.0, DType::F32);
    Projected { q: x(HEADS.heads), k: x(HEADS.kv_heads), v: x(HEADS.kv_heads), hidden: None }
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec_f32().iter().map(|x| x.to_bits()).collect()
}

/// Both caches take the same tokens in and give the same bits.
fn step(x: &Projected, plain: &mut KvCache, pages: &mut KvPages, what: &str) {
    let want = softmax_attention(x.clone(), &table(), plain).unwrap();
    let got = softmax_attention_pages(x.clone(), &table(), pages).unwrap();
    assert!(bits(&got) == bits(&want), "{what}");
    let copy = pages.to_cache(plain.k.dtype()).unwrap();
    assert_eq!((pages.len(), copy.len()), (plain.len(), plain.len()), "{what}");
    assert!(bits(&copy.k) == bits(&plain.k) && bits(&copy.v) == bits(&plain.v), "{what}: what is held");
}

#[test]
fn pages_are_the_cache_in_one_piece_bit_for_bit() {
    poison_empty(true);
    let mut rng = Rng::new(1);
    for dtype in [DType::F32, DType::BF16] {
        for pieces in [
            vec![1, 1, 62, 1, 1, 60],
            vec![63, 1, 1, 1],
            vec![64, 64, 3, 1],
            vec![65, 62, 1, 1],
            vec![127, 2, 9],
            vec![200, 1, 8, 17],
            vec![300, 20, 1],
        ] {
            let pool = Arc::new(PagePool::default());
            let mut plain = KvCache::new(HEADS, dtype, Device::Cpu).unwrap();
            let mut pages = KvPages::new(HEADS, dtype, &pool);
            assert!(pages.is_empty() && pool.live_pages() == 0);
            for (i, &t) in pieces.iter().enumerate() {
                step(&draw(&mut rng, t), &mut plain, &mut pages, &format!("{dtype} {pieces:?}, piece {i}"));
                let bytes = pages.len().next_multiple_of(PAGE) * plain.bytes() / plain.len();
                assert_eq!((pages.bytes(), pool.live_bytes()), (bytes, bytes));
                assert_eq!(pool.live_pages(), pages.len().div_ceil(PAGE));
            }
            drop(pages);
            assert_eq!((pool.live_pages(), pool.live_bytes()), (0, 0));
        }
    }
}

#[test]
fn a_clone_and_its_original_part_without_seeing_each_other() {
    poison_empty(true);
    let mut rng = Rng::new(2);
    for (shared, dtype) in
        [1, 63, 64, 65, 127, 200].into_iter().flat_map(|s| [(s, DType::F32), (s, DType::BF16)])
    {
        let pool = Arc::new(PagePool::default());
        let mut plain = KvCache::new(HEADS, dtype, Device::Cpu).unwrap();
        let mut pages = KvPages::new(HEADS, dtype, &pool);
        step(&draw(&mut rng, shared), &mut plain, &mut pages, "shared");
        let (mut others, before) = ((plain.clone(), pages.clone()), pool.live_pages());
        assert_eq!(before, shared.div_ceil(PAGE), "a clone takes no page");
        for round in 0..3 {
            let what = format!("{dtype}, {shared} shared, round {round}");
            let (a, b) = (draw(&mut rng, 1 + 30 * round), draw(&mut rng, 2 + 40 * round));
            step(&b, &mut others.0, &mut others.1, &what);
            step(&a, &mut plain, &mut pages, &what);
        }
        // Full pages are still one; what was written after parting is each its own.
        let own = |len: usize| len.div_ceil(PAGE) - shared / PAGE;
        assert_eq!(pool.live_pages(), shared / PAGE + own(pages.len()) + own(others.1.len()));
        drop(pages);
        step(&draw(&mut rng, 5), &mut others.0, &mut others.1, "the other is left alone");
        drop(others);
        assert_eq!(pool.live_pages(), 0);
    }
}

#[test]
fn the_last_owner_writes_in_place() {
    let pool = Arc::new(PagePool::default());
    let (mut rng, table) = (Rng::new(3), table());
    let mut pages = KvPages::new(HEADS, DType::BF16, &pool);
    softmax_attention_pages(draw(&mut rng, 10), &table, &mut pages).unwrap();
    drop(pages.clone());
    softmax_attention_pages(draw(&mut rng, 10), &table, &mut pages).unwrap();
    assert_eq!(pool.live_pages(), 1);
    let held = pages.clone();
    softmax_attention_pages(draw(&mut rng, 10), &table, &mut pages).unwrap();
    assert_eq!((pool.live_pages(), held.len(), pages.len()), (2, 20, 30));
}

#[test]
fn bytes_are_shared_alike() {
    let pool = Arc::new(PagePool::default());
    let (mut rng, table) = (Rng::new(4), table());
    let (mut a, mut whole) = (KvPages::int8(HEADS, &pool), KvPages::int8(HEADS, &pool));
    let (x, y) = (draw(&mut rng, 70), draw(&mut rng, 60));
    softmax_attention_pages(x.clone(), &table, &mut a).unwrap();
    softmax_attention_pages(x.clone(), &table, &mut whole).unwrap();
    assert_eq!(pool.live_pages(), 4);
    let mut b = a.clone();
    let got = softmax_attention_pages(y.clone(), &table, &mut b).unwrap();
    softmax_attention_pages(draw(&mut rng, 60), &table, &mut a).unwrap();
    assert_eq!((pool.live_pages(), a.bytes()), (2 + 1 + 2 + 2, 3 * 2 * PAGE * 2 * (32 + 4)));
    let want = softmax_attention_pages(y.clone(), &table, &mut whole).unwrap();
    assert!(bits(&got) == bits(&want));
    let (b, whole) = (b.to_cache(DType::BF16).unwrap(), whole.to_cache(DType::BF16).unwrap());
    assert!(bits(&b.k) == bits(&whole.k) && bits(&b.v) == bits(&whole.v));
}

#[test]
fn a_fold_of_pages_is_a_fold() {
    poison_empty(true);
    let (mut rng, table) = (Rng::new(5), table());
    let form = Form { window: 16, ..Form::native() };
    let layer = DslaAttention::new(form, DslaParams::init(&form, HEADS, 0), HEADS);
    for (t, dtype) in [1, 63, 64, 65, 127, 200].into_iter().flat_map(|t| [(t, DType::F32), (t, DType::BF16)])
    {
        let mut plain = KvCache::new(HEADS, dtype, Device::Cpu).unwrap();
        let mut pages = KvPages::new(HEADS, dtype, &Arc::default());
        step(&draw(&mut rng, t), &mut plain, &mut pages, "filled");
        let want = layer.fold(&plain, &table, dtype).unwrap();
        let got = layer.fold(&pages.to_cache(dtype).unwrap(), &table, dtype).unwrap();
        for (a, b) in
            [(&got.s, &want.s), (&got.z, &want.z), (&got.ring.k, &want.ring.k), (&got.sinks.v, &want.sinks.v)]
        {
            assert!(bits(a) == bits(b), "{dtype} {t}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let pool = Arc::new(PagePool::default());
    let mut pages = KvPages::new(HEADS, DType::F32, &pool);
    let x = |dims: [usize; 3], dtype| Tensor::zeros(dims, dtype);
    let good = x([3, 2, 32], DType::F32);
    for bad in [x([3, 2, 31], DType::F32), x([2, 2, 32], DType::F32), x([3, 2, 32], DType::BF16)] {
        assert!(pages.extend(good.view(), bad.view()).is_err());
        assert!(pages.extend(bad.view(), good.view()).is_err());
        assert_eq!((pages.len(), pool.live_pages()), (0, 0));
    }
}
