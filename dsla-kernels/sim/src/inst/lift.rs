//! From a function of one lane to a function of a warp.

/// `one!(|a| e)`, `two!(|a, b| e)`, `three!(|a, b, c| e)`: 32-bit lanes. `wide!(|a, b, ..| e)`: 64-bit lanes.
macro_rules! one {
    (|$a:ident| $e:expr) => {
        $crate::inst::Lanes::One(|x, d| {
            for i in 0..32 {
                let $a = x[i];
                d[i] = $e;
            }
        })
    };
}

macro_rules! two {
    (|$a:ident, $b:ident| $e:expr) => {
        $crate::inst::Lanes::Two(|x, y, d| {
            for i in 0..32 {
                let ($a, $b) = (x[i], y[i]);
                d[i] = $e;
            }
        })
    };
}

macro_rules! three {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        $crate::inst::Lanes::Three(|x, y, z, d| {
            for i in 0..32 {
                let ($a, $b, $c) = (x[i], y[i], z[i]);
                d[i] = $e;
            }
        })
    };
}

macro_rules! wide {
    (|$($a:ident),+| $e:expr) => {
        $crate::inst::Lanes::Wide(|s, d| {
            for i in 0..32 {
                $crate::inst::lift::wide!(@let s, i, 0, $($a),+);
                d[i] = $e;
            }
        })
    };
    (@let $s:ident, $i:ident, 0, $a:ident) => { let $a = $s[0][$i]; };
    (@let $s:ident, $i:ident, 0, $a:ident, $b:ident) => { let ($a, $b) = ($s[0][$i], $s[1][$i]); };
    (@let $s:ident, $i:ident, 0, $a:ident, $b:ident, $c:ident) => {
        let ($a, $b, $c) = ($s[0][$i], $s[1][$i], $s[2][$i]);
    };
    (@let $s:ident, $i:ident, 0, $a:ident, $b:ident, $c:ident, $e:ident) => {
        let ($a, $b, $c, $e) = ($s[0][$i], $s[1][$i], $s[2][$i], $s[3][$i]);
    };
}

pub(crate) use {one, three, two, wide};
