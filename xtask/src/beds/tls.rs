//! A certificate authority of a bed's own, and one certificate by it for the servers on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;
use crate::tools::Tool;

pub struct Certificates {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    /// In `folder`, under the names by which MinIO looks for them.
    pub fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let made =
            Self { ca: folder.join("ca.pem"), certificate: folder.join("public.crt"), key: folder.join("private.key") };
        let ca_key = folder.join("ca.key");
        openssl(|o| {
            o.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-noenc",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=seawall test bed CA", "-addext", "keyUsage=critical,keyCertSign"])
            .arg("-keyout")
            .arg(&ca_key)
            .arg("-out")
            .arg(&made.ca)
        })?;
        openssl(|o| {
            o.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-noenc",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"])
            .arg("-CA")
            .arg(&made.ca)
            .arg("-CAkey")
            .arg(&ca_key)
            .arg("-keyout")
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate)
        })?;
        Ok(made)
    }
}

fn openssl(arguments: impl FnOnce(&mut Command) -> &mut Command) -> Result<()> {
    let mut command = Command::new(Tool::Openssl.find().with_context(|| Tool::Openssl.hint())?);
    arguments(&mut command);
    process::capture(&mut command, Vec::new(), Duration::from_secs(30))?.stdout_if_success("openssl")?;
    Ok(())
}
