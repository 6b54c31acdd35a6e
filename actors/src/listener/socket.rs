//! Owns the sockets that metrics come in by: how they are bound, and what is said when they cannot be.
//! It never reads from one.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use listenfd::ListenFd;
use rustix::fs::Access;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::tls::Identity;
use crate::core::{
    endpoint::{Endpoint, SystemdDomain, Transport},
    senders::Sender,
};

/// What the kernel may hold of datagrams that we have not read yet, in bytes; it may allow less.
const UDP_RECEIVE_BYTES: usize = 4 << 20;

/// A socket that is bound.
#[derive(Debug)]
pub enum Bound {
    /// A TCP port.
    Tcp(TcpListener),
    /// A TCP port for TLS, and our certificate there.
    Tls(TcpListener, Arc<Identity>),
    /// A UDP port.
    Udp(UdpSocket),
    /// A unix stream socket, and its file. A socket that systemd passed has none: its file is systemd's.
    Unix(Mutex<UnixListener>, Option<SocketFile>),
}

/// The file that a unix socket is reached by.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    mode: u32,
    backlog: u32,
    /// Which file it is, by device and inode: another one may come to have its name.
    made: Mutex<Option<(u64, u64)>>,
}

/// What has become of a unix socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It is there, or this socket has none of ours.
    Here,
    /// Nobody can connect any more.
    Gone,
    /// Who connects there meets somebody else.
    Taken,
}

impl SocketFile {
    fn new(path: &Path, mode: u32, backlog: u32) -> Self {
        Self { path: path.to_owned(), mode, backlog, made: Mutex::new(identity(path)) }
    }

    fn reached(&self) -> Reached {
        match identity(&self.path) {
            found if found == *lock(&self.made) => Reached::Here,
            Some(_) => Reached::Taken,
            None => Reached::Gone,
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a socket cannot be bound.
#[derive(Debug)]
pub struct BindError {
    endpoint: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Socket(io::Error),
    /// What is wrong with a file, in words.
    Files(String),
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Why::Socket(error)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, why } = self;
        let error = match why {
            Why::Files(wrong) => {
                return write!(f, "cannot listen on {endpoint}: {wrong}; correct the file, or the endpoint");
            }
            Why::Socket(error) => error,
        };
        write!(f, "cannot listen on {endpoint}: {error}")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                f.write_str("; stop whatever listens there, or set another --endpoint")
            }
            io::ErrorKind::PermissionDenied => {
                f.write_str("; ports below 1024 and some folders need privileges: set another --endpoint")
            }
            io::ErrorKind::AddrNotAvailable => f.write_str("; interface= must be an address of this host"),
            _ => f.write_str("; set another --endpoint"),
        }
    }
}

impl std::error::Error for BindError {}

impl BindError {
    /// Whether another process listens there.
    pub fn is_in_use(&self) -> bool {
        matches!(&self.why, Why::Socket(error) if error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Whether an endpoint could be bound now. Nobody listens meanwhile, so no sender can connect and lose what it sends.
/// Of the sockets that systemd passes only a start by systemd can tell.
///
/// # Errors
/// [`BindError`], as [`Bound::bind`] would have it.
pub fn could_bind(endpoint: &Endpoint) -> Result<(), BindError> {
    let tried = match &endpoint.transport {
        Transport::Tcp { address, .. } => could_listen(*address).map_err(Why::from),
        Transport::Tls { address, files, .. } => {
            Identity::read(files).map_err(Why::Files).and_then(|_| could_listen(*address).map_err(Why::from))
        }
        Transport::Udp { address } => udp(*address).map(drop).map_err(Why::from),
        Transport::Unix { path, .. } => could_make(path).map_err(Why::from),
        Transport::Systemd { .. } => Ok(()),
    };
    tried.map_err(|why| BindError { endpoint: endpoint.to_string(), why })
}

/// Whether a TCP port could be listened on now.
///
/// # Errors
/// The error with which the system refuses to bind it.
pub fn could_listen(address: SocketAddr) -> io::Result<()> {
    bound(address).map(drop)
}

/// Whether the file of a unix socket could be made.
fn could_make(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() && UnixStream::connect(path).is_err() => {}
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

impl Bound {
    /// Binds the socket of an endpoint, or takes it from those that systemd `passed`.
    ///
    /// # Errors
    /// [`BindError`], which names the endpoint and the fix.
    pub fn bind(endpoint: &Endpoint, passed: &mut ListenFd) -> Result<Self, BindError> {
        bind(&endpoint.transport, passed).map_err(|why| BindError { endpoint: endpoint.to_string(), why })
    }

    /// Whether it takes datagrams: of one that systemd passed, only the socket itself can tell.
    pub fn takes_datagrams(&self) -> bool {
        matches!(self, Bound::Udp(_))
    }

    /// Who we are on it, if it speaks TLS.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Bound::Tls(_, identity) => Some(identity),
            Bound::Tcp(_) | Bound::Unix(..) | Bound::Udp(_) => None,
        }
    }

    /// Takes no more connections, for all who hold this socket.
    pub(super) fn shut(&self) {
        let shut = |socket: socket2::SockRef<'_>| socket.shutdown(std::net::Shutdown::Both);
        // If it cannot be shut, it closes with the process.
        let _ = match self {
            Bound::Tcp(listener) | Bound::Tls(listener, _) => shut(listener.into()),
            Bound::Unix(listener, _) => {
                shut((&*listener.lock().unwrap_or_else(PoisonError::into_inner)).into())
            }
            Bound::Udp(_) => Ok(()),
        };
    }

    /// The same socket for an accept loop of its own.
    pub(super) fn acceptor(&self) -> io::Result<Acceptor> {
        match self {
            Bound::Tcp(listener) => {
                tokio::net::TcpListener::from_std(listener.try_clone()?).map(Acceptor::Tcp)
            }
            Bound::Tls(listener, identity) => tokio::net::TcpListener::from_std(listener.try_clone()?)
                .map(|listener| Acceptor::Tls(listener, identity.clone())),
            Bound::Unix(listener, _) => {
                tokio::net::UnixListener::from_std(lock(listener).try_clone()?).map(Acceptor::Unix)
            }
            Bound::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether it can be reached by a file, if that is how it is reached.
    pub(super) fn reached(&self) -> Reached {
        match self {
            Bound::Unix(_, Some(file)) => file.reached(),
            Bound::Unix(_, None) | Bound::Tcp(_) | Bound::Tls(..) | Bound::Udp(_) => Reached::Here,
        }
    }

    /// Whether somebody may take away the file that it is reached by.
    pub(super) fn has_file(&self) -> bool {
        matches!(self, Bound::Unix(_, Some(_)))
    }

    /// Binds a unix socket anew whose file is gone.
    pub(super) fn bind_anew(&self) -> io::Result<()> {
        let Bound::Unix(listener, Some(file)) = self else { return Ok(()) };
        let anew = unix(&file.path, file.mode, file.backlog)?;
        *lock(&file.made) = identity(&file.path);
        *lock(listener) = anew;
        Ok(())
    }
}

/// The endpoint as it is bound: with the port that the kernel chose, if it was to.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |f: &mut fmt::Formatter<'_>, kind, address: io::Result<SocketAddr>| match address {
            Ok(address) => write!(f, "{kind}:{address}"),
            Err(_) => f.write_str(kind),
        };
        match self {
            Bound::Tcp(listener) => address(f, "tcp", listener.local_addr()),
            Bound::Tls(listener, _) => address(f, "tls", listener.local_addr()),
            Bound::Udp(socket) => address(f, "udp", socket.local_addr()),
            Bound::Unix(listener, _) => match lock(listener).local_addr() {
                Ok(address) => {
                    write!(f, "unix:{}", address.as_pathname().unwrap_or(Path::new("")).display())
                }
                Err(_) => f.write_str("unix"),
            },
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Bound::Unix(_, Some(file)) = self
            && file.reached() == Reached::Here
        {
            // Left behind, it is only a file that the next start takes away.
            let _ = fs::remove_file(&file.path);
        }
    }
}

fn bind(transport: &Transport, passed: &mut ListenFd) -> Result<Bound, Why> {
    Ok(match transport {
        Transport::Tcp { address, backlog } => Bound::Tcp(tcp(*address, *backlog)?),
        Transport::Tls { address, backlog, files } => {
            let identity = Identity::read(files).map_err(Why::Files)?;
            Bound::Tls(tcp(*address, *backlog)?, Arc::new(identity))
        }
        Transport::Udp { address } => Bound::Udp(udp(*address)?),
        Transport::Unix { path, mode, backlog } => {
            let listener = unix(path, *mode, *backlog)?;
            Bound::Unix(Mutex::new(listener), Some(SocketFile::new(path, *mode, *backlog)))
        }
        Transport::Systemd { domain, index } => take(*domain, *index, passed)?,
    })
}

fn tcp(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = bound(address)?;
    listen(&socket, backlog)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that linger must not keep us from starting.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // As much as the kernel allows: what does not fit is dropped before we see it.
    let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BYTES);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn unix(path: &Path, mode: u32, backlog: u32) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listen(&socket, backlog)?;
    Ok(socket.into())
}

/// A socket that is bound already, with the backlog that its unit gave it. Its file, if it has one, is systemd's.
fn take(domain: SystemdDomain, index: u32, passed: &mut ListenFd) -> io::Result<Bound> {
    let why =
        format!("systemd passed {} sockets, and not this one: a socket unit must list it", passed.len());
    let missing = || io::Error::new(io::ErrorKind::NotFound, why);
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    match domain {
        SystemdDomain::Inet | SystemdDomain::Inet6 => {
            // One that is not for datagrams is left where it is. Its buffer is as large as its unit has it, which may be
            // more than we would be allowed.
            if let Ok(Some(socket)) = passed.take_udp_socket(index) {
                socket.set_nonblocking(true)?;
                return Ok(Bound::Udp(socket));
            }
            let listener = passed.take_tcp_listener(index)?.ok_or_else(missing)?;
            listener.set_nonblocking(true)?;
            Ok(Bound::Tcp(listener))
        }
        SystemdDomain::Unix => {
            let listener = passed.take_unix_listener(index)?.ok_or_else(missing)?;
            listener.set_nonblocking(true)?;
            Ok(Bound::Unix(Mutex::new(listener), None))
        }
    }
}

fn listen(socket: &Socket, backlog: u32) -> io::Result<()> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)
}

/// Takes away the socket file of a process that is gone. One that still listens is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => fs::remove_file(path),
        },
        // Anything else is not ours: binding will say that the name is taken.
        _ => Ok(()),
    }
}

/// A socket that accepts connections.
pub(super) enum Acceptor {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// TCP that speaks TLS.
    Tls(tokio::net::TcpListener, Arc<Identity>),
    /// A unix stream socket.
    Unix(tokio::net::UnixListener),
}

/// A connection that was accepted, not yet tied to a thread.
pub(super) enum Accepted {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// TCP that is to speak TLS, of which nothing has been said yet.
    Tls(std::net::TcpStream, Arc<Identity>),
    /// A unix stream socket.
    Unix(UnixStream),
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// A host.
    At(SocketAddr),
    /// A process on this host.
    Local,
}

impl From<Peer> for Sender {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::At(address) => address.ip().into(),
            Peer::Local => Sender::Unix,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::At(address) => address.fmt(f),
            Peer::Local => f.write_str("a process on this host"),
        }
    }
}

impl Acceptor {
    /// The next connection, and who it is.
    pub(super) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Accepted::Tcp(stream.into_std()?), Peer::At(peer)))
            }
            Acceptor::Tls(listener, identity) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Accepted::Tls(stream.into_std()?, identity.clone()), Peer::At(peer)))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream.into_std()?), Peer::Local))
            }
        }
    }
}
