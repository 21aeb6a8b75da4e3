//! `seawall object verify`: every byte of an object.

use serde_json::json;

use super::show::{self, row};
use super::{Args, ObjectCliError, is_damaged, print};
use crate::object_check::{Depth, Look};

pub async fn run(args: &Args) -> Result<(), ObjectCliError> {
    let found = args.find().await?;
    let name = found.name.clone();
    let look = found.look(Depth::Everything, "verify").await?;
    if args.json {
        let shown = json!({
            "name": name,
            "bytes": look.object_bytes,
            "footer": look.footer.as_ref().map(show::footer_json),
            "whole": {"blocks": look.blocks, "batches": look.batches, "records": look.records},
            "damage": show::damage_json(&look),
        });
        print(&format!("{shown:#}\n"))?;
    } else {
        print(&to_text(&name, &look))?;
    }
    is_damaged(&look)
}

fn to_text(name: &str, look: &Look) -> String {
    let mut out = String::new();
    show::footer(&mut out, name, look);
    let Look { blocks, batches, records, .. } = look;
    let all = look.index.as_ref().map_or(0, |index| index.blocks().len());
    row(&mut out, "whole", format_args!("{blocks} of {all} blocks, {batches} batches, {records} records"));
    show::damage(&mut out, look);
    if look.damaged_parts == 0 {
        row(&mut out, "result", "every byte is what was written");
    }
    out
}
