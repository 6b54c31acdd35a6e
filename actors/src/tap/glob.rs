//! Owns which names a glob means. It never takes memory or time without a bound, whatever the glob and the name.

use globset::GlobBuilder;
use regex_automata::{meta::Regex, util::syntax};

/// The longest glob, in bytes.
pub const GLOB_BYTES_MAX: usize = 128;

/// Longer names match nothing, in bytes: the time for one is linear in it.
pub const NAME_BYTES_MAX: usize = 1_024;

/// Memory of a compiled glob, in bytes.
const NFA_BYTES_MAX: usize = 1 << 20;

/// Memory in which the engine remembers states that it met, in bytes, for each thread that asks. globset's own matcher
/// has 10 MiB, which a glob like `*a????????????` fills.
const CACHE_BYTES_MAX: usize = 256 << 10;

/// A glob over names: `*` is any characters, dots too, `?` one byte, `[a-c]` one of these, `{web,db}` one of those.
#[derive(Debug)]
pub struct Glob(Regex);

impl Glob {
    /// The glob that `text` is.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever wrote it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > GLOB_BYTES_MAX {
            return Err(format!("a glob may have {GLOB_BYTES_MAX} bytes, and this one has {}", text.len()));
        }
        // No separator is special, for a slash is as good a part of a name as any.
        let glob = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
        let glob = glob.map_err(|error| error.to_string())?;
        // As globset does it, but for the bounds.
        let syntax = syntax::Config::new().utf8(false).dot_matches_new_line(true);
        let config = Regex::config()
            .utf8_empty(false)
            .nfa_size_limit(Some(NFA_BYTES_MAX))
            .hybrid_cache_capacity(CACHE_BYTES_MAX);
        let regex = Regex::builder().syntax(syntax).configure(config).build(glob.regex());
        regex.map(Self).map_err(|error| error.to_string())
    }

    /// Whether all of a name is what it means.
    pub fn matches(&self, name: &[u8]) -> bool {
        name.len() <= NAME_BYTES_MAX && self.0.is_match(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_glob_means_what_a_shell_user_expects() {
        for (glob, name, means) in [
            ("web*", "web01.cpu", true),
            ("web*", "a.web01", false),
            ("*.cpu", "web/01.load.cpu", true),
            ("web0?.cpu", "web01.cpu", true),
            ("web[0-4][!5]", "web16", true),
            ("web[0-4][!5]", "web15", false),
            ("{web,db}01.*", "db01.x", true),
            ("{web,db}01.*", "app01.x", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a**b", "a.x.b", true),
            ("", "", true),
            ("a", "A", false),
        ] {
            assert_eq!(Glob::new(glob).unwrap().matches(name.as_bytes()), means, "{glob} {name}");
        }
        assert!(Glob::new("caf*").unwrap().matches(b"caf\xe9\n\0x"), "any bytes are a name");
        assert!(!Glob::new("*").unwrap().matches(&[b'x'; NAME_BYTES_MAX + 1]));
    }

    #[test]
    fn a_wrong_glob_is_explained() {
        assert!(Glob::new("a[").unwrap_err().contains("unclosed character class"));
        assert!(Glob::new("{a").unwrap_err().contains("unclosed alternate"));
        assert!(Glob::new(&"a".repeat(200)).unwrap_err().contains("128 bytes"));
    }

    proptest! {
        /// globset's own matcher is the oracle.
        #[test]
        fn it_agrees_with_globset(glob in "[ab*?{},\\[\\]!./\\\\]{0,12}", name in "[ab./]{0,12}") {
            if let Ok(ours) = Glob::new(&glob) {
                let theirs = globset::Glob::new(&glob).unwrap().compile_matcher();
                prop_assert_eq!(ours.matches(name.as_bytes()), theirs.is_match(&name), "{}", glob);
            }
        }
    }

    #[test]
    fn the_worst_glob_on_the_worst_name_takes_bounded_time() {
        let glob = Glob::new(&format!("*a{}", "?".repeat(GLOB_BYTES_MAX - 2))).unwrap();
        // Each name has another pattern of a and b, so that the engine meets ever new states.
        for seed in 0..20u64 {
            let bit = |i: usize| {
                let mixed = ((i as u64) << 8 | seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63
            };
            let name: Vec<u8> = (0..NAME_BYTES_MAX).map(|i| if bit(i) == 0 { b'a' } else { b'b' }).collect();
            assert_eq!(glob.matches(&name), name[NAME_BYTES_MAX - GLOB_BYTES_MAX + 1] == b'a');
        }
    }
}
