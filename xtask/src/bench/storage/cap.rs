//! A TCP proxy before a store that lets so many bytes a second through to its clients, and counts them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process;

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub struct Cap {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// 0 for no bound.
    bytes_per_s: AtomicU64,
    bytes: AtomicU64,
    /// Until when what was let through takes.
    busy_until: Mutex<Instant>,
    over: AtomicBool,
}

impl Cap {
    /// Before `upstream`, as HOST:PORT.
    pub fn start(upstream: &str) -> Result<Self> {
        let port = process::free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            bytes_per_s: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            busy_until: Mutex::new(Instant::now()),
            over: AtomicBool::new(false),
        });
        let (accepting, upstream) = (Arc::clone(&shared), upstream.to_owned());
        thread::spawn(move || {
            while !accepting.over.load(Ordering::Acquire) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(LOOK_EVERY);
                    continue;
                };
                let (shared, upstream) = (Arc::clone(&accepting), upstream.clone());
                // An error ends this connection, as it would end that of any proxy.
                thread::spawn(move || serve(client, &upstream, &shared).ok());
            }
        });
        Ok(Self { port, shared })
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mib_per_s: f64) {
        self.shared.bytes_per_s.store((mib_per_s * f64::from(1 << 20)) as u64, Ordering::Relaxed);
    }

    /// That clients were given so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Tells the same without this.
    pub fn counter(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Cap {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
    }
}

impl Shared {
    fn wait_for(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let rate = self.bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        let until = {
            let mut busy = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
            *busy = (*busy).max(now - BURST) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *busy
        };
        thread::sleep(until.saturating_duration_since(now));
    }
}

fn serve(client: TcpStream, upstream: &str, shared: &Arc<Shared>) -> Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || copy(from_client, to_server, |_| ()));
    copy(server, client, |bytes| shared.wait_for(bytes));
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut before: impl FnMut(usize)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        before(bytes);
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_cap_goes_through() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&vec![7; 4 << 20]).unwrap();
        });
        let cap = Cap::start(&upstream).unwrap();
        cap.set(10.0);
        let began = Instant::now();
        let mut got = Vec::new();
        TcpStream::connect(cap.address()).unwrap().read_to_end(&mut got).unwrap();
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!((got.len(), cap.bytes()), (4 << 20, 4 << 20));
        assert!(seconds >= 0.35, "4 MiB at 10 MiB/s came in {seconds:.2} s");
    }
}
