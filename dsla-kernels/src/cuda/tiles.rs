//! Row-wise launches: blocks of 256 threads over rows in units, as the macro `tile` of `rows.ptx` maps them.

use super::Launch;
use crate::{DType, Error, Result, View, ViewMut};

/// The text of a kernel that uses the shared macros: `rows!("op.ptx")`.
macro_rules! rows {
    ($file:literal) => {
        concat!(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/rows.ptx")), include_str!($file))
    };
}
pub(crate) use rows;

const THREADS: usize = 256;

/// How `rows` rows of `units` units are laid over blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    rows: usize,
    units: usize,
    /// log2 of the threads along a row.
    lanes: usize,
    /// Tiles along a row.
    tiles: usize,
}

impl Tiles {
    pub fn new(rows: usize, units: usize) -> Tiles {
        // As few idle threads as possible; among equals the longest run. Short rows share a warp.
        let lanes = match units {
            0..32 => units.max(1).next_power_of_two().ilog2(),
            _ => (5..=8).rev().min_by_key(|l| units.div_ceil(1 << l) << l).unwrap_or(8),
        };
        Tiles { rows, units, lanes: lanes as usize, tiles: units.div_ceil(1 << lanes) }
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(THREADS >> self.lanes) * self.tiles
    }
}

impl Launch {
    /// The four parameters of `tile`, then the launch.
    pub(crate) fn run_tiles(self, t: Tiles) -> Result<()> {
        self.u32("rows", t.rows).u32("units", t.units).u32("lanes", t.lanes).u32("tiles", t.tiles).run(
            t.blocks(),
            THREADS,
            0,
        )
    }
}

/// Elements of a unit: 4 where the row length and every address allow 4 elements at once, else 1.
pub(crate) fn vector(row: usize, reads: &[View], writes: &[&ViewMut]) -> usize {
    let fits = |x: &View| x.address().is_multiple_of(4 * x.dtype().size() as u64);
    let all = row.is_multiple_of(4) && reads.iter().all(fits) && writes.iter().all(|y| fits(&y.as_view()));
    if all { 4 } else { 1 }
}

/// Refuses an output that is no float.
pub(crate) fn float(op: &'static str, arg: &'static str, y: &ViewMut) -> Result<()> {
    match y.dtype() {
        got @ DType::U32 => Err(Error::DType { op, arg, got, want: "f32, bf16 or f16" }),
        _ => Ok(()),
    }
}

/// A vector length as the axis of a source spells it.
pub(crate) fn axis(v: usize) -> &'static str {
    if v == 4 { "4" } else { "1" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_unit_and_leave_few_threads_idle() {
        for units in [1, 2, 3, 31, 32, 33, 144, 192, 256, 384, 1000, 50_000] {
            for rows in [1, 7, 300] {
                let t = Tiles::new(rows, units);
                let (lanes, per_block) = (1 << t.lanes, THREADS >> t.lanes);
                assert!(t.tiles * lanes >= units && t.blocks() / t.tiles * per_block >= rows);
                assert!(t.tiles * lanes < 2 * units.max(1), "{units}");
            }
        }
        assert_eq!(Tiles::new(5, 0).blocks(), 0);
        assert_eq!(Tiles::new(0, 5).blocks(), 0);
    }
}
