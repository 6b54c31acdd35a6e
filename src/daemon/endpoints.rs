//! Owns the endpoints: the socket of each, and the listener that takes connections there. A socket outlives its listener:
//! a reload hands it on where the endpoint stays. It never decides which endpoints there are.

use std::sync::Arc;

use actix_rt::Arbiter;
use actors::core::endpoint::{Endpoint, Transport};
use actors::core::protocol::Protocol;
use actors::listener::socket::Bound;
use actors::listener::{self, Listener, ListenerStats};
use actors::supervisor::{Storms, Supervised};
use listenfd::ListenFd;
use tokio::sync::watch;

/// An endpoint whose socket is bound.
pub(super) struct BoundEndpoint {
    transport: Transport,
    protocol: Protocol,
    socket: Arc<Bound>,
    /// What it looks like from outside.
    pub(super) stats: Arc<ListenerStats>,
}

impl BoundEndpoint {
    /// Binds every endpoint, or takes the socket over that one of `open` has for the same address: all of them or
    /// none. `passed` are the sockets that systemd bound.
    ///
    /// # Errors
    /// Which endpoint cannot be had, and what to do.
    pub(super) fn bind_all(
        endpoints: &[Endpoint],
        protocol: Protocol,
        open: &[RunningListener],
        mut passed: ListenFd,
    ) -> Result<Vec<Self>, String> {
        endpoints.iter().map(|endpoint| Self::bind(endpoint, protocol, open, &mut passed)).collect()
    }

    fn bind(
        endpoint: &Endpoint,
        protocol: Protocol,
        open: &[RunningListener],
        passed: &mut ListenFd,
    ) -> Result<Self, String> {
        let is_there = |open: &&RunningListener| open.endpoint.transport == endpoint.transport;
        let socket = match open.iter().find(is_there) {
            Some(open) => open.endpoint.socket.clone(),
            None => Arc::new(Bound::bind(endpoint, passed).map_err(|error| error.to_string())?),
        };
        let protocol = Protocol::chosen(endpoint.protocol, protocol, socket.takes_datagrams()).ok_or_else(|| {
            format!(
                "cannot listen on {endpoint}: this socket takes datagrams, which carry lines only; leave protocol out"
            )
        })?;
        let stats = Listener::stats(&socket, protocol, endpoint.allow.clone());
        Ok(Self { transport: endpoint.transport.clone(), protocol, socket, stats })
    }

    /// Whether a listener of `other` does as well.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.transport == other.transport
            && self.protocol == other.protocol
            && self.stats.allow == other.stats.allow
    }
}

/// An endpoint with its listener.
pub(super) struct RunningListener {
    pub(super) endpoint: BoundEndpoint,
    pub(super) actor: Supervised<Listener>,
    stop: watch::Sender<bool>,
}

impl RunningListener {
    /// Starts the listener of an endpoint.
    pub(super) fn start(endpoint: BoundEndpoint, common: &listener::Common, storms: &Storms) -> Self {
        let (stop, stopped) = watch::channel(false);
        let common = listener::Common { stop: stopped, ..common.clone() };
        let (socket, stats, log) = (endpoint.socket.clone(), endpoint.stats.clone(), common.log.clone());
        let ours = !matches!(endpoint.transport, Transport::Systemd { .. });
        let make =
            move |lifeline| Listener::new(lifeline, socket.clone(), ours, stats.clone(), common.clone());
        let name = format!("listener {}", endpoint.stats.endpoint);
        let actor = Supervised::start(name, Arbiter::current(), storms.clone(), log, make);
        Self { endpoint, actor, stop }
    }

    /// Takes no more connections; those that are open read what their sockets hold, and close.
    pub(super) fn accept_no_more(&self) {
        self.stop.send_replace(true);
    }

    /// Ends the listener for good. Its socket closes with it.
    pub(super) fn end(self) {
        self.actor.let_go();
        self.accept_no_more();
        self.actor.retire();
    }
}
