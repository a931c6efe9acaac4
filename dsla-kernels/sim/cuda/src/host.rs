//! The test's side: finds the shared library, loads it, talks to it.

use crate::wire::{FaultInfo, LaunchInfo, Options, Request, Response, Usage, VERSION};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::c_void;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The file cargo builds.
const FILE: &str = "libptxsim_cuda.so";

/// Why the fake driver is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

type Control =
    unsafe extern "C" fn(*const u8, usize, unsafe extern "C" fn(*mut c_void, *const u8, usize), *mut c_void);

/// The fake driver of this process.
#[derive(Clone, Copy, Debug)]
pub struct Fake {
    control: Control,
}

/// The fake driver for one test alone: tests of a process share a device. Starts reset.
pub struct Session {
    fake: Fake,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Session {
    type Target = Fake;
    fn deref(&self) -> &Fake {
        &self.fake
    }
}

impl Fake {
    /// Load the fake driver, once and for ever. Whoever opens `libcuda.so` in this process afterwards gets it:
    /// call this before the first CUDA call. The library is looked for in `PTXSIM_CUDA` (a path), beside the
    /// executable, in its `deps` folder and in its parent, and in `LD_LIBRARY_PATH`, which cargo sets for tests.
    pub fn install() -> Result<Fake, Error> {
        static FAKE: OnceLock<Result<Fake, Error>> = OnceLock::new();
        FAKE.get_or_init(load).clone()
    }

    /// As [`Fake::install`], reset, and for the caller alone as long as it holds the session.
    pub fn exclusive() -> Result<Session, Error> {
        static ALONE: Mutex<()> = Mutex::new(());
        let fake = Fake::install()?;
        let session = Session { fake, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) };
        fake.ask(&Request::Reset);
        Ok(session)
    }

    fn ask(&self, request: &Request) -> Response {
        unsafe extern "C" fn take(to: *mut c_void, text: *const u8, length: usize) {
            // SAFETY: `to` is the vector below, borrowed by nobody else during the call.
            let to = unsafe { &mut *to.cast::<Vec<u8>>() };
            // SAFETY: the library gives `length` bytes that live during the call.
            to.extend_from_slice(unsafe { std::slice::from_raw_parts(text, length) });
        }
        let text = serde_json::to_vec(request).unwrap_or_default();
        let mut answer: Vec<u8> = Vec::new();
        // SAFETY: the symbol has this signature in a library of this version, which `load` has checked; all
        // pointers live during the call.
        unsafe { (self.control)(text.as_ptr(), text.len(), take, (&raw mut answer).cast()) };
        match serde_json::from_slice(&answer) {
            Ok(Response::Error(e)) => panic!("ptxsim-cuda did not take {request:?}: {e}"),
            Ok(response) => response,
            Err(e) => panic!("ptxsim-cuda answered {request:?} with no JSON: {e}"),
        }
    }

    /// Run this way from now on. Queued work is finished first; what lives, lives on.
    pub fn set(&self, options: &Options) {
        self.ask(&Request::Set(options.clone()));
    }

    /// The options in force.
    pub fn options(&self) -> Options {
        match self.ask(&Request::Get) {
            Response::Options(o) => o,
            other => panic!("{other:?}"),
        }
    }

    /// What went wrong since the last call, oldest first.
    pub fn take_faults(&self) -> Vec<FaultInfo> {
        match self.ask(&Request::TakeFaults) {
            Response::Faults(f) => f,
            other => panic!("{other:?}"),
        }
    }

    /// The launches since the last call, in the order they ran, if [`Options::record`] is set.
    pub fn take_launches(&self) -> Vec<LaunchInfo> {
        match self.ask(&Request::TakeLaunches) {
            Response::Launches(l) => l,
            other => panic!("{other:?}"),
        }
    }

    /// What is alive.
    pub fn usage(&self) -> Usage {
        match self.ask(&Request::Usage) {
            Response::Usage(u) => u,
            other => panic!("{other:?}"),
        }
    }

    /// Device bytes allocated and not freed, in the order of the calls.
    pub fn live_bytes(&self) -> u64 {
        self.usage().bytes
    }
    /// Device allocations not freed.
    pub fn live_allocations(&self) -> u64 {
        self.usage().allocations
    }
    /// Modules not unloaded.
    pub fn live_modules(&self) -> u64 {
        self.usage().modules
    }
    /// Streams not destroyed.
    pub fn live_streams(&self) -> u64 {
        self.usage().streams
    }
    /// Events not destroyed.
    pub fn live_events(&self) -> u64 {
        self.usage().events
    }
    /// The most device bytes alive since [`Fake::reset_peak`].
    pub fn peak_bytes(&self) -> u64 {
        self.usage().peak_bytes
    }
    /// Start [`Fake::peak_bytes`] again from what is alive now.
    pub fn reset_peak(&self) {
        self.ask(&Request::ResetPeak);
    }
    /// Kernels run, ever.
    pub fn launches(&self) -> u64 {
        self.usage().launches
    }

    /// The next call of this name (`cuMemAllocAsync`) does nothing and returns this code (2: out of memory).
    pub fn fail_next(&self, call: &str, code: u32) {
        self.ask(&Request::FailNext { call: call.into(), code });
    }

    /// Revive a context that a fault has killed. No driver can; the end of the last context does it too.
    pub fn clear_error(&self) {
        self.ask(&Request::ClearError);
    }
}

/// Where the library may be.
fn candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("PTXSIM_CUDA") {
        return vec![path.into()];
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let folders = executable.ancestors().skip(1).take(2);
    let mut found: Vec<PathBuf> = folders.flat_map(|f| [f.join("deps").join(FILE), f.join(FILE)]).collect();
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|f| f.join(FILE)));
    found.retain(|f| f.is_file());
    found
}

fn load() -> Result<Fake, Error> {
    let places = candidates();
    let path = places.first().ok_or_else(|| {
        Error(format!("{FILE} is not beside the executable: build ptxsim-cuda, or name it in PTXSIM_CUDA"))
    })?;
    // SAFETY: the library has no initialiser but the Rust runtime's.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|e| Error(format!("{}: {e}", path.display())))?;
    let old = |e| Error(format!("{}: no ptxsim-cuda: {e}", path.display()));
    // SAFETY: the symbol has this signature in every version.
    let version = unsafe { *library.get::<extern "C" fn() -> u32>(b"ptxsim_version").map_err(old)? };
    if version() != VERSION {
        return Err(Error(format!("{}: version {}, wanted {VERSION}", path.display(), version())));
    }
    // SAFETY: the symbol has this signature in this version.
    let control = unsafe { *library.get::<Control>(b"ptxsim_control").map_err(old)? };
    // The handle is never closed: the driver stays for the life of the process.
    std::mem::forget(library);
    // SAFETY: opens what is loaded already, or else a driver, whose initialisers are its own affair.
    let cuda = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW) }
        .map_err(|e| Error(format!("libcuda.so does not resolve to {}: {e}", path.display())))?;
    // SAFETY: only its presence is asked.
    if unsafe { cuda.get::<*const c_void>(b"ptxsim_version") }.is_err() {
        return Err(Error("a real libcuda was loaded before the fake one: install it earlier".into()));
    }
    Ok(Fake { control })
}
