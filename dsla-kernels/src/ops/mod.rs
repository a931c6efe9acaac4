//! One op, one folder; this list is the one place that names them all.

/// Declares the op modules and [`all`], the table that tests and benches loop over.
macro_rules! ops {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        $($(#[$meta])* pub mod $name;)*

        /// Every op: its name and its cases.
        pub fn all() -> Vec<(&'static str, Vec<crate::case::Case>)> {
            vec![$((stringify!($name), $name::cases::cases())),*]
        }
    };
}

ops! {
    /// Linear layers.
    linear,
    /// Root-mean-square normalisation.
    rms_norm,
}
