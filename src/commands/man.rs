//! Owns the man pages: what the command line says of itself, in the sections that people look for, and what only a man page
//! says. Examples stand as they are typed, so that they can be pasted.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// With more options than these a synopsis that lists them helps nobody.
const SYNOPSIS_OPTIONS_MAX: usize = 10;

/// What stands before the examples and the exit status in the text of a help.
const EXAMPLES: &str = "Examples:";
const EXIT_STATUS: &str = "Exit status: ";

/// The exit status of a command whose help says nothing of it.
const EXIT_STATUS_USUAL: &str = "0 if it was done, 1 if not, 2 for wrong arguments.";

/// What a page says under a heading: a word, and what it means.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// What the daemon's own page says besides.
const OF_THE_DAEMON: [Section; 4] = [
    (
        "EXIT STATUS",
        &[
            ("0", "It was told to stop, and all that it held is delivered or in the spool."),
            (
                "1",
                "It could not start, it gave up after too many restarts of its parts, it was told twice to stop, or what it \
                 held could not be stored. The last line of the log says which.",
            ),
            ("2", "A setting or an argument is wrong."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/blueflood-forward/blueflood-forward.toml", "The settings of the packaged service."),
            (
                "/var/lib/blueflood-forward/spool.db",
                "The spool of the packaged service. Its log (-wal), its lock (.lock) and its reserve (.reserve) lie beside it.",
            ),
            (
                "~/.local/state/blueflood-forward/spool.db",
                "The spool where no setting and no service manager names one.",
            ),
            ("/var/log/blueflood-forward", "A folder that the packaged service may write to, for log_file."),
            (
                "/run/blueflood-forward",
                "A folder that the packaged service may write to, for unix endpoints.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "BLUEFLOOD_FORWARD_...",
                "Each option in capitals: BLUEFLOOD_FORWARD_TENANT, BLUEFLOOD_FORWARD_LOG_LEVEL. Several endpoints are \
                 separated by blanks or commas.",
            ),
            (
                "BLUEFLOOD_FORWARD_ORIGINAL_NAMES",
                "If it is 1, the names of the original's image count too: TENANT_ID, ENDPOINT, BLUEFLOOD_URL and so on.",
            ),
            (
                "STATE_DIRECTORY, XDG_STATE_HOME, HOME",
                "Where the spool is if no setting says it; the first that is set counts.",
            ),
            (
                "CREDENTIALS_DIRECTORY",
                "Where systemd puts the file key, which is the key_file if no setting names one.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS",
                "systemd's: it is told how the daemon goes, and may pass sockets.",
            ),
            ("SSL_CERT_FILE, SSL_CERT_DIR", "Other root certificates than the system's."),
            ("NO_COLOR", "If it is set, status uses no colour."),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "It stops: it takes nothing more, delivers for shutdown_timeout at most, and leaves the rest in the spool. A \
                 second one ends it at once.",
            ),
            ("SIGHUP", "It reads its settings again, and applies them as a whole or not at all."),
            ("SIGUSR1", "It opens its log file again."),
            ("SIGUSR2", "Nothing."),
        ],
    ),
];

/// Writes the pages of a command and of those within it into a folder.
pub(super) fn write_all(mut command: Command, folder: &Path) -> io::Result<()> {
    command.build();
    for within in command.get_subcommands().filter(|within| !within.is_hide_set()).cloned() {
        write_all(within, folder)?;
    }
    let name = Man::new(command.clone()).get_filename();
    let mut file = File::create(folder.join(name))?;
    write(command, &mut file)?;
    file.flush()
}

/// Writes the page of one command.
pub(super) fn write(mut command: Command, to: &mut dyn Write) -> io::Result<()> {
    command.build();
    let is_whole_program = command.get_version().is_some();
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let options = command.get_arguments().filter(|argument| !argument.is_hide_set()).count();
    if options > SYNOPSIS_OPTIONS_MAX {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let commands =
            if command.has_subcommands() { format!("\n{name} COMMAND [OPTIONS]") } else { String::new() };
        command = command.override_usage(format!("{name} [OPTIONS]{commands}"));
    }
    let (has_arguments, has_commands) = (command.get_arguments().next().is_some(), command.has_subcommands());
    let man = Man::new(command);
    man.render_title(to)?;
    // Names and options are not to be broken, and so that lines need not be stretched.
    let mut roff = Roff::new();
    roff.control("nh", []).control("ad", ["l"]);
    roff.to_writer(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    let mut paragraphs: Vec<&str> = help.split("\n\n").filter(|paragraph| !paragraph.is_empty()).collect();
    let examples = taken(&mut paragraphs, EXAMPLES);
    let exit_status = taken(&mut paragraphs, EXIT_STATUS).unwrap_or(EXIT_STATUS_USUAL);
    let mut roff = Roff::new();
    paragraphs.iter().for_each(|paragraph| {
        roff.control("PP", []);
        as_it_stands(&mut roff, paragraph);
    });
    roff.to_writer(to)?;
    if has_arguments {
        man.render_options_section(to)?;
    }
    if has_commands {
        man.render_subcommands_section(to)?;
    }
    let mut roff = Roff::new();
    if is_whole_program {
        OF_THE_DAEMON.iter().for_each(|section| listed(&mut roff, section));
    } else {
        roff.control("SH", ["EXIT STATUS"]).text([roman(exit_status)]);
    }
    if let Some(examples) = examples {
        roff.control("SH", ["EXAMPLES"]);
        as_it_stands(&mut roff, examples.trim_start_matches('\n'));
    }
    roff.control("SH", ["SEE ALSO"]);
    match is_whole_program {
        true => roff.text([
            roman("Documentation, alerting rules, a dashboard and an example of the settings: "),
            bold("/usr/share/doc/blueflood-forward"),
            roman(". The documentation is in the program too: "),
            bold("blueflood-forward help TOPIC"),
        ]),
        false => roff.text([bold("blueflood-forward"), roman("(1)")]),
    };
    roff.to_writer(to)
}

/// Takes the paragraph that begins so out of the others; what stands behind its beginning.
fn taken<'a>(paragraphs: &mut Vec<&'a str>, beginning: &str) -> Option<&'a str> {
    let at = paragraphs.iter().position(|paragraph| paragraph.starts_with(beginning))?;
    paragraphs.remove(at).strip_prefix(beginning)
}

/// A text whose indented lines are kept as they are.
fn as_it_stands(roff: &mut Roff, text: &str) {
    let mut was_kept = false;
    for line in text.lines() {
        let is_kept = line.starts_with(' ');
        if is_kept != was_kept {
            roff.control(if is_kept { "nf" } else { "fi" }, []);
        }
        was_kept = is_kept;
        roff.text([roman(line)]);
    }
    if was_kept {
        roff.control("fi", []);
    }
}

fn listed(roff: &mut Roff, (heading, entries): &Section) {
    roff.control("SH", [*heading]);
    for (word, meaning) in *entries {
        roff.control("TP", []).text([bold(*word)]);
        roff.text([roman(*meaning)]);
    }
}
