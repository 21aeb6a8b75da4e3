//! Writes frames straight from Kafka's definitions (`tests/definitions.json`), without the code under test: a second
//! reading of the same definitions, against which the generated one is compared.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Source;

/// What kind of values a frame gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Anything that is allowed.
    Random,
    /// As few bytes as possible per element: nulls, empty strings, and several elements in the outermost arrays.
    Smallest,
}

pub struct Definitions {
    messages: BTreeMap<String, Value>,
}

struct Writer<'a> {
    message: &'a Value,
    version: i64,
    flexible: bool,
    shape: Shape,
    source: &'a mut Source,
}

impl Definitions {
    pub fn load() -> Self {
        let text = include_str!("../definitions.json");
        let messages: Vec<Value> = serde_json::from_str(text).unwrap();
        Self { messages: messages.into_iter().map(|it| (it["name"].as_str().unwrap().to_owned(), it)).collect() }
    }

    /// The bytes of a message at a version, without header.
    pub fn write(&self, name: &str, version: i16, shape: Shape, source: &mut Source) -> Vec<u8> {
        let message = &self.messages[name];
        let version = i64::from(version);
        let flexible = contains(&message["flexibleVersions"], version);
        let mut out = Vec::new();
        Writer { message, version, flexible, shape, source }.fields(&message["fields"], &mut out, 0, false);
        out
    }
}

impl Writer<'_> {
    /// `set` asks for values other than the defaults: a tagged field with its default is not written at all.
    fn fields(&mut self, fields: &Value, out: &mut Vec<u8>, depth: usize, set: bool) {
        let mut tagged: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for field in fields.as_array().unwrap() {
            if !contains(&field["versions"], self.version) {
                continue;
            }
            if !contains(&field["taggedVersions"], self.version) {
                self.field(field, out, depth, set);
            } else if self.shape == Shape::Random && !self.source.one_in(3) {
                let mut content = Vec::new();
                self.field(field, &mut content, depth, true);
                tagged.insert(field["tag"].as_u64().unwrap(), content);
            }
        }
        if self.flexible {
            if self.shape == Shape::Random && self.source.one_in(4) {
                for _ in 0..self.source.below(3) {
                    let length = self.source.below(5);
                    let content = self.source.bytes(length);
                    tagged.insert(100 + self.source.below(100_000) as u64, content);
                }
            }
            uvarint(out, tagged.len() as u64);
            for (tag, content) in tagged {
                uvarint(out, tag);
                uvarint(out, content.len() as u64);
                out.extend(content);
            }
        }
    }

    fn field(&mut self, field: &Value, out: &mut Vec<u8>, depth: usize, set: bool) {
        let compact = match &field["flexibleVersions"] {
            Value::Null => self.flexible,
            own => contains(own, self.version),
        };
        let kind = field["type"].as_str().unwrap();
        let nullable = contains(&field["nullableVersions"], self.version);
        let smallest = self.shape == Shape::Smallest;
        if nullable && !set && (smallest && depth > 0 || !smallest && self.source.one_in(4)) {
            match kind {
                "string" if !compact => out.extend((-1i16).to_be_bytes()),
                "string" | "bytes" | "records" if compact => out.push(0),
                "bytes" | "records" => out.extend((-1i32).to_be_bytes()),
                kind if kind.starts_with("[]") && compact => out.push(0),
                kind if kind.starts_with("[]") => out.extend((-1i32).to_be_bytes()),
                _ => out.push(0xff),
            }
            return;
        }
        let Some(element) = kind.strip_prefix("[]") else {
            if nullable && kind.starts_with(|c: char| c.is_uppercase()) {
                out.push(1);
            }
            return self.value(field, kind, compact, out, depth, set);
        };
        let count = match self.shape {
            Shape::Smallest if depth == 0 => 5,
            Shape::Smallest => 0,
            Shape::Random => self.source.below(4).max(usize::from(set)),
        };
        if compact {
            uvarint(out, count as u64 + 1)
        } else {
            out.extend((count as i32).to_be_bytes())
        }
        for _ in 0..count {
            self.value(field, element, compact, out, depth + 1, set);
        }
    }

    fn value(&mut self, field: &Value, kind: &str, compact: bool, out: &mut Vec<u8>, depth: usize, set: bool) {
        let length = if self.shape == Shape::Smallest { 0 } else { self.source.below(9).max(usize::from(set)) };
        let set = u64::from(set);
        match kind {
            "bool" => out.push((self.source.next() & 1 | set) as u8),
            "int8" => out.push((self.source.next() | set) as u8),
            "int16" | "uint16" => out.extend((self.source.next() as u16 | set as u16).to_be_bytes()),
            "int32" => out.extend((self.source.next() as u32).to_be_bytes()),
            "int64" => out.extend(self.source.next().to_be_bytes()),
            "float64" => out.extend((self.source.next() as i32 as f64 / 3.0).to_be_bytes()),
            "uuid" => out.extend(self.source.bytes(16)),
            "string" => {
                let text = self.source.text(length);
                if compact {
                    uvarint(out, text.len() as u64 + 1)
                } else {
                    out.extend((text.len() as i16).to_be_bytes())
                }
                out.extend(text.as_bytes());
            }
            "bytes" | "records" => {
                let length = if length == 8 { 3000 } else { length };
                let bytes = self.source.bytes(length);
                if compact {
                    uvarint(out, length as u64 + 1)
                } else {
                    out.extend((length as i32).to_be_bytes())
                }
                out.extend(bytes);
            }
            name => {
                let common = self.message["commonStructs"].as_array().into_iter().flatten();
                let fields = match &field["fields"] {
                    Value::Null => &common.clone().find(|it| it["name"] == name).unwrap()["fields"],
                    fields => fields,
                };
                self.fields(fields, out, depth, set == 1);
            }
        }
    }
}

fn contains(versions: &Value, version: i64) -> bool {
    let number = |text: &str| text.parse::<i64>().unwrap();
    match versions.as_str() {
        None | Some("none") => false,
        Some(text) => match (text.strip_suffix('+'), text.split_once('-')) {
            (Some(low), _) => version >= number(low),
            (_, Some((low, high))) => (number(low)..=number(high)).contains(&version),
            _ => version == number(text),
        },
    }
}

fn uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
