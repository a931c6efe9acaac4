//! Lane tables of `ldmatrix` and `stmatrix` (`.m8n8.b16`).

/// The lane whose address names `row` (0..8) of `matrix` (0..4).
pub fn ldmatrix_address_lane(matrix: usize, row: usize) -> usize {
    matrix * 8 + row
}

/// The (row, column) of the 8x8 matrix in memory that `lane` receives in the `half` (0: low) of its register.
pub fn ldmatrix_element(lane: usize, half: usize, trans: bool) -> (usize, usize) {
    let (row, col) = (lane / 4, lane % 4 * 2 + half);
    if trans { (col, row) } else { (row, col) }
}

/// The fragment, one register per lane, of a matrix given by its rows in memory. For `.x2` and `.x4` once per matrix.
pub fn ldmatrix(rows: &[[u16; 8]; 8], trans: bool) -> [u32; 32] {
    std::array::from_fn(|lane| {
        let at = |half| {
            let (r, c) = ldmatrix_element(lane, half, trans);
            rows[r][c] as u32
        };
        at(1) << 16 | at(0)
    })
}

/// The rows in memory of a fragment: the inverse of [`ldmatrix`].
pub fn stmatrix(fragment: &[u32; 32], trans: bool) -> [[u16; 8]; 8] {
    let mut rows = [[0; 8]; 8];
    for lane in 0..32 {
        for half in 0..2 {
            let (r, c) = ldmatrix_element(lane, half, trans);
            rows[r][c] = (fragment[lane] >> (16 * half)) as u16;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_follow_the_table() {
        let rows: [[u16; 8]; 8] = std::array::from_fn(|r| std::array::from_fn(|c| (r * 8 + c) as u16));
        let plain = ldmatrix(&rows, false);
        // "Row 0: threads 0..3, row 1: threads 4..7, ...", two consecutive elements each.
        assert_eq!(plain[0], 1 << 16);
        assert_eq!(plain[3], 7 << 16 | 6);
        assert_eq!(plain[4], 9 << 16 | 8);
        assert_eq!(plain[31], 63 << 16 | 62);
        let trans = ldmatrix(&rows, true);
        assert_eq!(trans[0], 8 << 16);
        assert_eq!(trans[1], 24 << 16 | 16);
        assert_eq!(trans[4], 9 << 16 | 1);
        for t in [false, true] {
            assert_eq!(stmatrix(&ldmatrix(&rows, t), t), rows);
        }
        assert_eq!(ldmatrix_address_lane(2, 3), 19);
    }
}
