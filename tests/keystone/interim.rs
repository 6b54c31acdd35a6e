//! A box on the way to Keystone and to Blueflood that sends interim answers, as IIS and some proxies do, before each
//! answer of the real ones. It passes everything else on as it is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::real::{Keystone, PASSWORD};
use super::world::World;

const INTERIM: &[u8] =
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";

/// Where the box listens, and how often it said something.
struct Between {
    port: u16,
    said: Arc<AtomicU64>,
}

impl Between {
    fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let between = Self { port: listener.local_addr().expect("an address").port(), said: Arc::default() };
        let said = between.said.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let said = said.clone();
                // Whichever side goes away first ends both.
                std::thread::spawn(move || pass(&client, port, &said));
            }
        });
        between
    }
}

fn pass(client: &TcpStream, port: u16, said: &AtomicU64) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port))?;
    let asked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = copy(client, &server, || asked.store(true, Ordering::SeqCst));
            server.shutdown(Shutdown::Write)
        });
        copy(&server, client, || {
            if asked.swap(false, Ordering::SeqCst) {
                said.fetch_add(1, Ordering::SeqCst);
                let mut to = client;
                let _ = to.write_all(INTERIM);
            }
        })?;
        client.shutdown(Shutdown::Both)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, mut before: impl FnMut()) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        let length = from.read(&mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        before();
        to.write_all(&bytes[..length])?;
    }
}

#[actix_rt::test]
async fn interim_answers_before_those_of_the_real_keystone_and_of_blueflood_are_skipped() {
    let Some(keystone) = Keystone::start().await else { return };
    let world = World::new();
    let to_keystone = Between::before(keystone.port);
    let to_blueflood = Between::before(world.blueflood.port());
    let auth_url = format!("http://127.0.0.1:{}/v3", to_keystone.port);
    let blueflood = format!("http://127.0.0.1:{}", to_blueflood.port);
    let daemon = world.daemon(&[
        "--blueflood",
        &blueflood,
        "--user",
        "admin",
        "--key",
        PASSWORD,
        "--auth_type",
        "v3password",
        "--auth_project",
        "admin",
        "--auth_domain",
        "default",
        "--auth_url",
        &auth_url,
    ]);
    for round in 1..=5 {
        daemon.send_lines(&format!("round.{round}"), 20);
        daemon.expect_delivered(20 * round);
    }
    world.expect_points(100);
    assert!(world.times().values().all(|&times| times == 1), "nothing was sent twice");
    assert!(to_keystone.said.load(Ordering::SeqCst) >= 1 && to_blueflood.said.load(Ordering::SeqCst) >= 5);
    let ended = daemon.stop();
    assert!(
        !ended.says("Blueflood does not take metrics") && !ended.says("Keystone gives no token"),
        "{ended:#?}"
    );
}
