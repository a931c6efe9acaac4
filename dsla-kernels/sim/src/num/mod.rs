//! Stand-in numerics.
#![allow(missing_docs, dead_code)]
use crate::Mma;
use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty { F16, Bf16, F32, F64, U8, U16, U32, U64, S8, S16, S32, S64 }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round { None, Rn, Rz, Rm, Rp, Rni, Rzi, Rmi, Rpi }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approx { Ex2, Lg2, Rcp, Rsqrt, Sqrt, Sin, Cos, Tanh }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaKind { M16N8K16F16, M16N8K16Bf16, M16N8K8F16, M16N8K8Bf16, M16N8K8Tf32, M16N8K4Tf32 }
impl MmaKind {
    pub fn a_regs(self) -> usize { match self { MmaKind::M16N8K16F16 | MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Tf32 => 4, _ => 2 } }
    pub fn b_regs(self) -> usize { self.a_regs() / 2 }
    pub fn cd_regs(self) -> usize { 4 }
    pub fn k(self) -> usize { match self { MmaKind::M16N8K16F16 | MmaKind::M16N8K16Bf16 => 16, MmaKind::M16N8K4Tf32 => 4, _ => 8 } }
    pub fn flops(self) -> u64 { 2 * 16 * 8 * self.k() as u64 }
}
pub fn mma_f32(kind: MmaKind, _n: Mma, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Vec<[u32; 32]> {
    let k = kind.k();
    let tf = matches!(kind, MmaKind::M16N8K8Tf32 | MmaKind::M16N8K4Tf32);
    let bf = matches!(kind, MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16);
    let el = |r: u32, h: usize| if tf { f32::from_bits(r & !0x1fff) } else { let v = (r >> (16 * h)) as u16; if bf { bf16::from_bits(v).to_f32() } else { f16::from_bits(v).to_f32() } };
    let mut am = [[0f32; 16]; 16];
    let mut bm = [[0f32; 8]; 16];
    for l in 0..32 {
        let (g, t) = (l / 4, l % 4);
        for (r, v) in a.iter().enumerate() {
            let row = g + 8 * (r % 2);
            if tf { am[row][t + 4 * (r / 2)] = el(v[l], 0) } else { for h in 0..2 { am[row][t * 2 + h + 8 * (r / 2)] = el(v[l], h) } }
        }
        for (r, v) in b.iter().enumerate() {
            if tf { bm[t + 4 * r][g] = el(v[l], 0) } else { for h in 0..2 { bm[t * 2 + h + 8 * r][g] = el(v[l], h) } }
        }
    }
    let mut d = c.to_vec();
    for l in 0..32 {
        for r in 0..4 {
            let (row, col) = (l / 4 + 8 * (r / 2), (l % 4) * 2 + r % 2);
            let mut s = f32::from_bits(d[r][l]);
            for i in 0..k { s += am[row][i] * bm[i][col]; }
            d[r][l] = s.to_bits();
        }
    }
    d
}
pub fn cvt(to: Ty, from: Ty, round: Round, sat: bool, _ftz: bool, relu: bool, bits: u64) -> u64 {
    let int = |t: Ty| !matches!(t, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64);
    let range = |t: Ty| -> (i128, i128) { match t { Ty::U8 => (0, 0xff), Ty::U16 => (0, 0xffff), Ty::U32 => (0, 0xffff_ffff), Ty::U64 => (0, u64::MAX as i128), Ty::S8 => (-128, 127), Ty::S16 => (-32768, 32767), Ty::S32 => (i32::MIN as i128, i32::MAX as i128), _ => (i64::MIN as i128, i64::MAX as i128) } };
    let mask = |t: Ty| -> u64 { match t { Ty::U8 | Ty::S8 => 0xff, Ty::U16 | Ty::S16 => 0xffff, Ty::U32 | Ty::S32 => 0xffff_ffff, _ => !0 } };
    let as_int = |b: u64| -> i128 { match from { Ty::U8 => b as u8 as i128, Ty::U16 => b as u16 as i128, Ty::U32 => b as u32 as i128, Ty::U64 => b as i128, Ty::S8 => b as i8 as i128, Ty::S16 => b as i16 as i128, Ty::S32 => b as i32 as i128, _ => b as i64 as i128 } };
    let f = match from { Ty::F16 => f16::from_bits(bits as u16).to_f64(), Ty::Bf16 => bf16::from_bits(bits as u16).to_f64(), Ty::F32 => f32::from_bits(bits as u32) as f64, Ty::F64 => f64::from_bits(bits), _ => as_int(bits) as f64 };
    if int(to) {
        let (lo, hi) = range(to);
        if int(from) { let v = as_int(bits); return (if sat { v.clamp(lo, hi) } else { v }) as u64 & mask(to); }
        if f.is_nan() { return 0; }
        let r = match round { Round::Rzi => f.trunc(), Round::Rmi => f.floor(), Round::Rpi => f.ceil(), _ => f.round_ties_even() };
        return (r as i128).clamp(lo, hi) as u64 & mask(to);
    }
    let mut f = match round { Round::Rni => f.round_ties_even(), Round::Rzi => f.trunc(), Round::Rmi => f.floor(), Round::Rpi => f.ceil(), _ => f };
    if sat { f = f.clamp(0.0, 1.0) }
    if relu && f < 0.0 { f = 0.0 }
    match to { Ty::F16 => f16::from_f64(f).to_bits() as u64, Ty::Bf16 => bf16::from_f64(f).to_bits() as u64, Ty::F32 => (f as f32).to_bits() as u64, _ => f.to_bits() }
}
pub fn pack2(to: Ty, _round: Round, hi: f32, lo: f32, _relu: bool) -> u32 {
    if to == Ty::F16 { (f16::from_f32(hi).to_bits() as u32) << 16 | f16::from_f32(lo).to_bits() as u32 } else { (bf16::from_f32(hi).to_bits() as u32) << 16 | bf16::from_f32(lo).to_bits() as u32 }
}
pub fn approx(op: Approx, _ftz: bool, x: f32, _perturb: Option<u64>) -> f32 {
    match op { Approx::Ex2 => x.exp2(), Approx::Lg2 => x.log2(), Approx::Rcp => 1.0 / x, Approx::Rsqrt => (1.0 / (x as f64).sqrt()) as f32, Approx::Sqrt => x.sqrt(), Approx::Sin => x.sin(), Approx::Cos => x.cos(), Approx::Tanh => x.tanh() }
}
pub fn div_approx(x: f32, y: f32, _full: bool, _ftz: bool, _perturb: Option<u64>) -> f32 { x / y }
