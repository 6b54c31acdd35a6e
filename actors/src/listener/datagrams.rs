//! Owns the reading of a UDP socket: lines in datagrams, many of them a hand-off. It never waits for a sender.

use std::{
    fs,
    net::UdpSocket,
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use slog::{error, warn};
use tokio_util::codec::Decoder;

use super::{Common, ListenerStats, NOT_ALLOWED, connection::DRAIN_MAX, intake::Intake};
use crate::core::{
    datapoint::{Reason, SAMPLE_BYTES_MAX},
    framing::Framing,
    senders::Sender,
};

/// The largest datagram there is, in bytes.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Datagrams that are taken before their rows are handed on.
const BURST_MAX: usize = 256;

/// How often Linux is asked how many datagrams it dropped.
const DROPS_EVERY: Duration = Duration::from_secs(1);

/// Reads datagrams until the daemon stops.
pub(super) async fn receive(socket: &UdpSocket, stats: &Arc<ListenerStats>, common: Common) {
    let inode = inode(socket);
    let socket = match socket.try_clone().and_then(tokio::net::UdpSocket::from_std) {
        Ok(socket) => socket,
        Err(error) => {
            error!(common.log, "cannot listen"; "error" => %error);
            return;
        }
    };
    let mut stop = common.stop.clone();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut ask_drops_at = Instant::now();
    let mut read_until = None;
    loop {
        if let Some(inode) = &inode
            && Instant::now() >= ask_drops_at
        {
            note_kernel_drops(inode, stats, &common);
            ask_drops_at = Instant::now() + DROPS_EVERY;
        }
        let stopping = *stop.borrow();
        if stopping && Instant::now() >= *read_until.get_or_insert_with(|| Instant::now() + DRAIN_MAX) {
            return;
        }
        if !stopping {
            let readable = tokio::select! {
                readable = tokio::time::timeout(DROPS_EVERY, socket.readable()) => readable,
                _ = stop.wait_for(|stop| *stop) => continue,
            };
            if readable.is_err() {
                continue;
            }
        }
        let mut burst = 0;
        let mut intake = Intake::new(stats, &common, Sender::Unix);
        while burst < BURST_MAX {
            // An error here is that of an earlier datagram of ours, and we send none.
            let Ok((length, peer)) = socket.try_recv_from(&mut buffer) else { break };
            burst += 1;
            if !stats.allow.allow(peer.ip()) {
                let sample = buffer.get(..length.min(SAMPLE_BYTES_MAX)).unwrap_or_default();
                stats.turn_away(&common, Reason::NotAllowed, &peer, sample, NOT_ALLOWED);
                continue;
            }
            intake.comes_from(peer.ip().into());
            let mut datagram = BytesMut::from(buffer.get(..length).unwrap_or_default());
            let mut framing = Framing::of_datagram();
            // The end of a datagram ends its last line.
            loop {
                match framing.decode_eof(&mut datagram) {
                    Ok(Some(frame)) => {
                        if intake.take(frame, &peer).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let sample = datagram.get(..SAMPLE_BYTES_MAX).unwrap_or(&datagram);
                        let reason = error.reason().unwrap_or(Reason::Truncated);
                        stats.turn_away(&common, reason, &peer, sample, &error.to_string());
                        break;
                    }
                }
            }
        }
        if intake.hand_off().await.is_err() || (burst == 0 && stopping) {
            return;
        }
    }
}

/// The inode of a socket, by which `/proc/net/udp` names it.
fn inode(socket: &UdpSocket) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
    let name = link.to_str()?;
    Some(name.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

fn note_kernel_drops(inode: &str, stats: &ListenerStats, common: &Common) {
    let Some(drops) = ["/proc/net/udp", "/proc/net/udp6"].iter().find_map(|table| kernel_drops(table, inode))
    else {
        return;
    };
    let before = stats.kernel_drops.swap(drops, Ordering::Relaxed);
    if drops > before {
        warn!(common.log, "the kernel dropped datagrams before they could be read: raise net.core.rmem_max, or let \
                           senders use TCP"; "dropped" => drops.saturating_sub(before));
    }
}

/// The column `drops` of a socket's row in a table of the kernel (`man 5 proc`): the tenth is the inode, the last
/// the drops.
fn kernel_drops(table: &str, inode: &str) -> Option<u64> {
    let text = fs::read_to_string(table).ok()?;
    let row = text.lines().find(|row| row.split_ascii_whitespace().nth(9) == Some(inode))?;
    row.split_ascii_whitespace().last()?.parse().ok()
}
