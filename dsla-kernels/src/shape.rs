//! Dimensions.

/// Up to four dimensions, row-major, copied by value so that a view costs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub(crate) dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<&[usize]> for Shape {
    /// Panics beyond four dimensions: shapes are written by this workspace, never by a file.
    fn from(d: &[usize]) -> Shape {
        assert!(d.len() <= 4, "a shape has at most 4 dimensions, got {}", d.len());
        let mut dims = [1; 4];
        dims[..d.len()].copy_from_slice(d);
        Shape { dims, rank: d.len() }
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(d: [usize; N]) -> Shape {
        Shape::from(&d[..])
    }
}
