//! What a layer is: something around every call to a store. It says in one place what it does, and is a [`Backend`] by that; a call knows
//! what it is, for whom, and how many bytes it moves. Deletes of many answer for each key, so a layer that does something about them
//! says so for itself.

use std::ops::Range;

use crate::observed::Operation;
use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, PartBody, PartNumber,
    PartsId, Purpose, Segments, StoredPart, range_bytes,
};

/// What a layer knows of a call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub operation: Operation,
    /// A key, or the folder that is listed.
    pub name: &'a str,
    pub purpose: Purpose,
    /// Bytes of a body that go through us, either way.
    pub bytes: u64,
    /// Those, and what the store moves by itself.
    pub stored_bytes: u64,
}

impl<'a> Call<'a> {
    fn new(operation: Operation, name: &'a str, purpose: Purpose, bytes: u64) -> Self {
        Self { operation, name, purpose, bytes, stored_bytes: bytes }
    }

    /// Whether it is one of those whose body goes through us, however long.
    pub fn moves_a_body(&self) -> bool {
        matches!(self.operation, Operation::Put | Operation::Get)
            || (self.operation == Operation::PutPart && self.bytes > 0)
    }
}

/// What a call gives.
pub trait Answer: Send {
    /// Length of the body that came, if one did.
    fn body_bytes(&self) -> Option<u64> {
        None
    }
}

impl Answer for () {}
impl Answer for ObjectMeta {}
impl Answer for ListPage {}
impl Answer for PartsId {}
impl Answer for StoredPart {}
impl Answer for Vec<BegunObject> {}
impl Answer for Segments {
    fn body_bytes(&self) -> Option<u64> {
        Some(self.total_bytes())
    }
}

pub type Deleted = Vec<(ObjectKey, Result<(), BackendError>)>;

pub trait Layer: Send + Sync + 'static {
    fn inner(&self) -> &dyn Backend;

    /// `attempt` hands the call to the store below; it may be made more than once, or not at all.
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>>;

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        self.inner().delete_many(keys, purpose)
    }
}

impl<L: Layer> Backend for L {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let call = Call::new(Operation::Put, key.as_str(), purpose, body.total_bytes());
        self.around(call, move || self.inner().put(key, body.clone(), purpose))
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let call = Call::new(Operation::Get, key.as_str(), purpose, range_bytes(&range));
        self.around(call, move || self.inner().get_range(key, range.clone(), purpose))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        self.around(Call::new(Operation::Head, key.as_str(), purpose, 0), move || self.inner().head(key, purpose))
    }

    fn delete_many(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        self.around_delete(keys, purpose)
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        let call = Call::new(Operation::List, folder, purpose, 0);
        self.around(call, move || self.inner().list_folder(folder, start_after, purpose))
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        let call = Call::new(Operation::BeginParts, key.as_str(), purpose, 0);
        self.around(call, move || self.inner().begin_parts(key, purpose))
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        let call = Call::new(Operation::PutPart, key.as_str(), purpose, body.body_bytes());
        let call = Call { stored_bytes: body.part_bytes(), ..call };
        self.around(call, move || self.inner().put_part(key, id, number, body.clone(), purpose))
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let stored_bytes = parts.iter().map(|part| part.bytes).sum();
        let call = Call { stored_bytes, ..Call::new(Operation::CompleteParts, key.as_str(), purpose, 0) };
        self.around(call, move || self.inner().complete_parts(key, id, parts.clone(), purpose))
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let call = Call::new(Operation::AbortParts, key.as_str(), purpose, 0);
        self.around(call, move || self.inner().abort_parts(key, id, purpose))
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        let call = Call::new(Operation::ListBegun, folder, purpose, 0);
        self.around(call, move || self.inner().list_begun(folder, purpose))
    }

    fn clock_ahead_seconds(&self) -> Option<i64> {
        self.inner().clock_ahead_seconds()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner().capabilities()
    }

    fn name(&self) -> &str {
        self.inner().name()
    }
}
