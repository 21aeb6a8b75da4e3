//! One page of a listing, right or with its faults.

use std::collections::BTreeMap;

use super::{Asked, Store};
use crate::answer::{Answer, escape, iso_time};
use crate::objects::Object;
use crate::request::Operation;
use crate::{Fault, Like};

impl Store {
    pub(super) fn list(&mut self, asked: &Asked<'_>, fault: Option<Fault>) -> Answer {
        let Operation::List { prefix, delimited, after, keys_max } = asked.operation else { return Answer::empty(500) };
        let (prefix, after, is_cubefs) = (prefix.as_str(), after.as_str(), asked.like == Like::Cubefs);
        let walks = is_cubefs && !delimited;
        let (mut contents, mut folders) = (String::new(), String::new());
        let (mut last, mut last_folder) = (String::new(), String::new());
        let (mut count, mut more) = (0, false);
        for (key, object) in shown(self, asked, prefix, after, walks, fault) {
            let Some(name) = key.strip_prefix(prefix) else { continue };
            if key == after || (fault == Some(Fault::Omit) && self.random.below(4) == 0) {
                continue;
            }
            let folder = name.split_once('/').filter(|_| *delimited).map(|(folder, _)| format!("{prefix}{folder}/"));
            if folder.as_ref().is_some_and(|folder| *folder == last_folder || after.starts_with(folder.as_str())) {
                continue;
            }
            if count == *keys_max {
                more = true;
                break;
            }
            // A directory walk that forgets where it was.
            if walks && count % 10 == 9 {
                count += 1;
                continue;
            }
            count += 1;
            last.clone_from(&key);
            if let Some(folder) = folder {
                folders += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(&folder));
                last_folder = folder;
                continue;
            }
            let (key, stored, bytes) = (escape(&key), iso_time(object.stored_at), object.body.len());
            contents += &format!(
                "<Contents><Key>{key}</Key><LastModified>{stored}</LastModified><ETag>&quot;{}&quot;</ETag><Size>{bytes}</Size></Contents>",
                object.etag
            );
        }
        let more = more && !(is_cubefs && prefix.contains('/'));
        let next = if more {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escape(&last))
        } else {
            String::new()
        };
        Answer::xml(format!(
            "<ListBucketResult><Prefix>{}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{keys_max}</MaxKeys>\
             <IsTruncated>{more}</IsTruncated>{next}{contents}{folders}</ListBucketResult>",
            escape(prefix)
        ))
    }
}

/// What a page may show, in the order in which it does. An object's body is shared, not copied.
fn shown(
    store: &Store,
    asked: &Asked<'_>,
    prefix: &str,
    after: &str,
    walks: bool,
    fault: Option<Fault>,
) -> Vec<(String, Object)> {
    let known = |object: &Object| fault != Some(Fault::Delay) || object.stored_at + asked.behind <= asked.now;
    let mut all: BTreeMap<&str, &Object> = store.objects.live().map(|(key, object)| (key.as_str(), object)).collect();
    all.retain(|_, object| known(object));
    if fault == Some(Fault::Resurrect) {
        all.extend(store.objects.gone().map(|(key, object)| (key.as_str(), object)));
    }
    let from = all.range::<&str, _>(after.max(prefix)..).take_while(|(key, _)| key.starts_with(prefix));
    let mut shown: Vec<_> = from.map(|(key, object)| ((*key).to_owned(), (*object).clone())).collect();
    if walks {
        // Folder by folder: `a/x` before `a-b`, which bytes have the other way round.
        shown.sort_by(|(one, _), (other, _)| one.split('/').cmp(other.split('/')));
    }
    shown
}
