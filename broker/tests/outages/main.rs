//! Outages: producers at a constant rate while the object store goes away and comes back. Acks go on until the WAL is full, then
//! producers are throttled, then they get retriable errors; when the store is back everything is uploaded, once and in order.
//!
//! `cargo xtask stores` runs it over real stores. `OUTAGE_STORE` names a configuration whose `[backend]` is the store, `OUTAGE_SWITCH`
//! the address at which the store is taken away and brought back: it takes the lines `begin`, `end` and `objects PREFIX` and answers
//! `ok`, with a number to the last one. `OUTAGE_KIND` is the name in the report, `OUTAGE_WAL_MIB` the size of the WAL,
//! `OUTAGE_HOLD_S` how long the outage goes on when the WAL is full. The report is a line of JSON after the word `outage`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../crash/broker_process.rs"]
#[allow(dead_code, reason = "the crash test uses all of it")]
mod broker_process;
mod judge;
#[path = "../crash/ledger.rs"]
#[allow(dead_code, reason = "the crash test uses all of it")]
mod ledger;
mod load;
#[path = "../common/pulse.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod pulse;
#[path = "../crash/readback.rs"]
mod readback;
mod switch;
mod watch;
#[path = "../crash/wire.rs"]
mod wire;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use broker_process::{BrokerProcess, BrokerSetup};
use judge::{Observed, Rest, pace};
use ledger::{Findings, Ledger};
use load::{Events, PARTITIONS, PRODUCERS, Producer};
use pulse::Pulse;
use switch::Switch;
use watch::{Metrics, Peak, resident_bytes};
use wire::Wire;

pub const TOPIC: &str = "outage";
/// Of all producers.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// Before the outage: uploads run, and the rate is known. In the first second producers begin.
const WARM: Duration = Duration::from_secs(5);
const BEGINNING: Duration = Duration::from_secs(1);
/// After it, before producers stop.
const GO_ON: Duration = Duration::from_secs(2);
/// In which an idle broker must store nothing.
const IDLE: Duration = Duration::from_secs(2);
const SCRAPE_EVERY: Duration = Duration::from_millis(200);
const FULL_MAX: Duration = Duration::from_secs(180);
const BACK_MAX: Duration = Duration::from_secs(120);
/// So many that nothing is rewritten: what is in the store is what uploads have put there.
const COMPACTION_OBJECTS_MIN: u32 = 10_000;
/// The configuration's limits; `rss_limit` adds them up.
const LOG_MIB: u64 = 8;
const BLOCK_MIB: u64 = 4;
const INDEX_MIB: u64 = 2;
const REQUEST_MIB: u64 = 5;
const UPLOAD_MIB: u64 = 1;
const UPLOADS: u64 = 2;
/// For what the allocator holds and has not given back, and for the clients of store and metadata.
const OTHER_MIB: u64 = 24;

#[test]
#[ignore = "needs a store that can be taken away: cargo xtask stores"]
fn an_outage_of_the_store_costs_nothing_that_was_acked() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let outage = Outage {
        kind: variable("OUTAGE_KIND"),
        wal_mib: variable("OUTAGE_WAL_MIB").parse().unwrap(),
        hold: Duration::from_secs(variable("OUTAGE_HOLD_S").parse().unwrap()),
    };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let site = Site::create(folder.path(), &PathBuf::from(variable("OUTAGE_STORE")), outage.wal_mib);
    let mut switch = Switch::connect(&variable("OUTAGE_SWITCH"));
    let observed = outage.run(&site, &mut switch);
    println!("outage {}", serde_json::to_string(&observed).unwrap());
    let broken = observed.broken();
    assert!(broken.is_empty(), "{}:\n{}\n{observed:#?}\n{}", outage.kind, broken.join("\n"), site.setup.log_tail());
}

/// A broker's configuration over the store.
struct Site {
    setup: BrokerSetup,
    admin: SocketAddr,
    prefix: String,
}

impl Site {
    fn create(folder: &Path, store: &Path, wal_mib: u64) -> Self {
        let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, admin] = [0, 1].map(|nth| listeners[nth].local_addr().unwrap());
        let mut config: toml::Table = fs::read_to_string(store).unwrap().parse().unwrap();
        let mut backend = config.remove("backend").unwrap().as_table().cloned().unwrap();
        let prefix = format!("outage-{}", uuid::Uuid::new_v4().simple());
        backend.insert("prefix".into(), prefix.clone().into());
        let data = folder.join("data");
        fs::create_dir_all(&data).unwrap();
        let frame_mib = REQUEST_MIB - 1;
        let text = format!(
            "[node]\nid = 1\ndata_dir = {data:?}\n\n[listeners]\nkafka = \"{address}\"\nadmin = \"{admin}\"\n\n\
             [backend]\n{backend}\n[[wal]]\nkind = \"file\"\nsize = \"{wal_mib}MiB\"\n\n\
             [upload]\nbytes = \"{UPLOAD_MIB}MiB\"\ninterval = \"1s\"\nin_flight = {UPLOADS}\n\n\
             [compaction]\nobjects_min = {COMPACTION_OBJECTS_MIN}\n\n\
             [cache]\nlog_bytes = \"{LOG_MIB}MiB\"\nblock_bytes = \"{BLOCK_MIB}MiB\"\nindex_bytes = \"{INDEX_MIB}MiB\"\n\n\
             [kafka]\n\"socket.request.max.bytes\" = {}\n\"queued.max.request.bytes\" = {}\n",
            frame_mib << 20,
            REQUEST_MIB << 20,
        );
        fs::write(folder.join("broker.toml"), text).unwrap();
        let program = env!("CARGO_BIN_EXE_seawall").into();
        let setup = BrokerSetup { program, folder: folder.into(), address, fault: None };
        Self { setup, admin, prefix }
    }

    fn start(&self) -> BrokerProcess {
        self.setup.start().unwrap_or_else(|error| panic!("{error}"))
    }

    fn metrics(&self) -> Metrics {
        Metrics::read(self.admin).unwrap()
    }

    fn all_is_uploaded(&self) -> bool {
        let metrics = self.metrics();
        let is_zero = |name| metrics.get(name).unwrap() == 0.0;
        is_zero("seawall_uncommitted_bytes") && is_zero("seawall_upload_in_flight")
    }
}

struct Outage {
    kind: String,
    wal_mib: u64,
    hold: Duration,
}

/// What the metrics said, and when.
struct Scrape {
    at: Instant,
    throttle_left_s: f64,
    left_bytes: f64,
    durable_lsn: f64,
}

impl Scrape {
    fn take(site: &Site) -> Self {
        let metrics = site.metrics();
        let get = |name| metrics.get(name).unwrap();
        Self {
            at: Instant::now(),
            throttle_left_s: get("seawall_wal_throttle_left_seconds"),
            left_bytes: get("seawall_wal_left_bytes"),
            durable_lsn: get("seawall_wal_durable_lsn"),
        }
    }
}

/// The outage itself, as far as it is seen while it lasts.
struct Away {
    began: Instant,
    ended: Instant,
    /// Before it, and in it.
    scrapes: Vec<Scrape>,
}

impl Away {
    /// What was seen before `at`, and the first of what was seen in the outage from `at` on.
    fn around(&self, at: Instant) -> Option<(&[Scrape], &Scrape)> {
        let nth = self.scrapes.iter().position(|scrape| scrape.at >= at.max(self.began))?;
        Some((&self.scrapes[..=nth], &self.scrapes[nth]))
    }

    fn last_before(&self, at: Instant) -> Option<&Scrape> {
        self.scrapes.iter().rfind(|scrape| scrape.at <= at)
    }

    /// What was shown then, and what came until the throttle.
    fn rest(&self, at: Instant, throttled: Instant) -> Option<Rest> {
        let (before, shown) = self.around(at)?;
        let grew: Vec<_> =
            before.iter().map(|scrape| ((scrape.at - before[0].at).as_secs_f64(), scrape.durable_lsn)).collect();
        Some(Rest {
            shown_s: shown.throttle_left_s,
            lasted_s: throttled.checked_duration_since(shown.at)?.as_secs_f64(),
            bytes: self.last_before(throttled)?.durable_lsn - shown.durable_lsn,
            pace: pace(&grew)?,
        })
    }
}

impl Outage {
    fn run(&self, site: &Site, switch: &mut Switch) -> Observed {
        let broker = site.start();
        let mut wire = Wire::connect(site.setup.address).unwrap();
        assert_eq!(wire.create_topic(TOPIC, PARTITIONS).unwrap(), 0);
        drop(wire);
        let rss_rest = resident_bytes(broker.pid()).unwrap();
        let limits_mib = LOG_MIB + BLOCK_MIB + INDEX_MIB + REQUEST_MIB + UPLOADS * UPLOAD_MIB + OTHER_MIB;
        let ledger = Ledger::create(&site.setup.folder.join("ledger")).unwrap();
        let (events, stop, peak) = (Events::default(), AtomicBool::new(false), Peak::default());
        let pulse = Pulse::start(&site.setup.folder);
        let (away, uploaded_s) = thread::scope(|scope| {
            scope.spawn(|| peak.follow(broker.pid()));
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|number| {
                    let (address, bytes_per_second) = (site.setup.address, BYTES_PER_SECOND / u64::from(PRODUCERS));
                    let (ledger, events, stop) = (&ledger, &events, &stop);
                    scope.spawn(move || Producer { number, address, bytes_per_second, ledger, events, stop }.run())
                })
                .collect();
            // A panic must end them as well.
            let _stop = SetOnDrop([&stop, &peak.over]);
            let away = self.take_away(site, switch, &events);
            let acked = wait_for(BACK_MAX, || events.since(away.ended).0.is_some());
            if acked.is_some() {
                thread::sleep(GO_ON);
            }
            stop.store(true, Ordering::Relaxed);
            producers.into_iter().for_each(|producer| producer.join().unwrap());
            let uploaded = wait_for(BACK_MAX, || site.all_is_uploaded()).map(|at| (at - away.ended).as_secs_f64());
            (away, uploaded)
        });
        let objects = switch.objects(&site.prefix);
        let objects_committed = site.metrics().get("seawall_metadata_objects").unwrap() as u64;
        thread::sleep(IDLE);
        let objects_later = switch.objects(&site.prefix);
        assert!(broker.stop().unwrap().success(), "the broker stops cleanly\n{}", site.setup.log_tail());

        let (findings, read_from_store_bytes) = read_back(site, &ledger);
        println!("{findings}");
        let seen = events.seen();
        let (_, throttled, refused) = events.since(away.began);
        let since = |at: Instant| (at - away.began).as_secs_f64();
        let (_, first) = away.around(away.began).unwrap();
        let at_refusal = refused.and_then(|refused| away.last_before(refused));
        let until = throttled.unwrap_or(away.ended);
        let rest = |at| throttled.and_then(|throttled| away.rest(at, throttled));
        Observed {
            kind: self.kind.clone(),
            throttled_at_s: throttled.map(since),
            refused_at_s: refused.map(since),
            longest_pause_s: longest_pause(&seen.acks, away.began, until),
            disk_pause_s: longest_pause(&pulse.beats(), away.began, until),
            shown_s: first.throttle_left_s,
            at_first: rest(away.began),
            half_way: rest(away.began + (until - away.began) / 2),
            shown_bytes: first.left_bytes as u64,
            appended_bytes: at_refusal.map_or(0.0, |scrape| scrape.durable_lsn - first.durable_lsn) as u64,
            refused: seen.errors,
            final_errors: seen.final_errors,
            away_s: since(away.ended),
            ack_again_s: seen.acks.iter().find(|at| **at >= away.ended).map(|at| (*at - away.ended).as_secs_f64()),
            uploaded_s,
            rss_rest,
            rss_max: peak.bytes.load(Ordering::Relaxed),
            rss_limit: rss_rest + (limits_mib << 20),
            objects,
            objects_later,
            objects_committed,
            read_from_store_bytes,
            records_acked: findings.records_acked,
            record_bytes: findings.records_acked * ledger::LARGE_BYTES as u64,
            lost: findings.lost.len(),
            doubled: findings.doubled.len(),
            reordered: findings.reordered.len(),
            otherwise_wrong: findings.moved.len()
                + findings.not_dense.len()
                + findings.corrupt.len()
                + findings.refused.len(),
        }
    }

    fn take_away(&self, site: &Site, switch: &mut Switch, events: &Events) -> Away {
        thread::sleep(BEGINNING);
        let mut scrapes = Vec::new();
        let end = Instant::now() + (WARM - BEGINNING);
        while Instant::now() < end {
            scrapes.push(Scrape::take(site));
            thread::sleep(SCRAPE_EVERY);
        }
        switch.begin();
        let began = Instant::now();
        scrapes.push(Scrape::take(site));
        let mut over = None;
        while over.is_none_or(|over| Instant::now() < over) && began.elapsed() < FULL_MAX + self.hold {
            thread::sleep(SCRAPE_EVERY);
            scrapes.push(Scrape::take(site));
            if over.is_none() && events.since(began).2.is_some() {
                over = Some(Instant::now() + self.hold);
            }
        }
        switch.end();
        Away { began, ended: Instant::now(), scrapes }
    }
}

/// Everything, by a broker that has nothing of it in memory; and how many bytes it took from the store.
fn read_back(site: &Site, ledger: &Ledger) -> (Findings, u64) {
    let broker = site.start();
    let read = readback::read_topic(site.setup.address, TOPIC, PARTITIONS).unwrap_or_else(|error| panic!("{error}"));
    let findings = ledger::check(&ledger.acked(), &read);
    let bytes = site.metrics().labelled("seawall_store_body_bytes_total", "operation=\"get\"").unwrap();
    drop(broker);
    (findings, bytes as u64)
}

fn wait_for(time_max: Duration, mut done: impl FnMut() -> bool) -> Option<Instant> {
    let end = Instant::now() + time_max;
    while Instant::now() < end {
        if done() {
            return Some(Instant::now());
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}

fn longest_pause(acks: &[Instant], from: Instant, to: Instant) -> f64 {
    let mut times: Vec<Instant> = acks.iter().copied().filter(|at| (from..to).contains(at)).collect();
    times.extend([from, to]);
    times.sort();
    times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).fold(0.0, f64::max)
}

struct SetOnDrop<'a>([&'a AtomicBool; 2]);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
    }
}
