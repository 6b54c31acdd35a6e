//! Owns how a number is written on the wire: Python's `float()` and `int` texts and pickle's two's complement integers.
//! Never judges the number: NaN and infinities are numbers here, and what to do with them is decided elsewhere.
#![warn(clippy::arithmetic_side_effects)]

use std::iter::repeat;

/// The longest text or integer that is read as a number, in bytes.
///
/// The longest text that `%f` makes of a double is 317 bytes and the largest integer a double can hold has 309 digits.
/// Correct rounding looks at every digit, so without a bound one number could cost as much as a whole frame.
pub const NUMBER_BYTES_MAX: usize = 512;

/// The longest two's complement integer that can still lie within a double's range: 1,024 bits and a sign.
const INTEGER_BYTES_MAX: usize = 129;

/// Whole numbers of so many digits are exact in a double, and in 64 bits.
const EXACT_DIGITS_MAX: usize = 15;

/// Reads what Python 2's `float()` takes: white space around, a sign, `1.`, `.5`, `1e5`, `inf`, `Infinity`, `nan`.
///
/// `1e400` is infinity, as in Python. `None` for anything else (`0x10`, `1_0`, `1,5`, `1L`, `nan(1)`, nothing) and
/// for a text over [`NUMBER_BYTES_MAX`].
#[inline]
pub fn parse(text: &[u8]) -> Option<f64> {
    if text.len() > NUMBER_BYTES_MAX {
        return None;
    }
    digits(text).or_else(|| fast_float2::parse(trim(text)).ok())
}

/// Reads nothing but digits, and few enough of them to be exact: every timestamp, and most counters.
#[inline]
fn digits(text: &[u8]) -> Option<f64> {
    if text.is_empty() || text.len() > EXACT_DIGITS_MAX {
        return None;
    }
    let number = text.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number.wrapping_mul(10).wrapping_add(digit.into()))
    });
    number.map(|number| number as f64)
}

/// Reads a decimal integer as pickle's protocol 0 writes it, the `L` of a Python 2 long included, to the nearest double.
///
/// `None` if it isn't one, if it is over [`NUMBER_BYTES_MAX`], or if no double is near it: Python's `float()` raises
/// an OverflowError there.
pub fn parse_integer(text: &[u8]) -> Option<f64> {
    let text = trim(text);
    let text = text.strip_suffix(b"L").unwrap_or(text);
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    parse(text).filter(|number| number.is_finite())
}

/// Reads a little-endian two's complement integer of any length (pickle's LONG1 and LONG4) to the nearest double,
/// ties to even, as Python's `float(int)` does. No bytes are zero.
///
/// `None` if it is over [`NUMBER_BYTES_MAX`] or if no double is near it.
pub fn integer(bytes: &[u8]) -> Option<f64> {
    if bytes.len() > NUMBER_BYTES_MAX {
        return None;
    }
    let negative = bytes.last().is_some_and(|&top| top >= 0x80);
    let fill = if negative { 0xff } else { 0 };
    let length = bytes.iter().rposition(|&byte| byte != fill).map_or(0, |last| last.saturating_add(1));

    // The magnitude, with a byte more than the digits need: the negation of 0xff..00 carries into it.
    let mut magnitude = [0; INTEGER_BYTES_MAX];
    if length >= magnitude.len() {
        return None;
    }
    let mut carry = negative;
    for (digit, &byte) in magnitude.iter_mut().zip(bytes.iter().take(length).chain(repeat(&fill))) {
        (*digit, carry) = (byte ^ fill).overflowing_add(u8::from(carry));
    }

    let number = nearest(&magnitude)?;
    Some(if negative { -number } else { number })
}

/// The double nearest to a little-endian magnitude.
fn nearest(magnitude: &[u8; INTEGER_BYTES_MAX]) -> Option<f64> {
    let length = magnitude.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    let shifted_out = length.saturating_sub(16);
    let (low, high) = magnitude.split_at_checked(shifted_out)?;

    // Sixteen bytes hold more bits than a double keeps; of the rest only matters whether it is zero (a tie) or not.
    let head = u128::from_le_bytes(high.first_chunk().copied().unwrap_or_default());
    let sticky = u128::from(low.iter().any(|&byte| byte != 0));
    let exponent = u64::try_from(shifted_out).ok()?.checked_mul(8)?.checked_add(1023)?;
    let scale = f64::from_bits(exponent.checked_shl(52)?);
    let number = (head | sticky) as f64 * scale;
    number.is_finite().then_some(number)
}

/// Cuts off the white space that Python's `float()` and `str.split()` know: vertical tabs are part of it.
#[inline]
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

/// A space, `\t`, `\n`, `\x0b`, `\x0c` or `\r`.
#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    (byte == b' ') | (byte.wrapping_sub(b'\t') < 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_texts_are_pythons() {
        for (text, number) in [
            ("1", 1.0),
            ("+1", 1.0),
            ("-1", -1.0),
            ("1.", 1.0),
            (".5", 0.5),
            ("-.5e1", -5.0),
            ("1e5", 1e5),
            ("1E+05", 1e5),
            ("1e400", f64::INFINITY),
            ("-1e400", f64::NEG_INFINITY),
            ("1e-400", 0.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+INFINITY", f64::INFINITY),
            (" \t\n\x0b\x0c\r2 ", 2.0),
            ("0010", 10.0),
            ("9007199254740993", 9007199254740992.0),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(number), "{text:?}");
        }
        for text in ["nan", "NaN", "-nan", "+NAN"] {
            assert!(parse(text.as_bytes()).is_some_and(f64::is_nan), "{text:?}");
        }
        for text in [
            "", " ", "+", ".", "-.", "e5", "1e", "1e+", "0x10", "1_0", "1,5", "1L", "nan(1)", "infin", "1 2",
            "--1", "\x001", "1\0", "١",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_number_has_a_longest_text() {
        assert_eq!(parse(&[b'0'; NUMBER_BYTES_MAX]), Some(0.0));
        assert_eq!(parse(&[b'0'; NUMBER_BYTES_MAX + 1]), None);
        assert_eq!(integer(&[0; NUMBER_BYTES_MAX]), Some(0.0));
        assert_eq!(integer(&[0; NUMBER_BYTES_MAX + 1]), None);
    }

    #[test]
    fn integer_texts_are_decimal_and_fit_a_double() {
        assert_eq!(parse_integer(b"1448390000"), Some(1_448_390_000.0));
        assert_eq!(parse_integer(b"-12L"), Some(-12.0));
        assert_eq!(parse_integer(b"1180591620717411303424"), Some(2f64.powi(70)));
        for text in ["", "L", "-", "1.5", "1e5", "inf", "0x10", "1LL", "+-1"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(
            parse_integer(format!("1{}", "0".repeat(400)).as_bytes()),
            None,
            "OverflowError in Python"
        );
    }

    #[test]
    fn twos_complement_integers_round_as_pythons_float_does() {
        let power = |bit: usize| {
            let mut bytes = vec![0; bit / 8 + 1];
            bytes[bit / 8] = 1 << (bit % 8);
            bytes.push(0);
            bytes
        };
        assert_eq!(integer(b""), Some(0.0));
        assert_eq!(integer(b"\xff"), Some(-1.0));
        assert_eq!(integer(b"\x00\xff"), Some(-256.0));
        assert_eq!(integer(b"\xff\x00"), Some(255.0));
        assert_eq!(integer(&[0xff; 200]), Some(-1.0), "a sign may be repeated");
        for bit in [0, 7, 8, 63, 64, 70, 127, 128, 135, 136, 1000, 1023] {
            assert_eq!(integer(&power(bit)), Some(2f64.powi(bit as i32)), "2**{bit}");
        }
        assert_eq!(integer(&power(1024)), None, "OverflowError in Python");

        // Just below the tie between the largest double and 2**1024: the largest double; the tie itself: nothing.
        let mut bytes = vec![0xff; 128];
        bytes[121] = 0xfb;
        bytes.push(0);
        assert_eq!(integer(&bytes), Some(f64::MAX));
        bytes[..121].fill(0);
        bytes[121] = 0xfc;
        assert_eq!(integer(&bytes), None);

        // A tie goes to even; one more in the lowest of its 1,000 bits goes up.
        let mut bytes = power(1000);
        bytes[(1000 - 53) / 8] |= 1 << ((1000 - 53) % 8);
        assert_eq!(integer(&bytes), Some(2f64.powi(1000)));
        bytes[0] = 1;
        assert_eq!(integer(&bytes), Some(2f64.powi(1000) + 2f64.powi(1000 - 52)));
    }

    proptest::proptest! {
        #[test]
        fn every_double_reads_back_from_its_text(bits: u64) {
            let number = f64::from_bits(bits);
            for text in [format!("{number}"), format!("{number:e}"), format!(" {number:?}\n")] {
                let read = parse(text.as_bytes()).filter(|_| text.len() <= NUMBER_BYTES_MAX);
                if text.len() <= NUMBER_BYTES_MAX {
                    assert!(read == Some(number) || number.is_nan() && read.is_some_and(f64::is_nan), "{text}");
                }
            }
        }

        #[test]
        fn integers_round_as_rusts_casts_do(number: i128, bits in 0..128u32) {
            let number = number >> bits;
            assert_eq!(integer(&number.to_le_bytes()), Some(number as f64));
            assert_eq!(parse_integer(number.to_string().as_bytes()), Some(number as f64));
        }
    }
}
