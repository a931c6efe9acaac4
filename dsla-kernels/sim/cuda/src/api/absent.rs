//! What the driver has and this one has not. The symbols are there because cudarc panics at a missing one.
#![allow(non_snake_case)]

use super::cu;
use crate::code::Code;

/// Functions that take whatever they are given, which C's calling conventions permit, and refuse.
macro_rules! absent {
    ($($name:ident)*) => {
        $(cu!($name() Fine |state| {
            Err(state.refuse(Code::NOT_SUPPORTED, stringify!($name), "not modelled"))
        });)*
    };
}

absent! {
    cuCtxGetLimit
    cuCtxSetLimit
    cuDestroyExternalMemory
    cuExternalMemoryGetMappedBuffer
    cuImportExternalMemory
    cuLaunchCooperativeKernel
    cuLaunchKernelEx
    cuMemAdvise_v2
    cuMemAllocManaged
    cuMemPoolCreate
    cuMemPoolDestroy
    cuMemPoolGetAttribute
    cuMemPrefetchAsync_v2
    cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize
    cuStreamAttachMemAsync
}
