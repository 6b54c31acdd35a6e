//! What stands between us and Blueflood, and answers as HTTP allows though Blueflood never does. Each answer here stopped
//! the delivery, lost the rows' fate, or was told as an outage.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;

use crate::world::*;

/// What a box does with a request.
enum Does {
    /// Writes these bytes, one write each, and reads the next request.
    Says(Vec<String>),
    /// Writes these bytes, and closes.
    SaysAndCloses(String),
    /// Resets the connection.
    Resets,
    /// Does nothing, for as long as its client is patient.
    Stays,
}

fn says(answer: &str) -> Does {
    Does::Says(vec![answer.to_owned()])
}

/// Something on a port that answers the n-th request of the m-th connection (from 1) as it is told.
struct Boxed {
    url: String,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Boxed {
    fn start(does: impl Fn(u64, u64, &str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, opened, does) = (requests.clone(), connections.clone(), Arc::new(does));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = opened.fetch_add(1, Ordering::Relaxed) + 1;
                let (counted, does) = (counted.clone(), does.clone());
                // Whatever goes wrong with it, its client has gone.
                std::thread::spawn(move || serve(&stream, connection, &counted, &*does));
            }
        });
        Self { url, requests, connections }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

fn serve(
    stream: &TcpStream,
    connection: u64,
    requests: &AtomicU64,
    does: &dyn Fn(u64, u64, &str) -> Does,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    for nth in 1.. {
        let body = request(&mut reader)?;
        requests.fetch_add(1, Ordering::Relaxed);
        let mut to = stream;
        match does(connection, nth, &body) {
            Does::Says(pieces) => pieces.iter().try_for_each(|piece| to.write_all(piece.as_bytes())).ok()?,
            Does::SaysAndCloses(text) => return to.write_all(text.as_bytes()).ok(),
            Does::Resets => return SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok(),
            Does::Stays => drop(reader.read_to_end(&mut Vec::new())),
        }
    }
    None
}

/// The body of the next request.
fn request(reader: &mut impl BufRead) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", number)) => length = number.parse().ok()?,
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(String::from_utf8_lossy(&body).into_owned())
}

/// A daemon that POSTs plain JSON there.
fn daemon_to(world: &World, boxed: &Boxed, more: &[&str]) -> Daemon {
    let mut arguments = vec!["--blueflood", boxed.url.as_str(), "--compress", "none"];
    arguments.extend(more);
    world.daemon(&arguments)
}

/// Nothing that an operator would have to look at, to its end: only then is the log whole.
fn expect_calm(daemon: Daemon) {
    let loud = |line: &serde_json::Value| line["level"] == "warning" || line["level"] == "error";
    let loud: Vec<_> = daemon.stop().log.into_iter().filter(loud).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn an_answer_in_any_form_that_http_allows_is_a_delivery_on_the_first_try() {
    let continues = "HTTP/1.1 100 Continue\r\n\r\n";
    let bytewise = |text: String| Does::Says(text.chars().map(String::from).collect());
    let forms: [(&str, &(dyn Fn() -> Does + Sync)); 9] = [
        ("100 in one write", &|| Does::Says(vec![format!("{continues}{OK}")])),
        ("100 in a write of its own", &|| Does::Says(vec![continues.to_owned(), OK.to_owned()])),
        ("102 and 103 byte by byte", &|| {
            bytewise(format!("HTTP/1.1 102 x\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"))
        }),
        ("a dozen times 100", &|| Does::Says(vec![continues.repeat(12), OK.to_owned()])),
        ("a fold", &|| says("HTTP/1.1 200 OK\r\nX-Long: one\r\n two\r\nContent-Length: 0\r\n\r\n")),
        ("HTTP/1.0", &|| Does::SaysAndCloses("HTTP/1.0 200 OK\r\n\r\n".into())),
        ("a body until the close", &|| Does::SaysAndCloses("HTTP/1.1 200 OK\r\n\r\nstored".into())),
        ("chunks with a trailer", &|| {
            says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n")
        }),
        ("its length twice", &|| says("HTTP/1.1 204 x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n")),
    ];
    std::thread::scope(|scope| {
        for (form, does) in forms {
            scope.spawn(move || {
                let world = World::new();
                // Only what does not borrow outlives this thread.
                let answers: Vec<Does> = (0..8).map(|_| does()).collect();
                let answers = std::sync::Mutex::new(answers);
                let boxed = Boxed::start(move |_, _, _| answers.lock().unwrap().pop().unwrap_or(Does::Stays));
                let daemon = daemon_to(&world, &boxed, &[]);
                for round in 1..=3 {
                    daemon.send_lines(&format!("round.{round}"), 2);
                    daemon.expect_delivered(2 * round);
                    assert_eq!(boxed.requests(), round, "{form}");
                }
                expect_calm(daemon);
            });
        }
    });
}

#[test]
fn a_list_of_refused_rows_is_read_to_the_end_of_the_connection() {
    let answer = |_, _, body: &str| {
        let Some(at) = body.find("\"collectionTime\":") else { return says(OK) };
        let time: String =
            body[at..].chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        Does::SaysAndCloses(format!(
            "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 207 Multi-Status\r\nConnection: close\r\n\r\n\
             {{\"errors\":[{{\"tenantId\":\"acme\",\"timestamp\":{time},\"metricName\":\"bad\",\
             \"source\":\"ttlInSeconds\",\"message\":\"no\"}}]}}"
        ))
    };
    let (world, boxed) = (World::new(), Boxed::start(answer));
    let daemon = daemon_to(&world, &boxed, &[]);
    let time = now();
    daemon.send(format!("good 1 {time}\nbad 1 {time}\n"));
    daemon.expect_settled(2);
    assert_eq!((daemon.count("delivered"), daemon.count("refused")), (1, 1));
    let [letter] = &world.dead_letters()[..] else { panic!("{:#?}", world.dead_letters()) };
    assert_eq!((letter.name.as_str(), letter.reason.as_str()), ("bad", "ttlInSeconds"));
}

#[test]
fn an_answer_that_never_comes_to_its_point_is_told_with_its_reason() {
    let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(50);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    each(
        &[
            (many.as_str(), "interim answers"),
            (long.as_str(), "its head is longer"),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "HTTP 101"),
            ("HTTP/1.1 200 OK\r\nContent-Length: none\r\n\r\n", "Content-Length"),
            ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "no HTTP"),
        ],
        |&(answer, why)| {
            let answer = answer.to_owned();
            let (world, boxed) = (World::new(), Boxed::start(move |_, _, _| says(&answer)));
            let daemon = daemon_to(&world, &boxed, &[]);
            daemon.send_lines("kept", 3);
            daemon.expect("told why", |stats| {
                stats["forwarder"]["last_error"]["text"].as_str().is_some_and(|text| text.contains(why))
            });
            assert_eq!(daemon.count("buffered"), 3);
        },
    );
}

#[test]
fn a_page_is_neither_a_delivery_nor_a_refusal_and_is_said() {
    let page = "<!DOCTYPE html><html><body>Please log in</body></html>";
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    let until_close = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{page}");
    // nginx says so of rows that are sent to a port that wants TLS.
    let refusal =
        "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>\r\n";
    let refused = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{refusal}", refusal.len());
    each(&[(whole, false), (until_close, true), (refused, false)], |(answer, closes)| {
        let (answer, closes) = (answer.clone(), *closes);
        let boxed = Boxed::start(
            move |_, _, _| {
                if closes { Does::SaysAndCloses(answer.clone()) } else { says(&answer) }
            },
        );
        let world = World::new();
        let daemon = daemon_to(&world, &boxed, &[]);
        daemon.send_lines("kept", 3);
        daemon.expect("not delivering", |_| {
            let (delivers, why) = daemon.get("/delivering");
            delivers == 503 && why.contains("something else answers at this URL")
        });
        assert_eq!((daemon.count("delivered"), daemon.count("buffered")), (0, 3));
        daemon.kill();
        let daemon = world.daemon(&[]);
        daemon.expect_delivered(3);
    });
}

#[test]
fn a_reset_of_a_connection_that_served_before_is_no_outage() {
    let (world, boxed) =
        (World::new(), Boxed::start(|_, nth, _| if nth == 1 { says(OK) } else { Does::Resets }));
    let daemon = daemon_to(&world, &boxed, &[]);
    for round in 1..=5 {
        daemon.send_lines(&format!("round.{round}"), 2);
        daemon.expect_delivered(2 * round);
    }
    assert_eq!(boxed.connections(), 5);
    expect_calm(daemon);
}

#[test]
fn connections_that_die_in_silence_teach_no_limit() {
    let (world, boxed) =
        (World::new(), Boxed::start(|_, nth, _| if nth == 1 { says(OK) } else { Does::Stays }));
    let daemon = daemon_to(&world, &boxed, &["--timeout", "0.5"]);
    let limit = daemon.stats()["forwarder"]["payload_bytes_max"].clone();
    for round in 1..=4 {
        daemon.send_lines(&format!("round.{round}"), 200);
        daemon.expect_delivered(200 * round);
    }
    assert_eq!(daemon.stats()["forwarder"]["payload_bytes_max"], limit, "{:#?}", daemon.log());
    assert!(boxed.requests() > 4, "some of them were silent");
}
