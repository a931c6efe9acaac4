//! The shared library carries libcuda's soname: once it is loaded, `dlopen("libcuda.so")` finds it in the process.
fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
