//! The language of the stories. Topics, WALs and objects go by name: `orders/0`, `w1`, `o7`; a broker acts as `node@epoch`.

use std::collections::{BTreeMap, BTreeSet};

use seawall_metadata::command::*;
use seawall_metadata::state::WalLife;
use seawall_metadata::*;
use uuid::Uuid;

#[derive(Default)]
pub struct Story {
    pub state: State,
    pub log: Vec<(u64, Command)>,
    streams: BTreeMap<String, StreamId>,
    names: BTreeMap<Uuid, String>,
}

type Parsed<T> = Result<T, String>;

impl Story {
    /// Plays one line and answers as the stories tell it.
    pub fn line(&mut self, line: &str) -> Parsed<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "show" {
            return self.show(words[1], words.get(2).copied().unwrap_or(""));
        }
        let command = self.command(words[0], &words[1..])?;
        assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
        let before = self.state.clone();
        let index = self.state.applied() + 1;
        let answer = self.state.apply(index, command.clone());
        self.log.push((index, command));
        self.check(&before, answer.is_err());
        Ok(match answer {
            Ok(response) => self.response(response),
            Err(rejection) => self.named(format!("rejected: {rejection}")),
        })
    }

    fn check(&self, before: &State, rejected: bool) {
        invariants::check(&self.state).unwrap();
        invariants::check_step(before, &self.state).unwrap();
        let bytes = snapshot::encode(&self.state);
        assert_eq!(snapshot::decode(&bytes).unwrap(), self.state);
        if rejected {
            let mut before = before.clone();
            before.pass(self.state.applied());
            assert_eq!(before, self.state, "a rejected command changed something");
        }
    }

    fn command(&mut self, verb: &str, words: &[&str]) -> Parsed<Command> {
        let args = Args(words);
        Ok(match verb {
            "init" => Command::InitCluster {
                cluster: ClusterId(Uuid::from_u128(args.number(0)? as u128)),
                incarnation: Incarnation(Uuid::from_u128(1)),
                metadata_level: METADATA_LEVEL,
            },
            "time" => Command::AdvanceTime { now_ms: args.number(0)? as u64 },
            "finalize" => {
                let (name, level) = words[0].split_once('=').ok_or("name=level")?;
                Command::FinalizeFeatures { features: BTreeMap::from([(name.into(), int(level)? as u16)]) }
            }
            "register" => {
                let wals = self.wals(args.option("wals").unwrap_or("")).into_iter().collect();
                let mut features = supported_features();
                for feature in list(args.option("features").unwrap_or("")) {
                    let (name, max) = feature.split_once(':').ok_or("name:max")?;
                    features.insert(name.into(), FeatureRange { min: 0, max: int(max)? as u16 });
                }
                Command::RegisterBroker {
                    node: NodeId(args.number(0)? as i32),
                    boot: BootId(Uuid::from_u128(9)),
                    listeners: vec![Listener { name: "PLAIN".into(), host: "b".into(), port: 9092 }],
                    rack: None,
                    wals,
                    features,
                }
            }
            "fence" => {
                let by = args.by(0)?;
                Command::FenceBroker { node: by.node, epoch: by.epoch }
            }
            "create-distinct-topic" => Command::CreateDistinctTopic {
                name: words[0].into(),
                topic: self.topic(args.option("as").unwrap_or(words[0])),
                internal: false,
                replication_factor: 3,
                owners: args.owners()?,
                configs: BTreeMap::new(),
            },
            "create-topic" => Command::CreateTopic {
                name: words[0].into(),
                topic: self.topic(args.option("as").unwrap_or(words[0])),
                internal: false,
                replication_factor: 3,
                owners: args.owners()?,
                configs: BTreeMap::new(),
            },
            "delete-topic" => Command::DeleteTopic { topic: self.topic(words[0]) },
            "create-partitions" => Command::CreatePartitions {
                topic: self.topic(words[0]),
                total: args.number(1)? as i32,
                owners: args.owners()?,
            },
            "alter-configs" => {
                let resource = match words[0].split_once(':') {
                    Some(("topic", name)) => ConfigResource::Topic { name: name.into() },
                    Some(("group", name)) => ConfigResource::Group { name: name.into() },
                    Some(("client-metrics", name)) => ConfigResource::ClientMetrics { name: name.into() },
                    Some(("broker", node)) => ConfigResource::Broker { node: NodeId(int(node)? as i32) },
                    _ => ConfigResource::BrokerDefault,
                };
                let ops =
                    words[1..].iter().filter(|word| **word != "replace-all").map(|word| match word.split_once('=') {
                        Some((key, "?")) => ConfigOp::Expect { key: key.into(), value: None },
                        Some((key, value)) if value.starts_with('?') => {
                            ConfigOp::Expect { key: key.into(), value: Some(value[1..].into()) }
                        }
                        Some((key, value)) => ConfigOp::Set { key: key.into(), value: value.into() },
                        None => ConfigOp::Delete { key: word.trim_start_matches('-').into() },
                    });
                Command::AlterConfigs { resource, ops: ops.collect(), replace_all: words.contains(&"replace-all") }
            }
            "quotas" => {
                let changes = words.split(|word| *word == "and").map(quota_change).collect::<Parsed<_>>()?;
                Command::AlterClientQuotas { changes }
            }
            "producer-ids" => Command::AllocateProducerIds { by: args.by(0)?, count: args.number(1)? as u32 },
            "take" => Command::TakePartitions {
                by: args.by(0)?,
                partitions: words[1..].iter().map(|word| self.partition(word)).collect::<Parsed<_>>()?,
            },
            "move" => Command::MovePartition {
                partition: self.partition(words[0])?,
                leader_epoch: args.epoch()?,
                to: NodeId(args.named("to")? as i32),
            },
            "dirty" => Command::MarkDirty {
                by: args.by(0)?,
                partition: self.partition(words[1])?,
                leader_epoch: args.epoch()?,
                wals: self.wals(args.option("wals").unwrap_or("")),
                generation: args.named("gen")? as u64,
            },
            "clean" => Command::MarkClean {
                by: args.by(0)?,
                partition: self.partition(words[1])?,
                leader_epoch: args.epoch()?,
                generation: args.named("gen")? as u64,
            },
            "trim" => Command::TrimStream {
                by: args.by(0)?,
                stream: self.stream(words[1])?,
                leader_epoch: args.epoch()?,
                start: Offset(args.named("start")?),
            },
            "reserve" => Command::ReserveObjects {
                by: args.by(0)?,
                count: args.number(1)? as u32,
                ttl_ms: args.named("ttl")? as u64,
            },
            "commit" => {
                let mut objects = Vec::new();
                for word in words[1..].iter().filter(|word| word.starts_with('o') && word.contains('[')) {
                    objects.push(self.object_commit(word)?);
                }
                let trims = args.option("trim").map(|trim| self.wal_trim(trim)).transpose()?.into_iter().collect();
                Command::CommitObjects { by: args.by(0)?, objects, trims }
            }
            "forget" => Command::ForgetObjects {
                by: args.by(0)?,
                objects: list(words[1]).map(object).collect::<Parsed<_>>()?,
                marked_before_ms: args.named("before")? as u64,
            },
            "replace" => {
                let streams = words[1..].iter().map(|word| self.replacement(word)).collect::<Parsed<Vec<_>>>()?;
                let outputs = streams.iter().flat_map(|stream| &stream.outputs);
                let objects: BTreeSet<ObjectId> = outputs.map(|output| output.object).collect();
                let objects = objects.into_iter().map(|object| NewObject { object, record: record() }).collect();
                Command::ReplaceRanges { by: args.by(0)?, objects, streams }
            }
            "open-wal" => Command::OpenWal {
                by: args.by(0)?,
                wal: self.wal(words[1]),
                owner_epoch: OwnerEpoch(args.named("epoch")? as u64),
                start: Lsn(args.named("start")? as u64),
            },
            "seal-wal" => Command::SealWal {
                by: args.by(0)?,
                wal: self.wal(words[1]),
                owner_epoch: OwnerEpoch(args.named("epoch")? as u64),
                end: Lsn(args.named("end")? as u64),
            },
            "recover-wal" => Command::RecoverWal { by: args.by(0)?, wal: self.wal(words[1]) },
            "damaged-wal" => Command::DamagedWal {
                by: args.by(0)?,
                wal: self.wal(words[1]),
                owner_epoch: OwnerEpoch(args.named("epoch")? as u64),
                at: Lsn(args.named("at")? as u64),
            },
            "trim-wal" => Command::TrimWal { by: args.by(0)?, trim: self.wal_trim(words[1])? },
            "set-legs" => {
                let mut legs = Vec::new();
                for name in &words[3..] {
                    legs.push(WalLeg { leg: LegId(self.uuid(name)), device: format!("/dev/{name}"), bytes: 4096 });
                }
                let set_epoch = args.number(2)? as u64;
                Command::SetWalLegs { by: args.by(0)?, wal: self.wal(words[1]), set_epoch, legs }
            }
            "give-up" => Command::GiveUpWal { wal: self.wal(words[0]), past: Lsn(args.named("past")? as u64) },
            other => return Err(format!("unknown verb {other}")),
        })
    }

    /// `o1[orders/0@epoch:base..end{epoch:start,...},...]`
    fn object_commit(&mut self, word: &str) -> Parsed<ObjectCommit> {
        let (id, ranges) = word.trim_end_matches(']').split_once('[').ok_or("o1[...]")?;
        let mut commits = Vec::new();
        for text in ranges.split(';').filter(|text| !text.is_empty()) {
            let (text, epochs) = text.trim_end_matches('}').split_once('{').unwrap_or((text, ""));
            let (partition, text) = text.split_once('@').ok_or("partition@epoch:base..end")?;
            let (epoch, offsets) = text.split_once(':').ok_or("epoch:base..end")?;
            let (base, end) = offsets.split_once("..").ok_or("base..end")?;
            let (base, end) = (int(base)?, int(end)?);
            let mut starts = Vec::new();
            for start in list(epochs) {
                let (epoch, start) = start.split_once(':').ok_or("epoch:start")?;
                starts.push(EpochStart { epoch: LeaderEpoch(int(epoch)? as i32), start: Offset(int(start)?) });
            }
            commits.push(RangeCommit {
                stream: self.stream(partition)?,
                leader_epoch: LeaderEpoch(int(epoch)? as i32),
                base: Offset(base),
                end: Offset(end),
                bytes: 10 * end.abs_diff(base),
                records: end.abs_diff(base),
                max_timestamp: end,
                epochs: starts,
            });
        }
        Ok(ObjectCommit { object: object(id)?, record: record(), ranges: commits })
    }

    /// `orders/0@epoch:o1@base,o2@base=>o3@base..end,...!cleaned-to`
    fn replacement(&mut self, word: &str) -> Parsed<StreamReplacement> {
        let (word, cleaned) = word.split_once('!').map_or((word, None), |(word, to)| (word, Some(to)));
        let (partition, text) = word.split_once('@').ok_or("partition@epoch:inputs=>outputs")?;
        let (epoch, text) = text.split_once(':').ok_or("epoch:inputs=>outputs")?;
        let (from, to) = text.split_once("=>").ok_or("inputs=>outputs")?;
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for input in list(from) {
            let (id, base) = input.split_once('@').ok_or("o1@base")?;
            inputs.push(RangeInput { base: Offset(int(base)?), object: object(id)? });
        }
        for output in list(to) {
            let (id, offsets) = output.split_once('@').ok_or("o1@base..end")?;
            let (base, end) = offsets.split_once("..").ok_or("base..end")?;
            let (base, end) = (int(base)?, int(end)?);
            outputs.push(RangeOutput {
                base: Offset(base),
                end: Offset(end),
                object: object(id)?,
                bytes: 10 * end.abs_diff(base),
                records: end.abs_diff(base),
                max_timestamp: end,
            });
        }
        let cleaned_to = cleaned.map(int).transpose()?.map(Offset);
        let leader_epoch = LeaderEpoch(int(epoch)? as i32);
        Ok(StreamReplacement { stream: self.stream(partition)?, leader_epoch, inputs, outputs, cleaned_to })
    }

    /// `w1@owner-epoch:lsn`
    fn wal_trim(&mut self, text: &str) -> Parsed<WalTrim> {
        let (wal, text) = text.split_once('@').ok_or("w1@epoch:lsn")?;
        let (epoch, lsn) = text.split_once(':').ok_or("epoch:lsn")?;
        let (owner_epoch, lsn) = (OwnerEpoch(int(epoch)? as u64), Lsn(int(lsn)? as u64));
        Ok(WalTrim { wal: self.wal(wal), owner_epoch, lsn })
    }

    fn topic(&mut self, name: &str) -> TopicId {
        TopicId(self.uuid(name))
    }

    fn wal(&mut self, name: &str) -> WalId {
        WalId(self.uuid(name))
    }

    fn wals(&mut self, names: &str) -> BTreeSet<WalId> {
        list(names).map(|name| self.wal(name)).collect()
    }

    /// An id made of the name's letters, so that a story has the same ids whatever its order.
    fn uuid(&mut self, name: &str) -> Uuid {
        let id = Uuid::from_u128(name.bytes().fold(0, |sum, byte| (sum << 8) | u128::from(byte)));
        self.names.insert(id, name.to_owned());
        id
    }

    fn partition(&mut self, text: &str) -> Parsed<PartitionId> {
        let (topic, index) = text.split_once('/').ok_or("topic/index")?;
        Ok(PartitionId { topic: self.topic(topic), index: int(index)? as i32 })
    }

    /// The stream that the partition of this name has, or had.
    fn stream(&mut self, text: &str) -> Parsed<StreamId> {
        if let Some(number) = text.strip_prefix("stream") {
            return Ok(StreamId(int(number)? as u64));
        }
        let id = self.partition(text)?;
        if let Some(partition) = self.state.partition(id) {
            self.streams.insert(text.to_owned(), partition.stream);
        }
        self.streams.get(text).copied().ok_or_else(|| format!("no stream was ever named {text}"))
    }

    fn named(&self, text: String) -> String {
        self.names.iter().fold(text, |text, (id, name)| text.replace(&id.to_string(), name))
    }

    fn response(&self, response: Response) -> String {
        let outcome = |outcome: &RangeOutcome| match outcome {
            RangeOutcome::Accepted => "accepted".to_owned(),
            RangeOutcome::Settled { why } => format!("settled {why:?}"),
            RangeOutcome::Refused { why } => format!("refused {why:?}"),
        };
        self.named(match response {
            Response::Done => "ok".into(),
            Response::BrokerEpoch(epoch) => format!("epoch {epoch}"),
            Response::Topic { streams, .. } => format!("streams {}", joined(&streams, ",")),
            Response::ProducerIds { first, count } => format!("{count} from {first}"),
            Response::LeaderEpochs(epochs) if epochs.is_empty() => "no partitions".into(),
            Response::LeaderEpochs(epochs) => {
                let epochs: Vec<String> = epochs.iter().map(|(id, epoch)| format!("{id} epoch {epoch}")).collect();
                joined(&epochs, ", ")
            }
            Response::LogStart(start) => format!("start {start}"),
            Response::ObjectIds { first, count } => format!("{count} from o{first}"),
            Response::Commit(CommitAnswer { outcomes, trimmed }) => {
                let outcomes: Vec<String> =
                    outcomes.iter().map(|object| joined(object.iter().map(outcome), ", ")).collect();
                format!("{}; {}", outcomes.join(" | "), if trimmed { "trimmed" } else { "not trimmed" })
            }
            Response::Replaced(outcomes) => joined(outcomes.iter().map(outcome), " | "),
        })
    }

    fn show(&mut self, what: &str, name: &str) -> Parsed<String> {
        let text = match what {
            "partition" => {
                let id = self.partition(name)?;
                let Some(partition) = self.state.partition(id) else { return Ok("unknown".into()) };
                let dirty = match &partition.dirty {
                    Some(dirty) => format!("dirty gen {} {}", dirty.generation, joined(&dirty.wals, ",")),
                    None => "clean".into(),
                };
                let (owner, epoch) = (partition.owner, partition.leader_epoch);
                format!("owner {owner} epoch {epoch} {dirty}")
            }
            "stream" => {
                let id = self.stream(name)?;
                let Some(stream) = self.state.stream(id) else { return Ok("unknown".into()) };
                let ranges = stream.ranges_from(Offset(0));
                let ranges: Vec<_> =
                    ranges.map(|range| format!("o{} {}..{}", range.object, range.base, range.end)).collect();
                let epochs: Vec<_> =
                    stream.epochs.iter().map(|epoch| format!("{}:{}", epoch.epoch, epoch.start)).collect();
                let (start, next) = (stream.start, stream.next);
                format!("start {start} next {next} epochs [{}] ranges [{}]", epochs.join(" "), ranges.join(", "))
            }
            "object" => {
                let id = object(name)?;
                match (self.state.object(id), self.state.reservation(id)) {
                    (Some(object), _) => match object.marked_ms {
                        Some(marked) => format!("marked at {marked}"),
                        None => format!("committed, used {} times", object.references),
                    },
                    (None, Some(reservation)) => format!("reserved until {}", reservation.expires_ms),
                    (None, None) => "unknown".into(),
                }
            }
            "cleaned" => {
                let id = self.stream(name)?;
                format!("to {}", self.state.cleaned_to(id))
            }
            "debt" => {
                let ranges = self.state.uploaded_ranges(ObjectId(0));
                joined(ranges.map(|(stream, range)| format!("o{} stream{stream} {}", range.object, range.base)), ", ")
            }
            "wal" => {
                let id = self.wal(name);
                let Some(wal) = self.state.wal(id) else { return Ok("unknown".into()) };
                let life = match wal.life {
                    WalLife::Open { by } => format!("open by {}@{}", by.node, by.epoch),
                    WalLife::Sealed { by, end } => format!("sealed by {}@{} at {end}", by.node, by.epoch),
                    WalLife::Damaged { at } => format!("damaged at {at}"),
                    life => life.name().into(),
                };
                let openings = wal.openings.iter().map(|opening| format!("{}:{}", opening.owner_epoch, opening.start));
                format!("{life}, trim {}, openings {}", wal.trim, openings.collect::<Vec<_>>().join(" "))
            }
            "legs" => {
                let id = self.wal(name);
                let Some(set) = self.state.wal_legs(id) else { return Ok("not recorded".into()) };
                format!("set {}: {}", set.epoch, joined(set.legs.iter().map(|leg| leg.leg), " "))
            }
            "configs" => {
                let resource = match name.split_once(':') {
                    Some(("group", name)) => ConfigResource::Group { name: name.into() },
                    Some(("client-metrics", name)) => ConfigResource::ClientMetrics { name: name.into() },
                    _ => ConfigResource::Topic { name: name.into() },
                };
                let Some(configs) = self.state.configs(&resource) else { return Ok("none".into()) };
                joined(configs.iter().map(|(key, value)| format!("{key}={value}")), " ")
            }
            "quotas" => {
                let entity = quota_entity(name)?;
                let Some(quotas) = self.state.quotas().get(&entity) else { return Ok("none".into()) };
                joined(quotas.iter().map(|(key, value)| format!("{key}={value:?}")), " ")
            }
            other => return Err(format!("cannot show {other}")),
        };
        Ok(self.named(text))
    }
}

/// `user=ann,client=* producer_byte_rate=100 -consumer_byte_rate`; `*` is the default.
fn quota_change(words: &[&str]) -> Parsed<QuotaChange> {
    let (entity, ops) = words.split_first().ok_or("an entity")?;
    let mut values = BTreeMap::new();
    for op in ops {
        match op.split_once('=') {
            Some((key, value)) => {
                let value: f64 = value.parse().map_err(|_| format!("{value} is no number"))?;
                values.insert(key.to_owned(), Some(QuotaValue::new(value).ok_or("a quota is above zero")?));
            }
            None => _ = values.insert(op.trim_start_matches('-').to_owned(), None),
        }
    }
    Ok(QuotaChange { entity: quota_entity(entity)?, values })
}

fn quota_entity(text: &str) -> Parsed<QuotaEntity> {
    let mut entity = QuotaEntity::default();
    for part in list(text) {
        let (kind, name) = part.split_once('=').unwrap_or((part, ""));
        let name = if name == "*" { QuotaName::Default } else { QuotaName::Named { name: name.into() } };
        match kind {
            "user" => entity.user = Some(name),
            "client" => entity.client_id = Some(name),
            "ip" => entity.ip = Some(name),
            other => return Err(format!("no entity {other}")),
        }
    }
    Ok(entity)
}

struct Args<'a>(&'a [&'a str]);

impl<'a> Args<'a> {
    fn number(&self, index: usize) -> Parsed<i64> {
        int(self.0.get(index).ok_or("a number is missing")?)
    }

    fn by(&self, index: usize) -> Parsed<Registration> {
        let (node, epoch) = self.0.get(index).and_then(|word| word.split_once('@')).ok_or("node@epoch")?;
        Ok(Registration { node: NodeId(int(node)? as i32), epoch: BrokerEpoch(int(epoch)? as u64) })
    }

    fn option(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn named(&self, name: &str) -> Parsed<i64> {
        int(self.option(name).ok_or_else(|| format!("{name}= is missing"))?)
    }

    fn epoch(&self) -> Parsed<LeaderEpoch> {
        Ok(LeaderEpoch(self.named("epoch")? as i32))
    }

    fn owners(&self) -> Parsed<Vec<NodeId>> {
        list(self.option("owners").unwrap_or("")).map(|owner| Ok(NodeId(int(owner)? as i32))).collect()
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.is_empty())
}

/// Numbers may be written `2^32+5`.
fn int(text: &str) -> Parsed<i64> {
    if let Some((left, right)) = text.split_once('+') {
        return Ok(int(left)? + int(right)?);
    }
    if let Some(exponent) = text.strip_prefix("2^") {
        return Ok(1 << int(exponent)?);
    }
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn record() -> ObjectRecord {
    ObjectRecord { bucket: 0, incarnation: Incarnation(Uuid::from_u128(1)), format_version: 1, bytes: 4096 }
}

fn object(text: &str) -> Parsed<ObjectId> {
    Ok(ObjectId(int(text.strip_prefix('o').ok_or("o1")?)? as u64))
}

fn joined<T: std::fmt::Display>(items: impl IntoIterator<Item = T>, by: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(by)
}
