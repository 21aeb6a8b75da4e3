//! The side that measures.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::super::findings::{Findings, Role};
use super::super::host::host_name;
use super::super::progress::Progress;
use super::super::report::unix_s;
use super::super::slices::Slices;
use super::super::stop::Stop;
use super::socket::{self, Counted};
use super::wire::{Kind, PING_BYTES};
use super::{PORT, mtu};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A peer that answers nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const BLOCK_BYTES: usize = 128 << 10;

pub fn probe(peer: &str, length: Duration, streams: usize, stop: &Stop) -> Result<Findings> {
    let address = resolve(peer)?;
    let started = Instant::now();
    let host = host_name(Path::new("/"));
    let mut findings = Findings::new(Role::Network, host.clone(), format!("{host} -> {peer}"), unix_s());
    let progress = Progress::new("network", length + length / 2);
    findings.fact("peer", peer);
    findings.fact("peer_address", address.to_string());
    progress.doing(format!("{peer}: path MTU"));
    path_mtu(address, stop, &mut findings)?;
    progress.doing(format!("{peer}: round trips"));
    round_trips(address, length / 2, stop, &progress, &mut findings)?;
    progress.doing(format!("{peer}: bandwidth"));
    bandwidth(address, length, streams, stop, &progress, &mut findings)?;
    findings.seconds = started.elapsed().as_secs_f64();
    Ok(findings)
}

fn resolve(peer: &str) -> Result<SocketAddr> {
    let with_port = peer.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let found = with_port.or_else(|| (peer, PORT).to_socket_addrs().ok()?.next());
    found.ok_or_else(|| anyhow!("no address for {peer:?}"))
}

fn connect(address: SocketAddr, kind: Kind) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_MAX)
        .with_context(|| format!("cannot connect to {address}: does `seawall-qualify network serve` run there?"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    stream.write_all(&kind.hello())?;
    Ok(stream)
}

fn path_mtu(address: SocketAddr, stop: &Stop, findings: &mut Findings) -> Result<()> {
    match mtu::find(address, stop)? {
        Some(mtu) => {
            findings.measure("path_mtu_bytes", mtu.path as f64);
            findings.measure("interface_mtu_bytes", mtu.interface as f64);
            findings.fact("mtu_agrees", mtu.path >= mtu.interface);
        }
        None => findings.note("no datagram came back: UDP is blocked, and the path's MTU is not known"),
    }
    Ok(())
}

/// A tenth of the run, but not so short that a slice says nothing.
fn slice(length: Duration) -> Duration {
    (length / 10).clamp(Duration::from_millis(200), Duration::from_secs(60))
}

fn round_trips(
    address: SocketAddr,
    length: Duration,
    stop: &Stop,
    progress: &Progress,
    findings: &mut Findings,
) -> Result<()> {
    let mut stream = connect(address, Kind::Echo)?;
    let mut slices = Slices::new(slice(length));
    let (ping, mut pong) = ([0x5A; PING_BYTES], [0; PING_BYTES]);
    let started = Instant::now();
    loop {
        stop.check()?;
        let sent = Instant::now();
        stream.write_all(&ping).context("the peer went away")?;
        stream.read_exact(&mut pong).context("the peer went away")?;
        slices.record(started.elapsed(), sent.elapsed(), 0);
        progress.at(started.elapsed());
        if started.elapsed() >= length {
            break;
        }
    }
    slices.finish(started.elapsed(), "round_trip", findings);
    Ok(())
}

fn bandwidth(
    address: SocketAddr,
    length: Duration,
    streams: usize,
    stop: &Stop,
    progress: &Progress,
    findings: &mut Findings,
) -> Result<()> {
    let connections = (0..streams).map(|_| connect(address, Kind::Sink)).collect::<Result<Vec<_>>>()?;
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let slice = slice(length);
    let started = Instant::now();
    let (rates, outcomes) = thread::scope(|scope| {
        let senders: Vec<_> =
            connections.into_iter().map(|stream| scope.spawn(|| send(stream, &sent, &over))).collect();
        let mut rates = Rates::new(slice);
        while started.elapsed() < length && !stop.is_asked() && !senders.iter().all(|sender| sender.is_finished()) {
            thread::sleep(Duration::from_millis(20).min(length.saturating_sub(started.elapsed())));
            progress.at(length / 2 + started.elapsed());
            rates.look(started.elapsed(), sent.load(Ordering::Relaxed));
        }
        let rates = rates.finish(started.elapsed(), sent.load(Ordering::Relaxed));
        over.store(true, Ordering::Release);
        let outcomes: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
        (rates, outcomes)
    });
    stop.check()?;
    let (mut arrived, mut counted) = (0, Counted::default());
    for outcome in outcomes {
        let (bytes, tcp) = outcome.map_err(|_| anyhow!("a sender panicked"))?.context("the peer went away")?;
        arrived += bytes;
        counted.segments_out += tcp.segments_out;
        counted.retransmitted += tcp.retransmitted;
    }
    ensure!(arrived > 0, "nothing arrived at {address}");
    // Until the peer had all of it: what lay in buffers at the end counts with the time that it took.
    findings.measure("bandwidth_mib_per_s", mib(arrived) / started.elapsed().as_secs_f64());
    findings.series("bandwidth_mib_per_s", slice, rates);
    findings.measure("segments_out", counted.segments_out as f64);
    findings.measure("retransmits", counted.retransmitted as f64);
    let per_million = counted.retransmitted as f64 * 1e6 / counted.segments_out.max(1) as f64;
    findings.measure("retransmits_per_million", per_million);
    findings.fact("streams", streams as i64);
    Ok(())
}

/// Sends until it is over; what the peer got, and what TCP counted.
fn send(mut stream: TcpStream, sent: &AtomicU64, over: &AtomicBool) -> io::Result<(u64, Counted)> {
    let block = vec![0x5A; BLOCK_BYTES];
    while !over.load(Ordering::Acquire) {
        match stream.write(&block) {
            Ok(bytes) => {
                sent.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived)?;
    Ok((u64::from_be_bytes(arrived), socket::counted(&stream)?))
}

/// Bandwidth slice by slice, of who looks now and then.
struct Rates {
    slice: Duration,
    begun: Duration,
    bytes: u64,
    mib_per_s: Vec<Option<f64>>,
}

impl Rates {
    fn new(slice: Duration) -> Self {
        Self { slice, begun: Duration::ZERO, bytes: 0, mib_per_s: Vec::new() }
    }

    /// What has been sent at that time of the run.
    fn look(&mut self, at: Duration, bytes: u64) {
        if at.saturating_sub(self.begun) >= self.slice {
            self.close(at, bytes);
        }
    }

    /// Each slice is a little longer than it should be, so that the last one is cut short: it counts from its half on.
    fn finish(mut self, at: Duration, bytes: u64) -> Vec<Option<f64>> {
        if at.saturating_sub(self.begun) >= self.slice / 2 {
            self.close(at, bytes);
        }
        self.mib_per_s
    }

    fn close(&mut self, at: Duration, bytes: u64) {
        let seconds = at.saturating_sub(self.begun).as_secs_f64();
        self.mib_per_s.push(Some(mib(bytes.saturating_sub(self.bytes)) / seconds));
        (self.begun, self.bytes) = (at, bytes);
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::super::thresholds::Thresholds;
    use super::super::super::verdict::{Level, judge};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_last_slice_counts_though_the_others_took_of_its_time() {
        let of = |stands_still_at: u32| {
            let mut rates = Rates::new(200 * MS);
            let mut sent = 0;
            for look in 1..=95 {
                sent += if look < stands_still_at { 1 << 20 } else { 0 };
                rates.look(look * 21 * MS, sent);
            }
            rates.finish(2_000 * MS, sent)
        };
        assert_eq!(of(100).len(), 10);
        assert_eq!(of(91).last(), Some(&Some(0.0)), "the end stood still");
        let mut rates = Rates::new(200 * MS);
        rates.look(210 * MS, 1 << 20);
        assert_eq!(rates.finish(300 * MS, 1 << 20).len(), 1, "less than half of one says nothing");
    }

    /// Echoes as a peer that serves, and says nothing once for that long.
    fn round_trips_of(stall: Duration) -> Findings {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            Kind::read(&mut stream).unwrap();
            let mut ping = [0; PING_BYTES];
            for answered in 0.. {
                if stream.read_exact(&mut ping).is_err() {
                    return;
                }
                if answered == 100 {
                    thread::sleep(stall);
                }
                stream.write_all(&ping).unwrap();
            }
        });
        let mut findings = Findings::new(Role::Network, "a", "a -> b", 0);
        let length = Duration::from_millis(600) + stall;
        round_trips(address, length, &Stop::never(), &Progress::hidden(), &mut findings).unwrap();
        peer.join().unwrap();
        findings
    }

    #[test]
    fn a_path_that_stands_still_once_is_told_from_one_that_does_not() {
        // A fifth of the real bound: so long does a busy machine not sleep.
        let mut thresholds = Thresholds::load(None).unwrap();
        let rule = thresholds.network.rules.get_mut("round_trip_max_ms").unwrap();
        assert_eq!(rule.fail_above.replace(2_000.0), Some(5_000.0));
        let level = |stall| {
            let verdict = judge(&round_trips_of(stall), &thresholds);
            verdict.checks.into_iter().find(|check| check.name == "round_trip_max_ms").unwrap().level
        };
        assert!(level(Duration::ZERO) < Level::Fail);
        assert_eq!(level(3_000 * MS), Level::Fail);
    }
}
