//! Quantised tensors of a GGUF file as blocks.

use crate::gguf::{blob, blocks, open, with};
use crate::support::{Blob, Q4_0, Q4_1, Q8_0, line};
use dsla_kernels::ops::linear::{Packed, Quant};
use half::f16;

/// Blocks in the file's own format are the file's bytes, rows of q and k in HF order; in another one they are those of the
/// values. Either way they mean what `read` gives.
#[test]
fn blocks_of_a_file() {
    let g = with(vec![
        blob("blk.0.attn_q.weight", &[32, 64], Q8_0, blocks(64, 34, 1)),
        blob("blk.0.ffn_up.weight", &[64, 5], Q4_0, blocks(10, 18, 1)),
        blob("blk.0.ffn_down.weight", &[96, 7], Q4_1, blocks(21, 20, 2)),
        Blob::f32("blk.0.attn_v.weight", &[2, 32], &[1.0; 64]),
        Blob::f32("output_norm.weight", &[64], &[1.0; 64]),
    ]);
    let w = open(&g.bytes()).unwrap();
    assert_eq!(w.blocks("model.layers.0.mlp.up_proj.weight", Quant::Q4_0).unwrap(), g.tensors[1].data);
    assert_eq!(w.blocks("model.layers.0.mlp.down_proj.weight", Quant::Q4_1).unwrap(), g.tensors[2].data);
    for (name, n, k, own) in [
        ("self_attn.q_proj", 64, 32, Quant::Q8_0),
        ("mlp.up_proj", 5, 64, Quant::Q4_0),
        ("mlp.down_proj", 7, 96, Quant::Q4_1),
    ] {
        let name = format!("model.layers.0.{name}.weight");
        let values = w.read(&name).unwrap();
        for quant in Quant::ALL {
            let packed = Packed::from_blocks(quant, &w.blocks(&name, quant).unwrap(), n, k).unwrap();
            let want = Packed::quantised(values.view(), quant).unwrap();
            let (mut got, mut again) = (vec![0.0; k], vec![0.0; k]);
            for (j, row) in values.f32().chunks(k).enumerate() {
                packed.row(j, &mut got);
                want.row(j, &mut again);
                assert_eq!(got, if quant == own { row } else { &again }, "{name} {quant} row {j}");
            }
        }
    }
    let of = |name: &str| line(w.blocks(name, Quant::Q8_0));
    assert!(
        of("model.layers.0.self_attn.v_proj.weight")
            .contains("got shape [32, 2], want rows of a multiple of 32")
    );
    assert!(of("model.norm.weight").contains("want a matrix"));
    assert!(of("nothing").contains("want a tensor"));
    let mut bad = g.clone();
    bad.tensors[2].data[40 + 2..40 + 4].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let e = line(open(&bad.bytes()).unwrap().blocks("model.layers.0.mlp.down_proj.weight", Quant::Q4_1));
    assert!(e.contains("NaN or infinity at element 64"), "{e}");
}
