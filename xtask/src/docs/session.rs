//! A place in which the commands of a page run as they stand: a network of its own, so that ports are those of the page; a PATH with the
//! broker and Kafka's tools; stand-ins for `systemctl` and `journalctl`, which start and stop a real broker. Whatever a page leaves
//! running ends with it: the session has a process namespace of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::fences::{Block, How};
use crate::clients::install::Installed;
use crate::{process, tools};

/// Of one block.
const BLOCK_SECONDS: u64 = 150;
const SESSION_MAX: Duration = Duration::from_secs(600);

/// What pages call the places of an installed broker.
const PLACES: [(&str, &str); 2] = [("/etc/seawall", "etc"), ("/var/lib/seawall", "data")];

/// Kafka's tools that pages may use.
const KAFKA_TOOLS: [(&str, &str); 6] = [
    ("kafka-topics", "org.apache.kafka.tools.TopicCommand"),
    ("kafka-configs", "kafka.admin.ConfigCommand"),
    ("kafka-consumer-groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ("kafka-console-consumer", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
    ("kafka-features", "org.apache.kafka.tools.FeatureCommand"),
    ("kafka-get-offsets", "org.apache.kafka.tools.GetOffsetShell"),
];

/// What a block ended with and printed.
pub struct Ended {
    /// None: it was not reached, or was ended after `BLOCK_SECONDS`.
    pub exit: Option<i32>,
    pub output: String,
    pub errors: String,
}

pub struct Session {
    folder: PathBuf,
}

impl Session {
    pub fn new(binary: &Path, qualify: &Path, kafka: &Installed) -> anyhow::Result<Self> {
        // On a disk, not in memory: data folders do direct I/O.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/var/tmp/seawall-docs-{}-{number}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let session = Self { folder };
        for name in ["bin", "etc", "data", "work"] {
            fs::create_dir_all(session.folder.join(name))?;
        }
        symlink(binary, session.folder.join("bin/seawall"))?;
        symlink(qualify, session.folder.join("bin/seawall-qualify"))?;
        let config = format!(
            "node.data_dir = \"{0}/data\"\nbackend.path = \"{0}/data/objects\"\n[[wal]]\nkind = \"file\"\nsize = \"64MiB\"\n",
            session.folder.display()
        );
        fs::write(session.folder.join("etc/seawall.toml"), config)?;
        session.program("systemctl", SYSTEMCTL)?;
        session.program("journalctl", "#!/bin/sh\nexec tail -n 200 \"$SESSION/broker.log\"\n")?;
        session.program("sudo", "#!/bin/sh\nexec \"$@\"\n")?;
        for (name, class) in KAFKA_TOOLS {
            let start = JAVA
                .replace("ARCHIVE", &kafka.folder.join(format!("{name}.jsa")).display().to_string())
                .replace("JAVA", &kafka.java.display().to_string())
                .replace("CLASSPATH", &kafka.classpath)
                .replace("CLASS", class);
            session.program(&format!("{name}.sh"), &start)?;
        }
        Ok(session)
    }

    fn program(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let file = self.folder.join("bin").join(name);
        fs::write(&file, text)?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
    }

    /// Runs them one after the other and stops at the first that does not end as it should.
    pub fn run(&self, blocks: &[&Block]) -> anyhow::Result<Vec<Ended>> {
        let mut script = HEAD.to_owned();
        if !blocks.iter().any(|block| block.how == How::Background) {
            script += "systemctl start seawall || exit 1\n";
        }
        for (n, block) in blocks.iter().enumerate() {
            fs::write(self.folder.join(format!("{n}.sh")), self.placed(&block.text))?;
            script += &match block.how {
                How::Background => format!("background {n}\n"),
                How::Run { exit } => format!("block {n} {exit}\n"),
                How::OnlyOn { .. } | How::NotRun(_) | How::Config | How::File(_) => continue,
            };
        }
        fs::write(self.folder.join("session.sh"), script)?;
        let mut command = Command::new("unshare");
        if !tools::is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--net", "--pid", "--fork", "--kill-child", "bash"])
            .arg(self.folder.join("session.sh"))
            .env("SESSION", &self.folder)
            .env("BLOCK_SECONDS", BLOCK_SECONDS.to_string())
            .current_dir(self.folder.join("work"));
        let finished = process::capture(&mut command, Vec::new(), SESSION_MAX)?;
        let ended = blocks.iter().enumerate().map(|(n, _)| self.ended(n)).collect::<Vec<_>>();
        if ended.first().is_some_and(|first| first.exit.is_none()) {
            // What kept the session from beginning stands elsewhere.
            let log = fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
            println!("{}\n{log}", finished.tail());
        }
        Ok(ended)
    }

    /// With the places of this session.
    fn placed(&self, text: &str) -> String {
        PLACES.iter().fold(text.to_owned(), |text, (place, here)| {
            text.replace(place, &self.folder.join(here).display().to_string())
        })
    }

    fn ended(&self, n: usize) -> Ended {
        let read = |what| fs::read_to_string(self.folder.join(format!("{n}.{what}"))).unwrap_or_default();
        Ended { exit: read("exit").trim().parse().ok(), output: read("out"), errors: read("err") }
    }

    /// Whether `seawall config check` takes it.
    pub fn takes_config(&self, text: &str) -> anyhow::Result<Result<(), String>> {
        let file = self.folder.join("etc/snippet.toml");
        fs::write(&file, text)?;
        let mut check = Command::new(self.folder.join("bin/seawall"));
        check.args(["config", "check"]).arg(&file);
        let finished = process::capture(&mut check, Vec::new(), Duration::from_secs(30))?;
        Ok(if finished.success { Ok(()) } else { Err(finished.tail()) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The first run of a tool leaves an archive of its classes, with which the next ones start in half of the time. One that fits no more is
/// passed over by java.
const JAVA: &str = r#"#!/bin/sh
new="ARCHIVE.$(basename "$SESSION").$$"
if [ -f 'ARCHIVE' ]; then share='-XX:SharedArchiveFile=ARCHIVE'; else share="-XX:ArchiveClassesAtExit=$new"; fi
'JAVA' -Xlog:disable "$share" -XX:TieredStopAtLevel=1 -cp 'CLASSPATH' CLASS "$@"
exit=$?
if [ -f "$new" ]; then mv "$new" 'ARCHIVE'; fi
exit $exit
"#;

const HEAD: &str = r#"ip link set lo up || exit 1
export PATH="$SESSION/bin:$PATH"
ready() {
    for _ in $(seq 300); do
        curl -sf http://127.0.0.1:9644/readyz > "$SESSION/ready" 2>&1 && return 0
        sleep 0.1
    done
    return 1
}
block() {
    timeout "$BLOCK_SECONDS" bash -euo pipefail "$SESSION/$1.sh" > "$SESSION/$1.out" 2> "$SESSION/$1.err" < /dev/null
    echo $? > "$SESSION/$1.exit"
    [ "$(cat "$SESSION/$1.exit")" = "$2" ] || exit 1
}
background() {
    bash -euo pipefail "$SESSION/$1.sh" > "$SESSION/$1.out" 2> "$SESSION/$1.err" < /dev/null &
    if ready; then echo 0; else echo 1; fi > "$SESSION/$1.exit"
}
"#;

/// Of the unit `seawall`, as far as pages use it.
const SYSTEMCTL: &str = r#"#!/bin/bash
pid=$(cat "$SESSION/pid" 2>/dev/null)
runs() { [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }
stop() { runs && kill -TERM "$pid"; for _ in $(seq 300); do runs || return 0; sleep 0.1; done; return 1; }
start() {
    runs && return 0
    setsid seawall start --config "$SESSION/etc/seawall.toml" >> "$SESSION/broker.log" 2>&1 < /dev/null &
    pid=$!
    echo "$pid" > "$SESSION/pid"
    for _ in $(seq 300); do
        curl -sf http://127.0.0.1:9644/readyz > "$SESSION/ready" 2>&1 && return 0
        runs || break
        sleep 0.1
    done
    return 1
}
case $1 in
    start) start ;;
    # No session has a boot.
    enable) [ "$2" != --now ] || start ;;
    stop) stop ;;
    restart) stop && start ;;
    status) if runs; then echo "seawall: active (running)"; else echo "seawall: inactive"; exit 3; fi ;;
    *) echo "systemctl $1 has no stand-in" >&2; exit 1 ;;
esac
"#;
