//! The machine: initialisation, devices, contexts, error texts.
#![allow(non_snake_case)]

use super::{Out, cu};
use crate::code::{Code, Outcome, describe};
use crate::device;
use crate::state::{CURRENT, Handle, State};
use std::ffi::{c_char, c_void};

cu!(cuInit(flags: u32) Fine |s| {
    if flags != 0 {
        return Err(Code::INVALID_VALUE);
    }
    s.initialised = true;
    if s.options.devices == 0 { Err(Code::NO_DEVICE) } else { Ok(()) }
});

cu!(cuDriverGetVersion(version: Out<i32>) Fine |_| version.set(12080));

cu!(cuDeviceGetCount(count: Out<i32>) Fine |s| count.set(s.options.devices as i32));

fn ordinal(s: &State, device: i32) -> Outcome<usize> {
    let device = usize::try_from(device).map_err(|_| Code::INVALID_DEVICE)?;
    if device < s.options.devices as usize { Ok(device) } else { Err(Code::INVALID_DEVICE) }
}

cu!(cuDeviceGet(device: Out<i32>, number: i32) Fine |s| device.set(ordinal(s, number)? as i32));

cu!(cuDeviceGetName(name: *mut c_char, length: i32, device: i32) Fine |s| {
    ordinal(s, device)?;
    let text = device::NAME.to_bytes_with_nul();
    let room = usize::try_from(length).unwrap_or(0);
    if name.is_null() || room == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let n = text.len().min(room);
    // SAFETY: the caller vouches for `length` bytes at `name`; no more than those are written, the last one 0.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, n);
        *name.add(n - 1) = 0;
    }
    Ok(())
});

cu!(cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) Fine |s| {
    let mut id = *b"ptxsim device 00";
    id[15] += ordinal(s, device)? as u8;
    uuid.set(id)
});

cu!(cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) Fine |s| {
    let mut id = *b"ptxsim device 00";
    id[15] += ordinal(s, device)? as u8;
    uuid.set(id)
});

cu!(cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) Fine |s| {
    ordinal(s, device)?;
    bytes.set(s.options.capacity as usize)
});

cu!(cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) Fine |s| {
    ordinal(s, device)?;
    value.set(device::attribute(attribute).ok_or(Code::INVALID_VALUE)?)
});

// Memory pools: each device has its one, named by its number. What it keeps back is nobody's business.
cu!(cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) Fine |s| pool.set(ordinal(s, device)? + 1));
cu!(cuDeviceGetMemPool(pool: Out<Handle>, device: i32) Fine |s| pool.set(ordinal(s, device)? + 1));
cu!(cuDeviceSetMemPool(device: i32, pool: Handle) Fine |s| {
    if ordinal(s, device)? + 1 == pool { Ok(()) } else { Err(Code::NOT_SUPPORTED) }
});
cu!(cuMemPoolTrimTo(_pool: Handle, _keep: usize) Fine |_| Ok(()));
cu!(cuMemPoolSetAttribute(_pool: Handle, _attribute: u32, _value: *mut c_void) Fine |_| Ok(()));

cu!(cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) Fine |s| {
    let device = ordinal(s, device)?;
    let handle = match s.primary.get(&device) {
        Some(&h) => h,
        None => {
            let handle = s.new_context(device);
            if let Some(c) = s.contexts.get_mut(&handle) {
                c.references = 0;
            }
            s.primary.insert(device, handle);
            handle
        }
    };
    context.set(handle)?;
    if let Some(c) = s.contexts.get_mut(&handle) {
        c.references += 1;
    }
    Ok(())
});

cu!(cuDevicePrimaryCtxRelease_v2(device: i32) Releases |s| {
    let device = ordinal(s, device)?;
    let handle = *s.primary.get(&device).ok_or(Code::INVALID_CONTEXT)?;
    release(s, handle)
});

/// One reference less; with the last one, queued work is finished and the context goes.
fn release(s: &mut State, handle: Handle) -> Outcome {
    let context = s.contexts.get_mut(&handle).ok_or(Code::INVALID_CONTEXT)?;
    context.references -= 1;
    if context.references > 0 {
        return Ok(());
    }
    let outcome = s.run_all();
    s.drop_context(handle);
    if CURRENT.get() == handle {
        CURRENT.set(0);
    }
    outcome
}

fn create(s: &mut State, context: Out<Handle>, device: i32) -> Outcome {
    let device = ordinal(s, device)?;
    let handle = s.new_context(device);
    CURRENT.set(handle);
    context.set(handle)
}

cu!(cuCtxCreate_v2(context: Out<Handle>, _flags: u32, device: i32) Fails |s| create(s, context, device));
cu!(cuCtxCreate_v3(context: Out<Handle>, _affinity: *const c_void, _n: i32, _flags: u32, device: i32) Fails
    |s| create(s, context, device));
cu!(cuCtxCreate_v4(context: Out<Handle>, parameters: *const c_void, _flags: u32, device: i32) Fails |s| {
    if parameters.is_null() { create(s, context, device) } else { Err(Code::NOT_SUPPORTED) }
});
cu!(cuCtxDestroy_v2(context: Handle) Releases |s| {
    if s.primary.values().any(|&h| h == context) {
        return Err(Code::INVALID_CONTEXT);
    }
    release(s, context)
});

cu!(cuCtxGetCurrent(context: Out<Handle>) Fine |s| context.set(s.current().unwrap_or(0)));

cu!(cuCtxSetCurrent(context: Handle) Fine |s| {
    if context != 0 && !s.contexts.contains_key(&context) {
        return Err(Code::INVALID_CONTEXT);
    }
    CURRENT.set(context);
    Ok(())
});

cu!(cuCtxGetDevice(device: Out<i32>) Fine |s| device.set(s.device()? as i32));

cu!(cuCtxSynchronize() Fails |s| {
    s.current()?;
    s.forbid_in_capture()?;
    s.run_all()
});

cu!(cuCtxSetFlags(_flags: u32) Fine |s| s.current().map(drop));
cu!(cuCtxGetCacheConfig(config: Out<u32>) Fine |s| {
    s.current()?;
    config.set(0)
});
cu!(cuCtxSetCacheConfig(_config: u32) Fine |s| s.current().map(drop));
cu!(cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) Fine |s| {
    s.current()?;
    least.set_some(0);
    greatest.set_some(0);
    Ok(())
});
cu!(cuProfilerStart() Fine |s| s.current().map(drop));
cu!(cuProfilerStop() Fine |s| s.current().map(drop));

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(code: u32, text: Out<*const c_char>) -> u32 {
    let Some((name, _)) = describe(code) else {
        text.set_some(std::ptr::null());
        return Code::INVALID_VALUE.0;
    };
    text.set(name.as_ptr()).err().map_or(0, |c| c.0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(code: u32, text: Out<*const c_char>) -> u32 {
    let Some((_, string)) = describe(code) else {
        text.set_some(std::ptr::null());
        return Code::INVALID_VALUE.0;
    };
    text.set(string.as_ptr()).err().map_or(0, |c| c.0)
}
