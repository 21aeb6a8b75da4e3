//! What `inspect` and `verify` show alike: the object's parts, and what is damaged.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::object_check::Look;
use crate::object_format::{BlockEntry, Footer};
use crate::wal_cli::print::bytes;

/// Name and value, one below the other.
pub fn row(out: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{name:<20} {value}");
}

pub fn footer(out: &mut String, object: &str, look: &Look) {
    row(out, "object", object);
    row(out, "length", format_args!("{} bytes ({})", look.object_bytes, bytes(look.object_bytes)));
    let Some(footer) = &look.footer else { return };
    row(out, "id", format_args!("{} ({:016x})", footer.object, footer.object.0));
    row(out, "incarnation", footer.incarnation);
    row(out, "format version", footer.format_version);
    row(out, "data", format_args!("{} bytes", footer.data_bytes));
    for section in &footer.sections {
        let (name, len, at, crc) = (section.kind.name(), section.bytes, section.position, section.crc);
        row(out, "section", format_args!("{name}: {len} bytes at {at}, CRC {crc:08x}"));
    }
}

pub fn damage(out: &mut String, look: &Look) {
    for damage in &look.damage {
        row(out, "DAMAGE", format_args!("{} at {}: {}", damage.part, damage.position, damage.why));
    }
    let more = look.damaged_parts - look.damage.len();
    if more > 0 {
        row(out, "DAMAGE", format_args!("{more} parts more"));
    }
}

pub fn footer_json(footer: &Footer) -> Value {
    let sections = footer.sections.iter().map(|section| {
        json!({
            "kind": section.kind.name(),
            "position": section.position,
            "bytes": section.bytes,
            "crc": format!("{:08x}", section.crc),
        })
    });
    json!({
        "object": footer.object.0,
        "incarnation": footer.incarnation.to_string(),
        "format_version": footer.format_version,
        "data_bytes": footer.data_bytes,
        "object_bytes": footer.object_bytes,
        "sections": sections.collect::<Vec<_>>(),
    })
}

/// What the blocks of one stream add up to.
pub struct StreamSum {
    pub stream: u64,
    pub base: i64,
    pub end: i64,
    pub blocks: usize,
    pub records: u64,
    pub bytes: u64,
    pub max_timestamp: i64,
    /// First and last.
    pub leader_epochs: (i32, i32),
    /// Offsets between its blocks that compaction has taken.
    pub missing_offsets: i64,
}

pub fn streams(blocks: &[BlockEntry]) -> Vec<StreamSum> {
    let sum = |blocks: &[BlockEntry]| {
        let (first, last) = (blocks.first()?, blocks.last()?);
        let held: i64 = blocks.iter().map(|block| block.end - block.base).sum();
        Some(StreamSum {
            stream: first.stream.0,
            base: first.base,
            end: last.end,
            blocks: blocks.len(),
            records: blocks.iter().map(|block| u64::from(block.record_count)).sum(),
            bytes: blocks.iter().map(|block| u64::from(block.bytes)).sum(),
            max_timestamp: blocks.iter().map(|block| block.max_timestamp).max().unwrap_or(-1),
            leader_epochs: (first.leader_epoch, last.leader_epoch),
            missing_offsets: last.end - first.base - held,
        })
    };
    blocks.chunk_by(|one, next| one.stream == next.stream).filter_map(sum).collect()
}

pub fn damage_json(look: &Look) -> Value {
    json!({"parts": look.damaged_parts, "first": look.damage})
}
