//! The footer: which sections the object has, whose object it is, and its length. Read first, from the object's end.

use seawall_metadata::{Incarnation, ObjectId};
use uuid::Uuid;

use super::{FORMAT_VERSION, Fields, FormatError, crc32c};

/// The fixed end of the footer, after the section table.
pub const TRAILER_BYTES: usize = 64;
/// One row of the section table.
const SECTION_BYTES: usize = 32;
/// Room for section kinds that later versions add.
const SECTIONS_MAX: usize = 64;
/// The longest footer.
pub const FOOTER_BYTES_MAX: usize = SECTIONS_MAX * SECTION_BYTES + TRAILER_BYTES;

const MAGIC: [u8; 8] = *b"SEAWOBJ\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    Index,
    ProducerState,
    AbortedTransactions,
    /// Of a later version: skipped.
    Other(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    pub kind: SectionKind,
    pub position: u64,
    pub bytes: u64,
    pub crc: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub format_version: u16,
    pub object: ObjectId,
    pub incarnation: Incarnation,
    /// Length of all data blocks: they fill the object from its start.
    pub data_bytes: u64,
    /// Length of the whole object.
    pub object_bytes: u64,
    /// In the order of their positions, without gaps from the data's end to the footer's start.
    pub sections: Vec<Section>,
}

impl SectionKind {
    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Index => "index",
            SectionKind::ProducerState => "producer state",
            SectionKind::AbortedTransactions => "aborted transactions",
            SectionKind::Other(_) => "of a later version",
        }
    }

    fn code(self) -> u32 {
        match self {
            SectionKind::Index => 1,
            SectionKind::ProducerState => 2,
            SectionKind::AbortedTransactions => 3,
            SectionKind::Other(code) => code,
        }
    }

    fn from_code(code: u32) -> SectionKind {
        match code {
            1 => SectionKind::Index,
            2 => SectionKind::ProducerState,
            3 => SectionKind::AbortedTransactions,
            other => SectionKind::Other(other),
        }
    }
}

impl Footer {
    pub fn section(&self, kind: SectionKind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// Position of the first byte after the data blocks: with `object_bytes` the span of sections and footer.
    pub fn sections_start(&self) -> u64 {
        self.data_bytes
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        assert!(self.sections.len() <= SECTIONS_MAX, "{} sections", self.sections.len());
        let mut out = Vec::with_capacity(self.sections.len() * SECTION_BYTES + TRAILER_BYTES);
        for section in &self.sections {
            out.extend_from_slice(&section.kind.code().to_le_bytes());
            out.extend_from_slice(&section.crc.to_le_bytes());
            out.extend_from_slice(&section.position.to_le_bytes());
            out.extend_from_slice(&section.bytes.to_le_bytes());
            out.extend_from_slice(&[0; 8]);
        }
        out.extend_from_slice(&self.object.0.to_le_bytes());
        out.extend_from_slice(self.incarnation.0.as_bytes());
        out.extend_from_slice(&self.data_bytes.to_le_bytes());
        out.extend_from_slice(&self.object_bytes.to_le_bytes());
        out.extend_from_slice(&(self.sections.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.format_version.to_le_bytes());
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out
    }
}

/// Reads the footer out of `tail`, the last bytes of an object that is `object_bytes` long.
/// [`FOOTER_BYTES_MAX`] bytes (or the whole object) are always enough.
pub fn read_footer(
    tail: &[u8],
    object: ObjectId,
    incarnation: Incarnation,
    object_bytes: u64,
) -> Result<Footer, FormatError> {
    let found = read_any_footer(tail, object_bytes)?;
    if found.object != object || found.incarnation != incarnation {
        return Err(FormatError::OtherObject("its footer has another id or incarnation"));
    }
    Ok(found)
}

/// The same of an object of which nothing is known.
pub fn read_any_footer(tail: &[u8], object_bytes: u64) -> Result<Footer, FormatError> {
    let (before, trailer) =
        tail.split_last_chunk::<TRAILER_BYTES>().ok_or(FormatError::NotAnObject("shorter than a trailer"))?;
    let (fields, magic) = trailer.split_at(TRAILER_BYTES - MAGIC.len());
    if magic != MAGIC {
        return Err(FormatError::NotAnObject("no magic at its end"));
    }
    let mut fields = Fields::new("footer", fields);
    let mut found = Footer {
        format_version: 0,
        object: ObjectId(fields.u64()?),
        incarnation: Incarnation(Uuid::from_bytes(fields.take()?)),
        data_bytes: fields.u64()?,
        object_bytes: fields.u64()?,
        sections: Vec::new(),
    };
    let section_count = fields.u32()? as usize;
    let reserved = (fields.u32()?, fields.u16()?);
    let (format_version, crc) = (fields.u16()?, fields.u32()?);
    // Version first: a newer one may have another table, but keeps the trailer's length and the places of these fields.
    if format_version > FORMAT_VERSION {
        return Err(FormatError::NewerFormat { found: format_version });
    }
    if section_count > SECTIONS_MAX {
        return Err(fields.malformed("too many sections"));
    }
    let table_bytes = section_count * SECTION_BYTES;
    if before.len() < table_bytes {
        return Err(fields.malformed("section table reaches beyond the bytes given"));
    }
    let footer_bytes = table_bytes + TRAILER_BYTES;
    let footer_start = tail.len() - footer_bytes;
    if crc32c(&tail[footer_start..tail.len() - MAGIC.len() - size_of::<u32>()]) != crc {
        return Err(FormatError::Checksum("footer"));
    }
    if format_version == 0 || reserved != (0, 0) {
        return Err(fields.malformed("reserved fields are set"));
    }
    if found.object_bytes != object_bytes {
        return Err(FormatError::OtherObject("its footer has another length"));
    }
    let sections = read_sections(&tail[footer_start..footer_start + table_bytes])?;
    check_places(&sections, found.data_bytes, object_bytes, footer_bytes as u64)?;
    (found.format_version, found.sections) = (format_version, sections);
    Ok(found)
}

fn read_sections(table: &[u8]) -> Result<Vec<Section>, FormatError> {
    let read_section = |row: &[u8]| {
        let mut fields = Fields::new("section table", row);
        let kind = SectionKind::from_code(fields.u32()?);
        let crc = fields.u32()?;
        Ok(Section { kind, crc, position: fields.u64()?, bytes: fields.u64()? })
    };
    table.chunks_exact(SECTION_BYTES).map(read_section).collect()
}

fn check_places(
    sections: &[Section],
    data_bytes: u64,
    object_bytes: u64,
    footer_bytes: u64,
) -> Result<(), FormatError> {
    let malformed = |why| FormatError::Malformed { part: "section table", why };
    let mut position = data_bytes;
    for section in sections {
        if section.position != position {
            return Err(malformed("a section does not begin where the one before it ends"));
        }
        position = position.checked_add(section.bytes).ok_or(malformed("a section is too long"))?;
    }
    if position.checked_add(footer_bytes) != Some(object_bytes) {
        return Err(malformed("sections and footer do not fill the object"));
    }
    for kind in [SectionKind::Index, SectionKind::ProducerState, SectionKind::AbortedTransactions] {
        if sections.iter().filter(|section| section.kind == kind).count() != 1 {
            return Err(malformed("a section is missing or doubled"));
        }
    }
    Ok(())
}
