//! What pages call by names of a reader's own, and what stands for it in the lab. Nothing else of a block is changed.

use anyhow::{Context, Result};

/// In the order in which they are looked for. `{...}` is what the scene of a page has set.
const TABLE: [(&str, &str); 27] = [
    ("/dev/disk/by-id/nvme-MODEL_SERIAL", "{wal}"),
    ("/dev/disk/by-id/nvme-EXAMPLE", "{wal}"),
    ("/dev/disk/by-id/OLD", "{wal}"),
    ("/dev/disk/by-id/NEW", "{new}"),
    ("S5GXNX0T100001", "{serial}"),
    ("--wal ID", "--wal {id}"),
    ("broker-1.example", "{host}"),
    ("10.0.0.11", "{host}"),
    ("10.0.0.7", "{h1}"),
    ("10.1.0.7", "{h1}"),
    ("10.0.0.8", "{h2}"),
    ("10.1.0.8", "{h2}"),
    ("r1-09 =", "h3 ="),
    // Stores, users and keys.
    ("https://rgw.example:8443", "{rgw}"),
    ("https://rgw.example", "{rgw}"),
    ("https://minio.example:9000", "{minio}"),
    ("bucket = \"seawall\"", "bucket = \"{bucket}\"\n{tls}"),
    ("bucket: seawall", "bucket: {bucket}\n  tls_server_name: localhost"),
    (" ADMIN ADMIN_SECRET", " {admin}"),
    (" seawall SECRET", " seawall {secret}"),
    ("/etc/seawall", "{etc}"),
    // A quarter of a minute; and what a lab cannot have is not asked: a clock that is kept, a fast drive, a network of its own.
    ("seawall-qualify device ", "seawall-qualify device --short --thresholds lab.toml "),
    ("seawall-qualify host", "seawall-qualify host --thresholds lab.toml"),
    ("seawall-qualify backend ", "seawall-qualify backend --thresholds lab.toml "),
    ("seawall-qualify all ", "seawall-qualify all --thresholds lab.toml --seconds 1 "),
    (" --seconds 600 ", " --seconds 2 "),
    // It wants a terminal, and an editor in it.
    ("systemctl edit seawall", "script --quiet --return --command 'systemctl edit seawall' /dev/null"),
];

/// Rules that are left out of `lab.toml`.
pub const NOT_ASKED: [&str; 23] = [
    "clock_synchronized",
    "clock_error_max_ms",
    "clock_offset_ms",
    "memory_copy_gib_per_s",
    "write_mib_per_s",
    "ack_p99_ms",
    "ack_p9999_ms",
    "ack_max_ms",
    "write_p99_ms",
    "write_max_ms",
    "durable_d1_p99_ms",
    "durable_d1_max_ms",
    "mixed_ack_p99_ms",
    "mixed_ack_max_ms",
    "put_mib_per_s",
    "put_p99_ms",
    "get_mib_per_s",
    "get_p99_ms",
    "bandwidth_mib_per_s",
    "round_trip_p50_ms",
    "round_trip_p99_ms",
    "round_trip_max_ms",
    "retransmits_per_million",
];

pub struct Names {
    set: Vec<(&'static str, String)>,
}

impl Names {
    pub fn new() -> Self {
        Self { set: vec![("etc", "/etc/seawall".to_owned())] }
    }

    /// From here on.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.set.retain(|(known, _)| *known != name);
        self.set.push((name, value.to_owned()));
    }

    pub fn placed(&self, text: &str) -> Result<String> {
        let mut text = text.to_owned();
        for (page, lab) in TABLE.iter().filter(|(page, _)| text.contains(page)).collect::<Vec<_>>() {
            text = text.replace(page, &self.filled(lab).with_context(|| format!("`{page}` in this page"))?);
        }
        Ok(text)
    }

    fn filled(&self, lab: &str) -> Result<String> {
        let filled =
            self.set.iter().fold(lab.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
        match filled.split_once('{') {
            Some((_, rest)) => anyhow::bail!("the scene has no {{{}", rest.split_inclusive('}').next().unwrap_or(rest)),
            None => Ok(filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{fences, pages};
    use super::*;

    #[test]
    fn names_become_those_of_the_lab() {
        let mut names = Names::new();
        assert_eq!(names.placed("jq '{cluster}'").unwrap(), "jq '{cluster}'");
        let text = "seawall wal format /dev/disk/by-id/nvme-EXAMPLE --yes";
        assert_eq!(names.placed(text).unwrap_err().root_cause().to_string(), "the scene has no {wal}");
        names.set("wal", "/dev/a");
        names.set("wal", "/dev/b");
        assert_eq!(names.placed(text).unwrap(), "seawall wal format /dev/b --yes");
    }

    #[test]
    fn each_name_stands_in_a_page() {
        let pages = pages().unwrap();
        let blocks: Vec<_> = pages.iter().flat_map(|page| fences::blocks(page).unwrap()).collect();
        let inventory = ["hosts.yml", "group_vars/seawall_brokers.yml"].map(|file| {
            std::fs::read_to_string(crate::root().join("ansible/inventories/ceph-rgw").join(file)).unwrap()
        });
        let texts = blocks.iter().map(|block| &block.text).chain(&inventory).collect::<Vec<_>>();
        for (name, _) in TABLE {
            assert!(texts.iter().any(|text| text.contains(name)), "`{name}` stands in no page");
        }
    }
}
