//! The marker that says whose a store is: `{prefix}/seawall-cluster/{cluster id}.{incarnation}`.
//!
//! The name counts; what is in it is for people. A restore puts a marker for its new incarnation in the place of the old one, and says
//! first, in `{prefix}/{cluster id}/{old incarnation}/ended`, that the old one is ended: a name that can be asked for without a listing.
//! The marker is read at a start (`store_probe.rs`) and before every run of deletes
//! (`delete_guard.rs`): whoever no longer finds his own marker alone there must not change what is stored.

use bytes::Bytes;
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, list_all};
use seawall_metadata::{ClusterId, Incarnation};

/// Where a cluster's marker is, and what it must say.
#[derive(Debug, Clone)]
pub struct StoreMarker {
    folder: String,
    cluster: String,
    incarnation: String,
    ended: ObjectKey,
}

/// What [`StoreMarker::ended_text`] is no longer than.
const ENDED_BYTES_MAX: u64 = 1 << 10;

/// Whose the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Ours,
    /// No marker is there.
    Nobodys,
    OtherCluster {
        found: String,
    },
    /// A restore has taken this cluster's store over, or has left it.
    OtherIncarnation {
        found: String,
    },
}

impl StoreMarker {
    pub fn new(prefix: &str, cluster: ClusterId, incarnation: Incarnation) -> Self {
        let (cluster, incarnation) = (cluster.0.to_string(), incarnation.0.to_string());
        let ended = format!("{prefix}{}{cluster}/{incarnation}/ended", slash(prefix));
        let ended = ObjectKey::new(ended).expect("ids below a prefix that was checked");
        Self { folder: Self::folder(prefix), cluster, incarnation, ended }
    }

    /// Where the markers of all clusters under a prefix are.
    pub fn folder(prefix: &str) -> String {
        format!("{prefix}{}seawall-cluster", slash(prefix))
    }

    pub fn key(&self) -> ObjectKey {
        let key = format!("{}/{}.{}", self.folder, self.cluster, self.incarnation);
        ObjectKey::new(key).expect("ids below a prefix that was checked")
    }

    pub fn text(&self) -> String {
        let (cluster, incarnation) = (&self.cluster, &self.incarnation);
        format!(
            "format = 1\ncluster = \"{cluster}\"\nincarnation = \"{incarnation}\"\n# The objects of this cluster are in the folder of its name.\n"
        )
    }

    /// Where it is said that this incarnation is ended.
    pub fn ended_key(&self) -> ObjectKey {
        self.ended.clone()
    }

    pub fn ended_text(&self, by: Incarnation) -> Bytes {
        Bytes::from(format!("{}\n# The incarnation that has followed this one.\n", by.0))
    }

    /// The incarnation that has ended this one, if one has. Whoever stores something and then finds none is sure that a restore sees
    /// what he has stored.
    pub async fn ended_by(&self, backend: &dyn Backend, purpose: Purpose) -> Result<Option<String>, BackendError> {
        let bytes = match backend.head(&self.ended, purpose).await {
            Ok(meta) => meta.bytes.min(ENDED_BYTES_MAX),
            Err(BackendError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = backend.get_range(&self.ended, 0..bytes, purpose).await?.into_bytes();
        Ok(Some(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()))
    }

    /// Reads every marker there is, and asks whether this incarnation is ended.
    pub async fn standing(&self, backend: &dyn Backend, purpose: Purpose) -> Result<Standing, BackendError> {
        // In this order: a store that says no to a listing says why.
        let listed = list_all(backend, &self.folder, purpose).await?;
        let standing = self.judge(listed.iter().map(|(key, _)| key.file_name()));
        match self.ended_by(backend, purpose).await? {
            Some(found) if !matches!(standing, Standing::OtherCluster { .. }) => {
                Ok(Standing::OtherIncarnation { found })
            }
            _ => Ok(standing),
        }
    }

    /// Every incarnation of this cluster that has a marker there.
    pub async fn incarnations(
        &self,
        backend: &dyn Backend,
        purpose: Purpose,
    ) -> Result<Vec<Incarnation>, BackendError> {
        let listed = list_all(backend, &self.folder, purpose).await?;
        let names = listed.iter().filter_map(|(key, _)| key.file_name().split_once('.'));
        let ours = names.filter(|(cluster, _)| *cluster == self.cluster);
        Ok(ours.filter_map(|(_, incarnation)| Some(Incarnation(incarnation.parse().ok()?))).collect())
    }

    fn judge<'a>(&self, names: impl Iterator<Item = &'a str>) -> Standing {
        let mut standing = Standing::Nobodys;
        for (cluster, incarnation) in names.filter_map(|name| name.split_once('.')) {
            if cluster != self.cluster {
                return Standing::OtherCluster { found: cluster.to_owned() };
            }
            if incarnation != self.incarnation {
                return Standing::OtherIncarnation { found: incarnation.to_owned() };
            }
            standing = Standing::Ours;
        }
        standing
    }
}

fn slash(prefix: &str) -> &'static str {
    if prefix.is_empty() { "" } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_store_is_ours_only_with_our_marker_alone() {
        let marker = StoreMarker::new("p", ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
        let ours = marker.key();
        let ours = ours.file_name();
        assert_eq!(marker.judge([].into_iter()), Standing::Nobodys);
        assert_eq!(marker.judge([ours, "README"].into_iter()), Standing::Ours);
        let later = format!("{}.later", Uuid::from_u128(1));
        assert_eq!(
            marker.judge([ours, &later].into_iter()),
            Standing::OtherIncarnation { found: "later".to_owned() },
            "a restore ends what came before it"
        );
        assert_eq!(marker.judge([ours, "other.x"].into_iter()), Standing::OtherCluster { found: "other".to_owned() });
    }
}
