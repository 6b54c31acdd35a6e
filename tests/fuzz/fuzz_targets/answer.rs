//! Any answer is a verdict, and whatever rows it names, each row of the payload ends in one place.
#![no_main]
use std::time::SystemTime;

use actors::core::blueflood::{Answer, Verdict, classify};
use actors::core::outbox::Fate;
use actors::core::row::RowsRef;
use actors::core::settlement::settle;

const ROWS: &[u8] = br#"{"collectionTime":1,"ttlInSeconds":1,"metricValue":1.0,"metricName":"a"},{"collectionTime":2,"ttlInSeconds":1,"metricValue":1.0,"metricName":"b"}"#;

libfuzzer_sys::fuzz_target!(|answer: &[u8]| {
    let Some((&[high, low], body)) = answer.split_first_chunk::<2>() else { return };
    let status = u16::from_be_bytes([high, low]);
    let retry_after = std::str::from_utf8(body).ok();
    let fate = match classify(&Answer { status, retry_after, body, now: SystemTime::UNIX_EPOCH }) {
        Verdict::StoredExcept { errors, unexplained } => Fate::DeliveredExcept { errors, unexplained },
        Verdict::Refused(errors) => Fate::RefusedNamed(errors),
        _ => return,
    };
    let explained = !matches!(&fate, Fate::DeliveredExcept { unexplained: Some(_), .. });
    let settled = settle(RowsRef { text: ROWS, count: 2 }, &fate);
    let requeued: u64 = settled.requeued.iter().map(|rows| u64::from(rows.count)).sum();
    assert_eq!(settled.delivered + settled.refused.len() as u64 + requeued, 2);
    assert!(explained || settled.delivered == 0, "what is not explained is never called delivered");
});
