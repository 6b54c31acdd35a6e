//! Flows that must end well: the real daemon in bad weather of many kinds, under numbered datapoints. However bad it
//! was, each number arrives or lies where the ledger says, and nothing waits beside an open gate.
//!
//! `make scenarios` runs all of them on the release build; `make test` runs a part of them, with small loads.
//!
//! ```text
//! make scenarios ONLY="brown limited_3"     those whose names hold one of these words
//! make scenarios ONLY=list                  what there is
//! make scenarios SEED=17                    what is random in them as it was then
//! JOBS=1                                    how many run side by side
//! SCENARIOS_BINARY=path                     another build of the daemon
//! ```
//!
//! A scenario that fails says why, and leaves its folder (log, spool) for somebody to look at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod daemon;
mod load;
mod names;
mod poison;
mod queue;
#[path = "../requests.rs"]
mod requests;
#[path = "../running.rs"]
mod running;
#[path = "../shared.rs"]
mod shared;
mod sink;
mod stage;
mod stops;
mod weather;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use shared::{seed, variable};
use stage::Stage;

/// How many run side by side unless `JOBS` says otherwise: they mostly wait.
const JOBS: usize = 6;

/// When a scenario runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// With `make test` too, at a small size.
    Always,
    /// With `make scenarios` only.
    Full,
    /// With `make scenarios` only, and once more with a stop at a moment that nobody chose.
    FullAndStopped,
    /// Always, and with `make scenarios` once more with a stop.
    AlwaysAndStopped,
}

use When::{Always, AlwaysAndStopped, Full, FullAndStopped};

/// What a stop of the daemon is called in a scenario's name.
const STOPPED: &str = "+stop";

/// Its name, when it runs, about how many seconds it takes at full size, and what it does.
type Scenario = (&'static str, When, u32, fn(&mut Stage));

/// All of them; the longest are begun first.
const SCENARIOS: &[Scenario] = &[
    // The queue: nothing strands.
    ("block_full_then_up", Always, 20, queue::block_full_then_up),
    ("block_holding_nothing_back", Full, 20, queue::block_holding_nothing_back),
    ("block_and_one_reload", Always, 20, queue::block_and_one_reload),
    ("block_and_ten_reloads", Full, 20, queue::block_and_ten_reloads),
    ("block_flapping", Full, 45, queue::block_flapping),
    ("drop_oldest_in_a_tiny_spool", Always, 20, queue::drop_oldest_in_a_tiny_spool),
    ("concurrency_1", AlwaysAndStopped, 30, queue::concurrency_1),
    ("concurrency_32", FullAndStopped, 25, queue::concurrency_32),
    ("newest_first", AlwaysAndStopped, 25, queue::newest_first),
    ("oldest_first_small_chunks", FullAndStopped, 25, queue::oldest_first_small_chunks),
    ("small_chunks_and_a_slow_sink", Always, 20, queue::small_chunks_and_a_slow_sink),
    ("max_rows_20_at_full_speed", FullAndStopped, 15, queue::max_rows_20_at_full_speed),
    ("max_rows_1", AlwaysAndStopped, 25, queue::max_rows_1),
    ("tiny_limit", AlwaysAndStopped, 15, queue::tiny_limit),
    ("tiny_limit_in_an_outage", Full, 20, queue::tiny_limit_in_an_outage),
    ("nothing_held_back", AlwaysAndStopped, 20, queue::nothing_held_back),
    ("reload_in_an_outage", Always, 25, queue::reload_in_an_outage),
    ("reload_each_second", Always, 25, queue::reload_each_second),
    ("reload_storm", Full, 20, queue::reload_storm),
    ("replay_beside_a_flow", Always, 70, queue::replay_beside_a_flow),
    ("replay_beside_a_fast_flow", Full, 30, queue::replay_beside_a_fast_flow),
    ("max_rows_of_what_lies_in_the_spool", Always, 25, queue::max_rows_of_what_lies_in_the_spool),
    ("refused_connections", Always, 20, queue::refused_connections),
    // Poison: it is found, and nothing good is harmed.
    ("many_400_without_a_list", AlwaysAndStopped, 15, poison::many_400_without_a_list),
    ("many_400_in_a_backlog", Full, 25, poison::many_400_in_a_backlog),
    ("many_207_that_name_rows", AlwaysAndStopped, 15, poison::many_207_that_name_rows),
    ("too_large_413", Full, 15, poison::too_large_413),
    ("poison_in_every_payload_500", Always, 200, poison::in_every_payload_500),
    ("poison_in_every_payload_503", Full, 300, poison::in_every_payload_503),
    ("poison_in_every_payload_reset", Full, 200, poison::in_every_payload_reset),
    ("poison_in_every_payload_silence", Full, 300, poison::in_every_payload_silence),
    ("poison_among_others_500", Full, 70, poison::among_others_500),
    ("poison_among_others_503", Full, 100, poison::among_others_503),
    ("poison_among_others_reset", Full, 70, poison::among_others_reset),
    ("poison_among_others_silence", Full, 130, poison::among_others_silence),
    // The weather: nobody is attacked, and nothing good is thrown away.
    ("all_is_well", AlwaysAndStopped, 15, weather::all_is_well),
    ("slow_2_s", AlwaysAndStopped, 30, weather::slow_2_s),
    ("slow_40_s", Full, 90, weather::slow_40_s),
    ("never_answers", FullAndStopped, 40, weather::never_answers),
    ("each_second_request_is_reset", AlwaysAndStopped, 30, weather::each_second_request_is_reset),
    ("a_close_after_each_answer", AlwaysAndStopped, 25, weather::a_close_after_each_answer),
    ("flapping_each_second", AlwaysAndStopped, 60, weather::flapping_each_second),
    ("brown_out_50", Always, 60, weather::brown_out_50),
    ("brown_out_80", Full, 70, weather::brown_out_80),
    ("brown_out_80_of_500", Full, 70, weather::brown_out_80_of_500),
    ("brown_out_90", Always, 80, weather::brown_out_90),
    ("brown_out_99", Full, 85, weather::brown_out_99),
    ("one_of_three_backends_is_down", FullAndStopped, 60, weather::one_of_three_backends_is_down),
    ("limited_half_503", Full, 180, weather::limited_half_503),
    ("limited_half_429", Full, 180, weather::limited_half_429),
    ("limited_3_429", Full, 90, weather::limited_3_429),
    ("limited_10_503", Always, 60, weather::limited_10_503),
    ("limited_50_429_in_bursts", Full, 60, weather::limited_50_429_in_bursts),
    ("retry_after_years", Always, 15, weather::retry_after_years),
    ("retry_after_3_s", Full, 25, weather::retry_after_3_s),
    ("a_207_that_names_no_row", Always, 15, weather::a_207_that_names_no_row),
    ("a_207_that_names_one_row_and_not_another", Full, 15, weather::a_207_that_names_one_row_and_not_another),
    ("keystone_is_away", Always, 30, weather::keystone_is_away),
    ("misconfigured_404", Full, 20, weather::misconfigured_404),
    // A stop: what was received is kept.
    ("stop_at_any_moment", Always, 35, stops::at_any_moment),
    ("stop_at_any_moment_of_an_outage", Always, 35, stops::at_any_moment_of_an_outage),
    ("stop_at_any_moment_of_slow_answers", Full, 35, stops::at_any_moment_of_slow_answers),
    ("stop_at_any_moment_of_resets", Full, 35, stops::at_any_moment_of_resets),
    ("stop_a_connect_after_it_is_refused", Always, 20, stops::a_connect_after_it_is_refused),
    ("stop_is_soon_over_in_an_outage", Always, 20, stops::it_is_soon_over_in_an_outage),
    ("stop_with_a_full_spool", Always, 25, stops::with_a_full_spool),
    ("stop_with_a_full_spool_and_silence", Full, 30, stops::with_a_full_spool_and_silence),
];

/// One that is to run.
struct Part {
    name: String,
    seconds: u32,
    restarted: bool,
    play: fn(&mut Stage),
}

fn parts(full: bool, words: &[String]) -> Vec<Part> {
    let mut parts = Vec::new();
    for &(name, when, seconds, play) in SCENARIOS {
        if full || matches!(when, Always | AlwaysAndStopped) {
            parts.push(Part { name: name.to_owned(), seconds, restarted: false, play });
        }
        if full && matches!(when, FullAndStopped | AlwaysAndStopped) {
            parts.push(Part {
                name: format!("{name}{STOPPED}"),
                seconds: seconds + 5,
                restarted: true,
                play,
            });
        }
    }
    parts.retain(|part| words.is_empty() || words.iter().any(|word| part.name.contains(word.as_str())));
    parts.sort_by_key(|part| std::cmp::Reverse(part.seconds));
    parts
}

/// Plays one; whether it ended well.
fn play(part: &Part, full: bool) -> bool {
    let mut stage = Stage::new(&part.name, full, part.restarted);
    let started = Instant::now();
    let played = catch_unwind(AssertUnwindSafe(|| (part.play)(&mut stage)));
    if let Err(panic) = played {
        let why = panic.downcast_ref::<String>().cloned();
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|&why| why.to_owned()));
        stage.fail(format!("it broke off: {}", why.unwrap_or_default()));
    }
    let well = stage.failures.is_empty();
    let mut text = format!(
        "{} {:44} {:5.1} s  {}",
        if well { "ok  " } else { "FAIL" },
        part.name,
        started.elapsed().as_secs_f64(),
        stage.notes.join(" ")
    );
    if !well {
        for failure in std::mem::take(&mut stage.failures) {
            text.push_str(&format!("\n       {failure}"));
        }
        if let Some(folder) = stage.keep() {
            text.push_str(&format!("\n       what it left: {}", folder.display()));
        }
    }
    println!("{text}");
    well
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let full = variable("SCENARIOS").as_deref() == Some("all");
    let only = variable("ONLY").unwrap_or_default();
    let mut words: Vec<String> = only.split_whitespace().map(str::to_owned).collect();
    // Options are those of other tests: `cargo test -- --nocapture` is told to all of them.
    let mut rest = given.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--skip" | "--test-threads" | "--format" | "--color" | "-Z" => drop(rest.next()),
            option if option.starts_with('-') => {}
            _ => words.push(word.clone()),
        }
    }
    let list = given.iter().any(|word| word == "--list") || words.iter().any(|word| word == "list");
    words.retain(|word| word != "list");
    let parts = parts(full, &words);
    if list {
        parts.iter().for_each(|part| println!("{}: test", part.name));
        return ExitCode::SUCCESS;
    }
    let jobs = variable("JOBS").and_then(|jobs| jobs.parse().ok()).unwrap_or(JOBS);
    let (seed, started) = (seed(), Instant::now());
    println!("{} scenarios, {jobs} side by side, SEED={seed}", parts.len());
    let (queue, failed) = (Mutex::new(VecDeque::from(parts)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(part) = next else { return };
                    if !play(&part, full) {
                        failed.lock().unwrap().push(part.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!(
        "{} failed, in {} s, SEED={seed} {}",
        failed.len(),
        started.elapsed().as_secs(),
        failed.join(" ")
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
