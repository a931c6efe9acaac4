//! Sequences that share what they have in common: clones hold the same pages, part where they differ, and count once.

use dsla_model::core::PAGE;
use dsla_model::core::kernels::poison_empty;
use dsla_model::{Adapter, DType, Device, Form, Model, Sequence, Step, Want};
use std::path::Path;

fn tiny(dtype: DType) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_llama3");
    let model = Model::load(path, &Device::Cpu, dtype).unwrap();
    let adapter = Adapter::init(&model, &Form { window: 5, sinks: 2, ..Form::native() }).unwrap();
    poison_empty(true);
    model.with_positions(600).unwrap().with_adapter_value(adapter).unwrap()
}

fn tokens(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i + seed) * (i + 3 * seed + 1)) as u32 % 50).collect()
}

fn feed(model: &Model, seq: &mut Sequence, tokens: &[u32]) -> Vec<u32> {
    let logits = model.forward(&mut [Step { seq, tokens, logits: Want::All }]).unwrap();
    logits.f32().iter().map(|x| x.to_bits()).collect()
}

/// Its clones go on as it would have, whatever the others take in, and together they hold what they do not share.
#[test]
fn clones_part_and_see_nothing_of_each_other() {
    for dtype in [DType::F32, DType::BF16] {
        let plain = tiny(dtype);
        for model in [plain.clone(), plain.clone().with_int8_cache().unwrap()] {
            for (converted, shared) in [0, 1, 2].into_iter().flat_map(|k| [1, 64, 65, 200].map(|s| (k, s))) {
                let what = format!("{dtype}, {converted} converted, {shared} shared");
                let softmax = 2 - converted;
                let mut first = model.new_sequence(&model.plan(converted)).unwrap();
                feed(&model, &mut first, &tokens(shared, 0));
                let mut second = first.clone();
                let pages = shared.div_ceil(PAGE);
                assert_eq!(
                    model.pages().live_pages(),
                    softmax * pages,
                    "{what}: a clone holds no pages of its own"
                );
                assert_eq!(model.pages().live_bytes(), first.kv_bytes());
                assert_eq!(
                    (second.kv_bytes(), second.state_bytes()),
                    (first.kv_bytes(), first.state_bytes())
                );
                assert_eq!(first.kv_bytes(), softmax * model.kv_bytes(shared));
                let lone = |seed| {
                    let mut seq = model.new_sequence(&model.plan(converted)).unwrap();
                    feed(&model, &mut seq, &tokens(shared, 0));
                    [30, 1, 1, 100].map(|n| feed(&model, &mut seq, &tokens(n, seed)))
                };
                let (want_a, want_b) = (lone(1), lone(2));
                for (i, n) in [30, 1, 1, 100].into_iter().enumerate() {
                    assert!(feed(&model, &mut second, &tokens(n, 2)) == want_b[i], "{what}: clone, step {i}");
                    assert!(
                        feed(&model, &mut first, &tokens(n, 1)) == want_a[i],
                        "{what}: original, step {i}"
                    );
                }
                let one = (shared + 132).div_ceil(PAGE);
                assert_eq!(model.pages().live_pages(), softmax * (2 * one - shared / PAGE), "{what}");
                drop(first);
                assert_eq!(model.pages().live_bytes(), second.kv_bytes(), "{what}");
                drop(second);
                assert_eq!((model.pages().live_pages(), plain.pages().live_bytes()), (0, 0), "{what}");
            }
        }
    }
}

#[test]
fn folding_one_leaves_the_pages_to_the_other() {
    let model = tiny(DType::BF16);
    let mut kept = model.new_sequence(&model.plan(0)).unwrap();
    feed(&model, &mut kept, &tokens(150, 0));
    let mut folded = kept.clone();
    model.fold(&mut folded, 0).unwrap();
    assert_eq!((model.pages().live_pages(), folded.kv_bytes()), (6, kept.kv_bytes() / 2));
    let (mut alone, mut again) = (model.new_sequence(&model.plan(0)).unwrap(), kept.clone());
    feed(&model, &mut alone, &tokens(150, 0));
    assert!(feed(&model, &mut again, &tokens(9, 1)) == feed(&model, &mut alone, &tokens(9, 1)));
    model.fold(&mut alone, 0).unwrap();
    model.fold(&mut again, 0).unwrap();
    assert!(feed(&model, &mut again, &tokens(9, 2)) == feed(&model, &mut alone, &tokens(9, 2)));
    drop((kept, alone, again));
    assert_eq!(model.pages().live_bytes(), folded.kv_bytes(), "the layer that is not converted");
    model.fold(&mut folded, 1).unwrap();
    assert_eq!(model.pages().live_pages(), 0);
}
