//! A real Ceph on loopback from Debian's packages: one monitor, manager, OSD (bluestore on a sparse file) and object gateway, which
//! listens twice, with and without TLS. No systemd, nothing outside its folder. What is deleted or replaced leaves the disk within
//! seconds; as shipped it takes two hours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::bed::{CUSTOMER_KEY, Encrypted};
use super::daemon::Daemon;
use super::room::Room;
use super::signed::{Client, Keys};
use super::tls::Certificates;
use super::{Bed, Folder};
use crate::process;
use crate::tools::Tool;

/// This version has no SSE-S3.
const ENCRYPTED: [Encrypted; 2] = [
    Encrypted {
        name: "http, SSE-KMS",
        file: "sse-kms",
        section: "sse = \"kms\"\nsse_kms_key_id = \"bed-key\"\n",
        needs_tls: false,
    },
    Encrypted::CUSTOMER,
];
const START_MAX: Duration = Duration::from_secs(120);
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// What differs from bed to bed.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of the sparse file.
    pub disk_bytes: u64,
    /// What is deleted leaves the disk after one to two of these.
    pub garbage_s: u32,
}

impl Size {
    pub const USUAL: Self = Self { disk_bytes: 20 << 30, garbage_s: 5 };
}

pub fn start(folder: Folder, size: Size) -> Result<Bed> {
    let certificates = Certificates::make(&folder.path().join("certificates"))?;
    let cluster = Cluster { folder: folder.path().to_owned(), conf: folder.path().join("ceph.conf"), size };
    let [plain, tls] = [process::free_port()?, process::free_port()?];
    cluster.configure(plain, tls, &certificates)?;
    let mon = cluster.monitor()?;
    let mgr = cluster.manager()?;
    let osd = cluster.osd()?;
    let endpoints = vec![format!("http://127.0.0.1:{plain}"), format!("https://127.0.0.1:{tls}")];
    let (rgw, keys) = cluster.gateway(&endpoints[0], &certificates.ca)?;
    let version = cluster.version()?;
    let daemons = vec![rgw, osd, mgr, mon];
    let mut bed = Bed::new("ceph-rgw", version, endpoints, certificates.ca, keys, &ENCRYPTED, daemons, folder)?;
    (bed.serve, bed.room) = (&["rgw", "osd"], Room::Ceph(cluster.conf));
    Ok(bed)
}

struct Cluster {
    folder: PathBuf,
    conf: PathBuf,
    size: Size,
}

impl Cluster {
    fn configure(&self, plain: u16, tls: u16, certificates: &Certificates) -> Result<()> {
        let fsid = uuid()?;
        let [v2, v1] = [process::free_port()?, process::free_port()?];
        let dir = self.folder.display();
        let (certificate, key) = (certificates.certificate.display(), certificates.key.display());
        let Size { disk_bytes, garbage_s } = self.size;
        let text = format!(
            "[global]\n\
             fsid = {fsid}\n\
             mon_host = [v2:127.0.0.1:{v2}/0,v1:127.0.0.1:{v1}/0]\n\
             mon_initial_members = a\n\
             public_addr = 127.0.0.1\n\
             cluster_addr = 127.0.0.1\n\
             ms_bind_ipv6 = false\n\
             auth_cluster_required = cephx\n\
             auth_service_required = cephx\n\
             auth_client_required = cephx\n\
             auth_allow_insecure_global_id_reclaim = false\n\
             keyring = {dir}/keyring.$name\n\
             run_dir = {dir}/run\n\
             admin_socket = {dir}/run/$name.asok\n\
             pid_file =\n\
             log_file = {dir}/log/$name.log\n\
             mon_cluster_log_file = {dir}/log/cluster.log\n\
             crash_dir = {dir}/crash\n\
             osd_pool_default_size = 1\n\
             osd_pool_default_min_size = 1\n\
             osd_pool_default_pg_num = 8\n\
             osd_pool_default_pgp_num = 8\n\
             osd_pool_default_pg_autoscale_mode = off\n\
             osd_crush_chooseleaf_type = 0\n\
             mon_allow_pool_size_one = true\n\
             mon_warn_on_pool_no_redundancy = false\n\
             mon_max_pg_per_osd = 500\n\
             [mon]\n\
             mon_data = {dir}/mon.$id\n\
             mon_data_avail_warn = 3\n\
             mon_data_avail_crit = 1\n\
             [mgr]\n\
             mgr_data = {dir}/mgr.$id\n\
             mgr_initial_modules =\n\
             [osd]\n\
             osd_data = {dir}/osd.$id\n\
             osd_objectstore = bluestore\n\
             bluestore_block_size = {disk_bytes}\n\
             bluestore_block_create = true\n\
             bluestore_fsck_on_mount = false\n\
             osd_memory_target = 1073741824\n\
             osd_class_update_on_start = false\n\
             osd_max_object_name_len = 1024\n\
             [client.rgw.a]\n\
             rgw_data = {dir}/rgw.a\n\
             rgw_frontends = beast endpoint=127.0.0.1:{plain} ssl_endpoint=127.0.0.1:{tls} ssl_certificate={certificate} ssl_private_key={key}\n\
             rgw_dns_name = localhost\n\
             rgw_thread_pool_size = 64\n\
             rgw_enable_usage_log = false\n\
             rgw_gc_obj_min_wait = {garbage_s}\n\
             rgw_gc_processor_period = {garbage_s}\n\
             rgw_gc_processor_max_time = {garbage_s}\n\
             rgw_crypt_require_ssl = false\n\
             rgw_crypt_s3_kms_backend = testing\n\
             rgw_crypt_s3_kms_encryption_keys = bed-key={CUSTOMER_KEY}\n\
             debug_rgw = 1\n"
        );
        for name in ["log", "run", "crash", "mgr.a", "osd.0", "rgw.a"] {
            fs::create_dir_all(self.folder.join(name))?;
        }
        fs::write(&self.conf, text).context("write ceph.conf")?;
        fs::write(self.folder.join("fsid"), fsid)?;
        fs::write(self.folder.join("addresses"), format!("[v2:127.0.0.1:{v2}/0,v1:127.0.0.1:{v1}/0]"))?;
        Ok(())
    }

    fn monitor(&self) -> Result<Daemon> {
        let keyring = |name: &str| self.folder.join(format!("keyring.{name}"));
        let (own, admin) = (keyring("mon."), keyring("client.admin"));
        self.run(Command::new("ceph-authtool").arg("-C").arg(&own).args([
            "--gen-key",
            "-n",
            "mon.",
            "--cap",
            "mon",
            "allow *",
        ]))?;
        self.run(
            Command::new("ceph-authtool")
                .arg("-C")
                .arg(&admin)
                .args(["--gen-key", "-n", "client.admin", "--cap", "mon", "allow *"])
                .args(["--cap", "osd", "allow *", "--cap", "mgr", "allow *"]),
        )?;
        let (boot, map) = (self.folder.join("keyring.boot"), self.folder.join("monmap"));
        fs::copy(&own, &boot)?;
        self.run(Command::new("ceph-authtool").arg(&boot).arg("--import-keyring").arg(&admin))?;
        let (fsid, addresses) =
            (fs::read_to_string(self.folder.join("fsid"))?, fs::read_to_string(self.folder.join("addresses"))?);
        self.run(
            Command::new("monmaptool")
                .args(["--create", "--clobber", "--fsid", &fsid, "--addv", "a", &addresses])
                .arg(&map),
        )?;
        let mut mkfs = self.of("ceph-mon");
        mkfs.args(["--mkfs", "-i", "a", "--monmap"]).arg(&map).arg("--keyring").arg(&boot);
        self.run(&mut mkfs)?;
        let mut mon = Daemon::start(&self.folder, "mon", self.of("ceph-mon").args(["-i", "a", "-f"]))?;
        mon.wait(START_MAX, || self.ceph(&["mon", "stat"]).is_ok())?;
        Ok(mon)
    }

    fn manager(&self) -> Result<Daemon> {
        self.key("mgr.a", &["mon", "allow profile mgr", "osd", "allow *"])?;
        Daemon::start(&self.folder, "mgr", self.of("ceph-mgr").args(["-i", "a", "-f"]))
    }

    fn osd(&self) -> Result<Daemon> {
        let id = uuid()?;
        let key = self.run(Command::new("ceph-authtool").arg("--gen-print-key"))?;
        let key = key.trim();
        let secret = self.folder.join("osd.secret");
        fs::write(&secret, format!("{{\"cephx_secret\": \"{key}\"}}"))?;
        let number = self.ceph(&["osd", "new", &id, "-i", &secret.display().to_string()])?;
        ensure!(number.trim() == "0", "the first OSD has number {number}");
        fs::write(self.folder.join("keyring.osd.0"), format!("[osd.0]\n\tkey = {key}\n"))?;
        self.run(self.of("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", &id]))?;
        let mut osd = Daemon::start(&self.folder, "osd", self.of("ceph-osd").args(["-i", "0", "-f"]))?;
        osd.wait(START_MAX, || self.ceph(&["osd", "stat"]).is_ok_and(|text| text.contains("1 up")))?;
        Ok(osd)
    }

    fn gateway(&self, endpoint: &str, ca: &Path) -> Result<(Daemon, Keys)> {
        self.key("client.rgw.a", &["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"])?;
        let mut command = self.of("radosgw");
        command.args(["-n", "client.rgw.a", "-f"]);
        let mut rgw = Daemon::start(&self.folder, "rgw", &command)?;
        let keys = Keys { access: format!("BED{}", std::process::id()), secret: super::random_secret()? };
        let client = Client { endpoint, ca, keys: &keys };
        // Nobody has a key yet: it says so, as soon as it listens.
        rgw.wait(START_MAX, || client.answers())?;
        let mut admin = self.of("radosgw-admin");
        admin.args(["-n", "client.admin", "user", "create", "--uid", "bed", "--display-name", "bed"]);
        admin.args(["--access-key", &keys.access, "--secret-key", &keys.secret]);
        self.run(&mut admin)?;
        client.make_bucket()?;
        Ok((rgw, keys))
    }

    fn version(&self) -> Result<String> {
        // "ceph version 16.2.15 (hash) pacific (stable)"
        let text = self.run(Command::new("ceph-osd").arg("--version"))?;
        Ok(text.split_whitespace().nth(2).unwrap_or("?").to_owned())
    }

    /// A key for a daemon, where that daemon looks for it.
    fn key(&self, name: &str, rights: &[&str]) -> Result<()> {
        let file = self.folder.join(format!("keyring.{name}"));
        let mut arguments = vec!["auth", "get-or-create", name];
        arguments.extend(rights);
        let file = file.display().to_string();
        arguments.extend(["-o", &file]);
        self.ceph(&arguments).map(drop)
    }

    fn ceph(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.of("ceph");
        command.args(["--connect-timeout", "10"]).args(arguments);
        self.run(&mut command)
    }

    fn of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--conf").arg(&self.conf);
        command
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let what = command.get_program().display().to_string();
        process::capture(command, Vec::new(), COMMAND_MAX)?.stdout_if_success(&what)
    }
}

fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// What a machine needs.
pub const TOOLS: [Tool; 7] =
    [Tool::CephMon, Tool::CephMgr, Tool::CephOsd, Tool::CephCommon, Tool::RadosGateway, Tool::Curl, Tool::Openssl];
