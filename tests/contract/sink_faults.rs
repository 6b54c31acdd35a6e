//! Every fault that a script knows, as a plain TCP client meets it. It never goes through the daemon.

use crate::raw_http::{Client, PATIENCE, SILENCE, Seen, post, start_sink};
use blueflood_forward::sink::{Act, Answer, Options, Script, SinkHandle, Step};
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const INGEST: &str = "/v2.0/t/ingest";

fn row(name: &str) -> String {
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    format!(r#"{{"metricName":"{name}","metricValue":1.5,"collectionTime":{now_ms},"ttlInSeconds":60}}"#)
}

fn batch(names: &[&str]) -> String {
    format!("[{}]", names.iter().map(|name| row(name)).collect::<Vec<_>>().join(","))
}

fn scripted(text: &str) -> SinkHandle {
    let sink = start_sink(Options::default());
    sink.script(Script::parse(text).unwrap());
    sink
}

/// What one POST meets under a script, and how many points are stored then.
fn met(text: &str) -> (Seen, usize) {
    let sink = scripted(text);
    let mut client = Client::connect(&sink);
    client.send(post(INGEST, "", batch(&["a"])));
    let seen = client.see_within(if text.starts_with("timeout") || text.starts_with("stall") {
        SILENCE
    } else {
        PATIENCE
    });
    (seen, sink.points("t").len())
}

fn status(text: &str) -> (u16, usize) {
    let (seen, stored) = met(text);
    (seen.status(), stored)
}

#[test]
fn answers_store_only_what_they_are_told_to() {
    assert_eq!(status("ok"), (200, 1));
    assert_eq!(status("lie"), (200, 0));
    assert_eq!(status("503"), (503, 0));
    assert_eq!(status("503/stored"), (503, 1));
    assert_eq!(status("202"), (202, 0));
    assert_eq!(status("202/stored"), (202, 1));
    assert_eq!(met("timeout"), (Seen::Silence(String::new()), 0));
    assert_eq!(met("timeout/stored"), (Seen::Silence(String::new()), 1));
    assert_eq!(met("close"), (Seen::Closed, 0));
    assert_eq!(met("reset"), (Seen::Reset, 0));
    assert_eq!(met("reset/stored"), (Seen::Reset, 1));
    assert_eq!(met("half/stored"), (Seen::Part("HTTP/1.1 200 OK\r\nContent-Le".into()), 1));
}

#[test]
fn a_script_ends_and_all_is_normal_again() {
    let sink = scripted("503x2,timeout,429?Retry-After=2");
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, batch(&["a"])).status(), 503);
    // Read-back is never scripted.
    assert_eq!(client.get("/v2.0").status(), 200);
    assert_eq!(client.post(INGEST, batch(&["a"])).status(), 503);
    client.send(post(INGEST, "", batch(&["a"])));
    assert_eq!(client.see_within(SILENCE), Seen::Silence(String::new()));
    assert_eq!(
        client.post(INGEST, batch(&["a"])),
        Seen::Answer(
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
                .into()
        )
    );
    assert_eq!(client.post(INGEST, batch(&["a"])).status(), 200);
    assert_eq!(sink.read(|state| state.requests_seen()), 5);
}

#[test]
fn a_redirect_says_where_to() {
    let (seen, _) = met("302");
    assert!(matches!(&seen, Seen::Answer(answer) if answer.contains("Location: /login\r\n")), "{seen:?}");
}

#[test]
fn garbage_and_bodies_that_never_end() {
    let (seen, _) = met("garbage");
    assert!(matches!(seen, Seen::Part(part) if !part.starts_with("HTTP")));
    let (seen, _) = met("stall");
    assert!(
        matches!(seen, Seen::Silence(part) if part.ends_with("Content-Length: 100\r\nConnection: keep-alive\r\n\r\n"))
    );

    let sink = scripted("endless");
    let mut client = Client::connect(&sink);
    client.send(post(INGEST, "", batch(&["a"])));
    let mut read = vec![0; 100_000];
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.stream.read_exact(&mut read).unwrap();
    assert!(read.starts_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"));
}

#[test]
fn a_late_answer_is_late_and_concurrency_is_seen() {
    let sink = scripted("late:300x2");
    let began = Instant::now();
    let mut clients = [Client::connect(&sink), Client::connect(&sink)];
    clients.iter_mut().for_each(|client| client.send(post(INGEST, "", batch(&["a"]))));
    clients.iter_mut().for_each(|client| assert_eq!(client.see().status(), 200));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(sink.read(|state| state.concurrency_max()), 2);
}

#[test]
fn early_answers_come_before_the_body() {
    for (script, expected) in [
        (
            "early:413",
            Seen::Answer("HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\n\r\n".into()),
        ),
        ("reset-unread", Seen::Reset),
    ] {
        let sink = scripted(script);
        let mut client = Client::connect(&sink);
        client.send(format!("POST {INGEST} HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nand a beginning"));
        assert_eq!(client.see(), expected, "{script}");
    }
}

#[test]
fn a_poison_row_costs_whoever_travels_with_it() {
    let sink = scripted("if(poison)400");
    let mut client = Client::connect(&sink);
    for _ in 0..3 {
        let answer = client.post(INGEST, batch(&["a", "poison"]));
        assert_eq!(answer.status(), 400);
        assert!(answer.body().contains("Cannot parse content"));
        assert_eq!(client.post(INGEST, batch(&["a"])).status(), 200);
    }
    // One batch or several may fall into one millisecond: rows are counted, not points.
    assert_eq!(sink.read(|state| state.rows_stored()), 3);
    assert!(sink.points("t").iter().all(|point| point.name == "a"));
}

#[test]
fn rows_can_be_refused_by_name() {
    let sink = scripted("refuse(bad.)");
    let mut client = Client::connect(&sink);
    let answer = client.post(INGEST, batch(&["bad.one", "good", "bad.two"]));
    assert_eq!(answer.status(), 207);
    assert_eq!(answer.body().matches("refused by the sink's script").count(), 2);
    assert_eq!(client.post(INGEST, batch(&["bad.one"])).status(), 400);
    assert_eq!(sink.points("t").len(), 1);
}

#[test]
fn an_answer_can_be_any_bytes() {
    let sink = start_sink(Options::default());
    let answer = Answer { headers: vec!["X: y".into()], ..Answer::with_body(418, "tea") };
    sink.script(Script::new().then(Step::from(Act::Answer(answer)).times(2)));
    let seen = Client::connect(&sink).post(INGEST, batch(&["a"]));
    assert_eq!((seen.status(), seen.body()), (418, "tea"));
}

#[test]
fn a_pause_is_a_crash_and_a_resume_a_restart() {
    let sink = start_sink(Options::default());
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, batch(&["a"])).status(), 200);
    sink.pause();
    assert_eq!(client.see(), Seen::Closed);
    assert!(TcpStream::connect(("127.0.0.1", sink.port())).is_err());
    sink.resume().unwrap();
    assert_eq!(Client::connect(&sink).post(INGEST, batch(&["b"])).status(), 200);
    assert_eq!(sink.points("t").len(), 2);
}

#[test]
fn waiting_ends_with_the_change_or_the_patience() {
    let sink = start_sink(Options::default());
    assert!(!sink.wait_for(|state| state.rows_stored() > 0, Duration::from_millis(20)));
    let mut client = Client::connect(&sink);
    client.send(post(INGEST, "", batch(&["a", "b"])));
    assert!(sink.wait_for(|state| state.rows_stored() == 2, PATIENCE));
    assert_eq!(sink.read(|state| state.last_name().to_owned()), "b");
}

#[test]
fn requests_are_remembered_up_to_their_cap() {
    let sink = start_sink(Options { received_bytes_max: 2000, ..Options::default() });
    let mut client = Client::connect(&sink);
    for _ in 0..20 {
        assert_eq!(client.post(INGEST, batch(&["a"])).status(), 200);
    }
    let requests = sink.requests();
    assert!((1..10).contains(&requests.len()), "{}", requests.len());
    assert!(requests[0].body.starts_with(b"[{\"metricName\":\"a\""));
    assert_eq!(requests[0].header("host"), Some("sink"));
    sink.clear();
    assert!(sink.requests().is_empty());
}

// === A store that fails behind a Blueflood that answers ===

const ALL_TIMES: &str = "from=0&to=9999999999999&resolution=FULL";

/// A row that came so many seconds late.
fn late_row(name: &str, late_s: u64) -> String {
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let ms = now_ms - u128::from(late_s) * 1000;
    format!(r#"[{{"metricName":"{name}","metricValue":1.5,"collectionTime":{ms},"ttlInSeconds":60}}]"#)
}

fn names(answer: &Seen) -> Vec<String> {
    let found: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
    let has_data =
        |metric: &&serde_json::Value| metric["data"].as_array().is_some_and(|data| !data.is_empty());
    let metrics = found["metrics"].as_array().unwrap();
    metrics.iter().filter(has_data).map(|metric| metric["metric"].as_str().unwrap().to_owned()).collect()
}

/// Measured: a Cassandra that was killed, under names that Blueflood knew and names that were new to it.
#[test]
fn while_the_store_is_away_known_names_are_lost_with_a_200_and_a_new_one_is_told_of_once() {
    let sink = start_sink(Options::default());
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, batch(&["known"])).status(), 200);
    sink.store_away();
    assert_eq!(client.post(INGEST, batch(&["known"])).status(), 200);
    assert_eq!(client.post(INGEST, batch(&["known", "new"])).status(), 500);
    assert_eq!(
        client.post(INGEST, batch(&["known", "new"])).status(),
        200,
        "it is marked as known, and lost"
    );
    assert_eq!(sink.points("t").iter().map(|point| point.times).collect::<Vec<_>>(), [1]);

    let view = client.get(&format!("/v2.0/t/views/known?{ALL_TIMES}"));
    assert_eq!((view.status(), view.body().contains("\"count\": 0")), (200, true), "{}", view.body());
    assert_eq!(client.get(&format!("/v2.0/t/views/never?{ALL_TIMES}")).status(), 500);
    assert_eq!(client.post(&format!("/v2.0/t/views?{ALL_TIMES}"), r#"["known"]"#).status(), 500);
}

/// Measured: 20 of 20 rounds. It is what tells of a store that is away.
#[test]
fn while_the_store_is_away_a_late_datapoint_in_a_slot_that_was_not_used_is_a_500_each_time() {
    let sink = start_sink(Options::default());
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, late_row("witness", 700)).status(), 200);
    sink.store_away();
    assert_eq!(client.post(INGEST, late_row("witness", 700)).status(), 200, "its slot was used just now");
    for _ in 0..2 {
        assert_eq!(client.post(INGEST, late_row("witness", 4_000)).status(), 500);
    }
    sink.store_back();
    assert_eq!(client.post(INGEST, late_row("witness", 4_000)).status(), 200);
}

/// Measured: 70 of 100 stored points, in the first answer after the end of an outage.
#[test]
fn the_first_answer_to_a_query_of_many_names_is_short_when_the_store_is_back() {
    let sink = start_sink(Options::default());
    let all: Vec<String> = (0..100).map(|i| format!("m.{i}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, batch(&all)).status(), 200);
    sink.store_away();
    sink.store_back();
    let query = format!("/v2.0/t/views?{ALL_TIMES}");
    let asked = serde_json::to_string(&all).unwrap();
    let first = names(&client.post(&query, &asked)).len();
    assert!((50..95).contains(&first), "{first}");
    assert_eq!(names(&client.post(&query, &asked)).len(), 100);
}

#[test]
fn a_part_of_the_store_loses_always_the_same_names_and_single_rows_are_lost_by_their_place() {
    let sink = scripted("part:50x*");
    let all: Vec<String> = (0..100).map(|i| format!("m.{i}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, batch(&all)).status(), 200);
    let half = sink.points("t").len();
    assert!((30..70).contains(&half), "{half}");
    assert_eq!(client.post(INGEST, batch(&all)).status(), 200);
    let names: std::collections::BTreeSet<_> = sink.points("t").into_iter().map(|point| point.name).collect();
    assert_eq!(names.len(), half);
    assert_eq!(status("miss:1"), (200, 0));
}

#[test]
fn a_query_side_answers_as_its_script_says() {
    let sink = start_sink(Options::default());
    let mut client = Client::connect(&sink);
    assert_eq!(client.post(INGEST, batch(&["a"])).status(), 200);
    sink.reads(Script::parse("500,empty,late:1").unwrap());
    let mut look = || client.post(&format!("/v2.0/t/views?{ALL_TIMES}"), r#"["a"]"#);
    assert_eq!(look().status(), 500);
    assert_eq!(names(&look()), [""; 0]);
    assert_eq!(names(&look()), ["a"]);
    assert_eq!(sink.read(|state| state.looks_seen()), 3);
}
