//! Any block of lines is answered, line by line.
#![no_main]
use actors::core::line::Lines;

libfuzzer_sys::fuzz_target!(|block: &[u8]| Lines::new(block).for_each(drop));
