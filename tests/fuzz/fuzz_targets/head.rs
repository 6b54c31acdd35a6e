//! Any bytes of a connection come to the same however they are cut, and what goes on to awc is bounded by what came.
#![no_main]
use actors::core::answer_head::{AnswerHeads, Faulty};

fn heard(answer: &[u8], piece: usize) -> Result<Vec<u8>, Faulty> {
    let mut heads = AnswerHeads::default();
    heads.sent(b"POST / HTTP/1.1\r\n\r\n");
    let mut on = Vec::new();
    for piece in answer.chunks(piece.max(1)) {
        heads.took(piece, &mut on)?;
    }
    heads.ended()?;
    Ok(on)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, answer)) = bytes.split_first() else { return };
    let whole = heard(answer, answer.len());
    assert_eq!(heard(answer, usize::from(piece)), whole);
    // Only the lines that say how long the body is are ours.
    assert!(whole.is_err() || whole.is_ok_and(|on| on.len() <= answer.len() + 200));
});
