//! The numbers of an ingest body as Jackson, the JSON reader in Blueflood, understands them, and as Java prints them.
//! It never judges: whether a number makes sense is the contract's business.
//!
//! Source, measured: `actors/contract/blueflood.md`, "collectionTime", "ttlInSeconds" and "metricValue".

use std::fmt;

/// A stored value. Blueflood keeps whole numbers and fractions apart: `7` is read back as `7`, `7.0` as `7.0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Written without a fraction or an exponent, and within 64 bits.
    Int(i64),
    /// Everything else; `1e309` is infinite.
    Float(f64),
}

impl Number {
    /// The value of a JSON number's text, or `None` for any other JSON.
    pub(super) fn of_json(text: &str) -> Option<Self> {
        if !is_number(text) {
            return None;
        }
        if let Ok(whole) = text.parse() {
            return Some(Number::Int(whole));
        }
        text.parse().ok().map(Number::Float)
    }

    /// The value as a fraction, exact up to 2^53.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(whole) => whole as f64,
            Number::Float(value) => value,
        }
    }
}

/// As Java prints it, and so as Blueflood answers: `1000.0`, `1.0E308`; an infinite value becomes `null`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match *self {
            Number::Int(whole) => return write!(f, "{whole}"),
            Number::Float(value) => value,
        };
        if !value.is_finite() {
            return f.write_str("null");
        }
        if value == 0.0 || (1e-3..1e7).contains(&value.abs()) {
            return write!(f, "{value:?}");
        }
        let text = format!("{value:E}");
        match text.split_once('E') {
            Some((mantissa, exponent)) if !mantissa.contains('.') => write!(f, "{mantissa}.0E{exponent}"),
            _ => f.write_str(&text),
        }
    }
}

/// A Java `long` from any JSON that Jackson takes for one. `None`: Jackson refuses it, and with it the whole body.
///
/// A whole number past 64 bits keeps its lowest 64 (2^64 becomes 0), a fraction is cut off, an empty string is 0.
pub(super) fn long(json: &str) -> Option<i64> {
    if let Some(text) = simple_string(json) {
        return if text.is_empty() { Some(0) } else { text.parse().ok() };
    }
    match Number::of_json(json)? {
        Number::Int(whole) => Some(whole),
        Number::Float(_) if is_whole(json) => Some(lowest_bits(json) as i64),
        Number::Float(value) => (-(2f64.powi(63))..=2f64.powi(63)).contains(&value).then_some(value as i64),
    }
}

/// A Java `int`, likewise. A whole number past 32 but within 64 bits is refused, one past 64 keeps its lowest 32.
pub(super) fn int(json: &str) -> Option<i32> {
    if let Some(text) = simple_string(json) {
        return if text.is_empty() { Some(0) } else { text.parse().ok() };
    }
    match Number::of_json(json)? {
        Number::Int(whole) => i32::try_from(whole).ok(),
        Number::Float(_) if is_whole(json) => Some(lowest_bits(json) as i32),
        Number::Float(value) => {
            (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value).then_some(value as i32)
        }
    }
}

fn is_number(json: &str) -> bool {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

fn is_whole(json: &str) -> bool {
    json.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
}

/// What is between the quotes. No number needs an escape, so an escaped one stays what it is and fails to parse.
fn simple_string(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"').map(str::trim)
}

/// The lowest 64 bits of a whole number of any length, as Java's `BigInteger.longValue` has them.
fn lowest_bits(digits: &str) -> u64 {
    let magnitude = digits
        .bytes()
        .filter(u8::is_ascii_digit)
        .fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit & 0x0f)));
    if digits.starts_with('-') { magnitude.wrapping_neg() } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_jackson_reads() {
        assert_eq!(long("1795546456927.9"), Some(1795546456927));
        assert_eq!(long("1.795546457555e+12"), Some(1795546457555));
        assert_eq!(long("\" 12 \""), Some(12));
        assert_eq!(long("9223372036854775808"), Some(i64::MIN));
        assert_eq!(long("18446744073709551616"), Some(0));
        for refused in ["1e30", "\"1.5\"", "true", "[1]", "{}"] {
            assert_eq!(long(refused), None, "{refused}");
        }
        assert_eq!(int("1000000000000000000000000000000"), Some(1_073_741_824));
        assert_eq!(int("2147483648"), None);
        assert_eq!(int("3600.7"), Some(3600));
    }

    #[test]
    fn prints_as_java_does() {
        let printed = |json| Number::of_json(json).map(|number| number.to_string());
        for (json, java) in [
            ("7", "7"),
            ("1e3", "1000.0"),
            ("1e308", "1.0E308"),
            ("1000000000000000000000000000000", "1.0E30"),
            ("9223372036854775808", "9.223372036854776E18"),
            ("-0.0", "-0.0"),
            ("1e309", "null"),
        ] {
            assert_eq!(printed(json).as_deref(), Some(java));
        }
    }
}
