//! All files of a model, opened together.

use super::{Gguf, Weights, is_gguf, read_text_if_there};
use crate::{ChatTemplate, Config, Error, Result, Tokenizer};
use std::path::Path;

const MAX_CONFIG_BYTES: u64 = 1 << 24;

/// A model's configuration, weights, tokenizer and chat template, from an HF directory or a `.gguf` file.
#[derive(Debug)]
pub struct ModelFiles {
    /// Shape of the model. Its end ids are those of `generation_config.json`, `config.json` and the tokenizer together.
    pub config: Config,
    /// Tensors by HF name.
    pub weights: Weights,
    /// Absent where the files have none: such a model takes and gives ids.
    pub tokenizer: Option<Tokenizer>,
    /// Absent where the files have none: such a model completes text only.
    pub chat_template: Option<ChatTemplate>,
}

impl ModelFiles {
    /// Opens an HF directory (`config.json`, weights as for [`Weights::open`]; optionally `generation_config.json`,
    /// `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`) or a `.gguf` file, which holds all of it.
    ///
    /// Errors: those of [`Weights::open`], [`Config::open`], [`Tokenizer::open`] and [`ChatTemplate::open`]. A tokenizer
    /// with more tokens than the model has embeddings is none (such files exist): who embeds ids checks them.
    pub fn open(path: &Path) -> Result<ModelFiles> {
        let files = if is_gguf(path)? { open_gguf(path)? } else { open_dir(path)? };
        Ok(files.finish())
    }

    /// The tokenizer, or an error that says which model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let want = "tokenizer.json, or tokenizer.ggml.* metadata";
        self.tokenizer.as_ref().ok_or_else(|| Error::file(self.weights.path(), "tokenizer", "nothing", want))
    }

    /// The chat template, or an error that says which model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        let want = "chat_template in tokenizer_config.json, chat_template.jinja, or tokenizer.chat_template metadata";
        self.chat_template
            .as_ref()
            .ok_or_else(|| Error::file(self.weights.path(), "chat template", "nothing", want))
    }

    fn finish(mut self) -> ModelFiles {
        if let Some(t) = &self.tokenizer {
            t.eos().iter().for_each(|&id| self.config.add_eos(id));
            self.config.bos = self.config.bos.or(t.bos());
        }
        self
    }
}

fn open_gguf(path: &Path) -> Result<ModelFiles> {
    let gguf = Gguf::open(path)?;
    let config = Config::from_gguf(&gguf)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.as_ref()?.token(id));
    let chat_template = gguf
        .text("tokenizer.chat_template")?
        .map(|source| ChatTemplate::new(source, name(config.bos), name(config.eos.first().copied())))
        .transpose()?;
    let weights = Weights::from_gguf(gguf, &config)?;
    Ok(ModelFiles { config, weights, tokenizer, chat_template })
}

fn open_dir(path: &Path) -> Result<ModelFiles> {
    let mut config = Config::open(&path.join("config.json"))?;
    let generation = path.join("generation_config.json");
    if let Some(text) = read_text_if_there(&generation, MAX_CONFIG_BYTES)? {
        config.merge_generation(&text, &generation)?;
    }
    Ok(ModelFiles {
        config,
        weights: Weights::open(path)?,
        tokenizer: Tokenizer::open(path)?,
        chat_template: ChatTemplate::open(path)?,
    })
}
