//! One broker over a real store, seen through the cap; what it holds there, and what its metrics say.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Over;
use super::cap::Cap;
use crate::beds::{self, BUCKET, Bed, Client, Keys};
use crate::bench::answers;
use crate::bench::load::{Generator, Load};
use crate::bench::machine;
use crate::clients::broker::Broker;
use crate::process;

const UPLOADED_MAX: Duration = Duration::from_secs(180);

/// It is to end before its store.
pub struct Site {
    pub broker: Broker,
    pub cap: Cap,
    keys: Keys,
    prefix: String,
}

/// Gone when dropped.
pub fn bed(over: Over) -> Result<Bed> {
    let store = over.bed();
    for tool in store.tools() {
        ensure!(tool.find().is_some(), "{} is missing: {}", tool.program(), tool.hint());
    }
    beds::start(store)
}

impl Site {
    /// A broker whose objects have this prefix; `tables` are what else its configuration says.
    pub fn start(bed: &Bed, prefix: &str, binary: &Path, tables: &str) -> Result<Self> {
        let form = bed.forms.iter().find(|form| form.endpoint.is_some()).context("a store without http")?;
        let endpoint = form.endpoint.clone().context("no endpoint")?;
        let upstream = endpoint.strip_prefix("http://").context("an endpoint without TLS")?;
        let cap = Cap::start(upstream)?;
        let config = fs::read_to_string(&form.config)?;
        let (_, backend) = config.split_once("[backend]").context("a bed's configuration")?;
        let backend = backend.replace(upstream, &cap.address());
        let settings = format!("[backend]\nprefix = \"{prefix}\"{backend}\n{tables}");
        let broker = Broker::seawall_with(binary, &settings)?;
        let keys = bed.keys.clone().context("no keys")?;
        Ok(Self { broker, cap, keys, prefix: prefix.to_owned() })
    }

    /// A topic with so many MiB, all in the store when this returns.
    pub fn fill(&self, generator: &Generator, topic: &str, partitions: u32, mib: u64) -> Result<()> {
        fill(generator, self.broker.bootstrap(), topic, partitions, mib)?;
        self.wait_until_uploaded()
    }

    pub fn wait_until_uploaded(&self) -> Result<()> {
        let end = Instant::now() + UPLOADED_MAX;
        while self.metric("seawall_uncommitted_bytes")? > 0.0 {
            ensure!(Instant::now() < end, "not all is uploaded in {UPLOADED_MAX:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Uploaded, and nothing more to rewrite for a moment.
    pub fn wait_until_settled(&self) -> Result<()> {
        machine::settle(Duration::from_secs(12)).map(drop)
    }

    /// After it was stopped.
    pub fn wait_until_store_serves(&self) -> Result<()> {
        let endpoint = format!("http://{}", self.cap.address());
        let client = Client { endpoint: &endpoint, ca: "/dev/null".as_ref(), keys: &self.keys };
        let end = Instant::now() + UPLOADED_MAX;
        while let Err(error) = client.check() {
            ensure!(Instant::now() < end, "the store does not come back: {error:#}");
        }
        Ok(())
    }

    /// All lines of this name and with this label, added up.
    pub fn labelled(&self, name: &str, label: &str) -> Result<f64> {
        let text = answers::metrics(self.broker.admin_address()?)?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    pub fn metric(&self, name: &str) -> Result<f64> {
        self.labelled(name, "")
    }

    /// MiB/s at which objects of the broker are got by four connections of curl through the cap, for about so many MiB.
    pub fn raw_get(&self, mib_max: u64) -> Result<f64> {
        let endpoint = format!("http://{}", self.cap.address());
        let client = Client { endpoint: &endpoint, ca: "/dev/null".as_ref(), keys: &self.keys };
        let keys = client.keys(&format!("{}/", self.prefix))?;
        ensure!(!keys.is_empty(), "nothing is stored");
        let mut config = client.curl_config();
        for key in &keys {
            config += &format!("url = \"{endpoint}/{BUCKET}/{key}\"\noutput = \"/dev/null\"\n");
        }
        let mut curl = Command::new("curl");
        curl.args(["-q", "-sS", "--fail", "--parallel", "--parallel-max", "4", "-K", "-", "-m", "60"]);
        let (before, began) = (self.cap.bytes(), Instant::now());
        let time_max = Duration::from_secs_f64(30.0_f64.max(mib_max as f64 / 4.0));
        process::capture(&mut curl, config.into_bytes(), time_max)?.stdout_if_success("curl")?;
        Ok((self.cap.bytes() - before) as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64())
    }

    /// Nothing of the log is in memory after it, nor in the page cache where that can be dropped.
    pub fn cool(&mut self) -> Result<()> {
        self.broker.restart()?;
        drop_page_cache()
    }
}

pub fn fill(generator: &Generator, bootstrap: &str, topic: &str, partitions: u32, mib: u64) -> Result<()> {
    generator.create_topic(bootstrap, topic, partitions, &[])?;
    // At a rate, so that it is known how much there is.
    let rate = 64;
    let load = Load { partitions, rate: rate << 10, seconds: mib as f64 / rate as f64, consumers: 0, ..Load::MAX };
    generator.run(bootstrap, topic, &load)?;
    Ok(())
}

/// As root; others measure with what the kernel keeps.
pub fn drop_page_cache() -> Result<()> {
    machine::sync()?;
    if crate::tools::is_root() {
        fs::write("/proc/sys/vm/drop_caches", "1").context("drop the page cache")?;
    }
    Ok(())
}
