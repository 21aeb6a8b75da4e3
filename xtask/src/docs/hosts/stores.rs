//! Pages whose commands are typed where a store is administered.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::home::Home;
use super::play::Play;
use super::world::{World, finish, over_tls};
use crate::beds::{self, Store};
use crate::clients::python_environment;

/// What the page calls `aws`.
const AWS: &str = "awscli==1.45.11";
/// One OSD keeps one copy: with more, nothing could be stored.
const ONE_COPY: &str = "for pool in data index; do \
                        ceph osd pool set default.rgw.buckets.$pool min_size 1; \
                        ceph osd pool set default.rgw.buckets.$pool size 1 --yes-i-really-mean-it; done";

/// The check at its end is with the user and the bucket that were made.
pub fn ceph_rgw<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    let store = world.store()?;
    play.names.set("rgw", &store.endpoint_here);
    play.names.set("bucket", "seawall");
    play.names.set("tls", &format!("tls_ca_file = {:?}", store.ca));
    let mut home = Home::new(world, "ceph")?;
    home.path(python_environment(&[AWS])?.join("bin"));
    home.variable("CEPH_CONF", store.bed.folder.path().join("ceph.conf"));
    home.variable("AWS_CA_BUNDLE", &store.ca);
    home.open(play)?;
    let (folder, etc) = (home.folder.clone(), home.etc());
    let one_copy = home.run(Command::new("bash"), ONE_COPY);
    play.at(move |script| Ok(home.run(Command::new("bash"), script)));
    let pools = play.next("ceph osd pool set");
    let again = finish(&mut { one_copy });
    pools?;
    again?;
    play.next("radosgw-admin user create")?;
    for key in ["access_key", "secret_key"] {
        fs::copy(folder.join(key), etc.join(key)).with_context(|| format!("the page makes no {key}"))?;
    }
    fs::write(etc.join("seawall.toml"), play.config()?)?;
    play.next("backend check")?;
    Ok(())
}

/// The same, with a policy that allows no more than the page says.
pub fn minio<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    let bed = beds::start(Store::Minio)?;
    let (endpoint, ca) = over_tls(&bed)?;
    let keys = bed.keys.as_ref().context("MinIO has no keys")?;
    let secret = "of-the-pages-user";
    play.names.set("minio", endpoint);
    play.names.set("admin", &format!("{} {}", keys.access, keys.secret));
    play.names.set("secret", secret);
    play.names.set("bucket", "seawall");
    play.names.set("tls", &format!("tls_ca_file = {ca:?}"));
    let mut home = Home::new(world, "minio")?;
    std::os::unix::fs::symlink(beds::minio_client()?, home.folder.join("bin/mc"))?;
    home.variable("SSL_CERT_FILE", ca);
    home.open(play)?;
    let etc = home.etc();
    fs::write(etc.join("access_key"), "seawall")?;
    fs::write(etc.join("secret_key"), secret)?;
    fs::write(etc.join("seawall.toml"), play.config()?)?;
    play.at(move |script| Ok(home.run(Command::new("bash"), script)));
    play.rest()
}
