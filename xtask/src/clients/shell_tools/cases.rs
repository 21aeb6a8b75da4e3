//! What each tool is asked and what it must say. BOOTSTRAP and FOLDER stand for the broker's address and for the folder of
//! [`FILES`]. Kafka's tools end with 0 or 1; which one a help or a refusal ends with is not the same for all of them.

/// A tool of Kafka's `bin` folder. `kafka-run-class` is what runs them all; tools for ACLs, delegation tokens and the like
/// come with security.
pub struct Tool {
    pub name: &'static str,
    pub class: &'static str,
    pub help: Call,
    /// None where a tool works on files or features that are not here.
    pub success: Option<Call>,
    pub failure: Call,
}

pub struct Call {
    pub arguments: &'static [&'static str],
    pub input: &'static str,
    pub status: &'static [i32],
    /// One of these is in the output.
    pub says: &'static [&'static str],
}

/// Tools that make what the later ones use.
pub const FIRST: usize = 2;

pub const FILES: &[(&str, &str)] = &[
    ("delete.json", r#"{"version":1,"partitions":[{"topic":"shell-tools","partition":1,"offset":0}]}"#),
    ("broken.json", "{"),
    ("reassign.json", r#"{"version":1,"partitions":[{"topic":"shell-tools","partition":0,"replicas":[1]}]}"#),
    ("reassign-away.json", r#"{"version":1,"partitions":[{"topic":"shell-tools","partition":0,"replicas":[99]}]}"#),
    ("00000000000000000000.log", "not a log"),
];

const fn help(says: &'static [&'static str]) -> Call {
    Call { arguments: &["--help"], input: "", status: &[0, 1], says }
}

const fn success(arguments: &'static [&'static str], says: &'static [&'static str]) -> Call {
    Call { arguments, input: "", status: &[0], says }
}

const fn failure(arguments: &'static [&'static str], says: &'static [&'static str]) -> Call {
    Call { arguments, input: "", status: &[1], says }
}

/// Some tools tell of an error and end with 0.
const fn quiet_failure(arguments: &'static [&'static str], says: &'static [&'static str]) -> Call {
    Call { arguments, input: "", status: &[0, 1], says }
}

#[rustfmt::skip]
pub const TOOLS: &[Tool] = &[
    Tool {
        name: "kafka-topics",
        class: "org.apache.kafka.tools.TopicCommand",
        help: help(&["create, delete, describe, or change a topic"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--create", "--topic", "shell-tools", "--partitions", "2"], &["Created topic shell-tools."])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--topic", "nothing"], &["Topic 'nothing' does not exist as expected"]),
    },
    Tool {
        name: "kafka-console-producer",
        class: "org.apache.kafka.tools.ConsoleProducer",
        help: help(&["read data from standard input and publish it"]),
        success: Some(Call { arguments: &["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], input: "a\nb\nc\nd\n", status: &[0], says: &[""] }),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic"], &["Option topic requires an argument"]),
    },
    Tool {
        name: "kafka-console-consumer",
        class: "org.apache.kafka.tools.consumer.ConsoleConsumer",
        help: help(&["read data from Kafka topics"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--from-beginning", "--max-messages", "4", "--timeout-ms", "20000"], &["Processed a total of 4 messages"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--from-beginning"], &["Exactly one of the following arguments is required"]),
    },
    Tool {
        name: "kafka-consumer-perf-test",
        class: "org.apache.kafka.tools.ConsumerPerformance",
        help: help(&["verify the consumer performance"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--num-records", "4", "--timeout", "20000"], &[", 4, "])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["Exactly one of the following arguments is required"]),
    },
    Tool {
        name: "kafka-verifiable-consumer",
        class: "org.apache.kafka.tools.VerifiableConsumer",
        help: help(&["usage: verifiable-consumer"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--group-id", "shell-tools-verifiable", "--max-messages", "4"], &["records_consumed"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["argument --group-id is required"]),
    },
    Tool {
        name: "kafka-producer-perf-test",
        class: "org.apache.kafka.tools.ProducerPerformance",
        help: help(&["usage: kafka-producer-perf-test"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--num-records", "1000", "--record-size", "100", "--throughput", "-1"], &["1000 records sent"])),
        failure: failure(&["--topic", "shell-tools"], &["usage: kafka-producer-perf-test"]),
    },
    Tool {
        name: "kafka-verifiable-producer",
        class: "org.apache.kafka.tools.VerifiableProducer",
        help: help(&["usage: verifiable-producer"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--max-messages", "10"], &["startup_complete"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP"], &["argument --topic is required"]),
    },
    Tool {
        name: "kafka-e2e-latency",
        class: "org.apache.kafka.tools.EndToEndLatency",
        help: help(&["bootstrap-server topic num-records"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools-latency", "--num-records", "20", "--producer-acks", "all", "--record-size", "64"], &["Percentiles: 50th"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["Missing required argument"]),
    },
    Tool {
        name: "kafka-configs",
        class: "kafka.admin.ConfigCommand",
        help: help(&["manipulate and describe entity config"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--alter", "--entity-type", "clients", "--entity-name", "shell-tools", "--add-config", "producer_byte_rate=1048576"], &["Completed updating config for client shell-tools."])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--alter", "--entity-type", "ips", "--entity-name", "10.0.0.1", "--add-config", "connection_creation_rate=-5"], &["Quota connection_creation_rate must be greater than 0"]),
    },
    Tool {
        name: "kafka-consumer-groups",
        class: "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        help: help(&["list all consumer groups"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &[""])),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--group", "nothing"], &["Group nothing not found"]),
    },
    Tool {
        name: "kafka-groups",
        class: "org.apache.kafka.tools.GroupsCommand",
        help: help(&["list groups of all types"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &["PROTOCOL"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--list", "--group-type", "odd"], &["--group-type must be a valid group type"]),
    },
    Tool {
        name: "kafka-share-groups",
        class: "org.apache.kafka.tools.consumer.group.ShareGroupCommand",
        help: help(&["list, describe, reset and delete share groups"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &[""])),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--group", "nothing"], &["Group nothing not found", "UnsupportedVersionException", "does not support SHARE_GROUP_DESCRIBE"]),
    },
    Tool {
        name: "kafka-streams-groups",
        class: "org.apache.kafka.tools.streams.StreamsGroupCommand",
        help: help(&["list, or describe streams groups"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &[""])),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--group", "nothing"], &["Group nothing not found", "UnsupportedVersionException", "does not support STREAMS_GROUP_DESCRIBE"]),
    },
    Tool {
        name: "kafka-console-share-consumer",
        class: "org.apache.kafka.tools.consumer.ConsoleShareConsumer",
        help: help(&["using share groups"]),
        success: None,
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--max-messages", "1", "--timeout-ms", "2000"], &["Processed a total of 0 messages"]),
    },
    Tool {
        name: "kafka-share-consumer-perf-test",
        class: "org.apache.kafka.tools.ShareConsumerPerformance",
        help: help(&["verify the share consumer performance"]),
        success: None,
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["required"]),
    },
    Tool {
        name: "kafka-verifiable-share-consumer",
        class: "org.apache.kafka.tools.VerifiableShareConsumer",
        help: help(&["usage: verifiable-share-consumer"]),
        success: None,
        failure: failure(&["--bootstrap-server", "BOOTSTRAP"], &["is required", "argument --"]),
    },
    Tool {
        name: "kafka-get-offsets",
        class: "org.apache.kafka.tools.GetOffsetShell",
        help: help(&["getting topic-partition offsets"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["shell-tools:1:"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "nothing"], &["Could not match any topic-partitions"]),
    },
    Tool {
        name: "kafka-delete-records",
        class: "org.apache.kafka.tools.DeleteRecordsCommand",
        help: help(&["delete records of the given partitions"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--offset-json-file", "FOLDER/delete.json"], &["low_watermark: 0"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--offset-json-file", "FOLDER/broken.json"], &["The input string is not a valid JSON", "JsonParseException", "JsonEOFException"]),
    },
    Tool {
        name: "kafka-log-dirs",
        class: "org.apache.kafka.tools.LogDirsCommand",
        help: help(&["query log directory usage"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--topic-list", "shell-tools"], &["\"partition\":\"shell-tools-0\""])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--broker-list", "99"], &["The given brokers do not exist"]),
    },
    Tool {
        name: "kafka-leader-election",
        class: "org.apache.kafka.tools.LeaderElectionCommand",
        help: help(&["elect a new leader"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--election-type", "preferred", "--topic", "shell-tools", "--partition", "0"], &["Valid replica already elected for partitions"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--election-type", "preferred", "--topic", "nothing", "--partition", "0"], &["UnknownTopicOrPartitionException"]),
    },
    Tool {
        name: "kafka-reassign-partitions",
        class: "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        help: help(&["move topic partitions between replicas"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--execute", "--reassignment-json-file", "FOLDER/reassign.json"], &["Successfully started partition reassignment for shell-tools-0"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--execute", "--reassignment-json-file", "FOLDER/reassign-away.json"], &["Unknown broker id 99"]),
    },
    Tool {
        name: "kafka-reassign-partitions",
        class: "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        help: help(&["move topic partitions between replicas"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &["No partition reassignments found."])),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--cancel", "--reassignment-json-file", "FOLDER/reassign.json"], &["None of the specified partition reassignments are active."]),
    },
    Tool {
        name: "kafka-replica-verification",
        class: "org.apache.kafka.tools.ReplicaVerificationTool",
        help: help(&["Validate that all replicas"]),
        success: None,
        failure: failure(&["--broker-list"], &["Option broker-list requires an argument"]),
    },
    Tool {
        name: "kafka-broker-api-versions",
        class: "org.apache.kafka.tools.BrokerApiVersionsCommand",
        help: help(&["retrieve broker version information"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP"], &["Produce(0): 0 to 13 [usable: 13]"])),
        failure: failure(&["--bootstrap-server"], &["Option bootstrap-server requires an argument"]),
    },
    Tool {
        name: "kafka-cluster",
        class: "org.apache.kafka.tools.ClusterTool",
        help: help(&["usage: kafka-cluster"]),
        success: Some(success(&["cluster-id", "--bootstrap-server", "BOOTSTRAP"], &["Cluster ID: "])),
        failure: failure(&["unregister", "--bootstrap-server", "BOOTSTRAP", "--id", "99"], &["is not currently registered"]),
    },
    Tool {
        name: "kafka-client-metrics",
        class: "org.apache.kafka.tools.ClientMetricsCommand",
        help: help(&["client metrics configurations"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &[""])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--name"], &["Option name requires an argument"]),
    },
    Tool {
        name: "kafka-metadata-quorum",
        class: "org.apache.kafka.tools.MetadataQuorumCommand",
        help: help(&["usage: kafka-metadata-quorum"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "describe", "--status"], &["LeaderId:               1"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "describe"], &["One of --status or --replication must be specified"]),
    },
    Tool {
        name: "kafka-features",
        class: "org.apache.kafka.tools.FeatureCommand",
        help: help(&["usage: kafka-features"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "describe"], &["FinalizedVersionLevel: 4.3-IV0"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "upgrade", "--feature", "metadata.version=99"], &["Could not upgrade metadata.version to 99"]),
    },
    Tool {
        name: "kafka-transactions",
        class: "org.apache.kafka.tools.TransactionsCommand",
        help: help(&["usage: kafka-transactions"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "describe-producers", "--topic", "shell-tools", "--partition", "0"], &["ProducerId"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "describe", "--transactional-id", "nothing"], &["nothing"]),
    },
    Tool {
        name: "kafka-streams-application-reset",
        class: "org.apache.kafka.tools.StreamsResetter",
        help: help(&["quickly reset an application"]),
        success: Some(success(&["--bootstrap-server", "BOOTSTRAP", "--application-id", "nothing", "--input-topics", "shell-tools", "--dry-run"], &["shell-tools"])),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--application-id"], &["Option application-id requires an argument"]),
    },
    Tool {
        name: "kafka-jmx",
        class: "org.apache.kafka.tools.JmxTool",
        help: help(&["Dump JMX values"]),
        success: None,
        failure: failure(&["--jmx-url"], &["requires an argument"]),
    },
    Tool {
        name: "kafka-dump-log",
        class: "org.apache.kafka.tools.DumpLogSegments",
        help: help(&["parse a log file"]),
        success: Some(success(&["--files", "FOLDER/00000000000000000000.log"], &["Log starting offset: 0"])),
        failure: failure(&["--files", "FOLDER/nothing.log"], &["NumberFormatException"]),
    },
    Tool {
        name: "kafka-storage",
        class: "kafka.tools.StorageTool",
        help: help(&["The Kafka storage tool"]),
        success: Some(success(&["version-mapping"], &["metadata.version=30 (4.3-IV0)"])),
        failure: failure(&["info", "-c", "FOLDER/nothing.properties"], &["NoSuchFileException"]),
    },
    Tool {
        name: "kafka-metadata-shell",
        class: "org.apache.kafka.shell.MetadataShell",
        help: help(&["metadata shell", "usage: kafka-metadata-shell"]),
        success: None,
        failure: failure(&["--snapshot", "FOLDER/nothing"], &["NoSuchFileException"]),
    },
];
