//! Owns the question whether any byte of a text is of a kind, asked sixteen bytes at a time.
//! It never says where: who needs to know looks again.
//!
//! In the line parser a fold over single bytes stays one in the release build: 1,182 instructions a line, 650 with this
//! (`make bench-instructions`). In the row encoder the compiler vectorizes the fold by itself, and both cost the same.

const LANES: usize = 16;

/// Whether `is` holds for any byte of `text`. It is asked of some bytes twice, and must be branchless to be fast.
#[inline]
pub fn any(text: &[u8], is: impl Fn(u8) -> bool + Copy) -> bool {
    match text.last_chunk::<LANES>() {
        // The last sixteen overlap those before them, so that there is no rest.
        Some(last) => text.as_chunks::<LANES>().0.iter().any(|chunk| lanes(chunk, is)) || lanes(last, is),
        None => text.iter().any(|&byte| is(byte)),
    }
}

#[inline(always)]
fn lanes(chunk: &[u8; LANES], is: impl Fn(u8) -> bool) -> bool {
    chunk.iter().fold(0, |found, &byte| found | u8::from(is(byte))) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_byte_wherever_it_is() {
        for length in 0..70 {
            assert!(!any(&vec![b'a'; length], |byte| byte == b' '));
            for at in 0..length {
                let mut text = vec![b'a'; length];
                text[at] = b' ';
                assert!(any(&text, |byte| byte == b' '), "at {at} of {length}");
            }
        }
    }
}
