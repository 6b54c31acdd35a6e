//! Owns where the key comes from: a setting, or a file that is read as people write it. It never shows it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::core::secret::Secret;

/// The most that a key's file may hold, in bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// The source of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The setting `key`.
    Fixed(Secret),
    /// A file, read anew for every attempt, so that a changed one is picked up by itself.
    File(PathBuf),
}

impl KeySource {
    /// The key as it is now.
    ///
    /// # Errors
    /// What is wrong with the file, by the name of its setting.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Fixed(key) => Ok(key.clone()),
            Self::File(path) => read_key(path).map_err(|why| format!("key_file {} {why}", path.display())),
        }
    }

    /// Reads it where a slow disk holds up nobody.
    pub(super) async fn read_aside(self) -> Result<Secret, String> {
        let read = actix_rt::task::spawn_blocking(move || self.read()).await;
        read.unwrap_or_else(|_| Err("key_file can't be read now".to_owned()))
    }
}

fn read_key(path: &Path) -> Result<Secret, String> {
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(|error| format!("can't be read: {error}"))?;
    file.take(KEY_BYTES_MAX.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| format!("can't be read: {error}"))?;
    // Some editors put a byte order mark before the text.
    match text.trim_start_matches('\u{feff}').trim() {
        _ if text.len() as u64 > KEY_BYTES_MAX => Err("is too large to hold nothing but a key".to_owned()),
        "" => Err("is empty: write the key into it".to_owned()),
        key => Ok(Secret::new(key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_read_as_people_write_it() {
        let directory = std::env::temp_dir().join(format!("blueflood-forward-key-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let source = KeySource::File(directory.join("key"));
        assert!(source.read().unwrap_err().contains("can't be read"));
        let large = "k".repeat(KEY_BYTES_MAX as usize + 1);
        for (text, expected) in [
            ("k3y\n", Ok("k3y")),
            (" k3y\r\n\n", Ok("k3y")),
            ("\u{feff}k3y\r\n", Ok("k3y")),
            ("\u{feff}\n", Err("is empty")),
            ("\n", Err("is empty")),
            (&large, Err("too large")),
        ] {
            std::fs::write(directory.join("key"), text).unwrap();
            match (source.read(), expected) {
                (Ok(key), Ok(expected)) => assert_eq!(key.reveal(), expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (read, expected) => panic!("{read:?} is not {expected:?}"),
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
