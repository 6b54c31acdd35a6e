//! What `send` writes, as the receiver sees it. It never trusts what `send` says about itself.

use blueflood_forward::commands::send::{Protocol, Sender, Sent, command, run, send_lines};
use std::io::{BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::thread;

/// Everything that one connection to a new port brings, and the port.
fn receiver() -> (String, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    (to, thread::spawn(move || read_all(listener.accept().unwrap().0)))
}

fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What `send` writes for an input, how it went, and what it complained about.
fn sent(protocol: Protocol, input: &str) -> (Vec<u8>, Sent, Vec<String>) {
    let (to, received) = receiver();
    let mut sender = Sender::connect(&to, protocol).unwrap();
    let mut complaints = Vec::new();
    let input = BufReader::with_capacity(1 << 20, input.as_bytes());
    let outcome = send_lines(&mut sender, input, |line| complaints.push(line.to_owned())).unwrap();
    drop(sender);
    (received.join().unwrap(), outcome, complaints)
}

/// The frames of a pickle stream.
fn frames(mut bytes: &[u8]) -> Vec<Vec<(String, (f64, f64))>> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        assert!(frame.starts_with(b"\x80\x02"), "protocol 2");
        frames.push(serde_pickle::from_slice(frame, serde_pickle::DeOptions::new()).unwrap());
        bytes = rest;
    }
    frames
}

#[test]
fn one_datapoint_goes_as_a_pickle() {
    let (to, received) = receiver();
    let matches =
        command().try_get_matches_from(["send", "--to", &to, "a.b c", "-1.5", "1700000000"]).unwrap();
    assert_eq!(format!("{:?}", run(&matches)), format!("{:?}", std::process::ExitCode::SUCCESS));
    assert_eq!(frames(&received.join().unwrap()), [[("a.b c".to_owned(), (1.7e9, -1.5))]]);
}

#[test]
fn lines_go_as_they_were_written() {
    let (bytes, outcome, _) = sent(Protocol::Line, "a.b 1e300 1700000000.5\r\n\n  c\t0.10  5");
    assert_eq!(String::from_utf8_lossy(&bytes), "a.b 1e300 1700000000.5\nc 0.10 5\n");
    assert_eq!(outcome, Sent { points: 2, bad_lines: 0 });
}

#[test]
fn pickles_carry_500_each() {
    let input: String = (0..1200).map(|number| format!("m.{number} {number} 1700000000\n")).collect();
    let (bytes, outcome, _) = sent(Protocol::Pickle, &input);
    let frames = frames(&bytes);
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 200]);
    assert_eq!(frames[2][199], ("m.1199".to_owned(), (1.7e9, 1199.0)));
    assert_eq!(outcome.points, 1200);
}

#[test]
fn without_a_timestamp_it_is_now() {
    let (bytes, _, _) = sent(Protocol::Pickle, "a 1");
    let now_s = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let time = frames(&bytes)[0][0].1.0;
    assert!((now_s - 30.0..=now_s).contains(&time), "{time}");
}

#[test]
fn a_bad_line_is_said_and_the_rest_is_sent() {
    let long = "x".repeat(40_000);
    let (bytes, outcome, complaints) =
        sent(Protocol::Line, &format!("a 1 1\nb two 2\n{long} 1 1\nc 3 3\nd\n"));
    assert_eq!(String::from_utf8_lossy(&bytes), "a 1 1\nc 3 3\n");
    assert_eq!(outcome, Sent { points: 2, bad_lines: 3 });
    assert_eq!(complaints[0], "line 2 is not sent: the value \"two\" is no number");
    assert_eq!(complaints[1], "line 3 is not sent: it is over 16384 bytes long");
    assert!(complaints[2].starts_with("line 5 is not sent"));
}

#[test]
fn unix_sockets_and_datagrams_work_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    let listener = UnixListener::bind(&path).unwrap();
    let received = thread::spawn(move || read_all(listener.accept().unwrap().0));
    let to = format!("unix:{}", path.display());
    let mut sender = Sender::connect(&to, Protocol::Line).unwrap();
    send_lines(&mut sender, BufReader::new(&b"a 1 1\n"[..]), |_| {}).unwrap();
    drop(sender);
    assert_eq!(received.join().unwrap(), b"a 1 1\n");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = format!("udp:{}", socket.local_addr().unwrap());
    let mut sender = Sender::connect(&to, Protocol::Line).unwrap();
    let input = "some.name 1 1\n".repeat(200);
    send_lines(&mut sender, BufReader::new(input.as_bytes()), |_| {}).unwrap();
    let mut datagram = [0; 2000];
    let first = socket.recv(&mut datagram).unwrap();
    assert!((1300..=1400).contains(&first) && datagram[..first].ends_with(b" 1\n"), "{first}");
    assert!(Sender::connect(&to, Protocol::Pickle).is_err());
}

#[test]
fn nobody_there_is_said_with_a_way_out() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Err(error) = Sender::connect(&format!("127.0.0.1:{port}"), Protocol::Pickle) else {
        panic!("who is there?")
    };
    let error = error.to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("--to"), "{error}");
}
