//! Distils softmax attention layers into dual-state linear attention.
