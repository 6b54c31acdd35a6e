//! Every fault in turn, on one daemon, while data flows at a rate: nothing is lost, all comes back by itself, and
//! memory stays bounded.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::world::*;

const FAULTS: [&str; 24] = [
    "201/storedx*",
    "202x*",
    "202/storedx*",
    "refuse(bad)",
    "if(bad)400",
    "413",
    "401x*",
    "403x*",
    "404x*",
    "415x*",
    "302x*",
    "429?Retry-After=1",
    "500x*",
    "500/storedx*",
    "503x*",
    "late:100x*",
    "timeoutx*",
    "timeout/storedx*",
    "garbagex*",
    "halfx*",
    "closex*",
    "resetx*",
    "reset-unreadx*",
    "reset/storedx*",
];

/// Far above what it takes with an optimised build, and far below what keeping the flow in memory would come to.
const PEAK_MEMORY_KIB_MAX: u64 = 96 << 10;

#[test]
fn every_fault_in_turn_under_load_loses_nothing_and_passes() {
    let world = World::new();
    let daemon = world.daemon(&["--timeout", "0.5", "--backoff_max", "0.1"]);
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = daemon.connect();
            let time = now();
            for block in 0u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let bad = if block % 50 == 0 { "bad" } else { "good" };
                let lines: String = (0..20)
                    .map(|i| format!("{}{block}.{i} 1 {time}\n", if i == 7 { bad } else { "m" }))
                    .collect();
                connection.write_all(lines.as_bytes()).unwrap();
                sent.fetch_add(20, Ordering::Relaxed);
                // The rate: about 4,000 a second.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let finish = Finish(&done);
        for fault in FAULTS {
            let before = world.posts();
            world.answers(fault);
            assert!(
                until(|| world.posts() >= before + 4),
                "{fault}: no more requests: {:#?}",
                daemon.stats()
            );
            world.answers("");
            let held = daemon.count("received");
            daemon.expect(&format!("recovered from {fault}"), |stats| {
                let place = |name: &str| stats["datapoints"][name].as_u64().unwrap();
                stats["forwarder"]["gate"]["open"] == true && place("delivered") + place("refused") >= held
            });
            assert!(until(|| daemon.get("/delivering").0 == 200), "{fault}: {:?}", daemon.get("/delivering"));
        }
        drop(finish);
    });
    let sent = sent.load(Ordering::Relaxed);
    daemon.expect_settled(sent);
    let stats = daemon.stats();
    let (delivered, refused) = (daemon.count("delivered"), daemon.count("refused"));
    assert_eq!((delivered + refused, daemon.count("dropped")), (sent, 0), "{stats:#}");
    let letters = world.dead_letters();
    assert_eq!(letters.len() as u64, refused);
    assert!(letters.iter().all(|letter| letter.name.starts_with("bad")), "{letters:#?}");
    // Refused once, some came in an answer that was lost, and were stored then.
    let points = world.times();
    let stored = points.keys().filter(|name| !letters.iter().any(|letter| letter.name == **name)).count();
    assert_eq!(stored as u64, delivered);
    let peak = daemon.peak_memory_kib();
    assert!(peak < PEAK_MEMORY_KIB_MAX, "{peak} KiB");
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    eprintln!("{sent} datapoints, {refused} refused, {peak} KiB at most");
}

/// Ends the sender, also when an assertion fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
