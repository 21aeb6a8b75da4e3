//! The side that answers. It counts and echoes what it is sent, keeps nothing, and answers a datagram with a short one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::stop::Stop;
use super::wire::{DATAGRAM_BYTES_MAX, HELLO_BYTES, Kind, MAGIC, PING_BYTES};

/// How soon it sees that it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A peer that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const CONNECTIONS_MAX: usize = 256;

pub struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    pub fn bind(address: &str) -> Result<Self> {
        let tcp = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let udp = UdpSocket::bind(tcp.local_addr()?).with_context(|| format!("cannot listen on {address} over UDP"))?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Self { tcp, udp })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Until it is asked to stop.
    pub fn run(&self, stop: &Stop) {
        let open = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| self.answer_datagrams(stop));
            while !stop.is_asked() {
                let Ok((stream, _)) = self.tcp.accept() else {
                    // Nobody there, or a client that was gone before it was taken, or no descriptor left.
                    thread::sleep(LOOK_EVERY);
                    continue;
                };
                if open.load(Ordering::Acquire) >= CONNECTIONS_MAX {
                    continue;
                }
                open.fetch_add(1, Ordering::AcqRel);
                let open = &open;
                scope.spawn(move || {
                    // A peer that goes away ends its own connection and nothing else.
                    let _ = serve(stream, stop);
                    open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
    }

    fn answer_datagrams(&self, stop: &Stop) {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        while !stop.is_asked() {
            match self.udp.recv_from(&mut datagram) {
                Ok((bytes, from)) if bytes >= HELLO_BYTES && datagram.starts_with(MAGIC) => {
                    let _ = self.udp.send_to(&datagram[..HELLO_BYTES], from);
                }
                _ => {}
            }
        }
    }
}

fn serve(mut stream: TcpStream, stop: &Stop) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let kind = Kind::read(&mut stream)?;
    // From here on it looks often whether it is over.
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    match kind {
        Kind::Echo => {
            let mut ping = [0; PING_BYTES];
            while fill(&mut stream, &mut ping, stop)? == PING_BYTES {
                stream.write_all(&ping)?;
            }
        }
        Kind::Sink => {
            let mut buffer = vec![0; 256 << 10];
            let mut bytes = 0u64;
            loop {
                match fill(&mut stream, &mut buffer, stop)? {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
            stream.write_all(&bytes.to_be_bytes())?;
        }
    }
    Ok(())
}

/// Reads until the buffer is full, the stream ends, or it is over.
fn fill(stream: &mut TcpStream, buffer: &mut [u8], stop: &Stop) -> io::Result<usize> {
    let mut filled = 0;
    let mut silent = Duration::ZERO;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => {
                filled += bytes;
                silent = Duration::ZERO;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                silent += LOOK_EVERY;
                if stop.is_asked() || silent >= SILENCE_MAX {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
