//! The way from hosts to a server on the machine's loopback: bytes are passed on as they come.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

use super::site::{ADDRESS, Lab};

/// Serves until the process ends.
pub struct Relay {
    /// At `ADDRESS`.
    pub port: u16,
}

impl Relay {
    /// To `upstream`, HOST:PORT as the machine sees it.
    pub fn start(lab: &Lab, upstream: &str) -> Result<Self> {
        let listener = lab.listen()?;
        let port = listener.local_addr()?.port();
        let upstream = upstream.to_owned();
        thread::spawn(move || accept(&listener, &upstream));
        Ok(Self { port })
    }

    pub fn address(&self) -> String {
        format!("{ADDRESS}:{}", self.port)
    }
}

fn accept(listener: &TcpListener, upstream: &str) {
    for host in listener.incoming().flatten() {
        let upstream = upstream.to_owned();
        // An error ends this connection, as it would end that of any relay.
        thread::spawn(move || serve(host, &upstream));
    }
}

fn serve(host: TcpStream, upstream: &str) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    host.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (answers, asker) = (server.try_clone()?, host.try_clone()?);
    thread::spawn(move || pass(answers, asker));
    pass(host, server);
    Ok(())
}

/// Until one side ends.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
