//! One message definition: JSON with `//` comments, as Kafka keeps it in `common/message`.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::versions::Versions;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessageDefinition {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<i16>,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(default, skip_serializing)]
    pub listeners: Vec<String>,
    pub name: String,
    pub valid_versions: Versions,
    #[expect(dead_code, reason = "named, so that a key this generator does not know is an error")]
    #[serde(default, skip_serializing)]
    pub deprecated_versions: Option<Versions>,
    #[serde(default = "no_versions")]
    pub flexible_versions: Versions,
    #[expect(dead_code, reason = "named, so that a key this generator does not know is an error")]
    #[serde(default, skip_serializing)]
    pub latest_version_unstable: bool,
    #[serde(default)]
    pub fields: Vec<Field>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub common_structs: Vec<CommonStruct>,
}

#[derive(Deserialize, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Request,
    Response,
    Header,
    Data,
    Metadata,
    CoordinatorKey,
    CoordinatorValue,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: FieldType,
    pub versions: Versions,
    #[serde(default = "no_versions")]
    pub nullable_versions: Versions,
    #[serde(default = "no_versions")]
    pub tagged_versions: Versions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<u32>,
    /// Overrides the message's own flexible versions for this one field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flexible_versions: Option<Versions>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub default: Value,
    /// Whether a value set at a version without this field is dropped instead of refused.
    #[serde(default)]
    pub ignorable: bool,
    #[expect(dead_code, reason = "named, so that a key this generator does not know is an error")]
    #[serde(default, skip_serializing)]
    pub map_key: bool,
    #[expect(dead_code, reason = "named, so that a key this generator does not know is an error")]
    #[serde(default, skip_serializing)]
    pub entity_type: Option<String>,
    #[expect(dead_code, reason = "named, so that a key this generator does not know is an error")]
    #[serde(default, skip_serializing)]
    pub zero_copy: bool,
    #[serde(default, skip_serializing)]
    pub about: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommonStruct {
    pub name: String,
    pub versions: Versions,
    #[serde(default, skip_serializing)]
    pub about: String,
    pub fields: Vec<Field>,
}

#[derive(Deserialize, Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(try_from = "String", into = "String")]
pub enum FieldType {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    String,
    Bytes,
    Records,
    Uuid,
    Struct(String),
    Array(Box<FieldType>),
}

impl MessageDefinition {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut message: Self = serde_json::from_str(&strip_comments(text))?;
        if message.name == "RequestHeader" {
            for field in &mut message.fields {
                field.name = field.name.replacen("RequestApi", "Api", 1);
            }
        }
        Ok(message)
    }

    /// Every struct of the message by name: fields, and the versions at which the struct is written.
    /// The message itself comes first under its own name.
    pub fn structs(&self) -> anyhow::Result<Vec<Struct<'_>>> {
        let mut structs =
            vec![Struct { name: &self.name, within: self.valid_versions, about: "", fields: &self.fields }];
        for common in &self.common_structs {
            let within = common.versions.intersect(self.valid_versions);
            structs.push(Struct { name: &common.name, within, about: &common.about, fields: &common.fields });
        }
        let mut at = 0;
        while at < structs.len() {
            let (fields, within) = (structs[at].fields, structs[at].within);
            for field in fields.iter().filter(|field| !field.fields.is_empty()) {
                let name = field.kind.struct_name().context("a field with fields has a struct type")?;
                let within = field.versions.intersect(within);
                structs.push(Struct { name, within, about: &field.about, fields: &field.fields });
            }
            at += 1;
        }
        structs.retain(|it| !it.within.is_empty());
        let names: BTreeMap<_, _> = structs.iter().map(|it| (it.name, ())).collect();
        ensure!(names.len() == structs.len(), "two structs of {} share a name", self.name);
        Ok(structs)
    }
}

pub struct Struct<'a> {
    pub name: &'a str,
    pub within: Versions,
    pub about: &'a str,
    pub fields: &'a [Field],
}

impl FieldType {
    pub fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Struct(name) => Some(name),
            Self::Array(element) => element.struct_name(),
            _ => None,
        }
    }
}

impl TryFrom<String> for FieldType {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        Ok(match text.as_str() {
            "bool" => Self::Bool,
            "int8" => Self::Int8,
            "int16" => Self::Int16,
            "uint16" => Self::Uint16,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "records" => Self::Records,
            "uuid" => Self::Uuid,
            other => match other.strip_prefix("[]") {
                Some(element) => Self::Array(Box::new(Self::try_from(element.to_owned())?)),
                None if other.starts_with(|c: char| c.is_uppercase()) => Self::Struct(text),
                None => bail!("unknown field type {other:?}"),
            },
        })
    }
}

impl From<FieldType> for String {
    fn from(kind: FieldType) -> Self {
        match kind {
            FieldType::Bool => "bool".into(),
            FieldType::Int8 => "int8".into(),
            FieldType::Int16 => "int16".into(),
            FieldType::Uint16 => "uint16".into(),
            FieldType::Int32 => "int32".into(),
            FieldType::Int64 => "int64".into(),
            FieldType::Float64 => "float64".into(),
            FieldType::String => "string".into(),
            FieldType::Bytes => "bytes".into(),
            FieldType::Records => "records".into(),
            FieldType::Uuid => "uuid".into(),
            FieldType::Struct(name) => name,
            FieldType::Array(element) => format!("[]{}", Self::from(*element)),
        }
    }
}

fn no_versions() -> Versions {
    Versions::NONE
}

/// Removes `//` comments, but not a `//` inside a string.
fn strip_comments(text: &str) -> String {
    let mut stripped = String::with_capacity(text.len());
    for line in text.lines() {
        let (mut in_string, mut escaped, mut end) = (false, false, line.len());
        for (at, byte) in line.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'/' if !in_string && line.as_bytes().get(at + 1) == Some(&b'/') => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        stripped.push_str(&line[..end]);
        stripped.push('\n');
    }
    stripped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_slashes_inside_strings_stay() {
        assert_eq!(strip_comments("{ \"a\": \"x//\\\"//y\" } // gone"), "{ \"a\": \"x//\\\"//y\" } \n");
    }
}
