//! The server's router inside another axum application, beside routes of its own.
//! Run: cargo run --release -p dsla-serve --features http --example server -- smollm2-135m-instruct
//! Then: curl localhost:8080/llm/v1/models

use axum::Router;
use axum::routing::get;
use dsla_model::{DType, Device, Model, hub};
use dsla_serve::http::{Options, router};
use dsla_serve::{Engine, EngineConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or("smollm2-135m-instruct".into());
    let path = hub::resolve(&name, &mut |line| eprintln!("{line}"))?;
    let engine = Engine::new(Model::load(path, &Device::auto(), DType::BF16)?, EngineConfig::default())?;
    let app = Router::new()
        .route("/", get(|| async { "an application with a language model below /llm" }))
        .nest("/llm", router(engine.clone(), Options::new(name)));
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
        println!("http://{}/llm", listener.local_addr()?);
        axum::serve(listener, app)
            .with_graceful_shutdown(async {
                let _ = tokio::signal::ctrl_c().await;
                // Requests that run end with an error: axum waits for their answers.
                let _ = tokio::task::spawn_blocking(move || engine.shutdown(std::time::Duration::ZERO)).await;
            })
            .await
    })?;
    Ok(())
}
