//! Without a driver: a typed error, no panic, and `auto` is the host. (Where there is a GPU, `auto` is the GPU.)

use dsla_model::{DType, Device, Model};
use std::path::PathBuf;

#[test]
fn no_driver_is_an_error_and_auto_is_the_host() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_tied");
    match Device::cuda(0) {
        Ok(device) => assert_eq!(Device::auto(), device),
        Err(e) => {
            assert_eq!(Device::auto(), Device::Cpu);
            assert!(matches!(e, dsla_model::core::Error::NoDriver { .. }), "{e}");
            let line = e.to_string();
            assert!(line.starts_with("device cuda:0: no driver answers: ") && !line.contains('\n'), "{line}");
            let error = Model::load(&path, &Device::Cuda(0), DType::F32).unwrap_err().to_string();
            assert!(error.contains("no driver answers"), "{error}");
        }
    }
    assert!(matches!("cuda:x".parse::<Device>(), Err(dsla_model::core::Error::Argument { .. })));
    assert!(Model::load(&path, &Device::auto(), DType::F32).is_ok());
}
