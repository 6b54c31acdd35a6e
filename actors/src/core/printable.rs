//! Owns how a stranger's bytes are shown: on one line, bounded, with nothing in them that a terminal obeys or that hides
//! what is there. It never decides where they are shown.

/// The first `bytes_max` of `bytes` as text that can only be read: what is no visible character, bidirectional
/// overrides and the like included, is `\n` or `\u{1b}`, what is no UTF-8 is `\xff`, and an ellipsis stands for what
/// was cut. Shown again it stays as it is.
pub fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let mut cut = bytes.get(..bytes_max).unwrap_or(bytes);
    if cut.len() < bytes.len() {
        cut = whole_characters(cut);
    }
    let mut shown = String::with_capacity(cut.len());
    for piece in cut.utf8_chunks() {
        for character in piece.valid().chars() {
            match character {
                '\\' | '"' | '\'' => shown.push(character),
                _ => shown.extend(character.escape_debug()),
            }
        }
        shown.extend(piece.invalid().escape_ascii().map(char::from));
    }
    if cut.len() < bytes.len() {
        shown.push('…');
    }
    shown
}

/// Without the character at the end that a cut has left half there.
fn whole_characters(cut: &[u8]) -> &[u8] {
    match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => cut.get(..error.valid_up_to()).unwrap_or(cut),
        _ => cut,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_and_what_can_be_read_stays() {
        for (bytes, shown) in [
            (&b"a.b;t=\"x\\y\""[..], "a.b;t=\"x\\y\""),
            ("café.数".as_bytes(), "café.数"),
            (b"a\x1b[2J\r\n\0\x7f", "a\\u{1b}[2J\\r\\n\\0\\u{7f}"),
            ("\u{9b}31m \u{202e}evil".as_bytes(), "\\u{9b}31m \\u{202e}evil"),
            (b"\xff\xc3", "\\xff\\xc3"),
        ] {
            assert_eq!(printable(bytes, 100), shown);
        }
        assert_eq!(printable("éé".as_bytes(), 3), "é…");
    }

    proptest! {
        #[test]
        fn it_is_one_bounded_line_and_shown_again_the_same(bytes in prop::collection::vec(any::<u8>(), 0..80), max in 0usize..80) {
            let shown = printable(&bytes, max);
            prop_assert!(!shown.contains(char::is_control));
            prop_assert!(shown.len() <= 6 * max + 3, "{shown}");
            prop_assert_eq!(printable(shown.as_bytes(), usize::MAX), shown);
        }

        #[test]
        fn text_is_never_cut_within_a_character(text in "[^\\\\]*", max in 0usize..30) {
            prop_assert!(!printable(text.as_bytes(), max).contains("\\x"));
        }
    }
}
