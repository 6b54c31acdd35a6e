//! What the shells offer while a command line is typed.

use super::*;

/// What is typed, and what a shell offers for it, in order.
const OFFERED: [(&str, &str); 7] = [
    ("blueflood-forward sp", "spool"),
    ("blueflood-forward dead-letters re", "replay"),
    ("blueflood-forward --metric", "--metric_prefix"),
    ("blueflood-forward --spool_full ", "block drop-oldest"),
    ("blueflood-forward check --log_level w", "warning"),
    ("blueflood-forward check --sch", "--schema"),
    ("blueflood-forward help ans", "answers"),
];

/// A folder with the completions for a shell, if that is here.
fn completions(shell: &str, name: &str) -> Option<tempfile::TempDir> {
    if Command::new(shell).arg("--version").output().is_err() {
        shared::skip(format_args!("no {shell} here, whose completions are tried"));
        return None;
    }
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join(name), run(&[], &["generate", shell]).stdout).expect("it can be written");
    Some(folder)
}

/// Asks a shell what it offers for each of [`OFFERED`]: `script` gets the text as its argument, and prints words.
fn offers(folder: &Path, shell: &[&str], script: &str) {
    for (typed, offered) in OFFERED {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin");
        command.current_dir(folder).env("HOME", folder).env("TYPED", typed);
        let output = command.output().expect("the shell runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words: Vec<_> = text.split_whitespace().collect();
        words.sort_unstable();
        assert_eq!(words.join(" "), offered, "{shell:?} for {typed:?}: {output:?}");
    }
}

#[test]
fn bash_completes() {
    let Some(folder) = completions("bash", "completions") else { return };
    // What it does with what a user typed, by itself: a line's last word is completed.
    let script = r#"
        source ./completions
        read -ra COMP_WORDS <<<"$TYPED"; [[ $TYPED != *" " ]] || COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _blueflood__forward blueflood-forward "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[@]}""#;
    offers(folder.path(), &["bash", "--norc"], script);
}

#[test]
fn fish_completes() {
    let Some(folder) = completions("fish", "completions") else { return };
    offers(folder.path(), &["fish", "--no-config"], "source ./completions; complete -C $TYPED | cut -f 1");
}

#[test]
fn zsh_completes() {
    let Some(folder) = completions("zsh", "_blueflood-forward") else { return };
    // It completes at a terminal only, so another one is started at one, and asked to list its choices.
    let settings = r#"
        PS1= RPS1= PROMPT_SP= LISTMAX=9999; unset zle_bracketed_paste; stty -echo
        fpath=($HOME $fpath); autoload -Uz compinit; compinit -u -D
        zstyle ":completion:*" verbose no
        bindkey "^O" list-choices
        zle-line-init() { print ready; }; zle -N zle-line-init"#;
    fs::write(folder.path().join(".zshrc"), settings).expect("it can be written");
    let script = r#"
        zmodload zsh/zpty
        zpty asked env TERM=dumb zsh -d -i
        zpty -r asked seen "*ready*"
        # Once what was typed is taken away, it says that it has done all before.
        zpty -w -n asked "$TYPED"$'\x0f\x15print do""ne\n'
        zpty -r asked seen "*done*"
        print -r -- "$seen""#;
    for (typed, offered) in OFFERED {
        let output = Command::new("zsh")
            .args(["-f", "-c", script])
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("TYPED", typed)])
            .env("HOME", folder.path())
            .output()
            .expect("zsh runs");
        let seen = String::from_utf8_lossy(&output.stdout);
        let list = seen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(list.into_iter().any(|line| line == offered), "zsh for {typed:?}: {seen:?}");
    }
}
