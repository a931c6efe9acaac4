//! Configurations and weights files: good ones give the right numbers, bad ones one line of error, none a panic.

#[path = "formats/config.rs"]
mod config;
#[path = "formats/gguf.rs"]
mod gguf;
#[path = "formats/gguf_metadata.rs"]
mod gguf_metadata;
#[path = "formats/quantised.rs"]
mod quantised;
#[path = "formats/safetensors.rs"]
mod safetensors;
mod support;
