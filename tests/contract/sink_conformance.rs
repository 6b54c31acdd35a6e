//! The stand-in against the recorded answers of a real Blueflood, byte for byte, at the recorded time.
//! It never excuses a difference that is not listed.

use crate::raw_http::{Client, SILENCE, Seen, post, start_sink};
use blueflood_forward::sink::Options;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde::Deserialize;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Samples that cannot be replayed from the file, and why.
const NOT_REPLAYED: [(&str, &str); 2] = [
    ("023-chunked-gzip", "the recorded request is cut; see encodings_are_undone"),
    ("024-latin1-body", "the recorded request is cut; see bytes_that_are_not_utf8_are_replaced"),
];

/// Samples whose body differs, and why. The status is compared all the same.
const OTHER_WORDS: [(&str, &str); 1] = [("042-post-bad", "the words of Gson, which is not here")];

/// When the seeds are written and the tests that are no replays take place: within the window of every seed.
const NOW_MS: i64 = 1_795_546_409_000;

#[derive(Deserialize)]
struct Sample {
    sample: String,
    at_ms: i64,
    request: String,
    response: String,
    connection_afterwards: String,
}

/// A clock that stands still until it is set.
fn stopped_clock(at_ms: i64) -> (Arc<AtomicI64>, Options) {
    let time = Arc::new(AtomicI64::new(at_ms));
    let clock = time.clone();
    (time, Options { clock: Arc::new(move || clock.load(Ordering::Relaxed)), ..Options::default() })
}

fn row(name: &str, value: &str, ms: i64, unit: Option<&str>) -> String {
    let unit = unit.map(|unit| format!(r#","unit":"{unit}""#)).unwrap_or_default();
    format!(
        r#"{{"metricName":"{name}","metricValue":{value},"collectionTime":{ms},"ttlInSeconds":172800{unit}}}"#
    )
}

fn ok_row(name: &str) -> String {
    row(name, "1.5", NOW_MS, None)
}

/// What the samples read back although no sample wrote it: the rows of requests that were not recorded.
fn seeds() -> String {
    let mut rows: Vec<String> = [1795546350684, 1795546377835, 1795546389784]
        .iter()
        .map(|&ms| row("bb.ok", "1", ms, Some("ms")))
        .collect();
    rows.push(row("bb.unit.long", "1", 1795546549260, Some(&"u".repeat(5000))));
    rows.push(row("bb.b.9999", "9999", 1795546352581, None));
    for number in 0..100 {
        rows.push(row(&format!("bb.b.{number}"), &number.to_string(), 1795546352559, None));
        rows.push(row(&format!("bb.b.{number}"), &number.to_string(), 1795546775775, None));
    }
    for number in 0..40 {
        let ms = 1795546878445 - 30_000 * number;
        rows.push(row("q.a", &format!("{number}.0"), ms, Some("ms")));
    }
    format!("[{}]", rows.join(","))
}

#[test]
fn every_recorded_answer_is_given_again() {
    let mut samples: Vec<Sample> = include_str!("../data/blueflood-samples.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    samples.sort_by_key(|sample| sample.at_ms);
    assert_eq!(samples.len(), 175);
    let (time, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    assert_eq!(Client::connect(&sink).post("/v2.0/bb/ingest", seeds()).status(), 200);

    let mut differences = Vec::new();
    for sample in &samples {
        if NOT_REPLAYED.iter().any(|(name, _)| *name == sample.sample) {
            continue;
        }
        time.store(sample.at_ms, Ordering::Relaxed);
        let mut client = Client::connect(&sink);
        client.send(&sample.request);
        let answer = match client.see() {
            Seen::Answer(answer) => as_recorded(&answer),
            other => format!("{other:?}"),
        };
        let other_words = OTHER_WORDS.iter().any(|(name, _)| *name == sample.sample);
        let same = if other_words {
            answer.get(..12) == sample.response.get(..12)
        } else {
            is_same(&answer, sample)
        };
        if !same {
            differences.push(format!("{}: answered {answer:?}\n  not {:?}", sample.sample, sample.response));
        }
        // 025-no-content-length leaves a body behind that is no HTTP; the recording asked on another connection.
        if sample.sample == "025-no-content-length" {
            continue;
        }
        let open = match sample.connection_afterwards.as_str() {
            "open" => {
                client.get("/v2.0")
                    == Seen::Answer(
                        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n".into(),
                    )
            }
            _ => client.see() == Seen::Closed,
        };
        if !open {
            differences
                .push(format!("{}: the connection is not {}", sample.sample, sample.connection_afterwards));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

/// The form in which an answer was recorded: its head without the last line end, then an empty line and the body.
fn as_recorded(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if body.is_empty() { head.to_owned() } else { format!("{head}\n\n{body}") }
}

/// Equal, or, where the recording is cut, equal so far: the head with its length, and each whole line. The order of
/// the metrics in a `POST .../views` is not fixed, so lines are only looked for.
fn is_same(answer: &str, sample: &Sample) -> bool {
    let Some((recorded, _)) = sample.response.rsplit_once("...[") else {
        return answer == sample.response;
    };
    let ours: std::collections::HashSet<&str> = answer.lines().collect();
    let whole = recorded.rsplit_once('\n').unwrap().0;
    whole.lines().all(|line| ours.contains(line))
}

#[test]
fn read_back_keeps_whole_numbers_and_fractions_apart() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    for (at, (sent, shown)) in [
        ("7", "7"),
        ("1.0", "1.0"),
        ("1e3", "1000.0"),
        ("1e308", "1.0E308"),
        ("1e309", "null"),
        ("9223372036854775808", "9.223372036854776E18"),
        ("-0.0", "-0.0"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("n{at}");
        let body = format!("[{}]", row(&name, sent, NOW_MS, None));
        assert_eq!(client.post("/v2.0/t/ingest", body).status(), 200);
        let path = format!("/v2.0/t/views/{name}?from={}&to={NOW_MS}&resolution=full", NOW_MS - 1);
        let answer = client.get(&path);
        assert!(answer.body().contains(&format!("\"average\": {shown},")), "{sent}: {answer:?}");
    }
}

#[test]
fn what_is_acknowledged_is_not_always_stored() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    for (ttl, stored) in [
        ("1", true),
        ("351000000", true),
        ("\"3600\"", true),
        ("352000000", false),
        ("630720001", false),
        ("1000000000000000000000000000000", false),
    ] {
        sink.clear();
        let body = format!(
            r#"[{{"metricName":"a","metricValue":1,"collectionTime":{NOW_MS},"ttlInSeconds":{ttl}}}]"#
        );
        assert_eq!(client.post("/v2.0/t/ingest", body).status(), 200);
        assert_eq!(sink.points("t").len(), usize::from(stored), "{ttl}");
    }
    // One that has no value beside one that has: nobody says a word.
    sink.clear();
    let no_value = format!(r#"{{"metricName":"a","collectionTime":{NOW_MS},"ttlInSeconds":60}}"#);
    let answer = client.post("/v2.0/t/ingest", format!("[{no_value},{}]xyz", ok_row("b")));
    assert_eq!((answer.status(), answer.body()), (200, ""));
    assert_eq!(sink.points("t").len(), 1);
}

#[test]
fn one_row_may_cost_the_whole_batch() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    let good = ok_row("good");
    for (bad, status) in [
        ("null".to_owned(), 500),
        ("1".to_owned(), 400),
        (row("a", "NaN", NOW_MS, None), 400),
        (row("a", "01", NOW_MS, None), 400),
        (row("a", ".5", NOW_MS, None), 400),
        (row("a", "1,\"foo\":1", NOW_MS, None), 400),
        (row(&"n".repeat(65_534), "1", NOW_MS, None), 500),
    ] {
        let answer = client.post("/v2.0/t/ingest", format!("[{good},{bad}]"));
        assert_eq!(answer.status(), status, "{}", &bad[..bad.len().min(100)]);
    }
    // Only the name that is too long let its neighbour through, as measured.
    assert_eq!(sink.points("t").iter().map(|point| point.times).collect::<Vec<_>>(), [1]);
    let twice = r#"[{"metricName":"x","metricName":"y","metricValue":1,"collectionTime":1795546409000,"ttlInSeconds":9}]"#;
    assert_eq!(client.post("/v2.0/t/ingest", twice).status(), 200);
    assert_eq!(sink.points("t").last().unwrap().name, "y");
}

#[test]
fn encodings_are_undone() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    let body = format!("[{}]", ok_row("a"));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(body.as_bytes()).unwrap();
    let zlib = zlib.finish().unwrap();

    for (encoding, bytes) in [("gzip", &gzip), ("x-gzip", &gzip), ("deflate", &zlib)] {
        client.send(post("/v2.0/t/ingest", &format!("Content-Encoding: {encoding}\r\n"), bytes));
        assert_eq!(client.see().status(), 200, "{encoding}");
    }
    let (first, second) = gzip.split_at(10);
    client
        .send("POST /v2.0/t/ingest HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n");
    for piece in [first, second] {
        client.send(format!("{:x}\r\n", piece.len()));
        client.send(piece);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.see().status(), 200);
    assert_eq!(sink.points("t")[0].times, 4);

    // Neither of these can be parsed.
    client.send(post("/v2.0/t/ingest", "", &gzip));
    assert_eq!(client.see().status(), 400);
    client.send(post("/v2.0/t/ingest", "Content-Encoding: gzip\r\n", &gzip[..gzip.len() - 12]));
    assert_eq!(client.see().status(), 400);
    // This one takes the connection with it.
    client.send(post("/v2.0/t/ingest", "Content-Encoding: gzip\r\n", &body));
    client.send("GET /v2.0 HTTP/1.1\r\n\r\n");
    assert_eq!(client.see_within(SILENCE), Seen::Silence(String::new()));
}

#[test]
fn a_body_over_the_limit_gets_no_answer_and_the_next_request_does() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    let padded = |bytes: usize| {
        let mut body = format!("[{}]", ok_row("a")).into_bytes();
        body.resize(bytes, b' ');
        body
    };
    assert_eq!(client.post("/v2.0/t/ingest", padded(1_048_576)).status(), 200);

    client.send(post("/v2.0/t/ingest", "Connection: close\r\n", padded(1_048_577)));
    assert_eq!(client.see_within(SILENCE), Seen::Silence(String::new()));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&padded(64 << 20)).unwrap();
    client.send(post("/v2.0/t/ingest", "Content-Encoding: gzip\r\n", gzip.finish().unwrap()));
    assert_eq!(client.see_within(SILENCE), Seen::Silence(String::new()));
    assert_eq!(client.get("/v2.0").status(), 200);

    client.send("POST /v2.0/t/ingest HTTP/1.1\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(
        client.see(),
        Seen::Answer(
            "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n".into()
        )
    );
    assert_eq!(client.get("/v2.0").status(), 200);
    assert_eq!(sink.points("t")[0].times, 1);
}

#[test]
fn a_client_that_asks_is_told_to_continue() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    let body = format!("[{}]", ok_row("a"));
    client.send(format!(
        "POST /v2.0/t/ingest HTTP/1.1\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.see(), Seen::Answer("HTTP/1.1 100 Continue\r\n\r\n".into()));
    client.send(body);
    assert_eq!(client.see().status(), 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    let good = post("/v2.0/t/ingest", "", format!("[{}]", ok_row("a")));
    let bad = post("/v2.0/t/ingest", "", "[]");
    let lost = post("/nowhere", "", "");
    client.send([good.clone(), good.clone(), bad, good, lost].concat());
    let statuses: Vec<u16> = (0..5).map(|_| client.see().status()).collect();
    assert_eq!(statuses, [200, 200, 400, 200, 404]);
}

#[test]
fn bytes_that_are_not_utf8_are_replaced() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let body = format!("[{}]", ok_row("lat#n")).into_bytes();
    let body: Vec<u8> = body.into_iter().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect();
    assert_eq!(Client::connect(&sink).post("/v2.0/t/ingest", body).status(), 200);
    assert_eq!(sink.points("t")[0].name, "lat\u{fffd}n");
}

#[test]
fn tenants_are_where_blueflood_looks_for_them() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let mut client = Client::connect(&sink);
    client.send(post("/v2.0/t/ingest", "tenantId: evil\r\n", format!("[{}]", ok_row("a"))));
    assert_eq!(client.see().status(), 200);
    assert_eq!((sink.points("t").len(), sink.points("evil").len()), (0, 1));
    // Dotted tenants collide.
    assert_eq!(client.post("/v2.0/aa/ingest", format!("[{}]", ok_row("b.c"))).status(), 200);
    assert_eq!(sink.points("aa.b")[0].name, "c");
}

#[test]
fn what_is_no_http_is_answered_404_and_closed() {
    let (_, options) = stopped_clock(NOW_MS);
    let sink = start_sink(options);
    let long_line = format!("POST /v2.0/t/{} HTTP/1.1\r\n\r\n", "i".repeat(5000));
    for bytes in ["hello world\r\n\r\n", &long_line] {
        let mut client = Client::connect(&sink);
        client.send(bytes);
        assert_eq!(client.see(), Seen::Answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()));
        assert_eq!(client.see(), Seen::Closed);
    }
    let mut client = Client::connect(&sink);
    client.send(post("/v2.0/t/ingest", &format!("X: {}\r\n", "x".repeat(9000)), ""));
    assert!(client.see().body().contains("Cannot parse content"));
}
