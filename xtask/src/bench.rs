//! `cargo xtask bench`: a first look at speed, with Kafka's own load generators against a broker of this checkout.
//!
//! What is printed are figures of one machine at one moment; the load average and the p50 of a synced write of the same
//! minute stand beside them. CPU of the broker is the machine's busy time minus the load generator's, so that kernel
//! threads count. Allocations come from a second broker, the example `counted`, whose allocator counts.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::clients::install::{self, Installed};
use crate::process;

const RECORD_BYTES: u64 = 1024;
const TOPIC: &str = "bench";

#[derive(clap::Args)]
pub struct Args {
    /// Records per run.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Runs of producer and consumer; medians are printed.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// One short run on little data, as the tests do it.
    #[arg(long)]
    tiny: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let (records, runs) = if args.tiny { (20_000, 1) } else { (args.records, args.runs) };
    let tools = install::install()?;
    build(&[])?;
    let folder = Scratch::new()?;
    print_conditions(&tools, records, runs)?;

    let broker = Broker::start(&release_folder()?.join("seawall"), &folder.0.join("plain"))?;
    println!("start, empty folder          {:>10.0} ms to the first answer", millis(broker.started_in));
    let rss_at_rest = broker.rss_mib()?;
    println!("RSS at rest                  {rss_at_rest:>10.0} MiB");
    create_topic(&tools, &broker)?;
    warm_up(&tools, &broker, records)?;
    let mut produced = Vec::new();
    let mut consumed = Vec::new();
    for _ in 0..runs {
        produced.push(measure(|| produce(&tools, &broker, records))?);
        consumed.push(measure(|| consume(&tools, &broker, records))?);
    }
    report("produce, 1 KiB, acks=all", &produced, records);
    report("consume", &consumed, records);
    println!("RSS after the load           {:>10.0} MiB", broker.rss_mib()?);
    restart_figures(broker, &folder.0)?;

    build(&["--example", "counted"])?;
    allocation_figures(&tools, &folder.0, records.min(200_000))
}

/// Restarts after SIGKILL with what the runs left behind.
fn restart_figures(mut broker: Broker, folder: &Path) -> Result<()> {
    broker.kill();
    let again = Broker::start(&release_folder()?.join("seawall"), &folder.join("plain"))?;
    println!("SIGKILL to the first answer  {:>10.0} ms", millis(again.started_in));
    Ok(())
}

fn allocation_figures(tools: &Installed, folder: &Path, records: u64) -> Result<()> {
    let mut broker = Broker::start(&release_folder()?.join("examples/counted"), &folder.join("counted"))?;
    create_topic(tools, &broker)?;
    warm_up(tools, &broker, records)?;
    let mib = (records * RECORD_BYTES) as f64 / (1 << 20) as f64;
    for (name, load) in [("produce", produce as Load), ("consume", consume as Load)] {
        let before = broker.allocations()?;
        load(tools, &broker, records)?;
        let after = broker.allocations()?;
        let (count, bytes) = (after.0 - before.0, after.1 - before.1);
        println!(
            "allocations, {name}         {:>10.1} per MiB, {:.2} bytes allocated per record byte",
            count / mib,
            bytes / (mib * (1 << 20) as f64)
        );
    }
    Ok(())
}

type Load = fn(&Installed, &Broker, u64) -> Result<LoadResult>;

struct LoadResult {
    mib_per_second: f64,
    /// CPU seconds of the load generator.
    generator_cpu: f64,
}

struct Measured {
    mib_per_second: f64,
    broker_cpu: f64,
    idle_share: f64,
}

/// Runs a load and charges the broker with everything the machine did but the generator's own work.
fn measure(load: impl FnOnce() -> Result<LoadResult>) -> Result<Measured> {
    let before = CpuTimes::read()?;
    let result = load()?;
    let after = CpuTimes::read()?;
    let busy = after.busy - before.busy;
    let all = busy + after.idle - before.idle;
    Ok(Measured {
        mib_per_second: result.mib_per_second,
        broker_cpu: (busy - result.generator_cpu).max(0.0),
        idle_share: (all - busy) / all,
    })
}

fn report(name: &str, runs: &[Measured], records: u64) {
    let gib = (records * RECORD_BYTES) as f64 / (1u64 << 30) as f64;
    let rate = median(runs.iter().map(|run| run.mib_per_second));
    let cpu = median(runs.iter().map(|run| run.broker_cpu / gib));
    let idle = median(runs.iter().map(|run| run.idle_share));
    let rates: Vec<String> = runs.iter().map(|run| format!("{:.0}", run.mib_per_second)).collect();
    println!(
        "{name:<28} {rate:>10.1} MiB/s, {cpu:.2} broker CPU s per GiB, {:.0} % idle  (runs: {})",
        idle * 100.0,
        rates.join(" ")
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Warms the generator's code paths and the broker's, on a topic of its own offsets.
fn warm_up(tools: &Installed, broker: &Broker, records: u64) -> Result<()> {
    produce(tools, broker, (records / 5).max(10_000))?;
    Ok(())
}

fn create_topic(tools: &Installed, broker: &Broker) -> Result<()> {
    java(
        tools,
        "org.apache.kafka.tools.TopicCommand",
        &["--bootstrap-server", &broker.address(), "--create", "--topic", TOPIC, "--partitions", "1"],
    )?;
    Ok(())
}

fn produce(tools: &Installed, broker: &Broker, records: u64) -> Result<LoadResult> {
    let bootstrap = format!("bootstrap.servers={}", broker.address());
    let (output, cpu) = java(
        tools,
        "org.apache.kafka.tools.ProducerPerformance",
        &[
            "--topic",
            TOPIC,
            "--num-records",
            &records.to_string(),
            "--record-size",
            &RECORD_BYTES.to_string(),
            "--throughput",
            "-1",
            "--command-property",
            &bootstrap,
            "acks=all",
        ],
    )?;
    // "1000000 records sent, 123456.7 records/sec (120.56 MB/sec), 12.34 ms avg latency, ...": the last line is the sum.
    let summary = output.lines().rfind(|line| line.contains("records sent")).context("no summary of the producer")?;
    let rate = summary.split('(').nth(1).and_then(|rest| rest.split(' ').next()).context("no rate in the summary")?;
    println!("  {summary}");
    Ok(LoadResult { mib_per_second: rate.parse()?, generator_cpu: cpu })
}

fn consume(tools: &Installed, broker: &Broker, records: u64) -> Result<LoadResult> {
    let (output, cpu) = java(
        tools,
        "org.apache.kafka.tools.ConsumerPerformance",
        &[
            "--bootstrap-server",
            &broker.address(),
            "--topic",
            TOPIC,
            "--num-records",
            &records.to_string(),
            "--timeout",
            "60000",
            "--hide-header",
        ],
    )?;
    // start, end, MiB read, MiB/s, records, records/s, rebalance ms, fetch ms, fetch MiB/s, fetch records/s
    let line = output.lines().rfind(|line| line.matches(',').count() >= 9).context("no summary of the consumer")?;
    println!("  {line}");
    let columns: Vec<&str> = line.split(',').map(str::trim).collect();
    let read: f64 = columns[4].parse()?;
    ensure!(read >= records as f64, "{read} of {records} records came");
    Ok(LoadResult { mib_per_second: columns[8].parse()?, generator_cpu: cpu })
}

/// Runs one of Kafka's tools; answers its output and its CPU seconds.
fn java(tools: &Installed, class: &str, arguments: &[&str]) -> Result<(String, f64)> {
    let before = children_cpu()?;
    let mut command = Command::new(&tools.java);
    command.args(["-Xmx512m", "-XX:+UseG1GC", "-cp", &tools.classpath, class]).args(arguments);
    let output = process::capture(&mut command, Vec::new(), Duration::from_secs(300))?.stdout_if_success(class)?;
    Ok((output, children_cpu()? - before))
}

/// CPU seconds of all children that have been waited for.
fn children_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // "pid (name) state ...": fields 16 and 17 are cutime and cstime, counted from 1.
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    Ok((fields[13].parse::<f64>()? + fields[14].parse::<f64>()?) / TICKS_PER_SECOND)
}

/// USER_HZ, which every Linux of today shows to user space as 100.
const TICKS_PER_SECOND: f64 = 100.0;

struct CpuTimes {
    busy: f64,
    idle: f64,
}

impl CpuTimes {
    fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        ensure!(ticks.len() >= 8, "/proc/stat has no CPU line");
        // user nice system idle iowait irq softirq steal
        let idle = ticks[3] + ticks[4];
        let busy: f64 = ticks[..8].iter().sum::<f64>() - idle - ticks[7];
        Ok(Self { busy: busy / TICKS_PER_SECOND, idle: idle / TICKS_PER_SECOND })
    }
}

/// A broker of this checkout, alone in its folder.
struct Broker {
    child: Child,
    kafka: SocketAddr,
    log: PathBuf,
    counts_seen: usize,
    started_in: Duration,
}

impl Broker {
    fn start(binary: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let (kafka, admin) = (free_address()?, free_address()?);
        let config = folder.join("seawall.toml");
        let data = folder.join("data");
        fs::write(
            &config,
            format!("[node]\ndata_dir = {data:?}\n[listeners]\nkafka = \"{kafka}\"\nadmin = \"{admin}\"\n"),
        )?;
        let log_path = folder.join("seawall.log");
        let log = File::create(&log_path)?;
        let begun = Instant::now();
        let child = Command::new(binary)
            .args(["start", "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the broker")?;
        let mut broker = Self { child, kafka, log: log_path, counts_seen: 0, started_in: Duration::ZERO };
        while let Err(error) = first_answer(kafka) {
            if let Some(status) = broker.child.try_wait()? {
                bail!("the broker ended at its start ({status}), see {}", broker.log.display());
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "no answer in 60 s: {error}");
            std::thread::sleep(Duration::from_millis(2));
        }
        broker.started_in = begun.elapsed();
        Ok(broker)
    }

    fn address(&self) -> String {
        self.kafka.to_string()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn rss_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Allocations so far, and their bytes: the example `counted` prints them for each line on its standard input.
    fn allocations(&mut self) -> Result<(f64, f64)> {
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        writeln!(stdin)?;
        for _ in 0..500 {
            std::thread::sleep(Duration::from_millis(10));
            let log = fs::read_to_string(&self.log)?;
            let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("allocations ")).collect();
            if lines.len() > self.counts_seen {
                self.counts_seen = lines.len();
                let words: Vec<&str> = lines[lines.len() - 1].split(' ').collect();
                let [_, count, _, bytes] = words[..] else { bail!("{words:?}") };
                return Ok((count.parse()?, bytes.parse()?));
            }
        }
        bail!("the example `counted` printed no count")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// ApiVersions v0, the first thing every client asks.
fn first_answer(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // length, key 18, version 0, correlation id 1, null client id
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
    let mut head = [0u8; 10];
    stream.read_exact(&mut head)?;
    ensure!(head[8..10] == [0, 0], "ApiVersions answered error {:?}", &head[8..10]);
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn build(extra: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "-p", "seawall"]).args(extra).current_dir(crate::root());
    ensure!(cargo.status()?.success(), "the broker does not build");
    Ok(())
}

/// Beside this very program's profile folder.
fn release_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("no target folder")?;
    Ok(target.join("release"))
}

fn print_conditions(tools: &Installed, records: u64, runs: usize) -> Result<()> {
    let commit = process::capture(
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(crate::root()),
        Vec::new(),
        Duration::from_secs(10),
    )?;
    let load = fs::read_to_string("/proc/loadavg")?;
    println!(
        "commit {}, kafka tools {}, {records} records of {RECORD_BYTES} bytes, {runs} runs",
        commit.stdout.trim(),
        tools.folder.file_name().unwrap_or_default().display()
    );
    println!("load average {}, synced 4 KiB write p50 {:.0} us", load.trim(), synced_write_p50_us()?);
    Ok(())
}

/// p50 of 4 KiB written with O_DSYNC on the disk of the scratch folder, in microseconds.
fn synced_write_p50_us() -> Result<f64> {
    let folder = Scratch::new()?;
    let path = folder.0.join("synced");
    File::create(&path)?.write_all(&vec![0u8; 4 << 20])?;
    // O_DSYNC has this value on every Linux architecture that Rust builds the broker for.
    let file = OpenOptions::new().write(true).custom_flags(0o10000).open(&path)?;
    let mut times: Vec<f64> = Vec::new();
    for n in 0..200u64 {
        let begun = Instant::now();
        file.write_all_at(&[1u8; 4096], (n * 4096) % (4 << 20))?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times.into_iter()))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/var/tmp/seawall-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
