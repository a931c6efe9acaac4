//! A fake libcuda.
