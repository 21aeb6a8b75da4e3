//! Writing of tagged fields: known ones and those kept from the wire, together in ascending order of their tags.

use bytes::Bytes;

use super::{EncodeError, Encoder};

pub(crate) struct TagWriter<'a> {
    unknown: &'a [(u32, Bytes)],
    known: Vec<(u32, Encoder)>,
}

impl<'a> TagWriter<'a> {
    pub(crate) fn new(unknown: &'a [(u32, Bytes)]) -> Self {
        Self { unknown, known: Vec::new() }
    }

    /// Takes the content of a known field; called in ascending order of the tags.
    pub(crate) fn field(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Encoder) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if self.unknown.iter().any(|(unknown, _)| *unknown == tag) {
            return Err(EncodeError::DuplicateTag { tag });
        }
        let mut content = Encoder::new();
        write(&mut content)?;
        self.known.push((tag, content));
        Ok(())
    }

    pub(crate) fn write_to(self, out: &mut Encoder) -> Result<(), EncodeError> {
        if self.known.is_empty() {
            return out.unknown_tagged_fields(self.unknown);
        }
        out.length(self.known.len() + self.unknown.len(), "tagged fields")?;
        let mut unknown: Vec<&(u32, Bytes)> = self.unknown.iter().collect();
        unknown.sort_by_key(|(tag, _)| *tag);
        let mut unknown = unknown.into_iter().peekable();
        for (tag, content) in self.known {
            while let Some((below, bytes)) = unknown.next_if(|(unknown, _)| *unknown < tag) {
                out.tagged_field(*below, bytes)?;
            }
            out.uvarint(tag);
            out.length(content.len(), "tagged field")?;
            out.append(content);
        }
        for (tag, bytes) in unknown {
            out.tagged_field(*tag, bytes)?;
        }
        Ok(())
    }
}
