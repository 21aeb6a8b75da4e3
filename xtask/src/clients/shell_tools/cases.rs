//! What each tool is asked and what it must say. BOOTSTRAP and FOLDER stand for the broker's address and for the folder of
//! [`FILES`]. Kafka's tools end with 0 or 1; which one a help or a refusal ends with is not the same for all of them.

/// A tool of Kafka's `bin` folder. `kafka-run-class` is what runs them all; tools for ACLs, delegation tokens and the like
/// come with security.
pub struct Tool {
    pub name: &'static str,
    pub class: &'static str,
    pub help: Call,
    pub success: Success,
    pub failure: Call,
}

pub enum Success {
    Call(Call),
    /// It runs until it is stopped: it is, once this topic holds the records that it writes.
    Until {
        arguments: &'static [&'static str],
        topic: &'static str,
        records: i64,
    },
    /// It works on something that is not here.
    Absent(&'static str),
}

pub struct Call {
    pub arguments: &'static [&'static str],
    pub input: &'static str,
    pub status: &'static [i32],
    /// One of these is in the output; `NOTHING` stands for none at all.
    pub says: &'static [&'static str],
}

pub const NOTHING: &str = "";

/// Tools that make what the later ones use. The later ones run side by side, so a tool that writes has a topic of its own.
pub const FIRST: usize = 3;

pub const FILES: &[(&str, &str)] = &[
    ("delete.json", r#"{"version":1,"partitions":[{"topic":"shell-tools","partition":1,"offset":0}]}"#),
    ("broken.json", "{"),
    ("reassign.json", r#"{"version":1,"partitions":[{"topic":"shell-tools","partition":0,"replicas":[1]}]}"#),
    ("reassign-away.json", r#"{"version":1,"partitions":[{"topic":"shell-tools","partition":0,"replicas":[99]}]}"#),
    ("00000000000000000000.log", "not a log"),
    ("lines.txt", "one\ntwo\nthree\nfour\n"),
    (
        "standalone.properties",
        "bootstrap.servers=BOOTSTRAP\nlisteners=http://127.0.0.1:0\nplugin.discovery=service_load\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\n\
         offset.storage.file.filename=FOLDER/offsets\noffset.flush.interval.ms=1000\n",
    ),
    (
        "source.properties",
        "name=shell-tools-source\nconnector.class=org.apache.kafka.connect.file.FileStreamSourceConnector\n\
         file=FOLDER/lines.txt\ntopic=shell-tools-lines\n",
    ),
    // The cluster mirrors a topic of its own under another name.
    (
        "mirror.properties",
        "clusters=here,there\nhere.bootstrap.servers=BOOTSTRAP\nthere.bootstrap.servers=BOOTSTRAP\n\
         here->there.enabled=true\nhere->there.topics=shell-tools-lines\nrefresh.topics.interval.seconds=1\n\
         emit.heartbeats.enabled=false\nemit.checkpoints.enabled=false\nsync.topic.acls.enabled=false\n\
         replication.factor=1\noffset-syncs.topic.replication.factor=1\nconfig.storage.replication.factor=1\n\
         offset.storage.replication.factor=1\nstatus.storage.replication.factor=1\n",
    ),
    (
        "trogdor.json",
        r#"{"platform":"org.apache.kafka.trogdor.basic.BasicPlatform","nodes":{"node0":{"hostname":"localhost","trogdor.agent.port":0}}}"#,
    ),
    (
        "produce.json",
        r#"{"class":"org.apache.kafka.trogdor.workload.ProduceBenchSpec","startMs":0,"durationMs":20000,"producerNode":"node0","bootstrapServers":"BOOTSTRAP","targetMessagesPerSec":1000,"maxMessages":500,"activeTopics":{"shell-tools-trogdor":{"numPartitions":1,"replicationFactor":1}}}"#,
    ),
];

const fn help(says: &'static [&'static str]) -> Call {
    Call { arguments: &["--help"], input: "", status: &[0, 1], says }
}

const fn success(arguments: &'static [&'static str], says: &'static [&'static str]) -> Success {
    Success::Call(Call { arguments, input: "", status: &[0], says })
}

const fn failure(arguments: &'static [&'static str], says: &'static [&'static str]) -> Call {
    Call { arguments, input: "", status: &[1], says }
}

/// Some tools tell of an error and end with 0.
const fn quiet_failure(arguments: &'static [&'static str], says: &'static [&'static str]) -> Call {
    Call { arguments, input: "", status: &[0, 1], says }
}

/// With the class path of Kafka Connect, MirrorMaker and Trogdor; each uses what the one before it made.
#[rustfmt::skip]
pub const CONNECT_TOOLS: &[Tool] = &[
    Tool {
        name: "connect-standalone",
        class: "org.apache.kafka.connect.cli.ConnectStandalone",
        help: help(&["Usage: ConnectStandalone worker.properties"]),
        success: Success::Until { arguments: &["FOLDER/standalone.properties", "FOLDER/source.properties"], topic: "shell-tools-lines", records: 4 },
        failure: Call { arguments: &["FOLDER/nothing.properties", "FOLDER/source.properties"], input: "", status: &[1, 2], says: &["NoSuchFileException"] },
    },
    Tool {
        name: "connect-mirror-maker",
        class: "org.apache.kafka.connect.mirror.MirrorMaker",
        help: help(&["usage: connect-mirror-maker"]),
        success: Success::Until { arguments: &["FOLDER/mirror.properties"], topic: "here.shell-tools-lines", records: 4 },
        failure: Call { arguments: &["FOLDER/nothing.properties"], input: "", status: &[1, 2], says: &["connect-mirror-maker: error: argument  config"] },
    },
    Tool {
        name: "connect-distributed",
        class: "org.apache.kafka.connect.cli.ConnectDistributed",
        help: help(&["Usage: ConnectDistributed worker.properties"]),
        success: Success::Absent("the application connect, above, is it"),
        failure: Call { arguments: &["FOLDER/nothing.properties"], input: "", status: &[1, 2], says: &["NoSuchFileException"] },
    },
    Tool {
        name: "trogdor",
        class: "org.apache.kafka.trogdor.agent.Agent",
        help: help(&["usage: trogdor-agent"]),
        success: success(&["--agent.config", "FOLDER/trogdor.json", "--node-name", "node0", "--exec", "FOLDER/produce.json"], &["\"totalSent\" : 500", "\"totalSent\":500"]),
        failure: failure(&["--agent.config", "FOLDER/nothing.json", "--node-name", "node0"], &["NoSuchFileException", "FileNotFoundException"]),
    },
];

#[rustfmt::skip]
pub const TOOLS: &[Tool] = &[
    Tool {
        name: "kafka-topics",
        class: "org.apache.kafka.tools.TopicCommand",
        help: help(&["create, delete, describe, or change a topic"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--create", "--topic", "shell-tools", "--partitions", "2"], &["Created topic shell-tools."]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--topic", "nothing"], &["Topic 'nothing' does not exist as expected"]),
    },
    Tool {
        name: "kafka-console-producer",
        class: "org.apache.kafka.tools.ConsoleProducer",
        help: help(&["read data from standard input and publish it"]),
        success: Success::Call(Call { arguments: &["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], input: "a\nb\nc\nd\n", status: &[0], says: &[NOTHING, ">"] }),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic"], &["Option topic requires an argument"]),
    },
    Tool {
        name: "kafka-verifiable-consumer",
        class: "org.apache.kafka.tools.VerifiableConsumer",
        help: help(&["usage: verifiable-consumer"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--group-id", "shell-tools-verifiable", "--max-messages", "4"], &["records_consumed"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["argument --group-id is required"]),
    },
    Tool {
        name: "kafka-console-consumer",
        class: "org.apache.kafka.tools.consumer.ConsoleConsumer",
        help: help(&["read data from Kafka topics"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--from-beginning", "--max-messages", "4", "--timeout-ms", "20000"], &["Processed a total of 4 messages"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--from-beginning"], &["Exactly one of the following arguments is required"]),
    },
    Tool {
        name: "kafka-consumer-perf-test",
        class: "org.apache.kafka.tools.ConsumerPerformance",
        help: help(&["verify the consumer performance"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--num-records", "4", "--timeout", "20000"], &[", 4, "]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["Exactly one of the following arguments is required"]),
    },
    Tool {
        name: "kafka-producer-perf-test",
        class: "org.apache.kafka.tools.ProducerPerformance",
        help: help(&["usage: kafka-producer-perf-test"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools-written", "--num-records", "1000", "--record-size", "100", "--throughput", "-1"], &["1000 records sent"]),
        failure: failure(&["--topic", "shell-tools"], &["usage: kafka-producer-perf-test"]),
    },
    Tool {
        name: "kafka-verifiable-producer",
        class: "org.apache.kafka.tools.VerifiableProducer",
        help: help(&["usage: verifiable-producer"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools-written", "--max-messages", "10"], &["\"sent\":10,\"acked\":10"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP"], &["argument --topic is required"]),
    },
    Tool {
        name: "kafka-e2e-latency",
        class: "org.apache.kafka.tools.EndToEndLatency",
        help: help(&["bootstrap-server topic num-records"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools-latency", "--num-records", "20", "--producer-acks", "all", "--record-size", "64"], &["Percentiles: 50th"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["Missing required argument"]),
    },
    Tool {
        name: "kafka-configs",
        class: "kafka.admin.ConfigCommand",
        help: help(&["manipulate and describe entity config"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--alter", "--entity-type", "clients", "--entity-name", "shell-tools", "--add-config", "producer_byte_rate=1048576"], &["Completed updating config for client shell-tools."]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--alter", "--entity-type", "ips", "--entity-name", "10.0.0.1", "--add-config", "connection_creation_rate=-5"], &["Quota connection_creation_rate must be greater than 0"]),
    },
    Tool {
        name: "kafka-consumer-groups",
        class: "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        help: help(&["list all consumer groups"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &["shell-tools-verifiable"]),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--group", "nothing"], &["Group nothing not found"]),
    },
    Tool {
        name: "kafka-groups",
        class: "org.apache.kafka.tools.GroupsCommand",
        help: help(&["list groups of all types"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &["shell-tools-verifiable"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--list", "--group-type", "odd"], &["--group-type must be a valid group type"]),
    },
    Tool {
        name: "kafka-share-groups",
        class: "org.apache.kafka.tools.consumer.group.ShareGroupCommand",
        help: help(&["list, describe, reset and delete share groups"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &[NOTHING]),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--group", "nothing"], &["Group nothing not found", "UnsupportedVersionException", "does not support SHARE_GROUP_DESCRIBE"]),
    },
    Tool {
        name: "kafka-streams-groups",
        class: "org.apache.kafka.tools.streams.StreamsGroupCommand",
        help: help(&["list, or describe streams groups"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &[NOTHING]),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--group", "nothing"], &["Group nothing not found", "UnsupportedVersionException", "does not support STREAMS_GROUP_DESCRIBE"]),
    },
    Tool {
        name: "kafka-console-share-consumer",
        class: "org.apache.kafka.tools.consumer.ConsoleShareConsumer",
        help: help(&["using share groups"]),
        success: Success::Absent("there are no share groups here yet"),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools", "--max-messages", "1", "--timeout-ms", "2000"], &["Processed a total of 0 messages"]),
    },
    Tool {
        name: "kafka-share-consumer-perf-test",
        class: "org.apache.kafka.tools.ShareConsumerPerformance",
        help: help(&["verify the share consumer performance"]),
        success: Success::Absent("there are no share groups here yet"),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["required"]),
    },
    Tool {
        name: "kafka-verifiable-share-consumer",
        class: "org.apache.kafka.tools.VerifiableShareConsumer",
        help: help(&["usage: verifiable-share-consumer"]),
        success: Success::Absent("there are no share groups here yet"),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP"], &["is required", "argument --"]),
    },
    Tool {
        name: "kafka-get-offsets",
        class: "org.apache.kafka.tools.GetOffsetShell",
        help: help(&["getting topic-partition offsets"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--topic", "shell-tools"], &["shell-tools:1:"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--topic", "nothing"], &["Could not match any topic-partitions"]),
    },
    Tool {
        name: "kafka-delete-records",
        class: "org.apache.kafka.tools.DeleteRecordsCommand",
        help: help(&["delete records of the given partitions"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--offset-json-file", "FOLDER/delete.json"], &["low_watermark: 0"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--offset-json-file", "FOLDER/broken.json"], &["The input string is not a valid JSON", "JsonParseException", "JsonEOFException"]),
    },
    Tool {
        name: "kafka-log-dirs",
        class: "org.apache.kafka.tools.LogDirsCommand",
        help: help(&["query log directory usage"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--topic-list", "shell-tools"], &["\"partition\":\"shell-tools-0\""]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--broker-list", "99"], &["The given brokers do not exist"]),
    },
    Tool {
        name: "kafka-leader-election",
        class: "org.apache.kafka.tools.LeaderElectionCommand",
        help: help(&["elect a new leader"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--election-type", "preferred", "--topic", "shell-tools", "--partition", "0"], &["Valid replica already elected for partitions"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--election-type", "preferred", "--topic", "nothing", "--partition", "0"], &["UnknownTopicOrPartitionException"]),
    },
    Tool {
        name: "kafka-reassign-partitions",
        class: "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        help: help(&["move topic partitions between replicas"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--execute", "--reassignment-json-file", "FOLDER/reassign.json"], &["Successfully started partition reassignment for shell-tools-0"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--execute", "--reassignment-json-file", "FOLDER/reassign-away.json"], &["Unknown broker id 99"]),
    },
    Tool {
        name: "kafka-reassign-partitions",
        class: "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        help: help(&["move topic partitions between replicas"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--list"], &["No partition reassignments found."]),
        failure: quiet_failure(&["--bootstrap-server", "BOOTSTRAP", "--cancel", "--reassignment-json-file", "FOLDER/reassign.json"], &["None of the specified partition reassignments are active."]),
    },
    Tool {
        name: "kafka-replica-verification",
        class: "org.apache.kafka.tools.ReplicaVerificationTool",
        help: help(&["Validate that all replicas"]),
        success: Success::Absent("it compares the replicas of a partition, and there is one copy"),
        failure: failure(&["--broker-list"], &["Option broker-list requires an argument"]),
    },
    Tool {
        name: "kafka-broker-api-versions",
        class: "org.apache.kafka.tools.BrokerApiVersionsCommand",
        help: help(&["retrieve broker version information"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP"], &["Produce(0): 0 to 13 [usable: 13]"]),
        failure: failure(&["--bootstrap-server"], &["Option bootstrap-server requires an argument"]),
    },
    Tool {
        name: "kafka-cluster",
        class: "org.apache.kafka.tools.ClusterTool",
        help: help(&["usage: kafka-cluster"]),
        success: success(&["cluster-id", "--bootstrap-server", "BOOTSTRAP"], &["Cluster ID: "]),
        failure: failure(&["unregister", "--bootstrap-server", "BOOTSTRAP", "--id", "99"], &["is not currently registered"]),
    },
    Tool {
        name: "kafka-client-metrics",
        class: "org.apache.kafka.tools.ClientMetricsCommand",
        help: help(&["client metrics configurations"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--alter", "--name", "shell-tools", "--metrics", "org.apache.kafka.consumer.", "--interval", "30000"], &["Altered client metrics config for shell-tools"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--describe", "--name"], &["Option name requires an argument"]),
    },
    Tool {
        name: "kafka-metadata-quorum",
        class: "org.apache.kafka.tools.MetadataQuorumCommand",
        help: help(&["usage: kafka-metadata-quorum"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "describe", "--status"], &["LeaderId:               1"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "describe"], &["One of --status or --replication must be specified"]),
    },
    Tool {
        name: "kafka-features",
        class: "org.apache.kafka.tools.FeatureCommand",
        help: help(&["usage: kafka-features"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "describe"], &["FinalizedVersionLevel: 4.3-IV0"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "upgrade", "--feature", "metadata.version=99"], &["Could not upgrade metadata.version to 99"]),
    },
    Tool {
        name: "kafka-transactions",
        class: "org.apache.kafka.tools.TransactionsCommand",
        help: help(&["usage: kafka-transactions"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "describe-producers", "--topic", "shell-tools", "--partition", "0"], &["ProducerId"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "describe", "--transactional-id", "nothing"], &["Failed to describe transaction state of transactional-id `nothing`"]),
    },
    Tool {
        name: "kafka-streams-application-reset",
        class: "org.apache.kafka.tools.StreamsResetter",
        help: help(&["quickly reset an application"]),
        success: success(&["--bootstrap-server", "BOOTSTRAP", "--application-id", "nothing", "--input-topics", "shell-tools", "--dry-run"], &["shell-tools"]),
        failure: failure(&["--bootstrap-server", "BOOTSTRAP", "--application-id"], &["Option application-id requires an argument"]),
    },
    Tool {
        name: "kafka-jmx",
        class: "org.apache.kafka.tools.JmxTool",
        help: help(&["Dump JMX values"]),
        success: Success::Absent("a broker that is no JVM has no JMX; its metrics are on its admin port"),
        failure: failure(&["--jmx-url"], &["requires an argument"]),
    },
    Tool {
        name: "connect-plugin-path",
        class: "org.apache.kafka.tools.ConnectPluginPath",
        help: help(&["usage: connect-plugin-path"]),
        success: success(&["list", "--plugin-location", "CONNECT_FILE"], &["org.apache.kafka.connect.file.FileStreamSourceConnector"]),
        failure: Call { arguments: &["list", "--plugin-location", "FOLDER/nothing"], input: "", status: &[1, 2], says: &["/nothing does not exist"] },
    },
    Tool {
        name: "kafka-dump-log",
        class: "org.apache.kafka.tools.DumpLogSegments",
        help: help(&["parse a log file"]),
        success: success(&["--files", "FOLDER/00000000000000000000.log"], &["Log starting offset: 0"]),
        failure: failure(&["--files", "FOLDER/nothing.log"], &["NumberFormatException"]),
    },
    Tool {
        name: "kafka-storage",
        class: "kafka.tools.StorageTool",
        help: help(&["The Kafka storage tool"]),
        success: success(&["version-mapping"], &["metadata.version=30 (4.3-IV0)"]),
        failure: failure(&["info", "-c", "FOLDER/nothing.properties"], &["NoSuchFileException"]),
    },
    Tool {
        name: "kafka-metadata-shell",
        class: "org.apache.kafka.shell.MetadataShell",
        help: help(&["metadata shell", "usage: kafka-metadata-shell"]),
        success: Success::Absent("it reads the files of Kafka's own metadata log"),
        failure: failure(&["--snapshot", "FOLDER/nothing"], &["NoSuchFileException"]),
    },
];
