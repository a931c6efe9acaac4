//! Tensors, softmax and dual-state linear attention blocks, caches and states.
