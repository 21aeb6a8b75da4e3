//! What the role `monitoring` finds on a host: a Prometheus with its `promtool`, and a service that notes when it is told to read its files again.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::super::hosts::site::{self, Site};
use crate::tools::Tool;

const CONFIG: &str = "global:\n  scrape_interval: 15s\n\nrule_files:\n\nscrape_configs:\n  - job_name: prometheus\n    static_configs:\n      \
                      - targets: [\"localhost:9090\"]\n";
const SERVICE: &str =
    "[Service]\nExecStart=/usr/bin/sleep infinity\nExecReload=/usr/bin/touch /run/prometheus-reloaded\n";

/// The host scrapes all brokers from here on. That a further run has nothing to do is for who plays it.
pub fn is_told(site: &mut Site, host: &str) -> Result<()> {
    let promtool = Tool::Promtool.find().with_context(|| Tool::Promtool.hint())?;
    for (file, text) in [("prometheus.yml", CONFIG), ("prometheus.service", SERVICE)] {
        fs::write(site.folder.join(file), text)?;
    }
    site.lab.sh(host, "mkdir -p /etc/prometheus", site::SHORT)?;
    site.lab.copy(&promtool, host, "/usr/bin/promtool")?;
    site.lab.copy(&site.folder.join("prometheus.yml"), host, "/etc/prometheus/")?;
    site.lab.copy(&site.folder.join("prometheus.service"), host, "/etc/systemd/system/")?;
    site.lab.sh(host, "systemctl daemon-reload; systemctl start prometheus", site::SHORT)?;
    site.inventory["seawall_monitoring"] = json!({"hosts": {host: {}}});
    site.play("site", &[])?.succeeded()?;
    let targets =
        site.lab.sh(host, "ls /run/prometheus-reloaded; cat /etc/prometheus/seawall-targets.yml", site::SHORT)?;
    for broker in &site.hosts {
        let address = site.lab.address(broker)?;
        ensure!(targets.contains(&format!("\"{address}:9644\"")), "{broker} is not scraped: {targets}");
    }
    Ok(())
}
