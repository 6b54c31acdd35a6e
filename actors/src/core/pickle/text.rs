//! Owns how pickle's texts are escaped: Python string literals, raw-unicode-escape, Latin-1 within UTF-8.
//! Never copies a text that has no escapes: that is what every usual frame holds.

/// What a literal of protocol 0 (`'a\'b'`, quotes included) or a raw-unicode-escape text comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Unescaped {
    /// It stands there as it is, after so many bytes and so many bytes long.
    AsIs { skipped: usize, length: usize },
    /// It was appended to the buffer.
    Appended,
    /// It makes no sense.
    Invalid,
}

/// Undoes Python's `repr` of a `str` (opcode STRING): either quotes, `\n`, `\'`, `\x7f`, `\177`.
///
/// As in Python an unknown escape stands for itself, backslash included.
pub fn literal(text: &[u8], buffer: &mut Vec<u8>) -> Unescaped {
    let ([b'\'', text @ .., b'\''] | [b'"', text @ .., b'"']) = text.trim_ascii_end() else {
        return Unescaped::Invalid;
    };
    if memchr::memchr(b'\\', text).is_none() {
        return Unescaped::AsIs { skipped: 1, length: text.len() };
    }
    let plain = |text: &[u8], buffer: &mut Vec<u8>| buffer.extend_from_slice(text);
    unescape(text, buffer, plain, |escaped, buffer| {
        let (&letter, rest) = escaped.split_first()?;
        let (byte, rest) = match letter {
            b'\\' | b'\'' | b'"' => (letter, rest),
            b'a' => (0x07, rest),
            b'b' => (0x08, rest),
            b'f' => (0x0c, rest),
            b'n' => (b'\n', rest),
            b'r' => (b'\r', rest),
            b't' => (b'\t', rest),
            b'v' => (0x0b, rest),
            b'x' => {
                let (digits, rest) = rest.split_at_checked(2)?;
                (u8::try_from(number(digits, 16)?).ok()?, rest)
            }
            b'0'..=b'7' => {
                let digits = escaped.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                let (digits, rest) = escaped.split_at_checked(digits)?;
                // Python keeps the low eight bits of `\777`.
                (number(digits, 8)? as u8, rest)
            }
            _ => {
                buffer.push(b'\\');
                return Some(escaped);
            }
        };
        buffer.push(byte);
        Some(rest)
    })
}

/// Undoes raw-unicode-escape (opcode UNICODE) into UTF-8: `\u20ac`, `\U0001f600`, other bytes are Latin-1.
///
/// The two halves of a surrogate pair, as a narrow Python 2 wrote them, are joined. A half alone is kept as three bytes,
/// as pickle's binary opcodes keep it.
pub fn raw_unicode(text: &[u8], buffer: &mut Vec<u8>) -> Unescaped {
    if text.is_ascii() && memchr::memchr(b'\\', text).is_none() {
        return Unescaped::AsIs { skipped: 0, length: text.len() };
    }
    let latin1 = |text: &[u8], buffer: &mut Vec<u8>| text.iter().for_each(|&byte| push(byte.into(), buffer));
    unescape(text, buffer, latin1, code_point)
}

/// Reads the escape after a backslash: `u20ac`, `U0001f600`, or anything else as it stands.
fn code_point<'a>(escaped: &'a [u8], buffer: &mut Vec<u8>) -> Option<&'a [u8]> {
    let digits = match escaped.first() {
        Some(b'u') => 4,
        Some(b'U') => 8,
        Some(b'\\') => {
            // A second backslash doesn't start an escape.
            buffer.extend_from_slice(br"\\");
            return escaped.get(1..);
        }
        _ => {
            buffer.push(b'\\');
            return Some(escaped);
        }
    };
    let (digits, rest) = escaped.get(1..)?.split_at_checked(digits)?;
    let code = number(digits, 16)?;
    if let 0xd800..=0xdbff = code
        && let Some((low @ 0xdc00..=0xdfff, rest)) = low_half(rest)
    {
        let pair = char::decode_utf16([code as u16, low as u16]).next()?.ok()?;
        push(pair, buffer);
        return Some(rest);
    }
    match char::from_u32(code) {
        Some(character) => push(character, buffer),
        // Half of a pair, in UTF-8's manner.
        None if code <= 0xffff => {
            buffer.extend([
                0xe0 | (code >> 12) as u8,
                0x80 | (code >> 6 & 0x3f) as u8,
                0x80 | (code & 0x3f) as u8,
            ]);
        }
        None => return None,
    }
    Some(rest)
}

fn low_half(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.strip_prefix(b"\\u")?.split_at_checked(4)?;
    Some((number(digits, 16)?, rest))
}

fn push(character: char, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Copies a text up to each backslash by `plain`, and lets `escape` read what follows it.
fn unescape(
    mut text: &[u8],
    buffer: &mut Vec<u8>,
    plain: impl Fn(&[u8], &mut Vec<u8>),
    escape: impl for<'e> Fn(&'e [u8], &mut Vec<u8>) -> Option<&'e [u8]>,
) -> Unescaped {
    while let Some((before, escaped)) =
        memchr::memchr(b'\\', text).and_then(|backslash| text.split_at_checked(backslash))
    {
        plain(before, buffer);
        match escape(escaped.get(1..).unwrap_or_default(), buffer) {
            Some(after) => text = after,
            None => return Unescaped::Invalid,
        }
    }
    plain(text, buffer);
    Unescaped::Appended
}

/// Encodes UTF-8 text as Latin-1; `None` if it holds anything past U+00FF.
pub fn latin1(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text).ok()?.chars().map(|character| u8::try_from(character).ok()).collect()
}

/// A number of at most eight digits; unlike std's, it takes no sign.
fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0u32, |number, &digit| {
        number.checked_mul(radix)?.checked_add(char::from(digit).to_digit(radix)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(unescape: fn(&[u8], &mut Vec<u8>) -> Unescaped, text: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = Vec::new();
        match unescape(text, &mut buffer) {
            Unescaped::AsIs { skipped, length } => Some(text[skipped..][..length].to_vec()),
            Unescaped::Appended => Some(buffer),
            Unescaped::Invalid => None,
        }
    }

    #[test]
    fn literals_are_pythons() {
        for (text, bytes) in [
            (&b"'a.b'"[..], &b"a.b"[..]),
            (b"\"it's\"", b"it's"),
            (b"'it's'", b"it's"),
            (b"'\xc3\xa9' \r", b"\xc3\xa9"),
            (br"'\\\'\'\n\x7f\t\r\a\b\f\v'", b"\\''\n\x7f\t\r\x07\x08\x0c\x0b"),
            (br"'\0\18\101\777'", b"\0\x018A\xff"),
            (br"'\q'", br"\q"),
            (b"''", b""),
        ] {
            assert_eq!(read(literal, text).as_deref(), Some(bytes), "{}", text.escape_ascii());
        }
        for text in [&b"a.b"[..], b"'a", b"a'", b"'", b"'a\"", b"", br"'\x7'", br"'\xzz'", br"'\'"] {
            assert_eq!(read(literal, text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn raw_unicode_becomes_utf8() {
        for (text, utf8) in [
            (&b"a.b"[..], "a.b"),
            (b"a\xe9", "aé"),
            (br"\u20ac\U0001f600", "€😀"),
            (b"\xe9\\u4e2d", "é中"),
            (br"\ud83d\ude00", "😀"),
            (br"\\u20ac\u005cu", r"\\u20ac\u"),
            (br"a\", r"a\"),
            (br"\n", r"\n"),
        ] {
            assert_eq!(read(raw_unicode, text).as_deref(), Some(utf8.as_bytes()), "{}", text.escape_ascii());
        }
        for text in [&br"\u20a"[..], br"\u+123", br"\U00110000", br"\Uffffffff"] {
            assert_eq!(read(raw_unicode, text), None, "{}", text.escape_ascii());
        }
        assert_eq!(read(raw_unicode, br"\ud83dx").as_deref(), Some(&b"\xed\xa0\xbdx"[..]), "half a pair");
        assert_eq!(
            read(raw_unicode, br"\ud83d\ud83d\ude00").as_deref(),
            Some(&b"\xed\xa0\xbd\xf0\x9f\x98\x80"[..])
        );
    }

    #[test]
    fn latin1_is_a_byte_a_character() {
        assert_eq!(latin1(b"a.b").as_deref(), Some(&b"a.b"[..]));
        assert_eq!(latin1("a\u{c3}\u{a9}".as_bytes()).as_deref(), Some("aé".as_bytes()));
        assert_eq!(latin1("a€".as_bytes()), None);
        assert_eq!(latin1(b"\xff"), None);
    }
}
