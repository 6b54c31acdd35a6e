//! Any frame is answered: by datapoints or by a reason.
#![no_main]
use actors::core::pickle::{Bounds, Decoder};

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    let mut decoder = Decoder::new(Bounds::default());
    if let Ok(mut datapoints) = decoder.decode(frame) {
        while datapoints.next().is_some() {}
    }
});
