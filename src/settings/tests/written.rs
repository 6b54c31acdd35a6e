//! The written forms of the table.

use super::*;

/// Uncommented, the file with every default is the default: so neither its names nor its values can be wrong.
#[test]
fn the_example_file_says_the_defaults() {
    let uncommented: String = example_toml()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with([' ', '#']))
        .map(|line| format!("{line}\n"))
        .collect();
    let loaded = User::writes("/x.toml", &uncommented).loads().unwrap();
    let mut expected = User::types("").settings();
    assert_eq!(loaded.settings.spool, expected.spool);
    expected.config = Some("/x.toml".into());
    assert_eq!(format!("{:?}", loaded.settings), format!("{expected:?}"));
    let from_file = loaded
        .effective
        .iter()
        .filter(|entry| entry.origin == "file /x.toml" || entry.setting.key == "spool")
        .count();
    assert_eq!(from_file, TABLE.len() - 1, "all but --config itself");
}
