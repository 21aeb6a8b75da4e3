//! What systemd is told when it has started this process: that it is ready, that it makes progress, that it stops. Without the
//! variables that systemd sets (`Type=notify`, `WatchdogSec`) nothing is told.
//!
//! Progress is that of the process itself. A device or a store that hangs is no reason to restart a broker, and has alarms of its own.

use std::env;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use std::{io, process};

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often it is told within the time after which systemd takes the process for stuck.
const SIGNS_PER_TIMEOUT: u32 = 3;

/// The one that has started this process, if any has.
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Without a sign of life for so long it ends the process.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    pub fn of_this_process() -> Self {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Self { socket: None, watchdog: None } };
        let socket = connect(path.as_bytes());
        if let Err(error) = &socket {
            warn!(%error, socket = %path.display(), "the service manager cannot be told that this broker is ready");
        }
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_for_us).map(Duration::from_micros);
        Self { socket: socket.ok(), watchdog }
    }

    pub fn ready(&self) {
        self.tell("READY=1");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives signs of life until `stopping`, one after each `progress` that returns. A lock in it that is never released, or a runtime
    /// that takes up no new task, is what the watchdog is there for.
    pub async fn watch(self: Arc<Self>, mut progress: impl FnMut() + Send, stopping: CancellationToken) {
        let Some(timeout) = self.watchdog.filter(|_| self.socket.is_some()) else { return stopping.cancelled().await };
        while stopping.run_until_cancelled(tokio::time::sleep(timeout / SIGNS_PER_TIMEOUT)).await.is_some() {
            progress();
            // An error would be a panic in nothing.
            let _ = tokio::spawn(async {}).await;
            self.tell("WATCHDOG=1");
        }
    }

    /// A sign that is lost is followed by the next one.
    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            warn!(%error, state, "the service manager was not told");
        }
    }
}

/// An `@` stands for the zero of an abstract address.
fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn listening() -> (tempfile::TempDir, UnixDatagram, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (dir, manager, connect(path.as_os_str().as_bytes()).unwrap())
    }

    fn next(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn an_abstract_address_is_reached() {
        let name = format!("seawall-test-{}", process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let told = ServiceManager { socket: Some(connect(format!("@{name}").as_bytes()).unwrap()), watchdog: None };
        told.ready();
        assert_eq!(next(&manager), "READY=1");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_that_is_never_released_ends_the_signs_of_life() {
        let (_dir, manager, socket) = listening();
        let watchdog = Some(Duration::from_millis(30));
        let (stopping, stuck) = (CancellationToken::new(), Arc::new(Mutex::new(())));
        let taken = stuck.clone();
        let progress = move || drop(taken.lock().unwrap());
        let told = Arc::new(ServiceManager { socket: Some(socket), watchdog });
        let watch = tokio::spawn(told.watch(progress, stopping.clone()));
        assert_eq!(next(&manager), "WATCHDOG=1");
        let held = stuck.lock().unwrap();
        // What was on its way when the lock was taken.
        manager.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut bytes = [0; 64];
        while manager.recv(&mut bytes).is_ok() {}
        assert!(manager.recv(&mut bytes).is_err());
        drop(held);
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(next(&manager), "WATCHDOG=1");
        stopping.cancel();
        watch.await.unwrap();
    }
}
