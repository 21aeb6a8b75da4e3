//! The life of an object: reserved -> committed or put in the place of others -> marked (unreferenced, or its reservation
//! ended) -> forgotten.

use serde::Serialize;

use super::State;
use crate::command::{ObjectRecord, RESERVE_OBJECTS_MAX, RangeOutcome, Rejection, Response};
use crate::ids::*;

/// An id that its broker may put and commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reservation {
    pub by: Registration,
    /// The metadata time from which the id may no longer be committed.
    pub expires_ms: u64,
}

/// An object that was committed, or whose reservation ended without a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectState {
    /// `None` if it was never committed; it may be stored all the same.
    pub record: Option<ObjectRecord>,
    /// How many ranges of streams use it.
    pub references: u32,
    /// How many ranges its commit had.
    pub ranges: u32,
    /// The ranges of its commit that were not accepted: with the rest, the first answer.
    pub exceptions: Vec<(u32, RangeOutcome)>,
    /// The metadata time at which its last reference went; from then on it waits for its physical deletion.
    pub marked_ms: Option<u64>,
}

crate::wire::wire_struct!(Reservation { by, expires_ms });
crate::wire::wire_struct!(ObjectState { record, references, ranges, exceptions, marked_ms });

impl ObjectState {
    /// What the commit of this object answered.
    pub(super) fn first_answer(&self) -> Vec<RangeOutcome> {
        let mut outcomes = vec![RangeOutcome::Accepted; self.ranges as usize];
        for (index, outcome) in &self.exceptions {
            outcomes[*index as usize] = *outcome;
        }
        outcomes
    }
}

impl State {
    pub(super) fn reserve_objects(&mut self, by: Registration, count: u32, ttl_ms: u64) -> Result<Response, Rejection> {
        self.active(by)?;
        if count == 0 || count > RESERVE_OBJECTS_MAX || ttl_ms == 0 {
            return Err(Rejection::Malformed("1 to 1024 objects and a time to live"));
        }
        let first = self.next_object;
        let next = first.0.checked_add(u64::from(count)).ok_or(Rejection::Exhausted("object ids"))?;
        self.next_object = ObjectId(next);
        let expires_ms = self.now_ms.saturating_add(ttl_ms);
        for id in (first.0..next).map(ObjectId) {
            self.reservations.insert(id, Reservation { by, expires_ms });
            self.expiries.insert((expires_ms, id));
        }
        Ok(Response::ObjectIds { first, count })
    }

    pub(super) fn forget_objects(
        &mut self,
        by: Registration,
        objects: Vec<ObjectId>,
        marked_before_ms: u64,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        for id in &objects {
            let marked = self.objects.get(id).map(|object| object.marked_ms);
            match marked {
                None => {} // forgotten before: the deletion was repeated
                Some(Some(marked_ms)) if marked_ms <= marked_before_ms => {}
                Some(_) => return Err(Rejection::NotDeletable(*id)),
            }
            if self.reservations.contains_key(id) || *id >= self.next_object {
                return Err(Rejection::NotDeletable(*id));
            }
        }
        for id in objects {
            if let Some(object) = self.objects.remove(&id) {
                assert!(object.references == 0, "{id:?} is forgotten while referenced");
                self.marked.remove(&(object.marked_ms.expect("checked above"), id));
                self.rewritten.remove(&id);
            }
        }
        Ok(Response::Done)
    }

    /// Drops the reference of a range that was taken out of its stream; without any the object is marked.
    pub(super) fn release_range(&mut self, id: ObjectId, stream: StreamId, base: Offset) {
        self.uploaded.remove(&(id, stream, base));
        let object = self.objects.get_mut(&id).expect("a range's object exists");
        object.references = object.references.checked_sub(1).expect("a range's object is referenced");
        self.mark_unreferenced(id);
    }

    /// Marks an object that no range uses. Nothing can use it again: ids are committed once.
    pub(super) fn mark_unreferenced(&mut self, id: ObjectId) {
        let object = self.objects.get_mut(&id).expect("the caller has it");
        if object.references == 0 {
            assert!(object.marked_ms.is_none(), "{id:?} is marked twice");
            object.marked_ms = Some(self.now_ms);
            self.marked.insert((self.now_ms, id));
        }
    }

    /// Uses up a reservation that was checked before.
    pub(super) fn take_reservation(&mut self, id: ObjectId) -> Reservation {
        let reservation = self.reservations.remove(&id).expect("the caller found it");
        self.expiries.remove(&(reservation.expires_ms, id));
        reservation
    }

    /// Ends the reservations whose time has come. What was put under them is an orphan, marked from here on.
    pub(super) fn expire_reservations(&mut self) {
        while let Some((expires_ms, id)) = self.expiries.first().copied()
            && expires_ms <= self.now_ms
        {
            self.end_reservation(id);
        }
    }

    /// Ends all reservations of a broker whose epoch ends.
    pub(super) fn expire_reservations_of(&mut self, node: NodeId) {
        let ids: Vec<ObjectId> = (self.reservations.iter())
            .filter(|(_, reservation)| reservation.by.node == node)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.end_reservation(id);
        }
    }

    fn end_reservation(&mut self, id: ObjectId) {
        self.take_reservation(id);
        let marked_ms = Some(self.now_ms);
        let object = ObjectState { record: None, references: 0, ranges: 0, exceptions: Vec::new(), marked_ms };
        self.objects.insert(id, object);
        self.marked.insert((self.now_ms, id));
    }
}
