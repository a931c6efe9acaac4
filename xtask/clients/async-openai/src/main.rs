//! The async-openai crate against `dsla serve` with the real model: async-openai-client URL MODEL KEY.

use anyhow::{Context, Result, bail, ensure};
use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::{ApiErrorResponse, OpenAIError};
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, ChatCompletionStreamOptions, ChatCompletionTool,
    ChatCompletionTools, CompletionUsage, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
    FinishReason, FunctionObject, Prompt, StopConfiguration,
};
use async_openai::types::completions::CreateCompletionRequestArgs;
use futures::StreamExt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

struct Checks {
    client: Client<OpenAIConfig>,
    model: String,
}

impl Checks {
    fn chat(&self) -> Result<CreateChatCompletionRequestArgs> {
        let question = ChatCompletionRequestUserMessageArgs::default()
            .content("What is the capital of France?")
            .build()?;
        let mut args = CreateChatCompletionRequestArgs::default();
        args.model(&self.model).messages([question.into()]).temperature(0.0).max_completion_tokens(24u32);
        Ok(args)
    }

    async fn models(&self) -> Result<()> {
        let list = self.client.models().list().await?;
        ensure!(list.data.len() == 1 && list.data[0].id == self.model, "got {list:?}");
        ensure!(self.client.models().retrieve(&self.model).await?.id == self.model);
        Ok(())
    }

    /// The text and the usage of a whole answer.
    async fn whole(&self) -> Result<(String, CompletionUsage)> {
        let answer = self.client.chat().create(self.chat()?.build()?).await?;
        let choice = answer.choices.into_iter().next().context("no choice")?;
        let text = choice.message.content.context("no text")?;
        let usage = answer.usage.context("no usage")?;
        ensure!(text.contains("Paris"), "got {text:?}");
        ensure!(matches!(choice.finish_reason, Some(FinishReason::Stop | FinishReason::Length)));
        ensure!(
            usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
                && usage.completion_tokens > 3
        );
        Ok((text, usage))
    }

    async fn streamed(&self, want: (String, CompletionUsage)) -> Result<()> {
        let options = ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None };
        let request = self.chat()?.stream_options(options).build()?;
        let mut stream = self.client.chat().create_stream(request).await?;
        let (mut text, mut pieces, mut usage, mut finish) = (String::new(), 0, None, None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            for choice in chunk.choices {
                text.push_str(choice.delta.content.as_deref().unwrap_or_default());
                pieces += usize::from(choice.delta.content.is_some());
                finish = choice.finish_reason.or(finish);
            }
            usage = chunk.usage.or(usage);
        }
        ensure!((text, usage) == (want.0, Some(want.1)) && pieces > 3 && finish.is_some(), "{pieces} pieces");
        Ok(())
    }

    async fn completion(&self) -> Result<()> {
        let mut args = CreateCompletionRequestArgs::default();
        args.model(&self.model).prompt(Prompt::String("The capital of France is".into())).max_tokens(4u32);
        let request = args.temperature(0.0).logprobs(1u8).echo(true).build()?;
        let answer = self.client.completions().create(request).await?;
        let choice = answer.choices.first().context("no choice")?;
        let logprobs = choice.logprobs.as_ref().context("no logprobs")?;
        ensure!(choice.text.starts_with("The capital of France is"), "got {:?}", choice.text);
        ensure!(
            logprobs.tokens.concat() == choice.text && logprobs.token_logprobs[0].is_none(),
            "got {logprobs:?}"
        );
        ensure!(logprobs.token_logprobs[1..].iter().all(|l| l.is_some_and(|l| l <= 0.0)));
        Ok(())
    }

    /// Several choices: the same seed, the same texts.
    async fn choices(&self) -> Result<()> {
        let request = self.chat()?.n(3u8).temperature(1.0).seed(7).build()?;
        let mut texts = [vec![], vec![]];
        for texts in &mut texts {
            let answer = self.client.chat().create(request.clone()).await?;
            texts.extend(answer.choices.into_iter().map(|c| c.message.content));
        }
        let [first, again] = texts;
        ensure!(first.len() == 3 && first == again, "got {first:?} and {again:?}");
        ensure!(first[0] != first[1] || first[1] != first[2], "got {first:?}");
        Ok(())
    }

    async fn logprobs(&self) -> Result<()> {
        let answer = self.client.chat().create(self.chat()?.logprobs(true).top_logprobs(2u8).build()?).await?;
        let choice = answer.choices.first().context("no choice")?;
        let tokens = choice.logprobs.as_ref().and_then(|l| l.content.as_ref()).context("no logprobs")?;
        let text: String = tokens.iter().map(|t| t.token.as_str()).collect();
        ensure!(Some(text) == choice.message.content, "got {choice:?}");
        for token in tokens {
            ensure!(token.logprob <= 0.0 && token.top_logprobs.len() == 2, "got {token:?}");
            ensure!(token.top_logprobs[0].token == token.token, "greedy takes the likeliest: {token:?}");
        }
        Ok(())
    }

    async fn stops(&self) -> Result<()> {
        let mut args = CreateCompletionRequestArgs::default();
        args.model(&self.model).prompt(Prompt::String("1, 2, 3, 4,".into())).max_tokens(24u32).temperature(0.0);
        let request = args.stop(StopConfiguration::StringArray(vec!["never".into(), " 7".into()])).build()?;
        let answer = self.client.completions().create(request).await?;
        let text = &answer.choices.first().context("no choice")?.text;
        ensure!(text.contains('6') && !text.contains('7'), "got {text:?}");
        Ok(())
    }

    /// Who drops a stream closes the connection, and that ends the request.
    async fn closing_cancels(&self, url: &str, key: &str) -> Result<()> {
        let essay = "Write the longest story you can, with as many chapters as you like.";
        let ask = ChatCompletionRequestUserMessageArgs::default().content(essay).build()?;
        let request = self.chat()?.messages([ask.into()]).max_completion_tokens(2000u32).build()?;
        let mut stream = self.client.chat().create_stream(request).await?;
        for _ in 0..3 {
            stream.next().await.context("the stream ended")??;
        }
        let running = state(url, key)?;
        ensure!(running.contains("\"cancelled\":0") && running.contains("\"running\":1"), "got {running}");
        drop(stream);
        let start = Instant::now();
        loop {
            // The client's connection is a task of this runtime: it closes while we wait.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = state(url, key)?;
            if now.contains("\"cancelled\":1") && now.contains("\"running\":0") {
                return Ok(());
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "not cancelled in 60 s: {now}");
        }
    }

    /// Tools are taken, and an answer without a call is text.
    async fn tools(&self) -> Result<()> {
        let function = FunctionObject { name: "add".into(), ..FunctionObject::default() };
        let tools = vec![ChatCompletionTools::Function(ChatCompletionTool { function })];
        let answer = self.client.chat().create(self.chat()?.tools(tools).build()?).await?;
        let choice = answer.choices.first().context("no choice")?;
        ensure!(choice.message.content.is_some() || choice.message.tool_calls.is_some(), "got {choice:?}");
        Ok(())
    }

    async fn refused(&self, request: CreateChatCompletionRequest) -> Result<ApiErrorResponse> {
        match self.client.chat().create(request).await {
            Err(OpenAIError::ApiError(error)) => Ok(error),
            other => bail!("got {other:?}, want an API error"),
        }
    }

    async fn errors(&self, url: &str) -> Result<()> {
        let error = self.refused(self.chat()?.temperature(-1.0).build()?).await?;
        ensure!(
            error.status_code == 400 && error.api_error.param.as_deref() == Some("temperature"),
            "got {error:?}"
        );
        let error = self.refused(self.chat()?.max_completion_tokens(1_000_000u32).build()?).await?;
        ensure!(error.api_error.code.as_deref() == Some("context_length_exceeded"), "got {error:?}");
        let error = self.refused(self.chat()?.model("gpt-5").build()?).await?;
        ensure!(error.status_code == 404, "got {error:?}");
        let wrong = Checks { client: client(url, "wrong"), model: self.model.clone() };
        let error = wrong.refused(self.chat()?.build()?).await?;
        ensure!(
            error.status_code == 401 && error.api_error.code.as_deref() == Some("invalid_api_key"),
            "got {error:?}"
        );
        Ok(())
    }
}

/// The answer to `GET /v1/dsla`.
fn state(url: &str, key: &str) -> Result<String> {
    let mut socket = TcpStream::connect(url.strip_prefix("http://").context("a URL")?)?;
    write!(socket, "GET /v1/dsla HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

fn client(url: &str, key: &str) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(format!("{url}/v1")).with_api_key(key))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, model, key] = args.as_slice() else { bail!("usage: async-openai-client URL MODEL KEY") };
    let checks = Checks { client: client(url, key), model: model.clone() };
    checks.models().await.context("models")?;
    let whole = checks.whole().await.context("a whole chat")?;
    checks.streamed(whole).await.context("a streamed chat")?;
    checks.completion().await.context("a completion")?;
    checks.choices().await.context("several choices")?;
    checks.logprobs().await.context("logprobs")?;
    checks.stops().await.context("stop strings")?;
    checks.closing_cancels(url, key).await.context("a closed connection")?;
    checks.tools().await.context("tools")?;
    checks.errors(url).await.context("errors")?;
    println!("models, chats whole and streamed, usage, completions, n, logprobs, stop, cancel, tools, errors: ok");
    Ok(())
}
