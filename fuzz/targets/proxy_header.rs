//! Headers of the PROXY protocol.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../edge/src/network/proxy_header.rs"]
mod proxy_header;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    if let Err(refused) = runtime.expect("a runtime of one thread").block_on(proxy_header::read(bytes)) {
        let _ = refused.reason();
    }
});
