//! Tool calls in what a model wrote: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` anywhere (Hermes, Qwen),
//! or `{"name": ..., "parameters": {...}}` as the whole message (Llama 3). What is no call stays text, byte for byte.

use super::params::random;
use serde_json::{Map, Value, json};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

impl Call {
    /// In OpenAI's shape, under a name of its own.
    pub fn json(&self) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments});
        json!({"id": format!("call_{:016x}", random()), "type": "function", "function": function})
    }
}

/// What a piece of the output adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub text: String,
    pub calls: Vec<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far.
    Start,
    Text,
    /// Behind an opening tag.
    Call,
    /// The message began with a brace: it may be a call as a whole.
    Whole,
}

/// Reads an output piece by piece; how it is cut changes nothing.
#[derive(Clone, Debug)]
pub(super) struct Parser {
    /// The functions that a message without tags may call.
    names: Vec<String>,
    /// Calls that may still be given out.
    left: usize,
    state: State,
    /// Read, and not known yet what it is.
    held: String,
    /// White space that belongs to the text unless a call follows.
    space: String,
    /// Nothing but white space since the last call.
    after_call: bool,
}

impl Parser {
    /// `most`: calls to give out; further ones are dropped.
    pub fn new(names: Vec<String>, most: usize) -> Parser {
        let (held, space) = (String::new(), String::new());
        Parser { names, left: most, state: State::Start, held, space, after_call: false }
    }

    fn push(&mut self, more: &str) -> Found {
        self.held.push_str(more);
        let mut found = Found::default();
        while self.advance(&mut found) {}
        found
    }

    /// What is certain after `more`, all of it if it is the `last`.
    pub fn read(&mut self, more: &str, last: bool) -> Found {
        let mut found = self.push(more);
        if last {
            let rest = self.finish();
            found.text.push_str(&rest.text);
            found.calls.extend(rest.calls);
        }
        found
    }

    fn finish(&mut self) -> Found {
        let mut found = Found::default();
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Whole => match self.whole(&rest) {
                Some(calls) => calls.into_iter().for_each(|call| self.give(call, &mut found)),
                None => self.say(&rest, &mut found),
            },
            // The end token may stand for the closing tag.
            State::Call => match call(&rest, "arguments") {
                Some(call) => self.give(call, &mut found),
                None => self.say(&format!("{OPEN}{rest}"), &mut found),
            },
            State::Start | State::Text => self.say(&rest, &mut found),
        }
        if !self.after_call {
            found.text.push_str(&std::mem::take(&mut self.space));
        }
        found
    }

    /// One step through what is held; whether another may follow.
    fn advance(&mut self, found: &mut Found) -> bool {
        match self.state {
            State::Start => {
                let Some(first) = self.held.trim_start().chars().next() else { return false };
                self.state = if first == '{' { State::Whole } else { State::Text };
                true
            }
            State::Whole => false,
            State::Text => {
                let (end, open) = match self.held.find(OPEN) {
                    Some(at) => (at, true),
                    None => (self.held.len() - begun(&self.held, OPEN), false),
                };
                let text: String = self.held.drain(..end).collect();
                self.say(&text, found);
                if open {
                    self.held.drain(..OPEN.len());
                    self.state = State::Call;
                }
                open
            }
            State::Call => {
                let Some(at) = self.held.find(CLOSE) else { return false };
                let inside: String = self.held.drain(..at).collect();
                self.held.drain(..CLOSE.len());
                self.state = State::Text;
                match call(&inside, "arguments") {
                    Some(call) => self.give(call, found),
                    None => self.say(&format!("{OPEN}{inside}{CLOSE}"), found),
                }
                true
            }
        }
    }

    fn say(&mut self, text: &str, found: &mut Found) {
        self.space.push_str(text);
        let end = self.space.trim_end().len();
        if end > 0 {
            let said: String = self.space.drain(..end).collect();
            let start = if self.after_call { said.len() - said.trim_start().len() } else { 0 };
            found.text.push_str(&said[start..]);
            self.after_call = false;
        }
    }

    fn give(&mut self, call: Call, found: &mut Found) {
        self.space.clear();
        self.after_call = true;
        if self.left > 0 {
            self.left -= 1;
            found.calls.push(call);
        }
    }

    /// A whole message as a call, or several with semicolons between them.
    fn whole(&self, text: &str) -> Option<Vec<Call>> {
        let mut rest = text.trim();
        let mut calls = Vec::new();
        loop {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Map<String, Value>>();
            let map = values.next()?.ok()?;
            let found = named(map, "parameters").filter(|c| self.names.contains(&c.name))?;
            calls.push(found);
            rest = rest.get(values.byte_offset()..)?.trim_start();
            if rest.is_empty() {
                return Some(calls);
            }
            rest = rest.strip_prefix(';')?;
        }
    }
}

/// Bytes at the end of `text` that could be the beginning of `tag`.
fn begun(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

fn call(text: &str, field: &str) -> Option<Call> {
    named(serde_json::from_str(text.trim()).ok()?, field)
}

/// Models mix the two up: `field` is the one to look for first.
fn named(mut map: Map<String, Value>, field: &str) -> Option<Call> {
    let other = if field == "arguments" { "parameters" } else { "arguments" };
    let Some(Value::String(name)) = map.remove("name") else { return None };
    let arguments = match map.remove(field).or_else(|| map.remove(other)) {
        None | Some(Value::Null) => "{}".into(),
        Some(object @ Value::Object(_)) => object.to_string(),
        // Some write the object as a text of its own.
        Some(Value::String(text)) => serde_json::from_str::<Map<String, Value>>(&text).ok().map(|_| text)?,
        Some(_) => return None,
    };
    (!name.is_empty()).then_some(Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parser() -> Parser {
        Parser::new(vec!["add".into(), "now".into()], usize::MAX)
    }

    fn in_pieces<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Found {
        let mut parser = parser();
        let mut all = Found::default();
        let mut take = |found: Found| {
            all.text.push_str(&found.text);
            all.calls.extend(found.calls);
        };
        for piece in pieces {
            take(parser.push(piece));
        }
        take(parser.finish());
        all
    }

    fn found(text: &str, calls: &[(&str, Value)]) -> Found {
        let call = |(name, arguments): &(&str, Value)| Call {
            name: (*name).into(),
            arguments: arguments.to_string(),
        };
        Found { text: text.into(), calls: calls.iter().map(call).collect() }
    }

    #[test]
    fn both_styles() {
        let parse = |text: &str| in_pieces([text]);
        let one = json!({"a": 1, "b": "x\ny"});
        let tagged = format!("<tool_call>\n{{\"name\": \"add\", \"arguments\": {one}}}\n</tool_call>");
        assert_eq!(parse(&tagged), found("", &[("add", one.clone())]));
        let two = format!("Let me see.\n{tagged}\n<tool_call>{{\"name\": \"other\"}}</tool_call>\n");
        assert_eq!(parse(&two), found("Let me see.", &[("add", one.clone()), ("other", json!({}))]));
        assert_eq!(parse(&format!("{tagged} done. ")), found("done. ", &[("add", one.clone())]));
        assert_eq!(parse(tagged.trim_end_matches("</tool_call>")), found("", &[("add", one.clone())]));
        let whole = format!(" {{\"name\": \"add\", \"parameters\": {one}}}\n");
        assert_eq!(parse(&whole), found("", &[("add", one.clone())]));
        let several = format!("{}; {{\"name\": \"now\", \"parameters\": {{}}}}", whole.trim());
        assert_eq!(parse(&several), found("", &[("add", one.clone()), ("now", json!({}))]));
        let text = format!(
            "<tool_call>{{\"name\": \"add\", \"arguments\": {}}}</tool_call>",
            json!(one.to_string())
        );
        assert_eq!(parse(&text), found("", &[("add", one)]));
    }

    #[test]
    fn what_is_no_call_stays() {
        for text in [
            "",
            " \n",
            "plain  text \n",
            "a < b <tool_ <tool_call",
            "<tool_call>{\"name\": \"add\", \"arguments\": </tool_call> ",
            " <tool_call>{\"name\": 5}</tool_call>\n",
            "<tool_call>{\"name\": \"\"}</tool_call>",
            "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"add\", \"arguments\": \"x\"}</tool_call>",
            "<tool_call>{\"name\": \"add\"",
            "</tool_call>",
            "{\"name\": \"nobody\", \"parameters\": {}}",
            "{\"name\": \"add\", \"parameters\": {}} indeed",
            "{\"answer\": 5}",
            "{\"name\": \"add\", \"param",
            "{",
        ] {
            assert_eq!(in_pieces([text]), found(text, &[]), "{text:?}");
        }
        let both = "{} <tool_call>{\"name\": \"add\"}</tool_call>";
        assert_eq!(in_pieces([both]), found(both, &[]), "a brace first: all or nothing");
    }

    #[test]
    fn no_more_calls_than_wanted() {
        let mut parser = Parser::new(vec![], 1);
        let two =
            parser.push("<tool_call>{\"name\":\"a\"}</tool_call><tool_call>{\"name\":\"b\"}</tool_call>");
        assert_eq!(two, found("", &[("a", json!({}))]));
    }

    #[test]
    fn text_comes_as_soon_as_it_is_certain() {
        let mut parser = parser();
        assert_eq!(parser.push("Hello <").text, "Hello");
        assert_eq!(parser.push("b> ").text, " <b>");
        assert_eq!(parser.push("<tool").text, "");
        assert_eq!(parser.push("_call>{\"name\": \"x\"}</tool_call").calls, []);
        assert_eq!(parser.push(">").calls.len(), 1);
        assert_eq!(parser.push("\n\nSo").text, "So");
    }

    fn fragment() -> impl Strategy<Value = String> {
        let parts = [
            "<tool_call>",
            "</tool_call>",
            "<tool",
            "{\"name\": \"add\", \"arguments\": {\"a\": \"é\"}}",
            "{\"name\": \"now\"}",
            "{",
            "}",
            "\n",
            " ",
            "é",
            "<",
            ">",
            "\"",
            ";",
            "text",
            "{\"name\": \"add\", \"parameters\": {}}",
        ];
        prop::collection::vec(prop::sample::select(parts.to_vec()), 0..12).prop_map(|v| v.concat())
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(text in fragment(), cuts in prop::collection::vec(0usize..200, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| text.is_char_boundary(c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(in_pieces(pieces), in_pieces([text.as_str()]));
        }

        #[test]
        fn nothing_is_lost_where_nothing_is_called(text in fragment()) {
            let got = in_pieces([text.as_str()]);
            if got.calls.is_empty() {
                prop_assert_eq!(got.text, text);
            } else {
                prop_assert!(text.contains("name"));
            }
        }

        #[test]
        fn any_text_is_taken(text in ".*") {
            in_pieces([text.as_str()]);
        }

        #[test]
        fn what_is_called_arrives(
            before in "[a-z ]{0,8}", names in prop::collection::vec("[a-z]{1,5}", 1..4), key in "[^<]{0,6}", value in any::<i64>()
        ) {
            let arguments = json!({key: value});
            let tags: String = names
                .iter()
                .map(|name| format!("\n<tool_call>{}</tool_call>", json!({"name": name, "arguments": arguments})))
                .collect();
            let got = in_pieces([format!("{before}{tags}").as_str()]);
            prop_assert_eq!(got.text.as_str(), before.trim_end());
            let want: Vec<Call> =
                names.into_iter().map(|name| Call { name, arguments: arguments.to_string() }).collect();
            prop_assert_eq!(got.calls, want);
        }
    }
}
