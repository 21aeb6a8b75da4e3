//! What the members of a group read: topics by name and by regular expression, and the target assignment over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, Digest};
use regex::{Regex, RegexBuilder};
use uuid::Uuid;

use super::{ClusterView, ConsumerConfig, ConsumerGroup, Member};
use crate::assignor::MemberSpec;
use crate::group::{GroupError, Now};
use crate::group_records::consumer::{Assignment, ConsumerRecord, ResolvedRegex, TargetEpochValue};

/// Compiled size of a regular expression. Matching takes time linear in the text, whatever the expression.
const REGEX_BYTES_MAX: usize = 256 << 10;
/// New topics are looked for no more often than this.
const RESOLVE_INTERVAL_MS: u64 = 1_000;

/// Topic names and regular expression.
type Subscription<'a> = (&'a BTreeSet<String>, Option<&'a str>);

impl ConsumerGroup {
    /// Does some member read the topic, by name or by regular expression?
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.name_counts.contains_key(topic) || self.regexes.values().any(|resolved| resolved.topics.contains(topic))
    }

    pub fn subscribed_topics(&self) -> BTreeSet<&str> {
        let by_name = self.name_counts.keys();
        by_name.chain(self.regexes.values().flat_map(|resolved| &resolved.topics)).map(String::as_str).collect()
    }

    /// Changes when a subscribed topic comes, goes, is made anew or grows. 0 when there are none.
    pub(super) fn compute_metadata_hash(&self, view: &ClusterView) -> i64 {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut any = false;
        for name in self.subscribed_topics() {
            if let Some(topic) = view.topic(name) {
                digest.update(&(name.len() as u64).to_be_bytes());
                digest.update(name.as_bytes());
                digest.update(topic.id.as_bytes());
                digest.update(&topic.partitions.to_be_bytes());
                any = true;
            }
        }
        if any { digest.finalize() as i64 } else { 0 }
    }

    /// Finds the topics of regular expressions that are new, and, when topics have changed, of all. True: some differ.
    pub(super) fn resolve_regexes(&mut self, view: &ClusterView, now: Now, records: &mut Vec<ConsumerRecord>) -> bool {
        let all = match self.resolved_version {
            Some((version, at_ms)) => {
                version != view.version() && now.monotonic_ms.saturating_sub(at_ms) >= RESOLVE_INTERVAL_MS
            }
            None => true,
        };
        if all {
            self.resolved_version = Some((view.version(), now.monotonic_ms));
        }
        let mut changed = false;
        let unresolved: Vec<String> =
            (self.regex_counts.keys()).filter(|regex| all || !self.regexes.contains_key(*regex)).cloned().collect();
        for regex in unresolved {
            // What a log of somebody else's holds may not compile here: it matches nothing.
            let topics: BTreeSet<String> = match compile(&regex) {
                Ok(compiled) => view.names().filter(|name| compiled.is_match(name)).map(str::to_owned).collect(),
                Err(_) => BTreeSet::new(),
            };
            let before = self.regexes.get(&regex);
            if before.is_some_and(|before| before.topics == topics) {
                continue;
            }
            changed = true;
            let resolved = ResolvedRegex { topics, version: view.version() as i64, timestamp_ms: now.wall_ms };
            records.push(ConsumerRecord::Regex(regex.clone(), Some(resolved.clone())));
            self.set_regex(&regex, Some(resolved));
        }
        changed
    }

    /// Forgets the topics of regular expressions that nobody subscribes to any more.
    pub(super) fn drop_unused_regexes(&mut self, records: &mut Vec<ConsumerRecord>) {
        let unused: Vec<String> =
            self.regexes.keys().filter(|regex| !self.regex_counts.contains_key(*regex)).cloned().collect();
        for regex in unused {
            self.set_regex(&regex, None);
            records.push(ConsumerRecord::Regex(regex, None));
        }
        if self.regex_counts.is_empty() {
            self.resolved_version = None;
        }
    }

    fn set_regex(&mut self, regex: &str, resolved: Option<ResolvedRegex>) {
        let before = match resolved {
            Some(resolved) => {
                self.bytes += regex_bytes(regex, &resolved);
                self.regexes.insert(regex.to_owned(), resolved)
            }
            None => self.regexes.remove(regex),
        };
        if let Some(before) = before {
            self.bytes -= regex_bytes(regex, &before);
        }
    }

    /// The topics of a member's subscription that exist.
    pub(super) fn topic_ids(&self, member: &Member, view: &ClusterView) -> BTreeSet<Uuid> {
        let resolved = member.regex().and_then(|regex| self.regexes.get(regex));
        let by_regex = resolved.into_iter().flat_map(|resolved| &resolved.topics);
        let names = member.metadata.topic_names.iter().chain(by_regex);
        names.filter_map(|name| Some(view.topic(name)?.id)).collect()
    }

    /// Computes the target assignment of the group's epoch, if it is time to, and writes what of it is new.
    pub(super) fn update_target(
        &mut self,
        view: &ClusterView,
        config: &ConsumerConfig,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) {
        if !self.is_target_due(config, now) {
            return;
        }
        for (id, target) in self.compute_target(view, config) {
            if self.targets.get(&id) != Some(&target) {
                records.push(ConsumerRecord::Target(id.clone(), Some(target.clone())));
                self.set_target(&id, Some(target));
            }
        }
        self.target_epoch = self.epoch;
        self.target_timestamp_ms = now.wall_ms;
        let value = TargetEpochValue { epoch: self.target_epoch, timestamp_ms: self.target_timestamp_ms };
        records.push(ConsumerRecord::TargetEpoch(Some(value)));
    }

    /// The target is of an epoch before this one, and computing another need not wait.
    pub(super) fn is_target_due(&self, config: &ConsumerConfig, now: Now) -> bool {
        let may_be_computed = self.target_timestamp_ms == 0
            || config.assignment_interval_ms == 0
            || now.wall_ms >= self.target_timestamp_ms.saturating_add(config.assignment_interval_ms);
        self.target_epoch < self.epoch && may_be_computed
    }

    fn compute_target(&self, view: &ClusterView, config: &ConsumerConfig) -> Vec<(String, Assignment)> {
        let nothing = Assignment::new();
        // Members with the same subscription share one set of ids.
        let mut subscriptions: BTreeMap<Subscription, Arc<BTreeSet<Uuid>>> = BTreeMap::new();
        let members: Vec<MemberSpec> = (self.members.values())
            .map(|member| {
                let subscription = (&member.metadata.topic_names, member.regex());
                let topics =
                    subscriptions.entry(subscription).or_insert_with(|| Arc::new(self.topic_ids(member, view)));
                MemberSpec {
                    id: &member.member_id,
                    instance_id: member.metadata.instance_id.as_deref(),
                    topics: topics.clone(),
                    current: self.targets.get(&member.member_id).unwrap_or(&nothing),
                }
            })
            .collect();
        let topics = self.subscribed_topics();
        let partitions: BTreeMap<Uuid, i32> =
            topics.into_iter().filter_map(|name| view.topic(name)).map(|topic| (topic.id, topic.partitions)).collect();
        let assignments = self.assignor(config).assign(&members, &partitions);
        self.members.keys().cloned().zip(assignments).collect()
    }
}

/// Kafka takes RE2's syntax, and the whole name has to match. Here it is that of the crate `regex`, which lacks of
/// RE2 only `\C`; quoting with `\Q` and `\E` is done here.
pub(super) fn compile(regex: &str) -> Result<Regex, GroupError> {
    let build = |text: &str| {
        RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build().map_err(|_| GroupError::InvalidRegularExpression)
    };
    let text = unquote(regex);
    // By itself first: a stray parenthesis must not pair with ours.
    build(&text)?;
    build(&format!(r"\A(?:{text})\z"))
}

/// Writes `\Q...\E` as escaped text.
fn unquote(regex: &str) -> String {
    let mut text = String::with_capacity(regex.len());
    let mut rest = regex;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        text.push_str(before);
        if let Some(quoted) = escape.strip_prefix(r"\Q") {
            let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            text.push_str(&regex::escape(literal));
            rest = after;
        } else {
            let length = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
            text.push_str(&escape[..length]);
            rest = &escape[length..];
        }
    }
    text.push_str(rest);
    text
}

pub(super) fn regex_bytes(regex: &str, resolved: &ResolvedRegex) -> usize {
    128 + 2 * regex.len() + resolved.topics.iter().map(|topic| 64 + topic.len()).sum::<usize>()
}
