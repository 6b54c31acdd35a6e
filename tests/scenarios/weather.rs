//! Owns the scenarios of a Blueflood that is slow, flaps, fails at random or takes only so much: it is not attacked, and
//! nothing good is thrown away.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::load::Plan;
use crate::names::BAD;
use crate::sink::{Answer, Post, Request};
use crate::stage::{Expect, Stage, count};

pub fn all_is_well(stage: &mut Stage) {
    let plan = stage.size(Plan::new(200_000, 20_000), Plan::new(20_000, 5_000));
    stage.open(plan, &[], |_| Answer::Ok);
    let posts_max = Some(plan.n / 1_000 + 20);
    stage.settle(Expect { posts_agree: true, posts_max, ..Expect::default() });
}

/// Answers so late for a while.
fn slow(stage: &mut Stage, plan: Plan, late: f64, fault: Duration, options: &[&str]) {
    stage.open(plan, options, move |request| {
        if request.elapsed < fault { Answer::late(late, Answer::Ok) } else { Answer::Ok }
    });
    let drain = Duration::from_secs(90);
    stage.settle(Expect { posts_agree: true, drain, ..Expect::default() });
}

pub fn slow_2_s(stage: &mut Stage) {
    let plan = stage.size(Plan::new(300_000, 20_000), Plan::new(20_000, 4_000));
    let fault = stage.seconds(20.0, 4.0);
    slow(stage, plan, 2.0, fault, &[]);
}

pub fn slow_40_s(stage: &mut Stage) {
    slow(stage, Plan::new(200_000, 10_000), 40.0, Duration::from_secs(45), &["--timeout", "60"]);
}

pub fn never_answers(stage: &mut Stage) {
    stage.open(Plan::new(200_000, 10_000), &["--timeout", "4"], |request| {
        if request.elapsed < Duration::from_secs(25) { Answer::Silence } else { Answer::Ok }
    });
    let posts_max = Some(60 + 200_000 / 1_000);
    stage.settle(Expect { posts_max, ..Expect::default() });
}

pub fn each_second_request_is_reset(stage: &mut Stage) {
    let plan = stage.size(Plan::new(200_000, 10_000), Plan::new(20_000, 4_000));
    stage.open(plan, &[], |request| if request.index % 2 == 1 { Answer::Reset } else { Answer::Ok });
    // Half of them fail, and a payload is a second or 2,000 rows.
    let posts_max = Some(3 * (plan.n / 1_000 + 10));
    stage.settle(Expect { posts_max, ..Expect::default() });
}

pub fn a_close_after_each_answer(stage: &mut Stage) {
    let plan = stage.size(Plan::new(200_000, 10_000), Plan::new(20_000, 4_000));
    stage.open(plan, &[], |_| Answer::OkThenClose);
    let posts_max = Some(plan.n / 1_000 + 20);
    stage.settle(Expect { posts_agree: true, posts_max, ..Expect::default() });
}

pub fn flapping_each_second(stage: &mut Stage) {
    let plan = stage.size(Plan::new(2_000_000, 50_000), Plan::new(40_000, 4_000));
    let fault = stage.seconds(42.0, 11.0);
    stage.open(plan, &[], move |request| {
        let bad = request.elapsed < fault && request.elapsed.as_secs() % 2 == 1;
        if bad { Answer::Status(503) } else { Answer::Ok }
    });
    let posts_max = Some(plan.n / 1_000 + 40 * fault.as_secs() as usize);
    stage.settle(Expect { posts_max, ..Expect::default() });
}

// === A share of the answers is 503 ===

fn brown_out(stage: &mut Stage, share: f64, status: u16, fault: Duration, options: &[&str]) {
    let rate = stage.size(4_000, 2_000);
    let seconds = fault.as_secs() as usize;
    let plan = Plan::new(rate * seconds, rate);
    let rng = Mutex::new(stage.rng.fork());
    stage.open(plan, options, move |request| {
        let fails = request.elapsed < fault && rng.lock().unwrap().f64() < share;
        if fails { Answer::Status(status) } else { Answer::Ok }
    });
    stage.expect_all_sent(fault + Duration::from_secs(30));
    stage.pass(fault.saturating_sub(stage.sink.elapsed()));
    let posts = stage.sink.posts(Duration::ZERO, fault);
    let passed = posts.iter().filter(|post| post.passed).count();
    stage.note("posts_of_passed", format!("{}/{passed}", posts.len()));
    // Luck is allowed for: four times the deviation of so many tries.
    let expected = passed.max(1) as f64 / (1.0 - share);
    let luck = 4.0 * (passed.max(1) as f64).sqrt() / (1.0 - share);
    let most = 1.5 * expected + luck;
    stage.check(posts.len() as f64 <= most, || {
        format!("{} POSTs for {passed} payloads that passed, at most {most:.0} are right", posts.len())
    });
    // And these were payloads, not crumbs: at most three a second are cut at this rate.
    let crumbs = plan.n / 1_000 + seconds + 20;
    let passed = stage.sink.posts(Duration::ZERO, Duration::MAX).iter().filter(|post| post.passed).count();
    stage.check(passed <= crumbs, || format!("{passed} requests carried what {crumbs} could: crumbs"));
    stage.settle(Expect::default());
}

const EAGER: [&str; 2] = ["--backoff_max", "1"];

pub fn brown_out_50(stage: &mut Stage) {
    let fault = stage.seconds(50.0, 10.0);
    brown_out(stage, 0.5, 503, fault, &EAGER);
}

pub fn brown_out_80(stage: &mut Stage) {
    brown_out(stage, 0.8, 503, Duration::from_secs(60), &EAGER);
}

pub fn brown_out_80_of_500(stage: &mut Stage) {
    brown_out(stage, 0.8, 500, Duration::from_secs(60), &EAGER);
}

pub fn brown_out_90(stage: &mut Stage) {
    let fault = stage.seconds(70.0, 15.0);
    brown_out(stage, 0.9, 503, fault, &EAGER);
}

pub fn brown_out_99(stage: &mut Stage) {
    brown_out(stage, 0.99, 503, Duration::from_secs(75), &EAGER);
}

pub fn one_of_three_backends_is_down(stage: &mut Stage) {
    stage.open(Plan::new(200_000, 4_000), &[], |request| {
        let down = request.index.is_multiple_of(3) && request.elapsed < Duration::from_secs(55);
        if down { Answer::Status(502) } else { Answer::Ok }
    });
    // 2,000 rows or a second each, and half as many again.
    stage.settle(Expect { posts_max: Some(300), ..Expect::default() });
}

// === A limited capacity ===

/// What a limited Blueflood says beyond its limit, and what its limit is.
#[derive(Clone, Copy)]
struct Limit {
    a_second: f64,
    /// How many it takes at once after a rest: 1 takes them at even distances only, as nginx' `limit_req` does.
    burst: f64,
    status: u16,
    /// Rows of a whole payload, as the daemon is set.
    max_rows: usize,
}

fn limited(stage: &mut Stage, limit: Limit, plan: Plan, seconds: u64, options: &[&str]) {
    let bucket = Mutex::new((limit.burst, Duration::ZERO));
    let fault = Duration::from_secs(seconds);
    stage.open(plan, options, move |request| {
        if request.elapsed >= fault {
            return Answer::Ok;
        }
        let mut bucket = bucket.lock().unwrap();
        let (tokens, at) = *bucket;
        let more = request.elapsed.saturating_sub(at).as_secs_f64() * limit.a_second;
        let tokens = (tokens + more).min(limit.burst);
        let takes = tokens >= 1.0;
        *bucket = (if takes { tokens - 1.0 } else { tokens }, request.elapsed.max(at));
        if takes { Answer::Ok } else { Answer::Status(limit.status) }
    });
    stage.pass(fault.saturating_sub(stage.sink.elapsed()));
    // The limit is learned first.
    let warm = fault / 4;
    let posts = stage.sink.posts(warm, fault);
    // Crumbs pass too, but are no payloads.
    let whole = |posts: &[Post]| posts.iter().filter(|post| post.good_rows >= limit.max_rows / 4).count();
    let passed = whole(&posts);
    let possible = limit.a_second * (fault - warm).as_secs_f64();
    stage.note("posts_passed_possible", format!("{}/{passed}/{possible:.0}", posts.len()));
    let rows: usize = posts.iter().map(|post| post.good_rows).sum();
    stage.note("rows_passed", rows);
    // A busy machine answers late: with `make test` less is asked.
    let share = stage.size(0.7, 0.5);
    stage.check(passed as f64 >= (share * possible).floor(), || {
        format!("{passed} of {possible:.0} possible payloads passed, though there was a backlog; {rows} rows in all")
    });
    stage.check(posts.len() <= 2 * passed + 20, || {
        format!("{} POSTs for {passed} payloads that passed", posts.len())
    });
    // While it is learned, too, nobody is attacked: ten times the limit, at most.
    let early = stage.sink.posts(Duration::ZERO, warm).len();
    let most = 50 + (10.0 * limit.a_second * warm.as_secs_f64()) as usize;
    stage.check(early <= most, || {
        format!("{early} POSTs in the first {} s, at most {most} are right", warm.as_secs())
    });
    let drain = Duration::from_secs(150);
    stage.settle(Expect { drain, ..Expect::default() });
}

/// All settings at their defaults.
const DEFAULTS: [&str; 4] = ["-i", "30", "--backoff_max", "60"];

pub fn limited_half_503(stage: &mut Stage) {
    let limit = Limit { a_second: 0.5, burst: 1.0, status: 503, max_rows: 2_000 };
    limited(stage, limit, Plan::new(480_000, 4_000), 120, &DEFAULTS);
}

pub fn limited_half_429(stage: &mut Stage) {
    let limit = Limit { a_second: 0.5, burst: 1.0, status: 429, max_rows: 2_000 };
    limited(stage, limit, Plan::new(480_000, 4_000), 120, &DEFAULTS);
}

pub fn limited_3_429(stage: &mut Stage) {
    let limit = Limit { a_second: 3.0, burst: 1.0, status: 429, max_rows: 500 };
    let options = ["-i", "30", "--backoff_max", "60", "--max_rows", "500"];
    limited(stage, limit, Plan::new(150_000, 2_500), 60, &options);
}

pub fn limited_10_503(stage: &mut Stage) {
    let limit = Limit { a_second: stage.size(10.0, 4.0), burst: 1.0, status: 503, max_rows: 100 };
    let options = ["-i", "30", "--backoff_max", "60", "--max_rows", "100"];
    let (plan, seconds) = stage.size((Plan::new(100_000, 2_500), 40), (Plan::new(18_000, 1_000), 18));
    limited(stage, limit, plan, seconds, &options);
}

pub fn limited_50_429_in_bursts(stage: &mut Stage) {
    let limit = Limit { a_second: 50.0, burst: 10.0, status: 429, max_rows: 100 };
    let options = ["-i", "30", "--backoff_max", "60", "--max_rows", "100"];
    limited(stage, limit, Plan::new(400_000, 10_000), 40, &options);
}

// === Answers that mislead ===

/// Answers that ask for years of patience are given the patience that is set.
pub fn retry_after_years(stage: &mut Stage) {
    let plan = stage.size(Plan::new(50_000, 10_000), Plan::new(10_000, 4_000));
    stage.open(plan, &[], |request| match request.index {
        0 => Answer::RetryAfter(429, "99999999999"),
        1 => Answer::RetryAfter(503, "Fri, 31 Dec 9999 23:59:59 GMT"),
        2 => Answer::RetryAfter(429, "3600"),
        _ => Answer::Ok,
    });
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

pub fn retry_after_3_s(stage: &mut Stage) {
    stage.open(Plan::new(100_000, 10_000), &["--backoff_max", "60"], |request| {
        let early = request.elapsed < Duration::from_secs(15);
        if early { Answer::RetryAfter(429, "3") } else { Answer::Ok }
    });
    stage.settle(Expect { posts_max: Some(140), ..Expect::default() });
}

/// A 207 with an entry that names no row says that something was not taken, and not what.
pub fn a_207_that_names_no_row(stage: &mut Stage) {
    let plan = Plan::new(stage.size(40_000, 10_000), 4_000);
    let unnamed = r#"{"errors":[{"tenantId":"acme","timestamp":null,"metricName":"","source":null,"message":"Cannot store"}]}"#;
    stage.open(
        plan,
        &[],
        move |request| {
            if request.index < 3 { Answer::Says(207, unnamed.to_owned()) } else { Answer::Ok }
        },
    );
    stage.settle(Expect { posts_agree: true, ..Expect::default() });
}

/// The same, and beside it the entry of a row that is bad.
pub fn a_207_that_names_one_row_and_not_another(stage: &mut Stage) {
    fn name(i: usize) -> String {
        if i == 7 { format!("{BAD}.7") } else { format!("a.{i}") }
    }
    let plan = Plan::new(8_000, 4_000).named(name);
    stage.open(plan, &[], |request| match request.rows.iter().find(|row| row.name.starts_with(BAD)) {
        Some(bad) if request.rows.len() > 1 => {
            let named = format!(
                r#"{{"tenantId":"acme","timestamp":{},"metricName":"{}","source":"metricValue","message":"poison"}}"#,
                bad.time_ms, bad.name
            );
            let unnamed = r#"{"tenantId":"acme","timestamp":null,"metricName":"","source":null,"message":"Cannot store"}"#;
            Answer::Says(207, format!(r#"{{"errors":[{named},{unnamed}]}}"#))
        }
        Some(_) => Answer::Refuse(BAD),
        None => Answer::Ok,
    });
    stage.settle(Expect { refused: 1, posts_agree: true, ..Expect::default() });
}

/// What Identity v2.0 says when it gives a token.
const GRANT: &str = r#"{"access":{"token":{"id":"t0ken","expires":"2099-12-14T22:54:49.574-05:00","tenant":{"id":"acme","name":"x"}}}}"#;

/// While there is no token nothing is sent, and Blueflood is not to blame.
pub fn keystone_is_away(stage: &mut Stage) {
    let plan = Plan::new(20_000, 4_000);
    // The port is ours, and nobody answers there: it is bound, and does not listen yet.
    let keystone = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    keystone.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = keystone.local_addr().unwrap().as_socket().unwrap();
    let url = format!("http://{address}/v2.0/tokens");
    let options = ["--user", "bob", "--key", "k3y", "--auth_url", &url];
    stage.open(plan, &options, |_| Answer::Ok);
    let failures = |stats: &serde_json::Value| stats["keystone"]["failures"].as_u64() >= Some(3);
    stage.expect(Duration::from_secs(60), "Keystone is asked three times", failures);
    stage.expect_all_sent(Duration::from_secs(30));
    let stats = stage.stats();
    let (posts, seen) = (stats["forwarder"]["posts"].as_u64(), stage.sink.requests());
    stage.check(posts == Some(0) && seen == 0, || {
        format!("it counts {posts:?} POSTs without a token, Blueflood saw {seen}")
    });
    let blamed = stage.daemon().times_said("Blueflood does not take metrics");
    stage.check(blamed == 0, || "the log blames Blueflood, but it is Keystone that is away".to_owned());
    stage.check(count(&stats, "delivered") == 0, || "something is delivered without a token".to_owned());

    keystone.listen(16).unwrap();
    let keystone = TcpListener::from(keystone);
    std::thread::spawn(move || {
        for mut stream in keystone.incoming().flatten() {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}}}") {
                match stream.read(&mut buffer) {
                    Ok(n @ 1..) => request.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let length = GRANT.len();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {length}\r\n\r\n{GRANT}");
        }
    });
    let drain = Duration::from_secs(120);
    stage.settle(Expect { posts_agree: true, drain, ..Expect::default() });
}

/// A 404 is a setting that is wrong, not a row.
pub fn misconfigured_404(stage: &mut Stage) {
    stage.open(Plan::new(100_000, 10_000), &[], |request: &Request<'_>| {
        if request.elapsed < Duration::from_secs(12) { Answer::Status(404) } else { Answer::Ok }
    });
    stage.settle(Expect { posts_max: Some(160), ..Expect::default() });
}
