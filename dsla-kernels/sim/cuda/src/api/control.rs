//! The tests' own door: one function that takes and gives JSON.

use crate::state::{State, lock};
use crate::wire::{Request, Response, VERSION};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Takes the answer: the pointer given along, the text, its length.
pub(crate) type Reply = unsafe extern "C" fn(*mut c_void, *const u8, usize);

#[unsafe(no_mangle)]
extern "C" fn ptxsim_version() -> u32 {
    VERSION
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ptxsim_control(request: *const u8, length: usize, reply: Reply, to: *mut c_void) {
    // SAFETY: the caller vouches for `length` bytes of text at `request`.
    let text = unsafe { std::slice::from_raw_parts(request, length) };
    let response = catch_unwind(AssertUnwindSafe(|| match serde_json::from_slice(text) {
        Ok(request) => answer(&mut lock(), request),
        Err(e) => Response::Error(e.to_string()),
    }))
    .unwrap_or_else(|_| Response::Error("a panic".into()));
    let text = serde_json::to_vec(&response).unwrap_or_default();
    // SAFETY: the caller vouches that `reply` may be called once with `to` and a text.
    unsafe { reply(to, text.as_ptr(), text.len()) };
}

fn answer(s: &mut State, request: Request) -> Response {
    match request {
        Request::Set(options) => {
            // What is queued still runs in the old order. An error of it stays for the program to see.
            let _ = s.run_all();
            s.seed(options.reorder);
            s.options = options;
        }
        Request::Get => return Response::Options(s.options.clone()),
        Request::TakeFaults => return Response::Faults(std::mem::take(&mut s.faults)),
        Request::TakeLaunches => return Response::Launches(std::mem::take(&mut s.launches)),
        Request::Usage => return Response::Usage(s.usage()),
        Request::ResetPeak => s.peak = s.live,
        Request::FailNext { call, code } => s.fail_next.push((call, code)),
        Request::ClearError => s.sticky = None,
        Request::Reset => s.reset(),
    }
    Response::Done
}
