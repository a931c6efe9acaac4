use super::{Blocks, Quant, naive};
use crate::case::Rng;
use crate::ops::linear::Packed;
use crate::{DType, Device, Error, Tensor};

/// Of PyPI's `gguf` 0.19, with x as `fixture_input` makes it:
/// `gguf.quants.quantize(x.reshape(1, -1), gguf.GGMLQuantizationType.Q8_0).tobytes().hex()`, and so on.
const FIXTURES: [(Quant, &str); 3] = [
    (Quant::Q8_0, "4d1e81df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc2c223c96f656b0106fca2984e3439efd5db71777d1318beb4ba50565bf1f7fd93993003c01fe03fc05fa07f809f60bf40df20ff011ee13ec15ea17e819e61be41de21f7f00000000000000000000000000000000000000000000000000000000000000000000"),
    (Quant::Q4_0, "402ee046acf258bd1379df358be046acf26820b2740fb953fd9731eb852fca640ea842fdf0cb789878987898789867a967a967a96709008088888888888888888888888888888888"),
    (Quant::Q4_1, "ab2e40bad0369bf257bd1369ce258ae0469cf258773200be9bf157ad0368ce248ad0469bf257bd13374960cf431353125312531254025402640264f10000000000000000000000000000000000000000"),
];

/// Two blocks of mixed values, one of halves (which way they round), one of zeros.
fn fixture_input() -> Vec<f32> {
    let mixed = (0..64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0 * (1 + i / 32) as f32);
    let halves = (0..31).map(|j| if j % 2 == 0 { j as f32 + 0.5 } else { -(j as f32 + 0.5) });
    mixed.chain(halves).chain([127.0]).chain([0.0; 32]).collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn the_bytes_are_those_of_gguf() {
    let x = Tensor::from_f32([1, 128], fixture_input());
    for (quant, want) in FIXTURES {
        assert_eq!(quant.quantise(x.view()).unwrap(), hex(want), "{quant}");
    }
}

#[test]
fn rounding_is_that_of_roundf() {
    for v in [0.5f32, -0.5, 0.499_999_97, -0.499_999_97, 1.5, 2.5, -2.5, 126.5, 0.0, -0.0, 3.499_999_8, 63.500_004] {
        assert_eq!((v + 0.499_999_97f32.copysign(v)) as i32, v.round() as i32, "{v}");
    }
}

/// Blocks to values to blocks to values is the identity on values, whichever way a weight is packed, and every value is
/// where it belongs: rows beyond a panel, columns beyond a block.
#[test]
fn rows_and_blocks_agree() {
    let (n, k) = (37, 96);
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let w = Rng::new(3).tensor(&[n, k], 0.2, dtype);
        for quant in Quant::ALL {
            let bytes = quant.quantise(w.view()).unwrap();
            assert_eq!(Some(bytes.len()), quant.bytes(n, k));
            let rows = |w: &Packed| -> Vec<f32> {
                let mut all = vec![0.0; n * k];
                all.chunks_exact_mut(k).enumerate().for_each(|(j, row)| w.row(j, row));
                all
            };
            let first = Packed::from_blocks(quant, &bytes, n, k).unwrap();
            assert_eq!(first.bytes(), 48 * k / 32 * quant.block_bytes(), "three panels of 16");
            assert_eq!((first.quant(), first.n(), first.k()), (Some(quant), n, k));
            let values = rows(&first);
            // The 8 bits of bf16 make many exact ties, where the last bit of 1 / d decides.
            for (v, want) in values.iter().zip(naive::rounded(&w.to_vec_f32(), quant)).filter(|_| dtype == DType::F32) {
                assert!((f64::from(*v) - want).abs() <= 1e-7, "{quant}: {v}, want {want}");
            }
            let again = Packed::quantised(Tensor::from_f32([n, k], values.clone()).view(), quant).unwrap();
            let most = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (a, b) in rows(&again).iter().zip(&values) {
                assert!((a - b).abs() <= 1e-3 * most, "{quant} {dtype}: {a}, was {b}");
            }
        }
    }
}

#[test]
fn refusals() {
    let w = Tensor::zeros([4, 48], DType::F32);
    let error = Packed::quantised(w.view(), Quant::Q4_0).unwrap_err();
    assert!(matches!(error, Error::Shape { arg: "w", .. }));
    assert_eq!(error.to_string(), "linear: w: got shape [4, 48], want [N, K], K a multiple of 32, for q4_0");
    let error = Packed::from_blocks(Quant::Q8_0, &[0; 67], 1, 64).unwrap_err();
    assert_eq!(error.to_string(), "linear: blocks: got 67 bytes, want 1 x 64 weights in 34 bytes per 32");
    let error = Packed::from_blocks(Quant::Q8_0, &[], usize::MAX, 64).unwrap_err();
    assert!(matches!(error, Error::Argument { arg: "blocks", .. }));
    let ids = Tensor::from_u32([1, 32], vec![0; 32]);
    assert!(matches!(Packed::quantised(ids.view(), Quant::Q8_0), Err(Error::DType { arg: "w", .. })));
    assert!(Blocks::new(Quant::Q4_1, &[], 0, 32).is_ok(), "nothing is fine");
    let error = Quant::Q8_0.check(Device::Cuda(0), 1, 32).unwrap_err();
    assert_eq!(error.to_string(), "linear: w: got q8_0, want f32, bf16 or f16 on cuda:0");
}
