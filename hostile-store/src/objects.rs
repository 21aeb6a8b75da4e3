//! What the store holds, and every change to it. No I/O, no clock: whoever calls says when it is.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

/// Milliseconds since the start of the epoch.
pub type Millis = u64;

#[derive(Debug, Clone)]
pub struct Object {
    pub body: Bytes,
    /// Without quotes.
    pub etag: String,
    pub stored_at: Millis,
}

#[derive(Debug, Default)]
struct Upload {
    begun_at: Millis,
    parts: BTreeMap<u32, Object>,
}

/// Completing what cannot be completed.
#[derive(Debug, PartialEq, Eq)]
pub enum Incomplete {
    NoSuchUpload,
    InvalidPart,
    EntityTooSmall,
}

#[derive(Debug, Default)]
pub struct Objects {
    live: BTreeMap<String, Object>,
    /// Deleted, but a listing may show them again.
    gone: BTreeMap<String, Object>,
    /// The first content of every key that there ever was.
    first: BTreeMap<String, String>,
    /// Keys that were given other bytes than before. A broker never does that.
    overwritten: Vec<String>,
    uploads: BTreeMap<(String, String), Upload>,
    uploads_begun: u64,
}

impl Objects {
    pub fn put(&mut self, key: &str, body: Bytes, now: Millis) -> String {
        let etag = hex(&Md5::digest(&body));
        let first = self.first.entry(key.to_owned()).or_insert_with(|| etag.clone());
        if *first != etag {
            self.overwritten.push(key.to_owned());
        }
        self.gone.remove(key);
        self.live.insert(key.to_owned(), Object { body, etag: etag.clone(), stored_at: now });
        etag
    }

    pub fn get(&self, key: &str) -> Option<&Object> {
        self.live.get(key)
    }

    /// What was there before the last change to a key: nothing before a put, the object before a delete.
    pub fn before(&self, key: &str) -> Option<&Object> {
        self.gone.get(key)
    }

    pub fn delete(&mut self, key: &str) {
        if let Some(object) = self.live.remove(key) {
            self.gone.insert(key.to_owned(), object);
        }
    }

    /// Whether a key is a folder of another one, or the other way round.
    pub fn is_in_the_way(&self, key: &str) -> bool {
        let folder = format!("{key}/");
        let is_folder = self.live.range(folder.clone()..).next().is_some_and(|(other, _)| other.starts_with(&folder));
        let below_an_object = key.match_indices('/').any(|(at, _)| self.live.contains_key(&key[..at]));
        is_folder || below_an_object
    }

    /// All that a listing could show, in byte order.
    pub fn live(&self) -> impl Iterator<Item = (&String, &Object)> {
        self.live.iter()
    }

    pub fn gone(&self) -> impl Iterator<Item = (&String, &Object)> {
        self.gone.iter()
    }

    pub fn overwritten(&self) -> &[String] {
        &self.overwritten
    }

    pub fn begin(&mut self, key: &str, now: Millis) -> String {
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        self.uploads.insert((key.to_owned(), id.clone()), Upload { begun_at: now, ..Upload::default() });
        id
    }

    /// The part's ETag; none when nothing was begun.
    pub fn put_part(&mut self, key: &str, id: &str, number: u32, body: Bytes, now: Millis) -> Option<String> {
        let upload = self.uploads.get_mut(&(key.to_owned(), id.to_owned()))?;
        let etag = hex(&Md5::digest(&body));
        upload.parts.insert(number, Object { body, etag: etag.clone(), stored_at: now });
        Some(etag)
    }

    pub fn complete(
        &mut self,
        key: &str,
        id: &str,
        parts: &[(u32, String)],
        part_bytes_min: usize,
        now: Millis,
    ) -> Result<String, Incomplete> {
        let name = (key.to_owned(), id.to_owned());
        let upload = self.uploads.get(&name).ok_or(Incomplete::NoSuchUpload)?;
        let mut body = BytesMut::new();
        for (at, (number, etag)) in parts.iter().enumerate() {
            let part = upload.parts.get(number).filter(|part| part.etag == *etag).ok_or(Incomplete::InvalidPart)?;
            if at + 1 < parts.len() && part.body.len() < part_bytes_min {
                return Err(Incomplete::EntityTooSmall);
            }
            body.extend_from_slice(&part.body);
        }
        self.uploads.remove(&name);
        Ok(self.put(key, body.freeze(), now))
    }

    pub fn abort(&mut self, key: &str, id: &str) -> bool {
        self.uploads.remove(&(key.to_owned(), id.to_owned())).is_some()
    }

    /// Key, id and time of what was begun.
    pub fn begun(&self) -> impl Iterator<Item = (&str, &str, Millis)> {
        self.uploads.iter().map(|((key, id), upload)| (key.as_str(), id.as_str(), upload.begun_at))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_given_other_bytes_is_told_even_after_a_delete() {
        let mut objects = Objects::default();
        objects.put("a", Bytes::from_static(b"1"), 1);
        objects.put("a", Bytes::from_static(b"1"), 2);
        objects.delete("a");
        assert!(objects.overwritten().is_empty());
        objects.put("a", Bytes::from_static(b"2"), 3);
        assert_eq!(objects.overwritten(), ["a"]);
    }

    #[test]
    fn parts_join_in_the_order_of_the_completion() {
        let mut objects = Objects::default();
        let id = objects.begin("a", 1);
        let large = objects.put_part("a", &id, 2, Bytes::from(vec![2; 10]), 1).unwrap();
        let small = objects.put_part("a", &id, 7, Bytes::from_static(b"end"), 1).unwrap();
        assert_eq!(
            objects.complete("a", &id, &[(7, small.clone()), (2, large.clone())], 10, 2),
            Err(Incomplete::EntityTooSmall)
        );
        assert_eq!(objects.complete("a", &id, &[(2, small.clone())], 10, 2), Err(Incomplete::InvalidPart));
        objects.complete("a", &id, &[(2, large), (7, small)], 10, 2).unwrap();
        assert_eq!(objects.get("a").unwrap().body.len(), 13);
        assert_eq!(objects.complete("a", &id, &[], 10, 2), Err(Incomplete::NoSuchUpload));
    }

    #[test]
    fn a_file_is_no_folder() {
        let mut objects = Objects::default();
        objects.put("x/y", Bytes::new(), 1);
        assert!(objects.is_in_the_way("x") && objects.is_in_the_way("x/y/z") && !objects.is_in_the_way("x/z"));
    }
}
