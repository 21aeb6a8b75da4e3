//! The parts of the race, and what each of them loads.

use clap::ValueEnum;

use super::load::Load;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Start times, on an empty folder and again.
    Start,
    /// Maximum throughput of 1 KiB records.
    Max,
    /// Latencies at 25 % and 50 % of the maximum of the slower durable broker.
    Latency,
    /// 1,000 partitions.
    Partitions,
    /// 500 producing connections.
    Connections,
    /// Records of 100 bytes.
    Small,
    /// Memory at rest and after the loads.
    Memory,
}

/// A load that all contenders get in turn.
pub struct Case {
    pub name: String,
    pub load: Load,
    /// Whether Seawall runs twice in each round, as control.
    pub control: bool,
    /// Whether latencies are what it is about: they then need idle CPU to mean anything.
    pub latency: bool,
}

impl Part {
    /// `durable_rate`: records per second of the slower durable broker as fast as it can, for the parts that need it.
    pub fn cases(self, durable_rate: f64) -> Vec<Case> {
        let fast = |name: &str, load: Load| Case { name: name.into(), load, control: false, latency: false };
        match self {
            Self::Start | Self::Memory => Vec::new(),
            Self::Max => vec![Case { control: true, ..fast("maximum throughput", Load::MAX) }],
            Self::Latency => [0.25, 0.5]
                .into_iter()
                .map(|share| Case {
                    name: format!("latency at {:.0} % of the slower durable maximum", share * 100.0),
                    load: Load {
                        rate: (durable_rate * share).max(1.0) as u64,
                        seconds: 10.0,
                        warmup_seconds: 2.0,
                        linger_ms: 0.0,
                        ..Load::MAX
                    },
                    control: true,
                    latency: true,
                })
                .collect(),
            Self::Partitions => {
                vec![fast("many partitions", Load { partitions: 1_000, seconds: 6.0, ..Load::MAX })]
            }
            Self::Connections => {
                vec![fast("many connections", Load { connections: 500, seconds: 6.0, ..Load::MAX })]
            }
            Self::Small => vec![fast("small records", Load { record_bytes: 100, seconds: 6.0, ..Load::MAX })],
        }
    }

    pub fn needs_durable_rate(self) -> bool {
        self == Self::Latency
    }
}

impl Case {
    /// As the tests run it.
    pub fn tiny(mut self) -> Self {
        self.load.seconds = self.load.seconds.min(1.0);
        self.load.warmup_seconds = 0.0;
        self.load.partitions = self.load.partitions.min(50);
        self.load.connections = self.load.connections.min(10);
        self
    }
}
