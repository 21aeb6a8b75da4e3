//! A TCP proxy before a store, which can refuse connections, swallow everything, or answer 503 in the store's place.

use std::io::{ErrorKind, Read, Result as IoResult, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process;

/// How soon a change of mode is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CHANGE_MAX: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 64 << 10;
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Pass,
    /// Nobody listens, and what was connected is cut off.
    Refuse,
    /// Connections are accepted; nothing goes through any of them, until the mode ends.
    Swallow,
    SlowDown,
    /// The proxy has gone.
    Gone,
}

#[derive(Clone)]
struct Switch(Arc<AtomicU8>);

impl Switch {
    fn is(&self, mode: Mode) -> bool {
        self.0.load(Ordering::Acquire) == mode as u8
    }

    fn wait_while(&self, mode: Mode) {
        while self.is(mode) {
            thread::sleep(LOOK_EVERY);
        }
    }
}

pub struct Proxy {
    port: u16,
    switch: Switch,
}

impl Proxy {
    /// Before `upstream`, as HOST:PORT.
    pub fn start(upstream: &str) -> Result<Self> {
        let port = process::free_port()?;
        let switch = Switch(Arc::new(AtomicU8::new(Mode::Pass as u8)));
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let (accepting, upstream) = (switch.clone(), upstream.to_owned());
        thread::spawn(move || accept(listener, port, &accepting, &upstream));
        Ok(Self { port, switch })
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns when it is so.
    pub fn set(&self, mode: Mode) -> Result<()> {
        self.switch.0.store(mode as u8, Ordering::Release);
        let end = Instant::now() + CHANGE_MAX;
        while TcpStream::connect(self.address()).is_ok() == (mode == Mode::Refuse) {
            ensure!(Instant::now() < end, "the proxy does not become {mode:?}");
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.switch.0.store(Mode::Gone as u8, Ordering::Release);
    }
}

fn accept(listener: TcpListener, port: u16, switch: &Switch, upstream: &str) {
    let mut listener = Some(listener);
    while !switch.is(Mode::Gone) {
        if switch.is(Mode::Refuse) {
            listener = None;
            switch.wait_while(Mode::Refuse);
        }
        if listener.is_none() {
            listener = TcpListener::bind(("127.0.0.1", port)).ok();
        }
        let accepted = listener.as_ref().and_then(|listener| {
            listener.set_nonblocking(true).ok()?;
            listener.accept().ok()
        });
        let Some((client, _)) = accepted else {
            thread::sleep(LOOK_EVERY / 4);
            continue;
        };
        let (switch, upstream) = (switch.clone(), upstream.to_owned());
        // An error ends this connection, as it would end that of any proxy.
        thread::spawn(move || serve(client, &switch, &upstream).ok());
    }
}

fn serve(client: TcpStream, switch: &Switch, upstream: &str) -> Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(LOOK_EVERY))?;
    if switch.is(Mode::SlowDown) {
        return slow_down(client, switch);
    }
    switch.wait_while(Mode::Swallow);
    let server = TcpStream::connect(upstream).context("the store")?;
    server.set_nodelay(true)?;
    server.set_read_timeout(Some(LOOK_EVERY))?;
    let (from_client, to_client) = (client.try_clone()?, client);
    let (from_server, to_server) = (server.try_clone()?, server);
    let up = switch.clone();
    thread::spawn(move || copy(from_client, to_server, &up));
    copy(from_server, to_client, switch);
    Ok(())
}

/// Until either side ends, or the mode ends it.
fn copy(mut from: TcpStream, mut to: TcpStream, switch: &Switch) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let got = read(&mut from, &mut buffer);
        switch.wait_while(Mode::Swallow);
        if !switch.is(Mode::Pass) {
            break;
        }
        match got {
            Ok(Some(0)) | Err(_) => break,
            Ok(None) => {}
            Ok(Some(bytes)) => {
                if to.write_all(&buffer[..bytes]).is_err() {
                    break;
                }
            }
        }
    }
    // Either may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// `None`: nothing has come for a moment.
fn read(from: &mut TcpStream, buffer: &mut [u8]) -> IoResult<Option<usize>> {
    match from.read(buffer) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes whole requests and answers 503 to each.
fn slow_down(mut client: TcpStream, switch: &Switch) -> Result<()> {
    let mut got = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while switch.is(Mode::SlowDown) {
        match read(&mut client, &mut buffer)? {
            Some(0) => return Ok(()),
            Some(bytes) => got.extend_from_slice(&buffer[..bytes]),
            None => continue,
        }
        while let Some(request) = whole_request(&got)? {
            let is_head = got.starts_with(b"HEAD ");
            got.drain(..request);
            let body = if is_head { "" } else { SLOW_DOWN };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            client.write_all(answer.as_bytes())?;
        }
    }
    Ok(())
}

/// The length of the first request, once all of it is there. Bodies must have a Content-Length.
fn whole_request(got: &[u8]) -> Result<Option<usize>> {
    let Some(head) = got.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(got.len() < HEAD_BYTES_MAX, "a head without end");
        return Ok(None);
    };
    let text = std::str::from_utf8(&got[..head]).context("a head that is no text")?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let whole = head + 4 + length.transpose()?.unwrap_or(0);
    Ok((got.len() >= whole).then_some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each line with the same line.
    fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 100];
                    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..bytes]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, text: &str, wait: Duration) -> Option<String> {
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(text.as_bytes()).ok()?;
        let mut buffer = [0; 1000];
        let bytes = stream.read(&mut buffer).ok().filter(|bytes| *bytes > 0)?;
        Some(String::from_utf8_lossy(&buffer[..bytes]).into_owned())
    }

    #[test]
    fn it_passes_refuses_swallows_and_answers_503() {
        let proxy = Proxy::start(&echo()).unwrap();
        let connect = || TcpStream::connect(proxy.address());
        let (soon, long) = (Duration::from_millis(200), Duration::from_secs(5));
        let mut before = connect().unwrap();
        assert_eq!(ask(&mut before, "one", long).as_deref(), Some("one"));

        proxy.set(Mode::Swallow).unwrap();
        let mut during = connect().unwrap();
        assert_eq!((ask(&mut before, "two", soon), ask(&mut during, "three", soon)), (None, None));
        proxy.set(Mode::Pass).unwrap();
        assert_eq!(ask(&mut before, "", long).as_deref(), Some("two"), "it was on its way");

        proxy.set(Mode::Refuse).unwrap();
        assert!(connect().is_err() && ask(&mut before, "four", long).is_none());
        proxy.set(Mode::Pass).unwrap();
        assert_eq!(ask(&mut connect().unwrap(), "five", long).as_deref(), Some("five"));

        proxy.set(Mode::SlowDown).unwrap();
        let mut slow = connect().unwrap();
        assert_eq!(ask(&mut slow, "PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nab", soon), None, "not whole yet");
        let answer = ask(&mut slow, "cde", long).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("<Code>SlowDown</Code>"), "{answer}");
        assert!(ask(&mut slow, "GET /a HTTP/1.1\r\n\r\n", long).is_some(), "on the same connection");
    }
}
