//! Modules, functions, launches, occupancy.
#![allow(non_snake_case)]

use super::{Out, cu};
use crate::code::{Code, Outcome};
use crate::device;
use crate::queue::{LaunchOp, Op};
use crate::state::{Function, Handle, Loaded, State};
use crate::wire::FaultInfo;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

/// The compute capability, ten times, that `.target` asks for.
fn target(text: &str) -> Option<u32> {
    let name = text.split_once(".target")?.1.trim_start().strip_prefix("sm_")?;
    let digits = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
    name[..digits].parse().ok()
}

/// Load PTX text.
fn load(s: &mut State, module: Out<Handle>, text: &[u8], call: &str) -> Outcome {
    s.current()?;
    s.forbid_in_capture()?;
    let Ok(text) = std::str::from_utf8(text) else {
        return Err(s.refuse(Code::INVALID_IMAGE, call, "the image is no text: only PTX can be loaded"));
    };
    if let Some(wanted) = target(text).filter(|&t| t > device::CAPABILITY) {
        let have = device::CAPABILITY;
        return Err(s.refuse(
            Code::INVALID_PTX,
            call,
            format!(".target sm_{wanted} on a device of sm_{have}"),
        ));
    }
    let program = ptxsim::Module::parse(text).map_err(|fault| {
        s.faults.push(FaultInfo::from(&fault));
        Code::INVALID_PTX
    })?;
    let handle = s.handle();
    s.modules.insert(handle, Loaded { program: Arc::new(program), functions: BTreeMap::new() });
    module.set(handle)
}

/// Load the NUL-terminated text at `image`.
///
/// # Safety
/// `image` is null or points to NUL-terminated bytes.
unsafe fn load_image(s: &mut State, module: Out<Handle>, image: *const c_void, call: &str) -> Outcome {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, NUL-terminated by contract. An ELF or fat binary has NULs too and ends at the first.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    load(s, module, text.to_bytes(), call)
}

cu!(cuModuleLoadData(module: Out<Handle>, image: *const c_void) Fails
    // SAFETY: the caller vouches for an image, which for PTX is NUL-terminated text.
    |s| unsafe { load_image(s, module, image, "cuModuleLoadData") });
cu!(cuModuleLoadDataEx(module: Out<Handle>, image: *const c_void, _n: u32, _keys: *mut u32, _values: *mut *mut c_void)
    Fails
    // SAFETY: the caller vouches for an image, which for PTX is NUL-terminated text.
    |s| unsafe { load_image(s, module, image, "cuModuleLoadDataEx") });

cu!(cuModuleLoad(module: Out<Handle>, path: *const c_char) Fails |s| {
    if path.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches for a C string.
    let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|_| Code::FILE_NOT_FOUND)?;
    let text = std::fs::read(path).map_err(|_| Code::FILE_NOT_FOUND)?;
    load(s, module, &text, "cuModuleLoad")
});

cu!(cuModuleUnload(module: Handle) Releases |s| {
    let loaded = s.modules.remove(&module).ok_or(Code::INVALID_HANDLE)?;
    loaded.functions.values().for_each(|f| drop(s.functions.remove(f)));
    Ok(())
});

cu!(cuModuleGetFunction(function: Out<Handle>, module: Handle, name: *const c_char) Fails |s| {
    if name.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches for a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Code::NOT_FOUND)?;
    let fresh = s.handle();
    let loaded = s.modules.get_mut(&module).ok_or(Code::INVALID_HANDLE)?;
    let position = loaded.program.entries().iter().position(|e| e.name == name);
    let Some(entry) = position else {
        let known: Vec<&str> = loaded.program.entries().iter().map(|e| e.name.as_str()).collect();
        let detail = format!("no kernel {name}; the module has {known:?}");
        return Err(s.refuse(Code::NOT_FOUND, "cuModuleGetFunction", detail));
    };
    let handle = *loaded.functions.entry(name.into()).or_insert(fresh);
    let program = loaded.program.clone();
    let max_dynamic = device::SHARED.saturating_sub(program.entries()[entry].shared_bytes);
    s.functions.entry(handle).or_insert(Function { program, entry, max_dynamic });
    function.set(handle)
});

cu!(cuModuleGetGlobal_v2(_address: *mut u64, _bytes: *mut usize, module: Handle, _name: *const c_char) Fails |s| {
    if s.modules.contains_key(&module) { Err(Code::NOT_FOUND) } else { Err(Code::INVALID_HANDLE) }
});

impl Function {
    fn entry(&self) -> &ptxsim::Entry {
        &self.program.entries()[self.entry]
    }
    fn max_threads(&self) -> u32 {
        self.entry().max_threads.unwrap_or(device::THREADS).min(device::THREADS)
    }
}

impl State {
    fn function(&self, function: Handle) -> Outcome<&Function> {
        self.functions.get(&function).ok_or(Code::INVALID_HANDLE)
    }
}

// CUfunction_attribute: 0 threads of a block, 1 static shared memory, 4 registers, 8 dynamic shared memory.
cu!(cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle) Fails |s| {
    let f = s.function(function)?;
    value.set(match attribute {
        0 => f.max_threads() as i32,
        1 => f.entry().shared_bytes as i32,
        2 | 3 | 7 => 0,
        // Only ptxas knows.
        4 => return Err(Code::NOT_SUPPORTED),
        5 | 6 => device::CAPABILITY as i32,
        8 => f.max_dynamic as i32,
        9 => -1,
        _ => return Err(Code::INVALID_VALUE),
    })
});

cu!(cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) Fails |s| {
    let f = s.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
    match attribute {
        8 => {
            let room = device::SHARED_OPT_IN.saturating_sub(f.entry().shared_bytes);
            let wanted = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
            if wanted > room {
                let detail = format!("{wanted} bytes of dynamic shared memory: at most {room} can be had");
                return Err(s.refuse(Code::INVALID_VALUE, "cuFuncSetAttribute", detail));
            }
            f.max_dynamic = wanted;
            Ok(())
        }
        9 if (-1..=100).contains(&value) => Ok(()),
        _ => Err(Code::INVALID_VALUE),
    }
});

cu!(cuFuncSetCacheConfig(function: Handle, _config: u32) Fails |s| s.function(function).map(drop));

/// A launch: every limit that a driver checks at the call, then the stream's queue.
///
/// # Safety
/// `params` is null, or points to as many pointers as the kernel has parameters, each to a value of its type.
unsafe fn launch(
    s: &mut State,
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    params: *const *const c_void,
) -> Outcome {
    let stream = s.stream(stream)?;
    let f = s.function(function)?;
    let entry = f.entry();
    let threads: u64 = block.iter().map(|&b| u64::from(b)).product();
    let outside = |have: [u32; 3], most: [u32; 3]| have.iter().zip(most).any(|(&h, m)| h == 0 || h > m);
    let problem = if outside(grid, device::GRID) {
        Some(format!("grid {grid:?}: 1 to {:?}", device::GRID))
    } else if outside(block, device::BLOCK) || threads > u64::from(device::THREADS) {
        Some(format!("block {block:?}: 1 to {:?}, at most {} in all", device::BLOCK, device::THREADS))
    } else if threads > u64::from(f.max_threads()) {
        Some(format!("{threads} threads in a block, the kernel allows {}", f.max_threads()))
    } else if entry.shared_bytes > device::SHARED {
        Some(format!("{} bytes of static shared memory, at most {}", entry.shared_bytes, device::SHARED))
    } else if shared > f.max_dynamic {
        Some(format!(
            "{shared} bytes of dynamic shared memory, {} allowed (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
            f.max_dynamic
        ))
    } else if params.is_null() && !entry.params.is_empty() {
        Some("no parameters".into())
    } else {
        None
    };
    if let Some(problem) = problem {
        let detail = format!("{}: {problem}", entry.name);
        return Err(s.refuse(Code::INVALID_VALUE, "cuLaunchKernel", detail));
    }
    let size = entry.params.iter().map(|p| p.offset + p.size).max().unwrap_or(0);
    let mut block_of_params = vec![0u8; size];
    for (i, p) in entry.params.iter().enumerate() {
        // SAFETY: there is one pointer for each parameter, by this function's contract.
        let value = unsafe { *params.add(i) };
        if value.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and of the parameter's size, by this function's contract.
        let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), p.size) };
        block_of_params[p.offset..p.offset + p.size].copy_from_slice(bytes);
    }
    let (program, entry) = (f.program.clone(), f.entry);
    s.submit(
        stream,
        Op::Launch(Arc::new(LaunchOp { program, entry, grid, block, shared, params: block_of_params })),
    )
}

cu!(cuLaunchKernel(
    function: Handle,
    gx: u32,
    gy: u32,
    gz: u32,
    bx: u32,
    by: u32,
    bz: u32,
    shared: u32,
    stream: Handle,
    params: *const *const c_void,
    extra: *const *const c_void,
) Fails |s| {
    if !extra.is_null() {
        return Err(s.refuse(Code::NOT_SUPPORTED, "cuLaunchKernel", "`extra` is not modelled"));
    }
    // SAFETY: the caller of cuLaunchKernel vouches for a pointer to a value of each of the kernel's parameters.
    unsafe { launch(s, function, [gx, gy, gz], [bx, by, bz], shared, stream, params) }
});

/// Blocks on a multiprocessor, by threads and shared memory. Registers, which only ptxas knows, are not counted.
fn occupancy(s: &State, function: Handle, block: i32, dynamic: usize) -> Outcome<u32> {
    let f = s.function(function)?;
    let threads = u32::try_from(block).ok().filter(|&b| b > 0).ok_or(Code::INVALID_VALUE)?;
    let shared = u64::from(f.entry().shared_bytes) + dynamic as u64;
    if threads > f.max_threads() || shared > u64::from(device::SHARED_OPT_IN) {
        return Ok(0);
    }
    let by_threads = device::THREADS_SM / threads.next_multiple_of(device::WARP);
    let by_shared = device::SHARED_SM / (shared as u32 + device::SHARED_RESERVED);
    Ok(by_threads.min(by_shared).min(device::BLOCKS_SM))
}

cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, function: Handle, block: i32, dynamic: usize) Fails
    |s| blocks.set(occupancy(s, function, block, dynamic)? as i32));
cu!(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<i32>,
    function: Handle,
    block: i32,
    dynamic: usize,
    _flags: u32,
) Fails |s| blocks.set(occupancy(s, function, block, dynamic)? as i32));

cu!(cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, blocks: i32, _block: i32) Fails |s| {
    let f = s.function(function)?;
    let blocks = u32::try_from(blocks).ok().filter(|&b| b > 0).ok_or(Code::INVALID_VALUE)?;
    let each = (device::SHARED_SM / blocks).saturating_sub(device::SHARED_RESERVED).min(device::SHARED_OPT_IN);
    bytes.set(each.saturating_sub(f.entry().shared_bytes) as usize)
});
