//! `cargo xtask soak`: one broker over a real Ceph RGW for tens of gigabytes, with consumers at the tail and from the start, retention and
//! both compactions on; the store is stopped and the broker killed on the way. Every byte of every record is compared with what was sent
//! (`seawall-qualify soak`); memory, objects, the WAL and what was written are watched from outside.
//!
//! No timing is a verdict. What is: a wrong record, memory beyond the configuration's limits, objects that become more and more, record
//! bytes that are written more than twice.

mod judge;
mod site;
mod watch;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::beds::{self, Bed};
use crate::bench::load::Generator;
use crate::bench::machine::{self, Scratch};
use crate::builds;
use crate::clients::broker::{self, Broker};
use judge::{Checked, Observed};
use site::Form;
use watch::Watch;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What is left to read, to check and to upload after the last record.
const DRAIN: Duration = Duration::from_secs(240);
/// At least as fast as this on average, outages apart, or it is ended.
const SLOWER_MAX: f64 = 4.0;
const STORE_BACK_MAX: Duration = Duration::from_secs(180);
const UPLOADED_MAX: Duration = Duration::from_secs(120);
/// The most disk that a form may take, and what must be left besides.
const SPARE_GIB: f64 = 4.0;

#[derive(clap::Args)]
pub struct Args {
    /// GiB of record values that are produced.
    #[arg(long, default_value_t = 30.0)]
    gib: f64,
    /// MiB/s that are produced.
    #[arg(long, default_value_t = 15.0)]
    mib_per_s: f64,
    /// As the tests run it: half a GiB with a small WAL, and a run with a fault that must be found.
    #[arg(long, conflicts_with_all = ["gib", "mib_per_s"])]
    short: bool,
    /// The release binary of the broker, in place of a fresh build.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Produces no longer, also when it is less then.
    #[arg(long, default_value_t = 240.0)]
    minutes_max: f64,
}

pub fn run(args: &Args) -> Result<bool> {
    let form = if args.short { Form::short() } else { Form::long(args.gib, args.mib_per_s) };
    let free = machine::free_gib("/var/tmp".as_ref())?;
    let needed = form.disk_gib() + SPARE_GIB;
    ensure!(
        free >= needed,
        "{free:.1} GiB are free below /var/tmp; this takes up to {:.1}, and leaves {SPARE_GIB}",
        needed - SPARE_GIB
    );
    let store = beds::Store::Rgw;
    for tool in store.tools() {
        ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
    }
    let binary = match &args.binary {
        Some(binary) => binary.canonicalize()?,
        None => broker::release_binary()?,
    };
    let generator = Generator::build()?;
    let faulty = args.short.then(|| builds::program("seawall")).transpose()?;
    println!("{}", machine::conditions()?);
    let mut bed = beds::start_rgw(form.store)?;
    let minutes_max = args.minutes_max;
    println!("{} {}; {}", bed.kind, bed.version, form.describe());
    let observed = Soak { form: &form, bed: &mut bed, generator: &generator, minutes_max }.run(&binary, None)?;
    print!("{}", observed.table());
    println!("{}", serde_json::to_string(&observed)?);
    let mut broken = observed.broken();
    if let Some(binary) = faulty {
        let form = Form::faulty();
        let observed = Soak { form: &form, bed: &mut bed, generator: &generator, minutes_max }
            .run(&binary, Some("drop-record"))?;
        let missing = observed.checked.last_pass.missing;
        println!("with a fault that drops records: {missing} missing, {:?}", observed.checked.wrong.first());
        if missing == 0 {
            broken.push("a broker that drops records was not found out".into());
        }
    }
    broken.iter().for_each(|line| println!("BROKEN: {line}"));
    println!(
        "soak: {}",
        if broken.is_empty() { "nothing lost, doubled, reordered or out of its limits" } else { "FAILED" }
    );
    Ok(broken.is_empty())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The store, for the form's time.
    Stop,
    /// The broker, by SIGKILL.
    Kill,
}

struct Soak<'a> {
    form: &'a Form,
    bed: &'a mut Bed,
    generator: &'a Generator,
    minutes_max: f64,
}

impl Soak<'_> {
    fn run(&mut self, binary: &std::path::Path, fault: Option<&'static str>) -> Result<Observed> {
        let (settings, prefix) = self.form.settings(self.bed)?;
        let mut broker = Broker::seawall_faulty(binary, &settings, fault)?;
        let bootstrap = broker.bootstrap().to_owned();
        let configs = [format!("retention.bytes={}", self.form.retention_of_partition()), self.form.cleanup()];
        let configs: Vec<&str> = configs.iter().map(String::as_str).collect();
        self.generator.create_topic(&bootstrap, site::TOPIC, site::PARTITIONS, &configs[..1])?;
        self.generator.create_topic(&bootstrap, site::COMPACTED, 1, &["cleanup.policy=compact", configs[1]])?;
        let scratch = Scratch::new("soak")?;
        let said = scratch.path().join("said.txt");
        let mut watch = Watch::begin(self.form, self.bed, &prefix, broker.process()?.id())?;
        let mut load = Load(self.start_load(&bootstrap, &said)?);
        let ended = self.follow(&mut broker, &mut load, &said, &mut watch);
        if let Err(error) = ended {
            bail!("{error:#}\n{}", broker.log_tail());
        }
        let text = fs::read_to_string(&said)?;
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("the load generator gave no report: {}", last(&text)))?;
        let mut checked: Checked = serde_json::from_str(line).with_context(|| format!("not a report: {line}"))?;
        checked.wrong = text.lines().filter_map(|line| line.strip_prefix("WRONG: ").map(str::to_owned)).collect();
        let uploaded = self.wait_until_uploaded(&mut broker, &mut watch)?;
        let observed = watch.end(checked, uploaded)?;
        // Nothing of it is kept, so it need not end in order.
        broker.kill()?;
        Ok(observed)
    }

    fn seconds_max(&self) -> Duration {
        Duration::from_secs_f64(self.minutes_max * 60.0)
    }

    fn start_load(&self, bootstrap: &str, said: &std::path::Path) -> Result<Child> {
        let output = File::create(said)?;
        let mut command = self.generator.command();
        command.args(["soak", "--bootstrap", bootstrap, "--topic", site::TOPIC, "--compacted-topic", site::COMPACTED]);
        for (name, value) in [
            ("partitions", site::PARTITIONS.to_string()),
            ("mib", self.form.mib.to_string()),
            ("mib-per-s", self.form.mib_per_s.to_string()),
            ("replay-mib-per-s", self.form.replay_mib_per_s().to_string()),
            ("retention-bytes", self.form.retention_of_partition().to_string()),
            ("seconds-max", self.seconds_max().as_secs().to_string()),
            ("drain", DRAIN.as_secs().to_string()),
        ] {
            command.args([format!("--{name}"), value]);
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.spawn().context("start the load generator")
    }

    /// Looks, stops and kills, until the load generator ends.
    fn follow(
        &mut self,
        broker: &mut Broker,
        load: &mut Load,
        said: &std::path::Path,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let planned = Duration::from_secs_f64(self.form.mib as f64 / self.form.mib_per_s * SLOWER_MAX);
        let end = Instant::now() + planned.min(self.seconds_max()) + self.form.stopped_s() + DRAIN * 4;
        let mut events = self.form.events().into_iter().peekable();
        let mut store_back: Option<Instant> = None;
        let (mut told, mut starting) = (Instant::now(), false);
        while load.0.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "it takes too long: {}", last(&fs::read_to_string(said)?));
            let progress = Progress::read(said)?;
            watch.look(broker.admin_address()?, broker.process()?.id())?;
            if let Some(back) = store_back
                && Instant::now() >= back
            {
                if !starting {
                    self.bed.start_serving()?;
                    starting = true;
                }
                // It takes its time; a broker that is killed meanwhile would wait for it.
                if watch.store_serves() {
                    eprintln!("the store serves {:.1} s after its return", back.elapsed().as_secs_f64());
                    (store_back, starting) = (None, false);
                }
                ensure!(back.elapsed() < STORE_BACK_MAX, "the store does not come back");
            }
            let share = progress.acked as f64 / (self.form.mib << 20) as f64;
            if store_back.is_none()
                && let Some((_, event)) = events.next_if(|(at, _)| share >= *at)
            {
                eprintln!("{:.0} %: {event:?}", share * 100.0);
                match event {
                    // An OSD that is held by SIGSTOP for a minute may not serve again: its leases have run out, and as the only
                    // one it has nobody who asks it to peer.
                    Event::Stop => {
                        self.bed.serving(|daemon| daemon.kill())?;
                        store_back = Some(Instant::now() + self.form.store_away);
                        watch.stops += 1;
                    }
                    Event::Kill => {
                        watch.look(broker.admin_address()?, broker.process()?.id())?;
                        broker.kill_and_restart().context("after SIGKILL")?;
                        watch.restarted(broker.started_in());
                    }
                }
            }
            if told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                eprintln!("{}", watch.line(&progress));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Nothing that was acked lies only in the WAL any more.
    fn wait_until_uploaded(&self, broker: &mut Broker, watch: &mut Watch<'_>) -> Result<bool> {
        let end = Instant::now() + UPLOADED_MAX;
        while Instant::now() < end {
            if watch.look(broker.admin_address()?, broker.process()?.id())? == 0.0 {
                return Ok(true);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(false)
    }
}

/// What the load generator says each second.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    acked: u64,
    tail: u64,
    replayed: u64,
}

impl Progress {
    fn read(said: &std::path::Path) -> Result<Self> {
        let text = fs::read_to_string(said)?;
        let words: Option<Vec<u64>> = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("progress "))
            .map(|rest| rest.split(' ').filter_map(|word| word.parse().ok()).collect());
        Ok(match words.as_deref() {
            Some([_, acked, tail, replayed]) => Self { acked: *acked, tail: *tail, replayed: *replayed },
            _ => Self::default(),
        })
    }
}

fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Ends with its owner.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
