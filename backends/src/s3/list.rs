//! Listing one flat folder, and what was begun in it.

use std::time::SystemTime;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::S3Backend;
use crate::profile::ListingEnds;
use crate::{BackendError, BegunObject, LIST_PAGE_OBJECTS_MAX, ListPage, ObjectKey, PartsId, check_folder};

/// Sorts behind every key of a folder when it is appended to the folder with its slash: keys have no such character.
const AFTER_ALL: &str = "~";

impl S3Backend {
    /// Asks on where the store has shown nothing but folders or names that are no keys of ours.
    pub(super) async fn list_page(
        &self,
        folder: &str,
        start_after: Option<&ObjectKey>,
    ) -> Result<ListPage, BackendError> {
        let prefix = prefix_of(folder)?;
        let mut after = start_after.map(|key| key.as_str().to_owned());
        loop {
            let listed = self.list_once(&prefix, after.as_deref()).await?;
            let shown = Shown::of(&listed, folder)?;
            let more = match self.profile.listing_ends {
                ListingEnds::AtTruncatedFlag => listed.is_truncated() == Some(true),
                ListingEnds::AtEmptyPage => shown.last.is_some(),
            };
            if !shown.objects.is_empty() || !more {
                return Ok(ListPage { objects: shown.objects, more });
            }
            if shown.last <= after {
                let text = format!("listing {folder:?} does not go on after {:?}", after.unwrap_or_default());
                return Err(BackendError::Fatal(text));
            }
            after = shown.last;
        }
    }

    async fn list_once(&self, prefix: &str, after: Option<&str>) -> Result<ListObjectsV2Output, BackendError> {
        self.call("list", || {
            let list = self.client.list_objects_v2().bucket(&self.bucket).delimiter("/");
            let list = list.max_keys(LIST_PAGE_OBJECTS_MAX as i32).set_start_after(after.map(str::to_owned));
            if prefix.is_empty() { list.send() } else { list.prefix(prefix).send() }
        })
        .await
    }

    /// Any answer at all that is not an error shows that the bucket is there and may be read.
    pub(super) async fn check_bucket(&self) -> Result<(), BackendError> {
        self.call("list", || self.client.list_objects_v2().bucket(&self.bucket).max_keys(1).send()).await?;
        Ok(())
    }

    pub(super) async fn list_begun_in(&self, folder: &str) -> Result<Vec<BegunObject>, BackendError> {
        if !self.profile.lists_begun {
            return Err(BackendError::Unsupported("listing what was begun in a folder".to_owned()));
        }
        let prefix = prefix_of(folder)?;
        let mut begun = Vec::new();
        let mut after: (Option<String>, Option<String>) = (None, None);
        loop {
            let (key_marker, id_marker) = after.clone();
            let page = self
                .call("list_begun", || {
                    let list = self.client.list_multipart_uploads().bucket(&self.bucket).delimiter("/");
                    let list = list.set_key_marker(key_marker.clone()).set_upload_id_marker(id_marker.clone());
                    if prefix.is_empty() { list.send() } else { list.prefix(&prefix).send() }
                })
                .await?;
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let Some(key) = key_in(key, folder) else { continue };
                let begun_at = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                begun.push(BegunObject { key, id: PartsId(id.to_owned()), begun_at });
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) {
                return Ok(begun);
            }
            // Of one key they come in an order of the store's own.
            if next.0.is_none() || next.0 < after.0 || next == after {
                return Err(BackendError::Fatal(format!("listing what was begun in {folder:?} does not go on")));
            }
            after = next;
        }
    }
}

fn prefix_of(folder: &str) -> Result<String, BackendError> {
    check_folder(folder).map_err(|error| BackendError::Fatal(error.to_string()))?;
    Ok(if folder.is_empty() { String::new() } else { format!("{folder}/") })
}

/// Consoles and file systems below leave names that are no keys, such as the folder's own with its slash.
fn key_in(name: &str, folder: &str) -> Option<ObjectKey> {
    ObjectKey::new(name).ok().filter(|key| key.folder() == folder)
}

/// What a page shows.
struct Shown {
    objects: Vec<(ObjectKey, u64)>,
    /// After which the listing goes on; none where the page was empty.
    last: Option<String>,
}

impl Shown {
    fn of(listed: &ListObjectsV2Output, folder: &str) -> Result<Self, BackendError> {
        let mut objects = Vec::new();
        for object in listed.contents() {
            let Some(key) = object.key().and_then(|name| key_in(name, folder)) else { continue };
            let Some(bytes) = object.size().and_then(|bytes| u64::try_from(bytes).ok()) else {
                return Err(BackendError::Transient(format!("listing {folder:?}: {key} has no length")));
            };
            objects.push((key, bytes));
        }
        let last_object = listed.contents().iter().filter_map(|object| object.key()).max().map(str::to_owned);
        let folders = listed.common_prefixes().iter().filter_map(|common| common.prefix());
        let last_folder = folders.max().map(|prefix| format!("{prefix}{AFTER_ALL}"));
        Ok(Self { objects, last: last_object.max(last_folder) })
    }
}
