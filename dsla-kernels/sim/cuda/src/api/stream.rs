//! Streams and events.
#![allow(non_snake_case)]

use super::{Out, cu};
use crate::code::{Code, Outcome};
use crate::queue::Op;
use crate::state::{Event, Handle, State};
use std::ffi::c_void;

fn create(s: &mut State, stream: Out<Handle>, flags: u32) -> Outcome {
    let context = s.current()?;
    if flags > 1 {
        return Err(Code::INVALID_VALUE);
    }
    let handle = s.handle();
    s.add_stream(handle, context, flags == 0, true);
    stream.set(handle)
}

cu!(cuStreamCreate(stream: Out<Handle>, flags: u32) Fails |s| create(s, stream, flags));
cu!(cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, _priority: i32) Fails |s| create(s, stream, flags));

// As on hardware the call does not wait: what is queued will still run.
cu!(cuStreamDestroy_v2(stream: Handle) Releases |s| {
    if !s.streams.get(&stream).is_some_and(|st| st.owned) {
        return Err(Code::INVALID_HANDLE);
    }
    s.forbid_capturing(stream)?;
    s.streams.remove(&stream);
    Ok(())
});

cu!(cuStreamSynchronize(stream: Handle) Fails |s| {
    let stream = s.stream(stream)?;
    s.forbid_capturing(stream)?;
    let goal = s.base(stream);
    s.run_until(&goal)
});

cu!(cuStreamQuery(stream: Handle) Fails |s| {
    let stream = s.stream(stream)?;
    s.forbid_capturing(stream)?;
    let goal = s.base(stream);
    if s.glance(&goal)? { Ok(()) } else { Err(Code::NOT_READY) }
});

cu!(cuStreamWaitEvent(stream: Handle, event: Handle, _flags: u32) Fails |s| {
    let stream = s.stream(stream)?;
    s.wait(stream, event)
});

cu!(cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) Fails |s| {
    let stream = s.stream(stream)?;
    s.submit(stream, Op::Host(function.ok_or(Code::INVALID_VALUE)?, argument as usize))
});

/// CU_EVENT_DISABLE_TIMING.
const UNTIMED: u32 = 2;

cu!(cuEventCreate(event: Out<Handle>, flags: u32) Fails |s| {
    s.current()?;
    let handle = s.handle();
    s.events.insert(handle, Event { timed: flags & UNTIMED == 0, ..Event::default() });
    event.set(handle)
});

cu!(cuEventDestroy_v2(event: Handle) Releases
    |s| s.events.remove(&event).map(drop).ok_or(Code::INVALID_HANDLE));

cu!(cuEventRecord(event: Handle, stream: Handle) Fails |s| {
    let stream = s.stream(stream)?;
    s.record(event, stream)
});

impl State {
    /// The operation an event waits for, none when it was never recorded.
    fn recorded(&self, event: Handle) -> Outcome<Option<u64>> {
        let event = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        if event.captured.is_some() { Err(Code::CAPTURED_EVENT) } else { Ok(event.record) }
    }
}

cu!(cuEventSynchronize(event: Handle) Fails |s| {
    let goal = s.recorded(event)?;
    s.run_until(goal.as_slice())
});

cu!(cuEventQuery(event: Handle) Fails |s| {
    let goal = s.recorded(event)?;
    if s.glance(goal.as_slice())? { Ok(()) } else { Err(Code::NOT_READY) }
});

fn elapsed(s: &mut State, milliseconds: Out<f32>, start: Handle, end: Handle) -> Outcome {
    let mut times = [0; 2];
    for (time, event) in times.iter_mut().zip([start, end]) {
        s.recorded(event)?.ok_or(Code::INVALID_HANDLE)?;
        let event = &s.events[&event];
        if !event.timed {
            return Err(Code::INVALID_HANDLE);
        }
        *time = event.time.ok_or(Code::NOT_READY)?;
    }
    milliseconds.set((times[1] as f64 - times[0] as f64) as f32 * 1e-3)
}

cu!(cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) Fails
    |s| elapsed(s, milliseconds, start, end));
cu!(cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) Fails
    |s| elapsed(s, milliseconds, start, end));
