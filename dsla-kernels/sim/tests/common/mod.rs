//! Kernels from a few lines: registers declared, parameters loaded.
#![allow(dead_code)]

use ptxsim::{Counters, Fault, FaultKind, Launch, Memory, Module, Options, run};

/// A kernel with `x`, `y` (in `%x`, `%y`), `n` (in `%n`), `%tid`'s x in `%t`, and 1024 bytes of shared memory `tile`.
pub fn text(body: &str) -> String {
    format!(
        ".version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 .ptr .global .align 16 x, .param .u64 .ptr .global .align 16 y, .param .u32 n)
{{
.reg .pred %p<8>;
.reg .b16 %h<8>;
.reg .b32 %r<32>, %n, %t;
.reg .f32 %f<16>;
.reg .b64 %d<16>, %x, %y;
.shared .align 16 .b8 tile[1024];
ld.param.u64 %x, [x];
ld.param.u64 %y, [y];
ld.param.u32 %n, [n];
mov.u32 %t, %tid.x;
{body}
}}
"
    )
}

/// One launch: `x` holds 0, 1, 2 ... `words` of 32 bits, `y` as many, unwritten.
pub struct Case {
    pub grid: u32,
    pub block: u32,
    pub words: usize,
    pub n: u32,
    pub dynamic: u32,
    pub options: Options,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            grid: 1,
            block: 32,
            words: 256,
            n: 0,
            dynamic: 0,
            options: Options { budget: 1 << 20, ..Options::default() },
        }
    }
}

impl Case {
    /// Run a whole module's kernel `k`; `y` after it, unwritten words as 0xFFFFFFFF.
    pub fn module(&self, text: &str) -> Result<(Vec<u32>, Counters), Fault> {
        let m = Module::parse(text)?;
        let mut mem = Memory::new(1 << 30);
        let bytes = 4 * self.words as u64;
        let (x, y) = (mem.alloc(bytes).unwrap(), mem.alloc(bytes).unwrap());
        let fill: Vec<u8> = (0..self.words as u32).flat_map(u32::to_le_bytes).collect();
        mem.write(x, &fill).unwrap();
        let mut params = [x.to_le_bytes(), y.to_le_bytes()].concat();
        params.extend(self.n.to_le_bytes());
        let launch = Launch {
            entry: "k",
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            shared: self.dynamic,
            params: &params,
        };
        let counters = run(&m, &launch, &mut mem, &self.options)?;
        let out = (0..self.words).map(|i| {
            let mut b = [0; 4];
            mem.read(y + 4 * i as u64, &mut b).map_or(!0, |()| u32::from_le_bytes(b))
        });
        Ok((out.collect(), counters))
    }

    pub fn run(&self, body: &str) -> Result<(Vec<u32>, Counters), Fault> {
        self.module(&text(body))
    }

    /// What `y` holds after a run that must be clean.
    pub fn ok(&self, body: &str) -> Vec<u32> {
        self.run(body).unwrap_or_else(|f| panic!("{f}\n{body}")).0
    }

    /// The fault of a run that must have this one.
    pub fn fault(&self, kind: FaultKind, body: &str) -> Fault {
        match self.run(body) {
            Ok(_) => panic!("want {kind:?}, got none\n{body}"),
            Err(f) if f.kind == kind => f,
            Err(f) => panic!("want {kind:?}, got {f}\n{body}"),
        }
    }
}

/// Store `%r0` at this thread's word of `y`.
pub const STORE: &str = "mul.wide.u32 %d15, %t, 4; add.u64 %d15, %y, %d15; st.global.u32 [%d15], %r0;";
