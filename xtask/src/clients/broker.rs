//! The broker under test: a process of our own on a free port and in a folder of its own, or one that already runs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::install::Installed;
use crate::{package, process};

/// How brokers of our own are started.
pub enum Start {
    /// This binary.
    Seawall(PathBuf),
    /// Apache Kafka from the installed jars.
    Kafka,
}

impl Start {
    /// A release build of this checkout, or `binary`.
    pub fn seawall(binary: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self::Seawall(match binary {
            // It is started in a folder of its own.
            Some(binary) => binary.canonicalize().with_context(|| format!("{}", binary.display()))?,
            None => release_binary()?,
        }))
    }

    pub fn broker(&self, installed: &Installed) -> anyhow::Result<Broker> {
        match self {
            Self::Seawall(program) => Broker::seawall(program),
            Self::Kafka => Broker::kafka(installed),
        }
    }
}

pub struct Broker {
    bootstrap: String,
    /// None for one that is not ours: it cannot be restarted.
    own: Option<Own>,
}

struct Own {
    name: &'static str,
    folder: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    fault: Option<&'static str>,
    process: Option<Child>,
    started_in: Duration,
}

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);

impl Broker {
    pub fn running(bootstrap: String) -> Self {
        Self { bootstrap, own: None }
    }

    /// With a smaller WAL than shipped, which is written whole at the first start, and what is to come sooner.
    fn seawall(program: &Path) -> anyhow::Result<Self> {
        let mut settings = "[[wal]]\nkind = \"file\"\nsize = \"256MiB\"\n[kafka]\n".to_owned();
        for (name, value) in SOONER {
            settings += &format!("\"{name}\" = {value}\n");
        }
        Self::seawall_with(program, &settings)
    }

    /// Shipped settings, but for addresses and folder.
    pub fn seawall_as_shipped(program: &Path) -> anyhow::Result<Self> {
        Self::seawall_with(program, "")
    }

    /// Shipped settings, with the WAL on this device, which is formatted.
    pub fn seawall_on_device(program: &Path, device: &Path) -> anyhow::Result<Self> {
        let settings = format!("[[wal]]\nkind = \"device\"\ndevice = \"{}\"\n", device.display());
        Self::seawall_prepared(program, &settings, |config| {
            let mut format = Command::new(program);
            format.args(["wal", "format"]).arg(device).arg("--config").arg(config).args(["--yes", "--overwrite"]);
            process::capture(&mut format, Vec::new(), START_MAX)?.stdout_if_success("seawall wal format")?;
            Ok(())
        })
    }

    /// Shipped settings, but for addresses, folder and these lines of the configuration.
    pub fn seawall_with(program: &Path, settings: &str) -> anyhow::Result<Self> {
        Self::seawall_prepared(program, settings, |_| Ok(()))
    }

    /// The same, with a fault that a build with `fault-injection` knows.
    pub fn seawall_faulty(program: &Path, settings: &str, fault: Option<&'static str>) -> anyhow::Result<Self> {
        Self::seawall_own(program, settings, fault, |_| Ok(()))
    }

    fn seawall_prepared(
        program: &Path,
        settings: &str,
        prepare: impl Fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::seawall_own(program, settings, None, prepare)
    }

    fn seawall_own(
        program: &Path,
        settings: &str,
        fault: Option<&'static str>,
        prepare: impl Fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let folder = new_folder("seawall")?;
        let bootstrap = format!("127.0.0.1:{}", process::free_port()?);
        let config = folder.join("seawall.toml");
        fs::write(&config, seawall_config(&bootstrap, &folder) + settings)?;
        prepare(&config)?;
        let arguments = ["start", "--config", &config.display().to_string()].map(str::to_owned).to_vec();
        let mut own = Own::new("seawall", folder, program, arguments);
        own.fault = fault;
        Self::start(bootstrap, own)
    }

    /// One KRaft node with shipped settings, but for replication factors of its internal topics, the session timeout of the
    /// consumer protocol, which is that of the classic one, the cleaner's rest, and files of deleted topics, which leave the disk after a second.
    pub fn kafka(installed: &Installed) -> anyhow::Result<Self> {
        Self::kafka_in(installed, new_folder("kafka")?)
    }

    /// As `kafka`, in this folder, which goes away with it.
    pub fn kafka_in(installed: &Installed, folder: PathBuf) -> anyhow::Result<Self> {
        let (port, controller) = (process::free_port()?, process::free_port()?);
        Self::kafka_formatted(installed, folder, port, &["--standalone"], |folder| {
            kafka_config(port, controller, folder)
        })
    }

    /// A node that clients reach by this port, with this configuration for its folder, and formatted with these arguments.
    pub fn kafka_node(
        installed: &Installed,
        port: u16,
        format: &[&str],
        config: impl Fn(&Path) -> String,
    ) -> anyhow::Result<Self> {
        Self::kafka_formatted(installed, new_folder("kafka")?, port, format, config)
    }

    fn kafka_formatted(
        installed: &Installed,
        folder: PathBuf,
        port: u16,
        format_with: &[&str],
        text: impl Fn(&Path) -> String,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let config = folder.join("server.properties");
        fs::write(&config, text(&folder))?;
        let log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn";
        let mut format = Command::new(&installed.java);
        format.args(["-Xmx1g", log, "-cp", &installed.classpath, "kafka.tools.StorageTool"]);
        format.arg("format").args(format_with).args(["-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"]).arg(&config);
        process::capture(&mut format, Vec::new(), START_MAX)?.stdout_if_success("kafka-storage format")?;
        let mut arguments: Vec<String> = KAFKA_JVM.map(str::to_owned).to_vec();
        arguments.extend([log, "-cp", &installed.classpath, "kafka.Kafka"].map(str::to_owned));
        arguments.push(config.display().to_string());
        Self::start(format!("127.0.0.1:{port}"), Own::new("Apache Kafka", folder, &installed.java, arguments))
    }

    fn start(bootstrap: String, own: Own) -> anyhow::Result<Self> {
        let mut broker = Self { bootstrap, own: Some(own) };
        broker.start_own()?;
        Ok(broker)
    }

    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn name(&self) -> &'static str {
        self.own.as_ref().map_or("(not ours)", |own| own.name)
    }

    /// From the start of its process to its first answer.
    pub fn started_in(&self) -> Duration {
        self.own.as_ref().map_or(Duration::ZERO, |own| own.started_in)
    }

    /// Its folder; the data lies in `data` inside.
    pub fn folder(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.folder.as_path())
    }

    pub fn log_path(&self) -> Option<PathBuf> {
        self.own.as_ref().map(Own::log)
    }

    /// Where its admin HTTP listens, as Seawall says at each start.
    pub fn admin_address(&self) -> anyhow::Result<SocketAddr> {
        let log = fs::read_to_string(self.log_path().context("no log of ours")?)?;
        let said =
            log.lines().rev().find_map(|line| line.trim().strip_prefix("admin ")?.trim().strip_prefix("http://"));
        let address = said.and_then(|rest| rest.split('/').next()).context("the log names no admin address")?;
        Ok(address.parse()?)
    }

    pub fn process(&mut self) -> anyhow::Result<&mut Child> {
        self.own.as_mut().and_then(|own| own.process.as_mut()).context("no process of ours")
    }

    pub fn can_restart(&self) -> bool {
        self.own.is_some()
    }

    /// SIGTERM and a clean end; an error when it had ended before it was asked to. Nothing to do for one that is not ours.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.own.as_mut().map_or(Ok(()), Own::stop)
    }

    /// SIGTERM, a clean end, and a new start on the same folder.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let own = self.own.as_mut().context("a broker that is not ours is not restarted")?;
        own.stop()?;
        self.start_own()
    }

    /// SIGKILL, and a new start on the same folder.
    pub fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.start_own()
    }

    pub fn kill(&mut self) -> anyhow::Result<()> {
        let own = self.own.as_mut().context("a broker that is not ours is not killed")?;
        if let Some(mut child) = own.process.take() {
            own.expect_alive(&mut child)?;
            process::kill_tree(child.id());
            child.wait()?;
        }
        Ok(())
    }

    /// What the process said last, and how it ended if nobody asked it to.
    pub fn log_tail(&mut self) -> String {
        let Some(own) = &mut self.own else { return String::new() };
        let ended = own.process.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let ended = ended.map_or(String::new(), |status| format!("\n({} ended by itself: {status})", own.name));
        let text = fs::read_to_string(own.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n") + &ended
    }

    fn start_own(&mut self) -> anyhow::Result<()> {
        let bootstrap = self.bootstrap.clone();
        let own = self.own.as_mut().context("a broker of our own")?;
        let log = File::options().create(true).append(true).open(own.log())?;
        let begun = Instant::now();
        let child = Command::new(&own.program)
            .args(&own.arguments)
            .current_dir(&own.folder)
            .envs(own.fault.map(|fault| ("SEAWALL_FAULT", fault)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", own.program.display()))?;
        let child = own.process.insert(child);
        let end = begun + START_MAX;
        loop {
            if first_answer(&bootstrap).is_ok() {
                own.started_in = begun.elapsed();
                return Ok(());
            }
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                bail!("{} did not start ({ended:?}): {}", self.name(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Own {
    fn new(name: &'static str, folder: PathBuf, program: &Path, arguments: Vec<String>) -> Self {
        Self {
            name,
            folder,
            program: program.to_owned(),
            arguments,
            fault: None,
            process: None,
            started_in: Duration::ZERO,
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.process.take() else { return Ok(()) };
        process::stop(&mut child, STOP_MAX).with_context(|| self.name.to_owned())
    }

    fn expect_alive(&self, child: &mut Child) -> anyhow::Result<()> {
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} had ended by itself: {status}", self.name),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            println!("{error:#}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// ApiVersions v0, the first thing every client asks.
fn first_answer(bootstrap: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // length, key 18, version 0, correlation id 1, null client id
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
    let mut head = [0u8; 10];
    stream.read_exact(&mut head)?;
    ensure!(head[8..10] == [0, 0], "ApiVersions answered error {:?}", &head[8..10]);
    Ok(())
}

pub fn release_binary() -> anyhow::Result<PathBuf> {
    Ok(package::binaries(package::Profile::Release)?.join("seawall"))
}

/// On a disk, not in memory: data folders do direct I/O. Folders of runs that were killed go.
fn new_folder(what: &str) -> anyhow::Result<PathBuf> {
    const BASE: &str = "/var/tmp";
    const PREFIX: &str = "seawall-clients-";
    for entry in fs::read_dir(BASE)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-'));
        if owner.is_some_and(|(_, pid)| !Path::new("/proc").join(pid).exists()) {
            // Another run may be clearing up at the same moment.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = Path::new(BASE).join(format!("{PREFIX}{what}-{number}-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Sessions of the consumer protocol as short as those of the classic one may be, as there the broker decides; and log
/// compaction that does not rest for long.
const SOONER: [(&str, u32); 5] = [
    ("group.consumer.min.session.timeout.ms", 6_000),
    ("group.consumer.session.timeout.ms", 6_000),
    ("group.consumer.min.heartbeat.interval.ms", 500),
    ("group.consumer.heartbeat.interval.ms", 500),
    ("log.cleaner.backoff.ms", 500),
];

fn seawall_config(bootstrap: &str, folder: &Path) -> String {
    format!(
        "node.data_dir = \"{}/data\"\nlisteners.kafka = \"{bootstrap}\"\nlisteners.admin = \"127.0.0.1:0\"\n",
        folder.display()
    )
}

/// What Kafka's start script gives its JVM: heap, collector and limits.
const KAFKA_JVM: [&str; 8] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

fn kafka_config(port: u16, controller: u16, folder: &Path) -> String {
    let mut config = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}/data\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         log.segment.delete.delay.ms=1000\n",
        folder.display()
    );
    for (name, value) in SOONER {
        config += &format!("{name}={value}\n");
    }
    config
}
