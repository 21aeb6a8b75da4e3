//! Listens for Kafka clients and starts a connection for each, within the limits on their number.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    broker::Broker,
    broker_settings::KafkaSettings,
    config_def::host_counts,
    connection,
    metrics::{Metrics, ReasonLabel},
    task::Task,
};

/// Wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the kernel buffers for each connection. `None` leaves it to the kernel, which adapts it to the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketBuffers {
    pub send_bytes: Option<u32>,
    pub receive_bytes: Option<u32>,
}

impl SocketBuffers {
    pub fn of(settings: &KafkaSettings) -> Self {
        // -1 is no size.
        let bytes = |name| u32::try_from(settings.long(name)).ok();
        Self { send_bytes: bytes("socket.send.buffer.bytes"), receive_bytes: bytes("socket.receive.buffer.bytes") }
    }
}

/// Binds a listening socket.
pub fn bind(address: SocketAddr, backlog: u32, buffers: SocketBuffers) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for old connections to time out; two brokers on one port are still refused.
    socket.set_reuseaddr(true)?;
    // Connections inherit them. The window that a client is offered depends on the buffer at the handshake, so later is too late.
    buffers.send_bytes.map_or(Ok(()), |bytes| socket.set_send_buffer_size(bytes))?;
    buffers.receive_bytes.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Accepts connections until the broker stops.
pub async fn accept(broker: Arc<Broker>, listener: TcpListener) {
    let stopping = broker.tasks.draining().clone();
    let counts = Counts::new(&broker);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                // Further ones wait in the listener's backlog.
                let throttle = broker.quotas.accepted(&broker.topic_configs.settings());
                if !throttle.is_zero() {
                    pause(throttle, &stopping).await;
                }
                start(&broker, &counts, stream, plain(address));
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An IPv4 client of an IPv6 listener is known by its IPv4 address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn start(broker: &Arc<Broker>, counts: &Counts, stream: TcpStream, address: SocketAddr) {
    let network = &broker.metrics.network;
    let place = match counts.take(address.ip(), &Limits::of(&broker.topic_configs.settings())) {
        Ok(place) => place,
        Err(reason) => {
            network.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
            return;
        }
    };
    network.connections_accepted.inc();
    if let Some(throttle) = broker.quotas.connected(address.ip()) {
        hold(broker, place, stream, throttle);
        return;
    }
    // Without it small responses wait for the client's acks.
    if let Err(error) = stream.set_nodelay(true) {
        warn!(%error, "TCP_NODELAY");
    }
    let broker = broker.clone();
    let stopping = broker.tasks.draining().clone();
    broker.tasks.clone().spawn(Task::Connection, async move {
        let _place = place;
        connection::serve(broker, stream, address, stopping).await;
    });
}

/// A connection above its address's rate is closed, but not before the throttle is over: a client that repeats at once does
/// not come through faster. Meanwhile it keeps its place among the limits.
fn hold(broker: &Arc<Broker>, place: Place, stream: TcpStream, throttle: Duration) {
    let reason = "connection_creation_rate";
    broker.metrics.network.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    let stopping = broker.tasks.draining().clone();
    broker.tasks.clone().spawn(Task::Connection, async move {
        pause(throttle, &stopping).await;
        drop((stream, place));
    });
}

/// Ends early when the broker stops.
async fn pause(time: Duration, stopping: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stopping.cancelled() => {}
    }
}

/// How many connections there are, in all and by address.
#[derive(Clone)]
struct Counts {
    shared: Arc<Mutex<Open>>,
    descriptors: usize,
    metrics: Metrics,
}

/// How many connections there may be now.
struct Limits {
    total: usize,
    per_ip: usize,
    /// Of single addresses; `HOST:COUNT` of `max.connections.per.ip.overrides`.
    overrides: Vec<(IpAddr, usize)>,
}

impl Limits {
    fn of(settings: &KafkaSettings) -> Self {
        let overrides = settings.text("max.connections.per.ip.overrides").unwrap_or_default();
        let by_address = |(host, count): (&str, usize)| Some((host.parse::<IpAddr>().ok()?.to_canonical(), count));
        Self {
            total: settings.size("max.connections"),
            per_ip: settings.size("max.connections.per.ip"),
            overrides: host_counts(overrides).filter_map(by_address).collect(),
        }
    }

    fn of_ip(&self, ip: IpAddr) -> usize {
        self.overrides.iter().find(|(of, _)| *of == ip).map_or(self.per_ip, |(_, count)| *count)
    }
}

#[derive(Default)]
struct Open {
    total: usize,
    per_ip: HashMap<IpAddr, usize>,
}

impl Counts {
    fn new(broker: &Broker) -> Self {
        Self { shared: Arc::default(), descriptors: descriptors_for_connections(), metrics: broker.metrics.clone() }
    }

    fn take(&self, ip: IpAddr, limits: &Limits) -> Result<Place, &'static str> {
        let mut open = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= limits.total.min(self.descriptors) {
            return Err("max_connections");
        }
        let of_ip = open.per_ip.get(&ip).copied().unwrap_or(0);
        if of_ip >= limits.of_ip(ip) {
            return Err("max_connections_per_ip");
        }
        open.total += 1;
        open.per_ip.insert(ip, of_ip + 1);
        self.metrics.network.connections.inc();
        Ok(Place { counts: self.clone(), ip })
    }
}

/// A connection's place among the limits; given back when dropped.
struct Place {
    counts: Counts,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.counts.shared.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(count) = open.per_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.per_ip.remove(&self.ip);
            }
        }
        self.counts.metrics.network.connections.dec();
    }
}

/// File descriptors kept for everything but client connections.
const OTHER_DESCRIPTORS: u64 = 256;

/// Raises the soft limit on file descriptors to the hard one; answers what it is now.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the kernel to fill, and lives across the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return 1024;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a valid rlimit that the kernel only reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return raised.rlim_cur;
        }
    }
    limit.rlim_cur
}

fn descriptors_for_connections() -> usize {
    let descriptors = raise_descriptor_limit();
    usize::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS).max(16)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of a connection to a listener with these buffers: bytes to send and to receive.
    async fn buffers_of_a_connection(settings: &KafkaSettings) -> (u32, u32) {
        let any_port = "127.0.0.1:0".parse().unwrap();
        let listener = bind(any_port, 16, SocketBuffers::of(settings)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = TcpSocket::from_std_stream(accepted.into_std().unwrap());
        (accepted.send_buffer_size().unwrap(), accepted.recv_buffer_size().unwrap())
    }

    #[tokio::test]
    async fn connections_have_the_buffers_that_are_configured_and_those_of_the_system_at_minus_one() {
        let mut settings = KafkaSettings::default();
        settings.set("socket.send.buffer.bytes", "20000").unwrap();
        settings.set("socket.receive.buffer.bytes", "30000").unwrap();
        // Linux doubles what it is asked for, for its own needs.
        assert_eq!(buffers_of_a_connection(&settings).await, (40_000, 60_000));
        settings.set("socket.send.buffer.bytes", "-1").unwrap();
        settings.set("socket.receive.buffer.bytes", "-1").unwrap();
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(plain.local_addr().unwrap()).await.unwrap();
        let of_the_system = TcpSocket::from_std_stream(plain.accept().await.unwrap().0.into_std().unwrap());
        let of_the_system = (of_the_system.send_buffer_size().unwrap(), of_the_system.recv_buffer_size().unwrap());
        assert_eq!(buffers_of_a_connection(&settings).await, of_the_system);
        assert!(settings.set("socket.send.buffer.bytes", "0").is_err());
    }
}
