//! `seawall object inspect`: all that stands behind the data of an object.

use serde_json::{Value, json};

use super::show::{self, StreamSum, row};
use super::{Args, ObjectCliError, is_damaged, print};
use crate::object_check::{Depth, Look};

pub async fn run(args: &Args) -> Result<(), ObjectCliError> {
    let found = args.find().await?;
    let name = found.name.clone();
    let look = found.look(Depth::Sections, "inspect").await?;
    if args.json {
        print(&format!("{:#}\n", to_json(&name, &look)))?;
    } else {
        print(&to_text(&name, &look))?;
    }
    is_damaged(&look)
}

fn to_text(name: &str, look: &Look) -> String {
    let mut out = String::new();
    show::footer(&mut out, name, look);
    for StreamSum { stream, base, end, blocks, records, bytes, max_timestamp, leader_epochs, missing_offsets } in
        look.index.iter().flat_map(|index| show::streams(index.blocks()))
    {
        let (first, last) = leader_epochs;
        let mut text = format!(
            "{stream}: offsets {base} to {end}, {blocks} blocks, {records} records, {bytes} bytes, newest {max_timestamp}, \
             leader epoch {first}"
        );
        if last != first {
            text += &format!(" to {last}");
        }
        if missing_offsets > 0 {
            text += &format!(", {missing_offsets} offsets between blocks are compacted away");
        }
        row(&mut out, "stream", text);
    }
    for state in look.producers.iter().flatten() {
        let kind = if state.full { "full state" } else { "delta" };
        let (stream, end, count) = (state.stream, state.end, state.producers.len());
        row(&mut out, "producers", format_args!("stream {stream} up to {end}: {kind} of {count}"));
    }
    for aborted in look.aborted.iter().flatten() {
        let (stream, id, first, last) =
            (aborted.stream, aborted.producer_id, aborted.first_offset, aborted.last_offset);
        row(&mut out, "aborted", format_args!("stream {stream} producer {id}: offsets {first} to {last}"));
    }
    show::damage(&mut out, look);
    if look.damaged_parts == 0 {
        row(&mut out, "result", "footer and sections are whole; `seawall object verify` reads the data too");
    }
    out
}

fn to_json(name: &str, look: &Look) -> Value {
    let block = |block: &crate::object_format::BlockEntry| {
        json!({
            "stream": block.stream.0,
            "base": block.base,
            "end": block.end,
            "max_timestamp": block.max_timestamp,
            "leader_epoch": block.leader_epoch,
            "records": block.record_count,
            "position": block.position,
            "bytes": block.bytes,
            "crc": format!("{:08x}", block.crc),
        })
    };
    let producers = look.producers.iter().flatten().map(|state| {
        let producer = |producer: &crate::producer_state::ProducerSnapshot| {
            let batches = producer.batches.iter().map(|batch| {
                json!({
                    "base_sequence": batch.base_sequence,
                    "last_sequence": batch.last_sequence,
                    "base_offset": batch.base_offset,
                    "last_offset": batch.last_offset,
                    "timestamp": batch.timestamp_ms,
                })
            });
            let batches: Vec<Value> = batches.collect();
            json!({"id": producer.producer_id, "epoch": producer.producer_epoch, "batches": batches})
        };
        let producers: Vec<Value> = state.producers.iter().map(producer).collect();
        json!({"stream": state.stream.0, "end": state.end, "full": state.full, "producers": producers})
    });
    let aborted = look.aborted.iter().flatten().map(|aborted| {
        json!({
            "stream": aborted.stream.0,
            "producer": aborted.producer_id,
            "first_offset": aborted.first_offset,
            "last_offset": aborted.last_offset,
            "last_stable_offset": aborted.last_stable_offset,
        })
    });
    json!({
        "name": name,
        "bytes": look.object_bytes,
        "footer": look.footer.as_ref().map(show::footer_json),
        "blocks": look.index.as_ref().map(|index| index.blocks().iter().map(block).collect::<Vec<_>>()),
        "producers": look.producers.is_some().then(|| producers.collect::<Vec<_>>()),
        "aborted": look.aborted.is_some().then(|| aborted.collect::<Vec<_>>()),
        "damage": show::damage_json(look),
    })
}
