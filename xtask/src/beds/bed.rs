//! A bed: the servers of one store, the ways to reach it, and its folder. Gone when dropped, unless kept.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::daemon::Daemon;
use super::folders::Mount;
use super::habits::{self, Habit};
use super::room::Room;
use super::signed::{Client, Keys};
use super::{BUCKET, MARK, REGION};

/// A store that runs, and how it is reached.
pub struct Bed {
    /// As `backend.kind` spells it.
    pub kind: &'static str,
    pub version: String,
    pub forms: Vec<Form>,
    /// First to last to end.
    pub daemons: Vec<Daemon>,
    /// Those without which it does not serve, named first to last to end.
    pub serve: &'static [&'static str],
    pub room: Room,
    /// Held for their drop.
    pub _mounts: Vec<Mount>,
    /// Where the hostile store tells what it saw.
    pub watched: Option<(String, Keys)>,
    /// Of an S3 server of its own, for whoever asks it without our client.
    pub keys: Option<Keys>,
    pub folder: Folder,
}

/// One way to reach a store.
pub struct Form {
    pub name: &'static str,
    /// A broker's configuration.
    pub config: PathBuf,
    /// The one for the crash test, where it is run.
    pub crash: Option<PathBuf>,
    pub habits: Vec<Habit>,
    /// The endpoint and its issuer, for starts that must be refused; none where that is tried by another form.
    pub starts: Option<(String, PathBuf)>,
    /// In the long form only.
    pub is_long: bool,
    /// Of an S3 server of the bed's own, without TLS.
    pub endpoint: Option<String>,
}

impl Form {
    /// With the suite only.
    pub fn new(name: &'static str, config: PathBuf) -> Self {
        Self { name, config, crash: None, habits: Vec::new(), starts: None, is_long: false, endpoint: None }
    }
}

/// One kind of encryption at rest that a store offers. What goes over TLS has a key of the customer's.
pub struct Encrypted {
    pub name: &'static str,
    pub file: &'static str,
    /// Keys of the configuration.
    pub section: &'static str,
    pub needs_tls: bool,
}

impl Encrypted {
    pub const CUSTOMER: Self =
        Self { name: "https, SSE-C", file: "sse-customer", section: "sse = \"customer\"\n", needs_tls: true };
}

/// 32 bytes in base64, of which nothing depends.
pub const CUSTOMER_KEY: &str = "c2Vhd2FsbCB0ZXN0IGJlZCwga2V5IG9mIDMyIGJ5dGU=";

impl Bed {
    /// A store that speaks S3: `endpoints` are those without and with TLS, `encrypted` what it knows of encryption at rest.
    pub fn new(
        kind: &'static str,
        version: String,
        endpoints: Vec<String>,
        ca: PathBuf,
        keys: Keys,
        encrypted: &[Encrypted],
        daemons: Vec<Daemon>,
        folder: Folder,
    ) -> Result<Self> {
        let [access_file, secret_file] = write_keys(folder.path(), &keys)?;
        let mut forms = Vec::new();
        for endpoint in &endpoints {
            let client = Client { endpoint, ca: &ca, keys: &keys };
            client.check()?;
            let section = |kind: &str| {
                format!(
                    "kind = \"{kind}\"\nendpoint = \"{endpoint}\"\nbucket = \"{BUCKET}\"\nregion = \"{REGION}\"\n\
                     access_key_file = {access_file:?}\nsecret_key_file = {secret_file:?}\n"
                )
            };
            if !endpoint.starts_with("https") {
                let config = write_config(folder.path(), "http", &section(kind))?;
                let (habits, starts) = (habits::observe(&client), Some((endpoint.clone(), ca.clone())));
                let endpoint = Some(endpoint.clone());
                forms.push(Form { crash: Some(config.clone()), habits, starts, endpoint, ..Form::new("http", config) });
                for sse in encrypted.iter().filter(|sse| !sse.needs_tls) {
                    let section = section(kind) + sse.section;
                    let config = write_config(folder.path(), sse.file, &section)?;
                    forms.push(Form { is_long: true, ..Form::new(sse.name, config) });
                }
                continue;
            }
            // MinIO needs its own profile: it does not list what was begun in parts.
            let as_s3 = (kind != "minio").then_some(("https, as s3", "s3"));
            let ca_line = format!("tls_ca_file = {ca:?}\n");
            for (name, kind) in [("https", kind)].into_iter().chain(as_s3) {
                let config = write_config(folder.path(), &format!("https-{kind}"), &(section(kind) + &ca_line))?;
                let is_long = name != "https";
                let starts = (!is_long).then(|| (endpoint.clone(), ca.clone()));
                forms.push(Form { starts, is_long, ..Form::new(name, config) });
            }
            let key_file = folder.path().join("sse_key");
            fs::write(&key_file, CUSTOMER_KEY)?;
            for sse in encrypted.iter().filter(|sse| sse.needs_tls) {
                let key_line = format!("sse_customer_key_file = {key_file:?}\n");
                let section = section(kind) + &ca_line + sse.section + &key_line;
                forms.push(Form::new(sse.name, write_config(folder.path(), sse.file, &section)?));
            }
        }
        let keys = Some(keys);
        Ok(Self {
            kind,
            version,
            forms,
            daemons,
            serve: &[],
            room: Room::Unknown,
            _mounts: Vec::new(),
            watched: None,
            keys,
            folder,
        })
    }

    pub fn serving(&mut self, mut each: impl FnMut(&mut Daemon) -> Result<()>) -> Result<()> {
        for name in self.serve {
            let daemon = self.daemons.iter_mut().find(|daemon| daemon.name == *name);
            each(daemon.with_context(|| format!("no daemon {name}"))?)?;
        }
        Ok(())
    }

    /// As they are started.
    pub fn start_serving(&mut self) -> Result<()> {
        for name in self.serve.iter().rev() {
            let daemon = self.daemons.iter_mut().find(|daemon| daemon.name == *name);
            daemon.with_context(|| format!("no daemon {name}"))?.start_again()?;
        }
        Ok(())
    }

    /// Leaves everything running.
    pub fn keep(&mut self) {
        self.folder.keep = true;
        self.daemons.iter_mut().for_each(Daemon::let_go);
        println!("\n{} {} goes on in {}", self.kind, self.version, self.folder.path().display());
        for form in &self.forms {
            println!("  {:<8} seawall backend check --config {}", form.name, form.config.display());
        }
        println!("  end it:  cargo xtask stores --stop {}", self.folder.path().display());
    }
}

/// A complete configuration, of which a broker could start too.
pub fn write_config(folder: &Path, name: &str, section: &str) -> Result<PathBuf> {
    let config = folder.join(format!("{name}.toml"));
    let data = folder.join(format!("broker-{name}"));
    let text = format!(
        "[node]\ndata_dir = {data:?}\n\n[listeners]\nkafka = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\n[backend]\n{section}"
    );
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    Ok(config)
}

/// Files with the access key and the secret key.
pub fn write_keys(folder: &Path, keys: &Keys) -> Result<[PathBuf; 2]> {
    let [access, secret] = ["access_key", "secret_key"].map(|name| folder.join(name));
    fs::write(&access, &keys.access)?;
    fs::write(&secret, &keys.secret)?;
    Ok([access, secret])
}

pub fn random_secret() -> Result<String> {
    let mut bytes = [0; 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Of a bed: on a disk, with a short name, because sockets lie in it. Gone when dropped, unless kept.
pub struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    pub fn new(name: &str) -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/seawall-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        fs::write(path.join(MARK), "")?;
        Ok(Self { path, keep: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
