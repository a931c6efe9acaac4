//! Chat templates as HF models carry them: Jinja, with the additions of transformers' `chat_template_utils.py`.

mod guard;
mod python;
mod source;

use crate::weights::read_text_if_there;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use std::path::Path;

const MAX_BYTES: u64 = 1 << 24;

/// Work one rendering may do: a template comes from the same stranger as the weights. A message takes some 50 units and
/// one per 64 bytes, so this is far above any conversation that fits a context, and below a second.
const FUEL: u64 = 1_000_000;

const CHAT: &str = "chat";
const TOOL_USE: &str = "tool_use";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or whatever else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A user's turn.
pub fn user(content: impl Into<String>) -> Message {
    Message::new("user", content)
}

/// A compiled template with the texts of its begin and end tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are what it sees as `bos_token` and `eos_token`.
    ///
    /// Errors: a syntax error, with its line; more than 64 KiB.
    pub fn new(source: &str, bos: Option<String>, eos: Option<String>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        // Text for a model, not for a browser.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python::tojson);
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_filter(guard::STORED, guard::stored);
        let mut template = ChatTemplate { environment, bos, eos };
        template.add(CHAT, source)?;
        Ok(template)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        if source.len() > guard::MAX_SOURCE {
            let message = format!("got {} bytes, want at most {}", source.len(), guard::MAX_SOURCE);
            return Err(Error::Template { message });
        }
        let source = source::prepare(source);
        guard::on_large_stack(|| self.environment.add_template_owned(name, source)).map_err(wrong)
    }

    /// The template of an HF directory: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json` (a string,
    /// or a list of named ones: `default`, and `tool_use` when tools are given). `None` when there is none.
    pub fn open(dir: &Path) -> Result<Option<ChatTemplate>> {
        let path = dir.join("tokenizer_config.json");
        let config = match read_text_if_there(&path, MAX_BYTES)? {
            None => TokenizerConfig::default(),
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::file(&path, "JSON", e.to_string(), "a tokenizer_config.json"))?,
        };
        let bos = config.bos_token.map(Token::content);
        let eos = config.eos_token.map(Token::content);
        if let Some(source) = read_text_if_there(&dir.join("chat_template.jinja"), MAX_BYTES)? {
            return ChatTemplate::new(&source, bos, eos).map(Some);
        }
        match config.chat_template {
            None => Ok(None),
            Some(Templates::One(source)) => ChatTemplate::new(&source, bos, eos).map(Some),
            Some(Templates::Named(list)) => {
                let find = |name: &str| list.iter().find(|t| t.name == name).map(|t| t.template.as_str());
                let Some(default) = find("default") else {
                    return Err(Error::file(
                        &path,
                        "chat_template",
                        "a list without default",
                        "one named default",
                    ));
                };
                let mut out = ChatTemplate::new(default, bos, eos)?;
                if let Some(source) = find(TOOL_USE) {
                    out.add(TOOL_USE, source)?;
                }
                Ok(Some(out))
            }
        }
    }

    /// The text of a conversation. `messages`: [`Message`]s, or whatever serialises to objects with the fields that the
    /// template knows (`tool_calls`, for example). `add_generation_prompt` opens the assistant's turn at the end; `tools`
    /// is an array of JSON schemas, as OpenAI's API has it.
    ///
    /// The one known difference to transformers: floats beyond 1e16 or below 1e-4 that are printed without `tojson`.
    ///
    /// Errors: no messages; what the template itself refuses (`raise_exception`), and operations it cannot do on these
    /// messages.
    pub fn render(
        &self,
        messages: &[impl Serialize],
        add_generation_prompt: bool,
        tools: Option<&serde_json::Value>,
    ) -> Result<String> {
        // As in transformers: most templates would open a turn that answers nothing.
        if messages.is_empty() {
            let (got, want) = ("none".to_owned(), "at least one".to_owned());
            return Err(Error::Argument { op: "ChatTemplate::render", arg: "messages", got, want });
        }
        let named = tools.and_then(|_| self.environment.get_template(TOOL_USE).ok());
        let template = match named {
            Some(template) => template,
            None => self.environment.get_template(CHAT).map_err(wrong)?,
        };
        let token = |s: &Option<String>| s.as_deref().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
            tools => tools.map(|t| Value::from(Serde(t))),
            documents => Value::from(()),
        };
        guard::on_large_stack(|| template.render(context)).map_err(wrong)
    }
}

fn wrong(e: minijinja::Error) -> Error {
    let mut message = e.to_string();
    if let Some(cause) = std::error::Error::source(&e) {
        message = format!("{message}: {cause}");
    }
    Error::Template { message: crate::error::one_line(&message) }
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// A token's text, plain or as the content of an object.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Token {
    Plain(String),
    Object { content: String },
}

impl Token {
    pub(crate) fn content(self) -> String {
        match self {
            Token::Plain(s) | Token::Object { content: s } => s,
        }
    }
}
