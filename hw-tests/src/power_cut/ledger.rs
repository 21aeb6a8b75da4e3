//! The ledger of a power-cut test: a server that writes lines down, a client that waits until they are, and the file.
//!
//! On the wire: `hello DEVICE`, answered by `known LINE`, `new` or `refused WHY`; then lines, each answered by `ok` once it is
//! in the file. The file begins with the device's name; its last whole line is what is known. A writer that comes again
//! takes over from the one before, whose connection may hang since its host lost its power.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::qualify::Stop;
use crate::wal_ledger::Known;

const TITLE: &str = "seawall power-cut ledger of ";
/// Rewritten with its last line when it has grown to this.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// A line is a few numbers.
const LINE_BYTES_MAX: usize = 4096;
/// A ledger that does not answer for so long is gone, and the writer with it.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// HOST:PORT that the writer connects to. No one else must reach it: there is no password.
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Kept across cuts; one for each device.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

pub fn run(args: &Args, stop: &Stop) -> Result<()> {
    let server = Server::listen(&args.listen, &args.file)?;
    eprintln!("listening on {}, writing {}", server.address(), args.file.display());
    while !stop.is_asked() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What is known of which device; `None`: the file is not there yet.
pub fn load(file: &Path) -> Result<Option<(String, Option<Known>)>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    // A line without its end was not answered.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    let device = lines.next().and_then(|line| line.strip_prefix(TITLE));
    let device = device.with_context(|| format!("{} is no ledger of a power-cut test", file.display()))?;
    let known = lines.last().map(str::parse).transpose()?;
    Ok(Some((device.to_owned(), known)))
}

/// Serves until it is dropped; connections end with their writers.
pub struct Server {
    address: SocketAddr,
}

impl Server {
    pub fn listen(address: &str, file: &Path) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr()?;
        let book = Book { path: file.to_owned(), known: load(file)?, writer: 0, file: None };
        let book = Arc::new(Mutex::new(book));
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let book = book.clone();
                let serve = move || {
                    if let Err(error) = serve(&stream, &book) {
                        eprintln!("a writer has gone: {error:#}");
                    }
                };
                // Without a thread the connection is closed, which its writer sees.
                let _ = std::thread::Builder::new().spawn(serve);
            }
        })?;
        Ok(Self { address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Book {
    path: PathBuf,
    known: Option<(String, Option<Known>)>,
    /// Counts up: only the newest writer is heard.
    writer: u64,
    file: Option<(File, u64)>,
}

fn serve(stream: &TcpStream, book: &Mutex<Book>) -> Result<()> {
    let lock = || -> MutexGuard<'_, Book> { book.lock().unwrap_or_else(PoisonError::into_inner) };
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (BufReader::new(stream), stream);
    let hello = read_line(&mut input)?;
    let device = hello.strip_prefix("hello ").context("a writer says hello first")?.to_owned();
    let (writer, answer) = lock().greet(&device);
    output.write_all(format!("{answer}\n").as_bytes())?;
    ensure!(!answer.starts_with("refused"), "{answer}");
    eprintln!("a writer on {device}");
    loop {
        let known: Known = read_line(&mut input)?.parse()?;
        lock().write(writer, &device, known)?;
        output.write_all(b"ok\n")?;
    }
}

impl Book {
    fn greet(&mut self, device: &str) -> (u64, String) {
        self.writer += 1;
        let answer = match &self.known {
            Some((other, _)) if other != device => format!("refused: this ledger is of {other}, not of {device}"),
            Some((_, Some(known))) => format!("known {known}"),
            Some((_, None)) | None => "new".into(),
        };
        (self.writer, answer)
    }

    fn write(&mut self, writer: u64, device: &str, known: Known) -> Result<()> {
        ensure!(writer == self.writer, "another writer has come since");
        let line = format!("{known}\n");
        let full = self.file.as_ref().is_none_or(|(_, bytes)| *bytes > FILE_BYTES_MAX);
        if full {
            self.file = Some(self.begin(device, &line)?);
        } else if let Some((file, bytes)) = &mut self.file {
            file.write_all(line.as_bytes())?;
            *bytes += line.len() as u64;
        }
        self.known = Some((device.to_owned(), Some(known)));
        Ok(())
    }

    /// A file of two lines takes the name: at no moment is less known.
    fn begin(&self, device: &str, line: &str) -> Result<(File, u64)> {
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(".unfinished");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished)?;
        let text = format!("{TITLE}{device}\n{line}");
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&unfinished, &self.path)?;
        Ok((file, text.len() as u64))
    }
}

/// The writer's side.
pub struct Client {
    input: BufReader<TcpStream>,
    output: TcpStream,
    /// What the ledger knows already.
    pub known: Option<Known>,
}

impl Client {
    pub fn connect(address: &str, device: &str) -> Result<Self> {
        let failed = || format!("connect to the ledger at {address}");
        let resolved = address.to_socket_addrs().with_context(failed)?.next().with_context(failed)?;
        let output = TcpStream::connect_timeout(&resolved, PATIENCE).with_context(failed)?;
        output.set_nodelay(true)?;
        output.set_read_timeout(Some(PATIENCE))?;
        output.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { input: BufReader::new(output.try_clone()?), output, known: None };
        client.output.write_all(format!("hello {device}\n").as_bytes())?;
        let answer = read_line(&mut client.input)?;
        client.known = match answer.strip_prefix("known ") {
            Some(line) => Some(line.parse()?),
            None if answer == "new" => None,
            None => bail!("the ledger: {answer}"),
        };
        Ok(client)
    }

    /// Returns when it is written down.
    pub fn tell(&mut self, known: &Known) -> Result<()> {
        self.output.write_all(format!("{known}\n").as_bytes())?;
        let answer = read_line(&mut self.input)?;
        ensure!(answer == "ok", "the ledger: {answer}");
        Ok(())
    }
}

fn read_line(input: &mut impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    let bytes = std::io::Read::take(&mut *input, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    ensure!(bytes > 0, "the connection is closed");
    ensure!(line.pop() == Some(b'\n'), "half a line");
    Ok(String::from_utf8(line)?)
}

#[cfg(test)]
mod tests {
    use seawall_wal_device::Lsn;

    use super::*;

    fn known(acked: u64) -> Known {
        Known { acked, opened_at: vec![(1, Lsn(0))], ..Known::default() }
    }

    #[test]
    fn what_was_told_is_in_the_file_and_a_later_writer_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger");
        let server = Server::listen("127.0.0.1:0", &file).unwrap();
        let connect = |device: &str| Client::connect(&server.address().to_string(), device);
        let mut first = connect("S1").unwrap();
        assert_eq!(first.known, None);
        first.tell(&known(5)).unwrap();
        assert_eq!(load(&file).unwrap(), Some(("S1".into(), Some(known(5)))));
        let mut second = connect("S1").unwrap();
        assert_eq!(second.known, Some(known(5)));
        second.tell(&known(9)).unwrap();
        assert!(first.tell(&known(7)).is_err(), "a writer from before the cut is heard no longer");
        assert!(connect("S2").err().unwrap().to_string().contains("is of S1, not of S2"));
        assert_eq!(load(&file).unwrap().unwrap().1, Some(known(9)));
    }

    #[test]
    fn half_a_line_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger");
        std::fs::write(&file, format!("{TITLE}S1\n{}\n0 0 9", known(4))).unwrap();
        assert_eq!(load(&file).unwrap(), Some(("S1".into(), Some(known(4)))));
        std::fs::write(&file, "something else\n").unwrap();
        assert!(load(&file).is_err());
        assert_eq!(load(&folder.path().join("none")).unwrap(), None);
    }
}
