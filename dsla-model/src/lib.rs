//! The hybrid Llama: weights, tokenizer, chat template, adapters, generation.
