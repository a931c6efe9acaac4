//! Bounds on what a template can do to its process. The engine counts work (`Environment::set_fuel`) and nesting of
//! blocks, but it recurses over expressions and values with whatever stack there is, and a stack overflow ends the
//! process.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// The longest source. The longest template of a well-known model has some 20 KiB.
pub(super) const MAX_SOURCE: usize = 64 << 10;

/// Enough for the deepest nesting that a source of [`MAX_SOURCE`] bytes can write down: 65,000 minus signs took between
/// 16 and 32 MiB (minijinja 3.1, optimised). Pages that are not touched cost nothing.
const STACK: usize = 64 << 20;

/// The name of the filter [`stored`] in prepared sources.
pub(super) const STORED: &str = "stored";

/// Runs the engine on a stack of known size. A panic in it, or a thread that cannot start, is an error message.
pub(super) fn on_large_stack<T: Send>(f: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let failed = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("dsla-template".to_owned()).stack_size(STACK);
        let thread =
            builder.spawn_scoped(scope, f).map_err(|e| failed(format!("no thread to render on: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the template engine panicked".to_owned())))
    })
}

/// A value on its way into a namespace, unless a namespace is in it: a value that contains itself would be printed for
/// ever. Each element costs fuel, which bounds the depth that repeated storing can reach as well (to about the square
/// root of the budget).
pub(super) fn stored(state: &State, value: Value) -> Result<Value, Error> {
    let mut open = vec![value.clone()];
    while let Some(v) = open.pop() {
        state.consume_fuel(1)?;
        if v.as_object().is_some_and(|o| o.type_name().ends_with("::Namespace")) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a namespace cannot be stored in a namespace",
            ));
        }
        match v.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in v.try_iter()? {
                    state.consume_fuel(1)?;
                    open.push(item);
                }
            }
            ValueKind::Map => {
                for key in v.try_iter()? {
                    state.consume_fuel(1)?;
                    open.push(v.get_item(&key)?);
                }
            }
            _ => {}
        }
    }
    Ok(value)
}
