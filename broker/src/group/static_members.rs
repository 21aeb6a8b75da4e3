//! Which member holds which group instance id.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::GroupError;

/// Group instance id -> member id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StaticMembers(BTreeMap<String, String>);

impl Deref for StaticMembers {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl StaticMembers {
    /// Whoever names an instance id has to be its holder.
    pub fn check(&self, instance: Option<&str>, member_id: &str) -> Result<(), GroupError> {
        match instance.map(|instance| self.0.get(instance)) {
            Some(None) => Err(GroupError::UnknownMemberId),
            Some(Some(holder)) if holder != member_id => Err(GroupError::FencedInstanceId),
            Some(Some(_)) | None => Ok(()),
        }
    }

    /// The member that a request is about: it names itself, or is the holder of the instance id.
    pub fn named<'a>(&'a self, instance: Option<&str>, member_id: &'a str) -> Option<&'a str> {
        if member_id.is_empty() { self.0.get(instance?).map(String::as_str) } else { Some(member_id) }
    }

    /// Answers who held the instance id before.
    pub fn insert(&mut self, instance: String, member_id: String) -> Option<String> {
        self.0.insert(instance, member_id)
    }

    /// Unless somebody else holds it meanwhile.
    pub fn remove(&mut self, instance: &str, member_id: &str) {
        if self.0.get(instance).is_some_and(|holder| holder == member_id) {
            self.0.remove(instance);
        }
    }
}
