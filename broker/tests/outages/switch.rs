//! Whoever owns the store takes it away and brings it back; this asks for it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A store may take its time to come back, or to be full.
const ANSWER_MAX: Duration = Duration::from_secs(150);

pub struct Switch {
    stream: BufReader<TcpStream>,
}

impl Switch {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// The outage has begun when it returns.
    pub fn begin(&mut self) {
        self.ask("begin");
    }

    /// The store serves when it returns.
    pub fn end(&mut self) {
        self.ask("end");
    }

    /// Objects of a broker with this prefix.
    pub fn objects(&mut self, prefix: &str) -> u64 {
        self.ask(&format!("objects {prefix}")).parse().unwrap()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stream.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        self.stream.read_line(&mut answer).unwrap();
        let Some(rest) = answer.strip_prefix("ok") else { panic!("{line}: {answer}") };
        rest.trim().to_owned()
    }
}
