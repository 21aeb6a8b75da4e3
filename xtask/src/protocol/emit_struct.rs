//! Rust text of one struct of a message: the type, its defaults, `read` and `write`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::definition::{Field, FieldType, Kind, MessageDefinition, Struct};
use super::emit::{doc, mentions};
use super::names;
use super::versions::{Condition, Versions};

pub fn emit_struct(out: &mut String, message: &MessageDefinition, it: &Struct<'_>) -> anyhow::Result<()> {
    let fields: Vec<StructField<'_>> = it
        .fields
        .iter()
        .filter(|field| !field.versions.intersect(it.within).is_empty())
        .map(|field| StructField::new(message, it.within, field))
        .collect::<anyhow::Result<_>>()?;
    let flexible = message.flexible_versions.condition(it.within);
    emit_type(out, it, &fields, &flexible)?;
    emit_default(out, it, &fields, &flexible)?;
    writeln!(out, "impl {} {{", it.name)?;
    emit_read(out, message, it, &fields, &flexible)?;
    emit_write(out, it, &fields, &flexible)?;
    writeln!(out, "}}\n")?;
    Ok(())
}

struct StructField<'a> {
    field: &'a Field,
    /// Rust's name.
    name: String,
    kind: &'a FieldType,
    /// The versions of the message at which this field exists.
    within: Versions,
    present: Condition,
    /// Whether null may be on the wire, where the field exists.
    nullable: Condition,
    /// Whether the field is written as a tagged one, where it exists.
    tagged: bool,
    /// `true`, `false` or `flexible`: compact lengths.
    compact: &'static str,
    /// Rust's type inside `Option`, if there is one.
    bare_type: String,
    is_option: bool,
    default: String,
}

impl<'a> StructField<'a> {
    fn new(message: &MessageDefinition, within: Versions, field: &'a Field) -> anyhow::Result<Self> {
        let kind = &field.kind;
        let exists = field.versions.intersect(within);
        let nullable = field.nullable_versions.condition(exists);
        let is_option = nullable != Condition::Never || *kind == FieldType::Records;
        let tagged = match field.tagged_versions.condition(exists) {
            Condition::Always => true,
            Condition::Never => false,
            Condition::When(_) => bail!("{} is tagged at some of its versions only", field.name),
        };
        let compact = match field.flexible_versions.unwrap_or(message.flexible_versions).condition(within) {
            Condition::Always => "true",
            Condition::Never => "false",
            // A tagged field exists at flexible versions only; the closures that read and write it know nothing else.
            Condition::When(_) if tagged => "true",
            Condition::When(_) => "flexible",
        };
        let bare_type = rust_type(kind, message.kind);
        let default = default_value(field, is_option, &bare_type)?;
        Ok(Self {
            field,
            name: names::field(&field.name),
            kind,
            within: exists,
            present: field.versions.condition(within),
            nullable,
            tagged,
            compact,
            bare_type,
            is_option,
            default,
        })
    }

    fn rust_type(&self) -> String {
        if self.is_option { format!("Option<{}>", self.bare_type) } else { self.bare_type.clone() }
    }

    /// The field's name in messages of errors.
    fn label(&self) -> String {
        names::snake_case(&self.field.name)
    }
}

fn emit_type(
    out: &mut String,
    it: &Struct<'_>,
    fields: &[StructField<'_>],
    flexible: &Condition,
) -> anyhow::Result<()> {
    doc(out, it.about);
    let derive_default = fields.iter().all(|field| field.default == type_default(field));
    writeln!(out, "#[derive(Clone, PartialEq, Debug{})]", if derive_default { ", Default" } else { "" })?;
    writeln!(out, "pub struct {} {{", it.name)?;
    for field in fields {
        doc(out, &field.field.about);
        writeln!(out, "pub {}: {},", field.name, field.rust_type())?;
    }
    if *flexible != Condition::Never {
        writeln!(out, "/// Tagged fields that this definition does not name, kept as they came and written back.")?;
        writeln!(out, "pub unknown_tagged_fields: Vec<(u32, Bytes)>,")?;
    }
    writeln!(out, "}}\n")?;
    Ok(())
}

fn emit_default(
    out: &mut String,
    it: &Struct<'_>,
    fields: &[StructField<'_>],
    flexible: &Condition,
) -> anyhow::Result<()> {
    if fields.iter().all(|field| field.default == type_default(field)) {
        return Ok(());
    }
    writeln!(out, "impl Default for {} {{ fn default() -> Self {{ Self {{", it.name)?;
    for field in fields {
        writeln!(out, "{}: {},", field.name, field.default)?;
    }
    if *flexible != Condition::Never {
        writeln!(out, "unknown_tagged_fields: Vec::new(),")?;
    }
    writeln!(out, "}} }} }}\n")?;
    Ok(())
}

fn emit_read(
    out: &mut String,
    message: &MessageDefinition,
    it: &Struct<'_>,
    fields: &[StructField<'_>],
    flexible: &Condition,
) -> anyhow::Result<()> {
    let mut body = String::new();
    for field in fields {
        if field.tagged {
            writeln!(body, "let mut {} = {};", field.name, field.default)?;
            continue;
        }
        let read = read_field(message, field)?;
        match &field.present {
            Condition::Always => writeln!(body, "let {} = {read};", field.name)?,
            Condition::When(when) => {
                writeln!(body, "let {} = if {when} {{ {read} }} else {{ {} }};", field.name, field.default)?;
            }
            Condition::Never => {}
        }
    }
    let mut arms = String::new();
    for field in fields.iter().filter(|field| field.tagged) {
        let tag = field.field.tag.context("a tagged field has a tag")?;
        let read = read_field(message, field)?;
        match &field.present {
            Condition::When(when) => writeln!(arms, "{tag} if {when} => {} = {read},", field.name)?,
            _ => writeln!(arms, "{tag} => {} = {read},", field.name)?,
        }
    }
    let tags = match arms.as_str() {
        "" => "input.unknown_tagged_fields()?".to_owned(),
        arms => {
            format!("input.tagged_fields(|input, tag| {{ match tag {{ {arms} _ => return Ok(false), }} Ok(true) }})?")
        }
    };
    match flexible {
        Condition::Always => writeln!(body, "let unknown_tagged_fields = {tags};")?,
        Condition::When(_) => {
            writeln!(body, "let unknown_tagged_fields = if flexible {{ {tags} }} else {{ Vec::new() }};")?;
        }
        Condition::Never => {}
    }
    let mut names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    if *flexible != Condition::Never {
        names.push("unknown_tagged_fields");
    }
    signature(out, "fn read(input: &mut Decoder, version: i16) -> Result<Self, DecodeError>", &body);
    emit_flexible(out, flexible, &body)?;
    writeln!(out, "{body} Ok(Self {{ {} }}) }}\n", names.join(", "))?;
    ensure!(!it.within.is_empty(), "{} exists at no version", it.name);
    Ok(())
}

fn emit_write(
    out: &mut String,
    it: &Struct<'_>,
    fields: &[StructField<'_>],
    flexible: &Condition,
) -> anyhow::Result<()> {
    let mut body = String::new();
    for field in fields.iter().filter(|field| !field.tagged) {
        let write = write_field(field)?;
        match &field.present {
            Condition::Always => writeln!(body, "{write};")?,
            Condition::When(when) => {
                write!(body, "if {when} {{ {write}; }}")?;
                refuse_where_absent(&mut body, field, " else ")?;
            }
            Condition::Never => {}
        }
    }
    let mut tags: BTreeMap<u32, &StructField<'_>> = BTreeMap::new();
    for field in fields.iter().filter(|field| field.tagged) {
        let tag = field.field.tag.context("a tagged field has a tag")?;
        ensure!(tags.insert(tag, field).is_none(), "tag {tag} of {} is used twice", it.name);
    }
    let mut tagged = String::new();
    if tags.is_empty() {
        write!(tagged, "out.unknown_tagged_fields(&self.unknown_tagged_fields)?;")?;
    } else {
        writeln!(tagged, "let mut tags = TagWriter::new(&self.unknown_tagged_fields);")?;
        for (tag, field) in &tags {
            let write = write_field(field)?;
            let set = not_default(field);
            // Where the field is absent, `refuse_where_absent` has already dealt with it.
            let when = match &field.present {
                Condition::When(when) => format!("{when} && {set}"),
                _ => set,
            };
            writeln!(tagged, "if {when} {{ tags.field({tag}, |out| {{ {write}; Ok(()) }})?; }}")?;
        }
        write!(tagged, "tags.write_to(out)?;")?;
    }
    for field in tags.values() {
        if let Condition::When(absent) = field.present.negated() {
            refuse_where_absent(&mut body, field, &format!("if {absent} && "))?;
        }
    }
    match flexible {
        Condition::Always => writeln!(body, "{tagged}")?,
        Condition::When(_) => writeln!(body, "if flexible {{ {tagged} }}")?,
        Condition::Never => {}
    }
    signature(out, "fn write(&self, out: &mut Encoder, version: i16) -> Result<(), EncodeError>", &body);
    emit_flexible(out, flexible, &body)?;
    writeln!(out, "{body} Ok(()) }}")?;
    Ok(())
}

/// A function head whose `version` is named only if the body uses it.
fn signature(out: &mut String, head: &str, body: &str) {
    let uses_version = mentions(body, "version") || mentions(body, "flexible");
    let head = if uses_version { head.to_owned() } else { head.replace("version: i16", "_version: i16") };
    let uses_out = mentions(body, "out");
    let head = if uses_out { head } else { head.replace("out: &mut", "_out: &mut") };
    let _ = writeln!(out, "{head} {{");
}

fn emit_flexible(out: &mut String, flexible: &Condition, body: &str) -> anyhow::Result<()> {
    if let Condition::When(when) = flexible
        && mentions(body, "flexible")
    {
        writeln!(out, "let flexible = {when};")?;
    }
    Ok(())
}

/// `else if set { refuse }`, or on its own `if absent && set { refuse }`, unless the value may be dropped.
fn refuse_where_absent(body: &mut String, field: &StructField<'_>, prefix: &str) -> anyhow::Result<()> {
    if field.field.ignorable {
        writeln!(body)?;
        return Ok(());
    }
    let head = if prefix.contains("if ") { prefix.to_owned() } else { format!("{prefix}if ") };
    let refuse = format!("return Err(EncodeError::NotInVersion {{ field: \"{}\", version }});", field.label());
    writeln!(body, "{head}{} {{ {refuse} }}", not_default(field))?;
    Ok(())
}

fn read_field(message: &MessageDefinition, field: &StructField<'_>) -> anyhow::Result<String> {
    let compact = field.compact;
    let null = if field.is_option { "nullable_" } else { "" };
    let read = match field.kind {
        FieldType::Array(element) => {
            let flexible = field.field.flexible_versions.unwrap_or(message.flexible_versions);
            let least = least_bytes(message, element, field.within, flexible)?.max(1);
            let read = match &**element {
                FieldType::Struct(name) => format!("{name}::read(input, version)"),
                FieldType::String => format!("input.string({compact})"),
                FieldType::Bytes => format!("input.bytes({compact})"),
                primitive => format!("input.{}()", primitive_name(primitive)?),
            };
            format!("input.{null}array({compact}, {least}, |input| {read})?")
        }
        FieldType::Struct(name) if field.is_option => {
            format!("input.nullable_struct(|input| {name}::read(input, version))?")
        }
        FieldType::Struct(name) => format!("{name}::read(input, version)?"),
        FieldType::String => format!("input.{null}string({compact})?"),
        FieldType::Bytes => format!("input.{null}bytes({compact})?"),
        FieldType::Records if field.bare_type == "Records" => {
            format!("input.nullable_bytes({compact})?.map(Records::from)")
        }
        FieldType::Records => format!("input.nullable_bytes({compact})?"),
        primitive => format!("input.{}()?", primitive_name(primitive)?),
    };
    Ok(match (&field.nullable, field.is_option) {
        (_, false) | (Condition::Always, true) => read,
        (Condition::When(when), true) => format!("check_null({read}, {when}, \"{}\")?", field.label()),
        (Condition::Never, true) => format!("check_null({read}, false, \"{}\")?", field.label()),
    })
}

fn write_field(field: &StructField<'_>) -> anyhow::Result<String> {
    let (name, compact) = (&field.name, field.compact);
    let write = match field.kind {
        FieldType::Array(element) => {
            let write = match &**element {
                FieldType::Struct(_) => "it.write(out, version)".to_owned(),
                FieldType::String => format!("out.string(it, {compact})"),
                FieldType::Bytes => format!("out.bytes(it, {compact})"),
                primitive => format!("{{ out.{}(*it); Ok(()) }}", primitive_name(primitive)?),
            };
            let null = if field.is_option { "nullable_" } else { "" };
            let value = if field.is_option { format!("self.{name}.as_deref()") } else { format!("&self.{name}") };
            format!("out.{null}array({value}, {compact}, |out, it| {write})?")
        }
        FieldType::Struct(_) if field.is_option => {
            format!("out.nullable_struct(self.{name}.as_ref(), |out, it| it.write(out, version))?")
        }
        FieldType::Struct(_) => format!("self.{name}.write(out, version)?"),
        FieldType::String if field.is_option => format!("out.nullable_string(self.{name}.as_deref(), {compact})?"),
        FieldType::String => format!("out.string(&self.{name}, {compact})?"),
        FieldType::Bytes if field.is_option => format!("out.nullable_bytes(self.{name}.as_ref(), {compact})?"),
        FieldType::Bytes => format!("out.bytes(&self.{name}, {compact})?"),
        FieldType::Records if field.bare_type == "Records" => {
            format!("out.nullable_records(self.{name}.as_ref(), {compact})?")
        }
        FieldType::Records => format!("out.nullable_bytes(self.{name}.as_ref(), {compact})?"),
        primitive => format!("out.{}(self.{name})", primitive_name(primitive)?),
    };
    let refuse = format!("return Err(EncodeError::Null {{ field: \"{}\" }});", field.label());
    Ok(match (&field.nullable, field.is_option) {
        (_, false) | (Condition::Always, true) => write,
        (nullable @ Condition::When(_), true) => match nullable.negated() {
            Condition::When(required) => format!("if self.{name}.is_none() && {required} {{ {refuse} }} {write}"),
            _ => write,
        },
        (Condition::Never, true) => format!("if self.{name}.is_none() {{ {refuse} }} {write}"),
    })
}

/// The fewest bytes that a value takes on the wire, over all versions of `within`. A count of elements that would
/// need more bytes than the frame still has is refused before anything is allocated.
fn least_bytes(
    message: &MessageDefinition,
    kind: &FieldType,
    within: Versions,
    flexible: Versions,
) -> anyhow::Result<usize> {
    let compact = flexible.condition(within) != Condition::Never;
    Ok(match kind {
        FieldType::Bool | FieldType::Int8 => 1,
        FieldType::Int16 | FieldType::Uint16 => 2,
        FieldType::Int32 => 4,
        FieldType::Int64 | FieldType::Float64 => 8,
        FieldType::Uuid => 16,
        FieldType::String if !compact => 2,
        FieldType::Bytes | FieldType::Records | FieldType::Array(_) if !compact => 4,
        FieldType::String | FieldType::Bytes | FieldType::Records | FieldType::Array(_) => 1,
        FieldType::Struct(name) => {
            let structs = message.structs()?;
            let it = structs.iter().find(|it| it.name == name).with_context(|| format!("no struct {name}"))?;
            let mut least = usize::from(message.flexible_versions.condition(within) == Condition::Always);
            for field in it.fields {
                let always = field.versions.condition(within) == Condition::Always;
                let tagged = field.tagged_versions.condition(within) != Condition::Never;
                if always && !tagged {
                    let flexible = field.flexible_versions.unwrap_or(message.flexible_versions);
                    let nullable = !field.nullable_versions.intersect(within).is_empty();
                    least += match &field.kind {
                        FieldType::Struct(_) if nullable => 1,
                        kind => least_bytes(message, kind, within, flexible)?,
                    };
                }
            }
            least
        }
    })
}

fn rust_type(kind: &FieldType, message: Kind) -> String {
    match kind {
        FieldType::Bool => "bool".into(),
        FieldType::Int8 => "i8".into(),
        FieldType::Int16 => "i16".into(),
        FieldType::Uint16 => "u16".into(),
        FieldType::Int32 => "i32".into(),
        FieldType::Int64 => "i64".into(),
        FieldType::Float64 => "f64".into(),
        FieldType::String => "String".into(),
        FieldType::Bytes => "Bytes".into(),
        FieldType::Records if message == Kind::Response => "Records".into(),
        FieldType::Records => "Bytes".into(),
        FieldType::Uuid => "Uuid".into(),
        FieldType::Struct(name) => name.clone(),
        FieldType::Array(element) => format!("Vec<{}>", rust_type(element, message)),
    }
}

/// The name of the reading and the writing method.
fn primitive_name(kind: &FieldType) -> anyhow::Result<&'static str> {
    Ok(match kind {
        FieldType::Bool => "bool",
        FieldType::Int8 => "i8",
        FieldType::Int16 => "i16",
        FieldType::Uint16 => "u16",
        FieldType::Int32 => "i32",
        FieldType::Int64 => "i64",
        FieldType::Float64 => "f64",
        FieldType::Uuid => "uuid",
        other => bail!("{other:?} is not a primitive"),
    })
}

/// What `#[derive(Default)]` would give.
fn type_default(field: &StructField<'_>) -> String {
    if field.is_option { "None".into() } else { bare_default(field.kind, &field.bare_type) }
}

fn bare_default(kind: &FieldType, bare_type: &str) -> String {
    match kind {
        FieldType::Bool => "false".into(),
        FieldType::Float64 => "0.0".into(),
        FieldType::String => "String::new()".into(),
        FieldType::Bytes | FieldType::Records => "Bytes::new()".into(),
        FieldType::Uuid => "Uuid::nil()".into(),
        FieldType::Struct(_) => format!("{bare_type}::default()"),
        FieldType::Array(_) => "Vec::new()".into(),
        _ => "0".into(),
    }
}

fn default_value(field: &Field, is_option: bool, bare_type: &str) -> anyhow::Result<String> {
    let text = match &field.default {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    if field.kind == FieldType::Records || (is_option && text.as_deref() == Some("null")) {
        return Ok("None".into());
    }
    let bare = match (&field.kind, text.as_deref()) {
        (kind, None | Some("")) => bare_default(kind, bare_type),
        (FieldType::Bool, Some(text)) => text.to_owned(),
        (FieldType::String, Some(text)) => format!("{text:?}.to_owned()"),
        (FieldType::Float64, Some(text)) => format!("{:?}", text.parse::<f64>()?),
        (FieldType::Int8 | FieldType::Int16 | FieldType::Uint16 | FieldType::Int32 | FieldType::Int64, Some(text)) => {
            let number = match text.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16)?,
                None => text.parse::<i64>()?,
            };
            let (low, high) = match field.kind {
                FieldType::Int8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
                FieldType::Int16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
                FieldType::Uint16 => (0, i64::from(u16::MAX)),
                FieldType::Int32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            ensure!((low..=high).contains(&number), "default {number} of {} does not fit", field.name);
            match number {
                i64::MAX => "i64::MAX".into(),
                number if number == i64::from(i32::MAX) => "i32::MAX".into(),
                number if number == i64::from(i32::MIN) => "i32::MIN".into(),
                number => number.to_string(),
            }
        }
        (kind, Some(text)) => bail!("default {text:?} of {} ({kind:?})", field.name),
    };
    Ok(if is_option { format!("Some({bare})") } else { bare })
}

fn not_default(field: &StructField<'_>) -> String {
    let name = &field.name;
    let value = format!("self.{name}");
    match (field.kind, field.default.as_str()) {
        (_, "None") => format!("{value}.is_some()"),
        (FieldType::Array(_), "Some(Vec::new())") => format!("{value}.as_ref().is_none_or(|it| !it.is_empty())"),
        (FieldType::Bytes, "Some(Bytes::new())") => format!("{value}.as_ref().is_none_or(|it| !it.is_empty())"),
        (FieldType::String, "Some(String::new())") => format!("{value}.as_ref().is_none_or(|it| !it.is_empty())"),
        (FieldType::Array(_), "Vec::new()") => format!("!{value}.is_empty()"),
        (FieldType::Bytes, "Bytes::new()") => format!("!{value}.is_empty()"),
        (FieldType::String, "String::new()") => format!("!{value}.is_empty()"),
        (FieldType::Uuid, _) => format!("!{value}.is_nil()"),
        (FieldType::Bool, "false") => value,
        (FieldType::Bool, _) => format!("!{value}"),
        (FieldType::String, default) => format!("{value} != {}", default.trim_end_matches(".to_owned()")),
        (_, default) => format!("{value} != {default}"),
    }
}
