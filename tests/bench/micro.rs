//! Measures each stage by itself, with criterion: its "elements" are datapoints. Never a test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod fixture;
mod load;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actors::core::backoff::Backoff;
use actors::core::blueflood::Verdict;
use actors::core::chunk::{Encoding, Sealer};
use actors::core::line::Lines;
use actors::core::outbox::{Action, Bounds, Due, Event, Leased, Limits, Meta, Outbox};
use actors::core::payload;
use actors::core::queue::Queue;
use actors::core::row::{Array, Rows};
use actors::spool::open::Place;
use actors::spool::store::Durability;
use actors::spool::{Ask, Batch, Options, Policy, Spool, WhenFull};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use load::{FRAME, Protocol};
use tempfile::TempDir;

/// Chunks put into a spool before it is asked for them.
const SPOOLED: usize = 50;

/// Rows of a full chunk.
const CHUNK_ROWS: u64 = 2_000;

const ENCODINGS: [(Encoding, &str); 2] = [(Encoding::Deflate, "gzip"), (Encoding::Plain, "none")];

/// The pickles of a captured stream.
fn captured(folder: &Path) -> Vec<Vec<u8>> {
    let stream = std::fs::read(folder.join("stream.bin")).unwrap();
    let (mut rest, mut frames) = (&stream[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let (frame, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let mut decoder = fixture::decoder();
    let frame = fixture::frame(Protocol::Pickle);
    group.throughput(Throughput::Elements(FRAME as u64));
    group.bench_function("pickle/carbon-relay, 500 datapoints", |b| {
        b.iter(|| {
            fixture::decode(&mut decoder, black_box(&frame), |datapoint| {
                black_box(datapoint);
            })
        })
    });
    let lines = fixture::frame(Protocol::Line);
    group.bench_function("line", |b| {
        b.iter(|| {
            Lines::new(black_box(&lines)).for_each(|datapoint| {
                black_box(&datapoint);
            })
        })
    });
    let captures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let mut folders: Vec<_> =
        std::fs::read_dir(captures).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains("proto") && !name.contains("pickle") {
            continue;
        }
        let frames = captured(&folder);
        let all = |decoder: &mut _| -> usize {
            frames.iter().map(|frame| fixture::decode(decoder, black_box(frame), |_| {})).sum()
        };
        group.throughput(Throughput::Elements(all(&mut decoder) as u64));
        group.bench_function(BenchmarkId::new("pickle", name), |b| b.iter(|| all(&mut decoder)));
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    let (encoder, mut decoder, mut rows) = (fixture::encoder(), fixture::decoder(), Rows::default());
    let (pickle, lines) = (fixture::frame(Protocol::Pickle), fixture::frame(Protocol::Line));
    group.throughput(Throughput::Elements(FRAME as u64));
    group.bench_function("decode pickle and encode", |b| {
        b.iter(|| {
            rows.text.clear();
            rows.count = 0;
            fixture::decode(&mut decoder, black_box(&pickle), |datapoint| {
                encoder.encode(datapoint, fixture::NOW_MS, &mut rows).unwrap();
            })
        })
    });
    group.bench_function("decode line and encode", |b| {
        b.iter(|| {
            rows.text.clear();
            rows.count = 0;
            Lines::new(black_box(&lines)).flatten().for_each(|datapoint| {
                encoder.encode(&datapoint, fixture::NOW_MS, &mut rows).unwrap();
            });
        })
    });
    group.finish();
}

fn chunks(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunks");
    let rows = Array::from(fixture::rows(4));
    group.throughput(Throughput::Elements(CHUNK_ROWS));
    for (encoding, name) in ENCODINGS {
        let mut sealer = Sealer::new(encoding);
        group.bench_function(BenchmarkId::new("seal", name), |b| b.iter(|| sealer.seal(black_box(&rows))));
        let chunks = [fixture::chunk(encoding)];
        group.bench_function(BenchmarkId::new("compose", name), |b| {
            b.iter(|| payload::compose(black_box(&chunks), encoding).unwrap())
        });
    }
    group.finish();
}

fn outbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox");
    let limits = Limits {
        payload_bytes_max: 1 << 20,
        payload_rows_max: 2_000,
        in_flight_max: 4,
        backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) },
        authenticates: false,
    };
    group.throughput(Throughput::Elements(CHUNK_ROWS));
    group.bench_function("a chunk from its append to its settlement", |b| {
        let (mut outbox, mut queue) = (Outbox::new(limits), Queue::new(false, 0));
        let (mut id, now, took) = (0, Duration::ZERO, Duration::from_millis(2));
        queue.filled(&[], true);
        b.iter(|| {
            id += 1;
            queue.added(Meta { id, rows: 2_000, raw_bytes: 320_000, lane: 0 }, false);
            let mut events = vec![Event::Poke];
            while let Some(event) = events.pop() {
                for action in outbox.apply(event, now, 0.5) {
                    events.extend(match action {
                        Action::Lease { payloads: asked, bounds, due, .. } => {
                            let leased: Vec<_> = queue.next(bounds, due);
                            let chunks: Vec<_> = leased.into_iter().map(|meta| queue.lease(meta)).collect();
                            let payloads = match chunks.is_empty() {
                                true => Vec::new(),
                                false => vec![Leased { chunks, apart: None }],
                            };
                            let waiting = queue.waiting(bounds, due);
                            Some(Event::Leased { asked, payloads, waiting })
                        }
                        Action::Send { parcel, .. } => {
                            Some(Event::Answered { parcel, verdict: Verdict::Stored, took })
                        }
                        Action::Settle { parcel, chunks, .. } => {
                            for id in chunks {
                                queue.settled(id);
                            }
                            Some(Event::Settled { parcel, pieces: Vec::new() })
                        }
                        Action::Try { .. } | Action::Say(_) => None,
                    });
                }
                queue.take_back();
            }
        })
    });
    group.finish();
}

fn spool(c: &mut Criterion) {
    let mut group = c.benchmark_group("spool");
    group.sample_size(10).throughput(Throughput::Elements(CHUNK_ROWS * SPOOLED as u64));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (encoding, name) in ENCODINGS {
        let open = |folder: &TempDir| {
            let options = Options {
                place: Place::File(folder.path().join("spool.db")),
                sync: Durability::Normal,
                encoding,
                policy: Policy {
                    bytes_max: 1 << 40,
                    when_full: WhenFull::DropOldest,
                    age_max: None,
                    dead_letter_bytes_max: 1 << 20,
                    hold: Duration::ZERO,
                    room_wait: Duration::ZERO,
                    unwritten_max: Duration::ZERO,
                },
                newest_first: false,
                tenant: String::new(),
            };
            Spool::start(options, |_| ()).unwrap()
        };
        let folder = || TempDir::with_prefix_in("micro-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let rows = fixture::rows(4);
        let fill = |spool: &Spool| {
            runtime.block_on(async {
                for _ in 0..SPOOLED {
                    spool.append(Arc::new(Batch::new(rows.clone(), fixture::NOW_MS))).await.unwrap();
                }
            });
        };
        group.bench_function(BenchmarkId::new("append", name), |b| {
            let folder = folder();
            let (spool, _thread) = open(&folder);
            b.iter(|| fill(&spool))
        });
        group.bench_function(BenchmarkId::new("replay", name), |b| {
            b.iter_batched(
                || {
                    let folder = folder();
                    let opened = open(&folder);
                    fill(&opened.0);
                    (folder, opened)
                },
                |(folder, opened)| {
                    runtime.block_on(async {
                        let bounds = Bounds { rows_max: 2_000, bytes_max: 1 << 20 };
                        let ask = Ask { payloads: 1, bounds, due: Due::All, apart: false };
                        loop {
                            let granted = black_box(opened.0.lease(ask).await.unwrap());
                            let Some(payload) = granted.payloads.first() else { break };
                            let ids = payload.leases.iter().map(|lease| lease.meta.id).collect();
                            let fate = actors::core::outbox::Fate::Delivered;
                            opened.0.settle(ids, fate).await.unwrap();
                        }
                    });
                    // Dropped by criterion, outside of what is measured.
                    (folder, opened)
                },
                criterion::BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = decode, rows, chunks, outbox, spool
}
criterion_main!(benches);
