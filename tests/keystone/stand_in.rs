//! Owns a server that answers as it is told, byte for byte, plain or over TLS. Never answers the same connection twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The first byte of a client that speaks TLS.
const TLS_HANDSHAKE: u8 = 22;

/// An answer that never ends.
pub const STALLS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{";

/// A server on a port of its own, until it is dropped.
pub struct StandIn {
    pub port: u16,
    answers: Arc<Mutex<VecDeque<String>>>,
    requests: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl StandIn {
    /// Answers with 503 until it is told otherwise.
    pub async fn start() -> Self {
        Self::start_at(0, None).await
    }

    pub async fn start_at(port: u16, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answers = Arc::<Mutex<VecDeque<String>>>::default();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (next, seen) = (answers.clone(), requests.clone());
        let serving = actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(acceptor) = &acceptor else {
                    serve(stream, &next, &seen).await;
                    continue;
                };
                // A client that does not like us goes away.
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve::<tokio_rustls::server::TlsStream<TcpStream>>(stream, &next, &seen).await;
                }
            }
        });
        Self { port, answers, requests, serving }
    }

    /// What it says next; its last answer is also all that follow.
    pub fn answers(&self, answers: &[&str]) {
        *self.answers.lock().expect("nobody panicked") = answers.iter().copied().map(str::to_owned).collect();
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("nobody panicked").clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answers: &Mutex<VecDeque<String>>,
    requests: &Mutex<Vec<String>>,
) {
    let mut request = Vec::new();
    // All requests here end with the end of their JSON, but for one that is no HTTP.
    while !request.ends_with(b"}}}") {
        match stream.read_buf(&mut request).await {
            Ok(1..) if request.first() == Some(&TLS_HANDSHAKE) => {
                let _ = stream.write_all(http("400 Bad Request", "").as_bytes()).await;
                return;
            }
            Ok(1..) => {}
            _ => return,
        }
    }
    requests.lock().expect("nobody panicked").push(String::from_utf8(request).expect("UTF-8"));
    let answer = {
        let mut answers = answers.lock().expect("nobody panicked");
        match answers.len() {
            0 => http("503 Service Unavailable", ""),
            1 => answers[0].clone(),
            _ => answers.pop_front().expect("there are several"),
        }
    };
    // Who went away meanwhile needs no answer.
    let _ = stream.write_all(answer.as_bytes()).await;
    if answer == STALLS {
        while matches!(stream.read_buf(&mut Vec::new()).await, Ok(1..)) {}
    }
    let _ = stream.shutdown().await;
}

/// An answer of HTTP.
pub fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
