//! Stream capture and graphs.

use crate::code::{Code, Outcome};
use crate::queue::Op;
use crate::state::{Handle, State};
use std::sync::Arc;
use std::thread::ThreadId;

/// One operation of a graph, after earlier ones of it.
#[derive(Clone)]
pub struct Node {
    pub op: Op,
    pub after: Vec<usize>,
}

/// A capture in progress.
pub struct Capture {
    /// The stream it began in.
    pub origin: Handle,
    pub nodes: Vec<Node>,
    /// Which threads may not make calls that a capture forbids: 0 all, 1 the thread itself, 2 none.
    pub mode: u32,
    pub thread: ThreadId,
    pub invalid: bool,
}

/// A captured graph.
pub struct Graph {
    pub nodes: Arc<[Node]>,
}

/// An instantiated graph.
pub struct Exec {
    pub nodes: Arc<[Node]>,
    /// The end of its last launch: an instance never overlaps itself.
    pub last: Option<u64>,
}

impl Capture {
    /// Note a node.
    pub fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// All nodes these come after, themselves included.
    fn reach(&self, from: &[usize]) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut todo = from.to_vec();
        while let Some(n) = todo.pop() {
            if !std::mem::replace(&mut reached[n], true) {
                todo.extend(&self.nodes[n].after);
            }
        }
        reached
    }
}

/// Of these nodes, the ones nothing comes after.
fn leaves(nodes: &[Node]) -> Vec<usize> {
    let mut followed = vec![false; nodes.len()];
    nodes.iter().flat_map(|n| &n.after).for_each(|&a| followed[a] = true);
    (0..nodes.len()).filter(|&i| !followed[i]).collect()
}

impl State {
    /// A capture that is still good.
    pub fn capture_mut(&mut self, capture: Handle) -> Outcome<&mut Capture> {
        match self.captures.get_mut(&capture) {
            Some(c) if c.invalid => Err(Code::CAPTURE_INVALIDATED),
            Some(c) => Ok(c),
            None => Err(Code::INVALID_HANDLE),
        }
    }

    /// A call that a capture forbids, though it names no capturing stream: allocation, module load, global
    /// synchronisation. It fails and the capture is lost.
    pub fn forbid_in_capture(&mut self) -> Outcome {
        let thread = std::thread::current().id();
        let hit = |c: &&mut Capture| c.mode == 0 || (c.mode == 1 && c.thread == thread);
        let mut outcome = Ok(());
        for capture in self.captures.values_mut().filter(hit) {
            capture.invalid = true;
            outcome = Err(Code::CAPTURE_UNSUPPORTED);
        }
        outcome
    }

    /// A call that a capturing stream does not take. It fails and the capture is lost.
    pub fn forbid_capturing(&mut self, stream: Handle) -> Outcome {
        self.forbid_implicit(stream)?;
        let Some((capture, _)) = &self.streams[&stream].capture else { return Ok(()) };
        if let Some(capture) = self.captures.get_mut(capture) {
            capture.invalid = true;
        }
        Err(Code::CAPTURE_UNSUPPORTED)
    }

    /// The legacy stream cannot be used while a stream it is ordered against captures.
    pub fn forbid_implicit(&mut self, stream: Handle) -> Outcome {
        let context = self.streams[&stream].context;
        if self.contexts.get(&context).is_none_or(|c| c.legacy != stream) {
            return Ok(());
        }
        let capturing = self.streams.values().filter(|s| s.context == context && s.blocking);
        let hit: Vec<Handle> = capturing.filter_map(|s| s.capture.as_ref().map(|c| c.0)).collect();
        for capture in &hit {
            if let Some(capture) = self.captures.get_mut(capture) {
                capture.invalid = true;
            }
        }
        if hit.is_empty() { Ok(()) } else { Err(Code::CAPTURE_IMPLICIT) }
    }

    /// From now on a stream's work is noted, not done.
    pub fn begin_capture(&mut self, stream: Handle, mode: u32) -> Outcome {
        let s = &self.streams[&stream];
        if mode > 2 {
            return Err(Code::INVALID_VALUE);
        }
        if self.contexts.get(&s.context).is_some_and(|c| c.legacy == stream) {
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        if s.capture.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        let handle = self.handle();
        let thread = std::thread::current().id();
        let capture = Capture { origin: stream, nodes: Vec::new(), mode, thread, invalid: false };
        self.captures.insert(handle, capture);
        if let Some(s) = self.streams.get_mut(&stream) {
            s.capture = Some((handle, Vec::new()));
        }
        Ok(())
    }

    /// The graph of what was noted. Every stream that joined must have been joined back.
    pub fn end_capture(&mut self, stream: Handle) -> Outcome<Handle> {
        let Some((handle, after)) = self.streams[&stream].capture.clone() else {
            return Err(Code::ILLEGAL_STATE);
        };
        let capture = self.captures.get(&handle).ok_or(Code::ILLEGAL_STATE)?;
        if capture.origin != stream {
            return Err(Code::CAPTURE_UNMATCHED);
        }
        if capture.mode != 2 && capture.thread != std::thread::current().id() {
            return Err(Code::CAPTURE_WRONG_THREAD);
        }
        let reached = capture.reach(&after);
        let joined = self.streams.values().all(|s| match &s.capture {
            Some((h, after)) if *h == handle => after.iter().all(|&n| reached[n]),
            _ => true,
        });
        for s in self.streams.values_mut() {
            s.capture.take_if(|c| c.0 == handle);
        }
        let capture = self.captures.remove(&handle).ok_or(Code::ILLEGAL_STATE)?;
        if capture.invalid {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        if !joined {
            return Err(Code::CAPTURE_UNJOINED);
        }
        let graph = self.handle();
        self.graphs.insert(graph, Graph { nodes: capture.nodes.into() });
        Ok(graph)
    }

    /// Record an event: a mark in the stream, or in its capture.
    pub fn record(&mut self, event: Handle, stream: Handle) -> Outcome {
        if !self.events.contains_key(&event) {
            return Err(Code::INVALID_HANDLE);
        }
        let Some(captured) = self.streams[&stream].capture.clone() else {
            return self.submit(stream, Op::Record(event));
        };
        self.capture_mut(captured.0)?;
        if let Some(event) = self.events.get_mut(&event) {
            (event.record, event.time, event.captured) = (None, None, Some(captured));
        }
        Ok(())
    }

    /// Later work of the stream comes after what the event stands for now. A wait for an event of a capture
    /// draws the stream into it.
    pub fn wait(&mut self, stream: Handle, event: Handle) -> Outcome {
        self.forbid_implicit(stream)?;
        let event = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        let (record, captured) = (event.record, event.captured.clone());
        let own = self.streams[&stream].capture.as_ref().map(|c| c.0);
        if let Some((capture, nodes)) = captured {
            if !self.captures.contains_key(&capture) {
                return Err(Code::CAPTURED_EVENT);
            }
            if own.is_some_and(|own| own != capture) {
                return Err(Code::CAPTURE_MERGE);
            }
            self.capture_mut(capture)?;
            if let Some(s) = self.streams.get_mut(&stream) {
                let (_, after) = s.capture.get_or_insert((capture, Vec::new()));
                after.extend(nodes.iter().filter(|n| !after.contains(n)).copied().collect::<Vec<_>>());
            }
        } else if let Some(record) = record {
            if let Some(own) = own {
                self.capture_mut(own)?.invalid = true;
                return Err(Code::CAPTURE_ISOLATION);
            }
            if let Some(s) = self.streams.get_mut(&stream).filter(|_| !self.queue.done(record)) {
                s.after.push(record);
            }
        }
        Ok(())
    }

    /// Queue a graph in a stream, or take it into the stream's capture.
    pub fn launch_graph(&mut self, exec: Handle, stream: Handle) -> Outcome {
        self.forbid_implicit(stream)?;
        let e = self.execs.get(&exec).ok_or(Code::INVALID_HANDLE)?;
        let (nodes, last) = (e.nodes.clone(), e.last);
        if let Some((capture, roots)) = self.streams[&stream].capture.clone() {
            let into = self.capture_mut(capture)?;
            let offset = into.nodes.len();
            for node in nodes.iter() {
                let after = match node.after.as_slice() {
                    [] => roots.clone(),
                    after => after.iter().map(|a| a + offset).collect(),
                };
                into.add(Node { op: node.op.clone(), after });
            }
            if let (Some(s), false) = (self.streams.get_mut(&stream), nodes.is_empty()) {
                s.capture = Some((capture, leaves(&nodes).iter().map(|l| l + offset).collect()));
            }
            return Ok(());
        }
        let mut base = self.base(stream);
        base.extend(last.filter(|&l| !self.queue.done(l)));
        let ids = self.push_nodes(stream, &nodes, &base);
        let mut ends: Vec<u64> = leaves(&nodes).iter().map(|&l| ids[l]).collect();
        if ends.is_empty() {
            ends = base;
        }
        let end = self.push(stream, Op::Join, ends);
        if let Some(s) = self.streams.get_mut(&stream) {
            s.after = vec![end];
        }
        if let Some(e) = self.execs.get_mut(&exec) {
            e.last = Some(end);
        }
        self.settle()
    }
}
