//! Where an object lies in the store: `{prefix}/{cluster id}/{incarnation}/{2 hex digits}/{object id}`.
//!
//! The two digits spread the objects over 256 flat folders, so that none grows too large to be listed.

use seawall_backends::{InvalidKey, ObjectKey};
use seawall_metadata::{ClusterId, Incarnation, ObjectId};

use crate::object_format::crc32c;

/// How many folders the objects of an incarnation are spread over.
pub const FOLDERS: u16 = 256;

/// Makes the keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectKeys {
    /// Ends with a slash.
    cluster_folder: String,
}

impl ObjectKeys {
    /// An empty `prefix` leaves that level out.
    pub fn new(prefix: &str, cluster: ClusterId) -> Result<ObjectKeys, InvalidKey> {
        let prefix = prefix.trim_matches('/');
        let cluster_folder =
            if prefix.is_empty() { format!("{}/", cluster.0) } else { format!("{prefix}/{}/", cluster.0) };
        ObjectKey::new(format!("{cluster_folder}x"))?;
        Ok(ObjectKeys { cluster_folder })
    }

    pub fn key(&self, incarnation: Incarnation, object: ObjectId) -> ObjectKey {
        let folder = self.folder(incarnation, self.folder_number(object));
        ObjectKey::new(format!("{folder}/{:016x}", object.0)).expect("hex digits under a folder that was checked")
    }

    /// The object that has this key, and its incarnation; `None` for a key that [`Self::key`] does not give.
    pub fn parse(&self, key: &ObjectKey) -> Option<(Incarnation, ObjectId)> {
        let mut parts = key.as_str().strip_prefix(&self.cluster_folder)?.split('/');
        let incarnation = Incarnation(parts.next()?.parse().ok()?);
        let object = ObjectId(u64::from_str_radix(parts.nth(1)?, 16).ok()?);
        (self.key(incarnation, object) == *key).then_some((incarnation, object))
    }

    /// The number of the folder that an object is in.
    pub fn folder_number(&self, object: ObjectId) -> u16 {
        u16::from(crc32c(&object.0.to_le_bytes()) as u8)
    }

    /// The folder of that number, below [`FOLDERS`].
    pub fn folder(&self, incarnation: Incarnation, number: u16) -> String {
        assert!(number < FOLDERS, "folder {number} of {FOLDERS}");
        format!("{}/{number:02x}", self.incarnation_folder(incarnation))
    }

    /// Above the folders of objects, and of the backups of metadata.
    pub fn incarnation_folder(&self, incarnation: Incarnation) -> String {
        format!("{}{}", self.cluster_folder, incarnation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn keys_look_as_the_format_page_says() {
        let keys = ObjectKeys::new("sea/wall", ClusterId(Uuid::from_u128(1))).unwrap();
        assert_eq!(
            keys.key(Incarnation(Uuid::from_u128(2)), ObjectId(0xABC)).to_string(),
            "sea/wall/00000000-0000-0000-0000-000000000001/00000000-0000-0000-0000-000000000002/b7/0000000000000abc"
        );
        assert!(ObjectKeys::new("white space", ClusterId(Uuid::nil())).is_err());
    }

    #[test]
    fn a_key_says_which_object_it_is_of_and_others_are_nobodys() {
        let keys = ObjectKeys::new("p", ClusterId(Uuid::from_u128(1))).unwrap();
        let (incarnation, object) = (Incarnation(Uuid::from_u128(2)), ObjectId(0xABC));
        let key = keys.key(incarnation, object);
        assert_eq!(keys.parse(&key), Some((incarnation, object)));
        let text = key.as_str();
        for other in [
            text.replace("/b7/", "/b8/"),
            text.replace("0abc", "0ABC"),
            text.replace("p/", "q/"),
            format!("{text}/x"),
            format!("{text}.tmp"),
        ] {
            assert_eq!(keys.parse(&ObjectKey::new(other.as_str()).unwrap()), None, "{other}");
        }
    }
}
