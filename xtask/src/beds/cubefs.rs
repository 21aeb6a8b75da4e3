//! A CubeFS that stands somewhere else: `SEAWALL_TEST_CUBEFS=ENDPOINT,BUCKET,ACCESS_KEY,SECRET_KEY`. What the crash test writes
//! there stays, below `seawall/crash-...`.

use std::env;

use anyhow::{Context, Result};

use super::room::Room;
use super::signed::Keys;
use super::{Bed, Folder, Form, write_config, write_keys};

const VARIABLE: &str = "SEAWALL_TEST_CUBEFS";

pub fn is_given() -> bool {
    env::var_os(VARIABLE).is_some()
}

pub fn start(folder: Folder) -> Result<Bed> {
    let form = || format!("{VARIABLE} is ENDPOINT,BUCKET,ACCESS_KEY,SECRET_KEY");
    let text = env::var(VARIABLE).with_context(form)?;
    let mut words = text.split(',').map(str::to_owned);
    let mut next = || words.next().with_context(form);
    let (endpoint, bucket, keys) = (next()?, next()?, Keys { access: next()?, secret: next()? });
    let [access_file, secret_file] = write_keys(folder.path(), &keys)?;
    let section = format!(
        "kind = \"cubefs\"\nendpoint = {endpoint:?}\nbucket = {bucket:?}\n\
         access_key_file = {access_file:?}\nsecret_key_file = {secret_file:?}\n"
    );
    let config = write_config(folder.path(), "cubefs", &section)?;
    let forms = vec![Form { crash: Some(config.clone()), ..Form::new("given", config) }];
    let (daemons, mounts) = (Vec::new(), Vec::new());
    Ok(Bed {
        kind: "cubefs",
        version: "as given".to_owned(),
        forms,
        daemons,
        serve: &[],
        room: Room::Unknown,
        _mounts: mounts,
        watched: None,
        keys: None,
        folder,
    })
}
