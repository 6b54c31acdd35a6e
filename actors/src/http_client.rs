//! Owns the connections on the way out: how one is made, encrypted or not, and what awc sees of it. It never decides
//! what an answer means.
//!
//! awc reads no connection itself but through a [`Wire`], which lets [`AnswerHeads`] look at the head of each answer. So
//! encryption is made here too: what is below it shows nobody a head. awc is always told an `http` URL ([`told_url`]).

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, ConnectorService};
use actix_web::dev::Service;
use awc::{Connector, http::Uri};
use futures_util::future::LocalBoxFuture;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::core::answer_head::{AnswerHeads, Faulty};

/// How long TCP may take for a connection, and the TLS handshake likewise.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long the end of an encrypted connection may take to be told.
const GOODBYE_MAX: Duration = Duration::from_secs(3);

/// What is read at once while a head is looked for, in bytes. What follows a head is read by awc itself.
const READ_BYTES: usize = 4096;

/// A connector for awc to one URL.
pub fn connector(
    url: &str,
    tls: Arc<ClientConfig>,
) -> Connector<
    impl Service<ConnectInfo<Uri>, Response = Connection<Uri, Wire>, Error = ConnectError> + Clone + use<>,
> {
    let tls = is_encrypted(url).then(|| TlsConnector::from(tls));
    // Both steps have their own bound here: this one is never reached.
    let patience = CONNECT_MAX.saturating_mul(3);
    Connector::new()
        .connector(Wires { tls, tcp: ConnectorService::default(), pool: Pool::default() })
        .timeout(patience)
}

/// The URL that awc is told: encryption is none of its business. `Host` is the same, for the port is known to be
/// the usual one.
pub fn told_url(url: &str) -> String {
    if !is_encrypted(url) {
        return url.to_owned();
    }
    let Ok(uri) = url.parse::<Uri>() else { return url.to_owned() };
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(443)) else { return url.to_owned() };
    format!("http://{host}:{port}{}", uri.path_and_query().map_or("/", |path| path.as_str()))
}

/// Whether a request can be made of a URL.
///
/// # Errors
/// Why not, in the words of who would make it.
pub fn check_url(url: &str) -> Result<(), String> {
    let uri = url.parse::<Uri>().map_err(|error| error.to_string())?;
    if uri.host().is_none_or(str::is_empty) { Err("it has no host".to_owned()) } else { Ok(()) }
}

fn is_encrypted(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

tokio::task_local! {
    /// Whose request this task works on.
    static USED: Used;
}

/// What is known of the connection that a request used: who sends it makes one, and works [`Used::within`] it.
#[derive(Debug, Clone, Default)]
pub struct Used(Rc<Use>);

#[derive(Debug, Default)]
struct Use {
    way: Cell<Way>,
    heard: Cell<bool>,
    pool: RefCell<Option<Pool>>,
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// There is no connection yet.
    #[default]
    Connecting,
    /// It is the first on its connection.
    Fresh,
    /// Its connection served others before.
    Reused,
}

impl Used {
    /// Does something with this in view of the connections that it uses.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.way.set(Way::Connecting);
        self.0.heard.set(false);
        USED.scope(self.clone(), work).await
    }

    /// How far the request came.
    pub fn way(&self) -> Way {
        self.0.way.get()
    }

    /// Whether its connection was silent on an earlier use's account only, as far as can be known: it had served
    /// others, and not a byte of an answer came.
    pub fn is_stale(&self) -> bool {
        self.way() == Way::Reused && !self.0.heard.get()
    }

    /// Lets no later request use a connection that is idle now: they may all be dead.
    pub fn distrust_idle(&self) {
        if let Some(pool) = &*self.0.pool.borrow() {
            pool.0.set(pool.0.get().saturating_add(1));
        }
    }
}

/// All connections of one client: how often the idle ones were distrusted.
#[derive(Debug, Clone, Default)]
struct Pool(Rc<Cell<u64>>);

/// Makes connections.
#[derive(Clone)]
struct Wires {
    tls: Option<TlsConnector>,
    tcp: ConnectorService,
    pool: Pool,
}

impl Service<ConnectInfo<Uri>> for Wires {
    type Response = Connection<Uri, Wire>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_web::dev::always_ready!();

    fn call(&self, whereto: ConnectInfo<Uri>) -> Self::Future {
        let (tcp, tls, pool) = (self.tcp.call(whereto), self.tls.clone(), self.pool.clone());
        Box::pin(async move {
            let (stream, uri) = in_time(tcp).await??.into_parts();
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(tls) => {
                    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                    let name = ServerName::try_from(host).map_err(|error| {
                        ConnectError::Io(io::Error::new(io::ErrorKind::InvalidInput, error))
                    })?;
                    let stream = in_time(tls.connect(name, stream)).await?.map_err(ConnectError::Io)?;
                    Stream::Encrypted(Box::new(stream))
                }
            };
            Ok(Connection::new(uri, Wire::new(stream, pool)))
        })
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, ConnectError> {
    let late = || {
        let text = format!("no connection within {} s", CONNECT_MAX.as_secs());
        ConnectError::Io(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    tokio::time::timeout(CONNECT_MAX, step).await.map_err(|_| late())
}

/// What carries the bytes.
enum Stream {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
    /// It is saying goodbye elsewhere.
    Gone,
}

/// A connection as awc sees it.
pub struct Wire {
    stream: Stream,
    heads: AnswerHeads,
    /// What was read and goes on.
    ready: Vec<u8>,
    /// How much of it is gone.
    given: usize,
    pool: Pool,
    /// How often the pool was distrusted when the last request began.
    trusted: u64,
    last: Option<Used>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("requests", &self.heads.requests()).finish_non_exhaustive()
    }
}

impl Wire {
    fn new(stream: Stream, pool: Pool) -> Self {
        let trusted = pool.0.get();
        Self { stream, heads: AnswerHeads::default(), ready: Vec::new(), given: 0, pool, trusted, last: None }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Plain(stream) => Some(stream),
            Stream::Encrypted(stream) => Some(stream.get_ref().0),
            Stream::Gone => None,
        }
    }

    /// A request is about to be sent, if none is under way.
    fn begin(&mut self) {
        if !self.heads.is_body() {
            return;
        }
        self.trusted = self.pool.0.get();
        self.last = USED.try_with(Used::clone).ok();
        if let Some(Used(used)) = &self.last {
            used.way.set(if self.heads.requests() == 0 { Way::Fresh } else { Way::Reused });
            used.pool.replace(Some(self.pool.clone()));
        }
    }

    /// Whether somebody else than the last user looks whether this connection is still good, as awc does before it
    /// uses one again, and it is not.
    fn is_distrusted(&self) -> bool {
        let Some(last) = &self.last else { return false };
        let by_another = USED.try_with(|used| !Rc::ptr_eq(&used.0, &last.0)).unwrap_or(false);
        by_another && self.trusted < self.pool.0.get()
    }

    /// Gives what is ready; whether there was any.
    fn give(&mut self, to: &mut ReadBuf<'_>) -> bool {
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let piece = rest.get(..to.remaining()).unwrap_or(rest);
        to.put_slice(piece);
        self.given = self.given.saturating_add(piece.len());
        let gave = !piece.is_empty();
        if self.given >= self.ready.len() {
            self.ready.clear();
            self.given = 0;
        }
        gave
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.is_distrusted() || wire.give(to) {
            return Poll::Ready(Ok(()));
        }
        loop {
            if wire.heads.is_body() {
                return read(&mut wire.stream, cx, to);
            }
            let mut bytes = [0; READ_BYTES];
            let mut piece = ReadBuf::new(&mut bytes);
            match read(&mut wire.stream, cx, &mut piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if piece.filled().is_empty() => {
                    return Poll::Ready(wire.heads.ended().map_err(faulty));
                }
                Poll::Ready(Ok(())) => {}
            }
            if let Some(Used(used)) = &wire.last {
                used.heard.set(true);
            }
            if let Err(error) = wire.heads.took(piece.filled(), &mut wire.ready) {
                return Poll::Ready(Err(faulty(error)));
            }
            if wire.give(to) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// What went wrong with an answer's head, if that is what an error is about.
pub fn faulty_head(error: &io::Error) -> Option<Faulty> {
    error.get_ref()?.downcast_ref().copied()
}

fn faulty(error: Faulty) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn read(stream: &mut Stream, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    match stream {
        Stream::Plain(stream) => Pin::new(stream).poll_read(cx, to),
        Stream::Encrypted(stream) => Pin::new(stream).poll_read(cx, to),
        Stream::Gone => Poll::Ready(Ok(())),
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        // Even if nothing can be written: that is told of this request too.
        wire.begin();
        let written = match &mut wire.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        if let Poll::Ready(Ok(length)) = written {
            wire.heads.sent(bytes.get(..length).unwrap_or(bytes));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl ActixStream for Wire {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.tcp().map_or(Poll::Ready(Ok(Ready::EMPTY)), |tcp| ActixStream::poll_read_ready(tcp, cx))
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.tcp().map_or(Poll::Ready(Ok(Ready::EMPTY)), |tcp| ActixStream::poll_write_ready(tcp, cx))
    }
}

/// The other side of an encrypted connection is told that it ends by will: it would take it for an attack.
impl Drop for Wire {
    fn drop(&mut self) {
        let Stream::Encrypted(mut stream) = std::mem::replace(&mut self.stream, Stream::Gone) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Who does not take it in this time has to do without.
                let _ = tokio::time::timeout(GOODBYE_MAX, stream.shutdown()).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awc_is_told_where_and_nothing_of_encryption() {
        for (url, told) in [
            ("http://h:19000/v2.0/a/ingest", "http://h:19000/v2.0/a/ingest"),
            ("https://h/v3/auth/tokens", "http://h:443/v3/auth/tokens"),
            ("HTTPS://h:8443", "http://h:8443/"),
            ("https://[::1]:5000/v3?x=y", "http://[::1]:5000/v3?x=y"),
            ("https://", "https://"),
            ("", ""),
        ] {
            assert_eq!(told_url(url), told);
        }
    }
}
