//! One run from start to end, and what its threads share.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rdkafka::error::KafkaError;

use super::args::{Acks, Args};
use super::clients;
use super::consume::{From, Reader};
use super::ledger::{Ledger, Stream};
use super::ledger_file::{self, LedgerFile};
use super::produce::{Connection, Sender, Sent};
use super::progress::Progress;
use super::record::Stamp;
use super::report::{Cpu, Fairness, Latencies, Report, Side, latency_histogram};
use super::schedule::Schedule;
use crate::qualify::Stop;

/// Errors of the clients that are printed; all are counted.
const ERRORS_SHOWN: u64 = 5;

const OPENED_AT_ONCE: usize = 8;

pub struct Shared {
    pub id: u64,
    pub topic: String,
    began: OnceLock<Instant>,
    /// Latencies count for records that are due from here on.
    pub warm_ns: u64,
    /// False where the records' times are those of another process.
    pub times_reads: bool,
    /// Reading what is there: records of any run count.
    any_run: bool,
    pub sent: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
    read_records: AtomicU64,
    read_bytes: AtomicU64,
    errors: AtomicU64,
    last_ack_ns: AtomicU64,
    last_read_ns: AtomicU64,
    pub produced_all: AtomicBool,
    /// By partition: one past the last offset that is known to be readable.
    readable: Vec<AtomicI64>,
    ledger: Option<Mutex<Ledger>>,
    file: Option<Mutex<LedgerFile>>,
    pub stop: Stop,
}

impl Shared {
    fn new(args: &Args, partitions: i32, stop: &Stop) -> Result<Self> {
        let id = run_id();
        let file = args.ledger.as_deref().map(|path| LedgerFile::create(path, id, &args.topic)).transpose()?;
        Ok(Self {
            id,
            topic: args.topic.clone(),
            began: OnceLock::new(),
            warm_ns: Duration::from_secs_f64(args.warmup).as_nanos() as u64,
            times_reads: args.producers > 0,
            any_run: args.producers == 0,
            sent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            read_records: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_ack_ns: AtomicU64::new(0),
            last_read_ns: AtomicU64::new(0),
            produced_all: AtomicBool::new(false),
            readable: (0..partitions).map(|_| AtomicI64::new(0)).collect(),
            ledger: args.ledger.is_some().then(Mutex::default),
            file: file.map(Mutex::new),
            stop: stop.clone(),
        })
    }

    pub fn partitions(&self) -> usize {
        self.readable.len()
    }

    /// The zero of the schedule: when it is asked for first, after everything has connected.
    pub fn began(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    pub fn elapsed(&self) -> Duration {
        self.began().elapsed()
    }

    pub fn now_ns(&self) -> u64 {
        self.elapsed().as_nanos() as u64
    }

    pub fn is_of_this_run(&self, run: u64) -> bool {
        self.any_run || run == self.id
    }

    pub fn acked(&self, stream: Stream, sequence: u64, offset: i64, now_ns: u64) {
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.last_ack_ns.fetch_max(now_ns, Ordering::Relaxed);
        if let Ok(partition) = usize::try_from(stream.1) {
            self.read_until(partition, offset + 1);
        }
        if let Some(ledger) = &self.ledger {
            ledger.lock().unwrap_or_else(PoisonError::into_inner).acked(stream, sequence, offset);
        }
        if let Some(file) = &self.file
            && let Err(error) = file.lock().unwrap_or_else(PoisonError::into_inner).acked(stream, sequence, offset)
        {
            self.error(&format!("ledger file: {error:#}"));
        }
    }

    pub fn delivery_failed(&self, error: &KafkaError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.error(&format!("not acked: {error}"));
    }

    pub fn read(&self, bytes: usize, stamp: Option<&Stamp>, partition: i32, offset: i64, now_ns: u64) {
        let Some(stamp) = stamp else { return };
        self.read_records.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_read_ns.fetch_max(now_ns, Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            let stream = (stamp.connection, partition);
            ledger.lock().unwrap_or_else(PoisonError::into_inner).read(stream, stamp.sequence, offset);
        }
    }

    pub fn read_failed(&self, error: &KafkaError) {
        self.error(&format!("read: {error}"));
    }

    fn error(&self, text: &str) {
        match self.errors.fetch_add(1, Ordering::Relaxed) {
            n if n < ERRORS_SHOWN => eprintln!("{text}"),
            ERRORS_SHOWN => eprintln!("further errors are counted, not shown"),
            _ => {}
        }
    }

    pub fn read_until(&self, partition: usize, offset: i64) {
        self.readable[partition].fetch_max(offset, Ordering::Relaxed);
    }

    pub fn readable_to(&self, partition: usize) -> i64 {
        self.readable[partition].load(Ordering::Relaxed)
    }

    pub fn progress_line(&self) -> String {
        format!(
            "{:>6.0} s: {} sent, {} acked, {} failed, {} read, {} errors",
            self.elapsed().as_secs_f64(),
            self.sent.load(Ordering::Relaxed),
            self.acked.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            self.read_records.load(Ordering::Relaxed),
            self.errors.load(Ordering::Relaxed),
        )
    }

    fn answered(&self) -> u64 {
        self.acked.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

/// Sends and reads as asked.
pub fn load(args: &Args, stop: &Stop) -> Result<Report> {
    args.validate()?;
    let partitions = clients::topic_partitions(args)?;
    let shared = Arc::new(Shared::new(args, partitions, stop)?);
    let latencies = Arc::new(Mutex::new(latency_histogram()));
    let connections = open_connections(args, &shared, &latencies)?;
    let from = if args.producers == 0 { From::Beginning } else { From::End };
    let readers = open_readers(args, &shared, from)?;

    shared.began();
    let progress = Progress::start(&shared)?;
    let drain = Duration::from_secs_f64(args.drain);
    let reading: Vec<_> = readers.into_iter().map(|reader| thread::spawn(move || reader.run(drain))).collect();
    let sent = send(args, &shared, connections)?;
    wait_for_acks(&shared, drain);
    shared.produced_all.store(true, Ordering::Release);
    let mut end_to_end = latency_histogram();
    for reader in reading {
        let read = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?;
        end_to_end.add(&read)?;
    }
    drop(progress);
    if let Some(file) = &shared.file {
        file.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    }

    let mut lateness = latency_histogram();
    let mut acked_each = Vec::new();
    for sender in sent {
        lateness.add(&sender.lateness)?;
        acked_each.extend(sender.connections.iter().map(Connection::acked));
    }
    let acks = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut report = report(args, &shared);
    report.produce_ms = Latencies::of(&acks);
    report.end_to_end_ms = Latencies::of(&end_to_end);
    report.sender_late_ms = Latencies::of(&lateness);
    report.fairness = Fairness::of(&acked_each);
    Ok(report)
}

/// Reads the whole topic and compares it with the acks in a file.
pub fn check(args: &Args, file: &Path) -> Result<Report> {
    let (ledger, id, topic) = ledger_file::read(file)?;
    let args = Args { producers: 0, consumers: args.consumers.max(1), topic, ..args.clone() };
    args.validate()?;
    let partitions = clients::topic_partitions(&args)?;
    let shared = Shared {
        id,
        any_run: false,
        ledger: Some(Mutex::new(ledger)),
        ..Shared::new(&args, partitions, &Stop::never())?
    };
    let shared = Arc::new(shared);
    let readers = open_readers(&args, &shared, From::Beginning)?;
    let progress = Progress::start(&shared)?;
    shared.produced_all.store(true, Ordering::Release);
    let drain = Duration::from_secs_f64(args.drain);
    let reading: Vec<_> = readers.into_iter().map(|reader| thread::spawn(move || reader.run(drain))).collect();
    for reader in reading {
        reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?;
    }
    drop(progress);
    Ok(report(&args, &shared))
}

fn open_connections(
    args: &Args,
    shared: &Arc<Shared>,
    latencies: &Arc<Mutex<Histogram<u64>>>,
) -> Result<Vec<Connection>> {
    if args.producers == 0 {
        return Ok(Vec::new());
    }
    let config = clients::producer_config(args)?;
    let open =
        |number| Connection::open(&config, shared, number, latencies).with_context(|| format!("connection {number}"));
    // Each waits for the broker a little; several at a time.
    let mut connections = Vec::new();
    let numbers: Vec<u32> = (0..args.connections).collect();
    for numbers in numbers.chunks(OPENED_AT_ONCE) {
        let opened: Vec<_> = thread::scope(|scope| {
            let opening: Vec<_> = numbers.iter().map(|number| scope.spawn(|| open(*number))).collect();
            opening.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for connection in opened {
            connections.push(connection.map_err(|_| anyhow::anyhow!("opening a connection panicked"))??);
        }
    }
    Ok(connections)
}

fn open_readers(args: &Args, shared: &Arc<Shared>, from: From) -> Result<Vec<Reader>> {
    let config = clients::consumer_config(args)?;
    let readers = (args.consumers as usize).min(shared.partitions());
    (0..readers).map(|number| Reader::open(&config, shared, number, readers, from)).collect()
}

fn send(args: &Args, shared: &Arc<Shared>, connections: Vec<Connection>) -> Result<Vec<Sent>> {
    let senders = u64::from(args.producers);
    let mut shares: Vec<Vec<Connection>> = (0..senders).map(|_| Vec::new()).collect();
    for (n, connection) in connections.into_iter().enumerate() {
        shares[n % args.producers as usize].push(connection);
    }
    let mut threads = Vec::new();
    for (number, connections) in (0u64..).zip(shares) {
        let sender = Sender {
            shared: Arc::clone(shared),
            schedule: Schedule::new(args.rate, Duration::from_micros(args.tick_us), number, senders),
            connections,
            records_max: args.records_max() / senders + u64::from(number < args.records_max() % senders),
            record_bytes: args.record_bytes,
            sending_time: args.sending_time(),
            drain: Duration::from_secs_f64(args.drain),
        };
        threads.push(thread::Builder::new().name(format!("sender-{number}")).spawn(move || sender.run())?);
    }
    threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a sender panicked"))?).collect()
}

fn wait_for_acks(shared: &Shared, drain: Duration) {
    // librdkafka gives up a record after the drain, so each is answered for a little after.
    let end = Instant::now() + drain + Duration::from_secs(5);
    while shared.answered() < shared.sent.load(Ordering::Relaxed) && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
}

fn report(args: &Args, shared: &Shared) -> Report {
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let acked = load(&shared.acked);
    Report {
        topic: shared.topic.clone(),
        partitions: shared.partitions(),
        record_bytes: args.record_bytes,
        rate: args.rate,
        connections: if args.producers == 0 { 0 } else { args.connections },
        sent: load(&shared.sent),
        failed: load(&shared.failed),
        errors: load(&shared.errors),
        produced: Side::of(acked, acked * args.record_bytes as u64, load(&shared.last_ack_ns)),
        consumed: Side::of(load(&shared.read_records), load(&shared.read_bytes), load(&shared.last_read_ns)),
        // Without acks nobody knows how far to read.
        reads_expected: args.consumers > 0 && args.producers > 0 && args.acks != Acks::None,
        ledger: shared.ledger.as_ref().map(|ledger| ledger.lock().unwrap_or_else(PoisonError::into_inner).verdict()),
        cpu_s: Cpu::of_this_process(),
        ..Report::default()
    }
}

/// Two runs at the same time on the same topic tell their records apart.
fn run_id() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
