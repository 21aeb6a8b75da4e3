//! The largest packet that passes unfragmented, found by halving. What may get lost is sent a few times.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::socket;
use super::wire::{DATAGRAM_BYTES_MAX, HELLO_BYTES, MAGIC};
use crate::qualify::stop::Stop;

/// Every path passes it: IPv6 asks for no less.
const LEAST: usize = 1_280;
const TRIES: usize = 5;
const WAIT: Duration = Duration::from_millis(200);

pub struct PathMtu {
    pub path: usize,
    /// What the interface would send.
    pub interface: usize,
}

/// None if not even the smallest comes back: UDP is blocked, or everything is lost.
pub fn find(peer: SocketAddr, stop: &Stop) -> Result<Option<PathMtu>> {
    let any: SocketAddr =
        if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let udp = UdpSocket::bind(any).context("cannot bind")?;
    udp.connect(peer).context("cannot connect over UDP")?;
    socket::never_fragment(&udp).context("cannot set don't-fragment")?;
    udp.set_read_timeout(Some(WAIT))?;
    let interface = socket::mtu(&udp).context("cannot ask for the MTU")?;
    let headers = if peer.is_ipv4() { 28 } else { 48 };
    let mut sequence = 0;
    let mut passes = |packet: usize| passes(&udp, packet - headers, &mut sequence, stop);
    if !passes(LEAST)? {
        return Ok(None);
    }
    let (mut good, mut bad) = (LEAST, interface.min(DATAGRAM_BYTES_MAX + headers).max(LEAST) + 1);
    while bad - good > 1 {
        // The most likely answer first.
        let middle = if bad > interface { bad - 1 } else { good + (bad - good) / 2 };
        if passes(middle)? { good = middle } else { bad = middle }
    }
    Ok(Some(PathMtu { path: good, interface: interface.min(DATAGRAM_BYTES_MAX + headers) }))
}

fn passes(udp: &UdpSocket, payload: usize, sequence: &mut u64, stop: &Stop) -> Result<bool> {
    let mut datagram = vec![0; payload];
    let mut answer = [0; HELLO_BYTES];
    for _ in 0..TRIES {
        stop.check()?;
        *sequence += 1;
        datagram[..8].copy_from_slice(MAGIC);
        datagram[8..HELLO_BYTES].copy_from_slice(&sequence.to_be_bytes());
        match udp.send(&datagram) {
            Ok(_) => {}
            // Larger than the interface sends.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
            // An answer to an earlier one: nobody listens.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error).context("cannot send a datagram"),
        }
        let sent = Instant::now();
        while sent.elapsed() < WAIT {
            match udp.recv(&mut answer) {
                Ok(HELLO_BYTES) if answer[..] == datagram[..HELLO_BYTES] => return Ok(true),
                // A late answer to an earlier one.
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Ok(false)
}
