//! One request, done to the objects: what is stored and what is answered. No I/O, no clock.

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use hyper::http::request::Parts;
use md5::{Digest, Md5};

use crate::answer::{Answer, Problem, escape, iso_time};
use crate::faults::Random;
use crate::objects::{Incomplete, Millis, Object, Objects};
use crate::request::{Operation, decode, range, texts};
use crate::{Fault, Like};

mod listing;
#[cfg(test)]
mod tests;

/// In milliseconds: puts so near to each other race.
const RACE: Millis = 1_000;

pub struct Store {
    pub objects: Objects,
    pub random: Random,
}

/// A request that was let in.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub operation: &'a Operation,
    pub parts: &'a Parts,
    pub body: &'a Bytes,
    pub like: Like,
    pub now: Millis,
    /// How long a read or a listing that is behind does not know of a change.
    pub behind: Millis,
}

impl Store {
    /// Does it, and says what would be answered.
    pub fn apply(&mut self, asked: &Asked<'_>, fault: Option<Fault>) -> Result<Answer, Problem> {
        let Asked { operation, parts, body, like, now, .. } = *asked;
        match operation {
            Operation::Bucket => Ok(Answer::xml("<LocationConstraint/>".to_owned())),
            Operation::Put { key } => {
                let verified = verify(parts, body, like);
                if verified.is_ok() || like == Like::Cubefs {
                    self.may_put(key, asked)?;
                    self.objects.put(key, body.clone(), now);
                }
                verified?;
                let etag = self.objects.get(key).map(|object| object.etag.clone()).unwrap_or_default();
                Ok(Answer::empty(200).with("etag", format!("\"{etag}\"")))
            }
            Operation::Get { key } => self.get(key, asked, fault),
            Operation::Head { key } => {
                let object = self.seen(key, asked, fault);
                Ok(match object {
                    Ok(object) => Answer { length: Some(object.body.len()), ..described(object, 200) },
                    // Without a body: it could not say more.
                    Err(problem) => Answer::empty(problem.status),
                })
            }
            Operation::Delete { key } => {
                if like == Like::Plain {
                    self.check_conditions(key, asked)?;
                }
                self.objects.delete(key);
                Ok(Answer::empty(204))
            }
            Operation::DeleteMany => {
                if like == Like::Cubefs && !parts.headers.contains_key("content-md5") {
                    return Err(Problem::NO_MD5);
                }
                verify(parts, body, like)?;
                let document = String::from_utf8_lossy(body);
                let keys = texts(&document, "Key");
                if keys.len() > 1_000 {
                    return Err(Problem::BAD_REQUEST);
                }
                keys.iter().for_each(|key| self.objects.delete(&unescape(key)));
                let quiet = texts(&document, "Quiet").contains(&"true");
                let told = if quiet { &[][..] } else { &keys[..] };
                let told: String = told.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
                Ok(Answer::xml(format!("<DeleteResult>{told}</DeleteResult>")))
            }
            Operation::List { .. } => Ok(self.list(asked, fault)),
            Operation::Begin { key } => {
                let id = self.objects.begin(key, now);
                Ok(Answer::xml(format!(
                    "<InitiateMultipartUploadResult><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                    escape(key)
                )))
            }
            Operation::PutPart { key, id, number } => {
                let copied = parts.headers.get("x-amz-copy-source").and_then(|source| source.to_str().ok());
                let part = match copied {
                    Some(source) => {
                        let source = decode(source.trim_start_matches('/'));
                        let source = source.split_once('/').map_or("", |(_, key)| key);
                        let object = self.objects.get(source).ok_or(Problem::NO_KEY)?;
                        let bytes = range(parts, "x-amz-copy-source-range", object.body.len())?;
                        object.body.slice(bytes.unwrap_or(0..object.body.len()))
                    }
                    None => {
                        verify(parts, body, like)?;
                        body.clone()
                    }
                };
                let etag = self.objects.put_part(key, id, *number, part, now).ok_or(Problem::NO_UPLOAD)?;
                if copied.is_some() {
                    return Ok(Answer::xml(format!("<CopyPartResult><ETag>\"{etag}\"</ETag></CopyPartResult>")));
                }
                Ok(Answer::empty(200).with("etag", format!("\"{etag}\"")))
            }
            Operation::Complete { key, id } => {
                if like == Like::Plain {
                    self.check_conditions(key, asked)?;
                }
                let document = unescape(&String::from_utf8_lossy(body));
                let etags = texts(&document, "ETag").into_iter().map(|etag| etag.trim_matches('"').to_owned());
                let numbers = texts(&document, "PartNumber").into_iter().filter_map(|number| number.parse().ok());
                let listed: Vec<(u32, String)> = numbers.zip(etags).collect();
                let etag =
                    self.objects.complete(key, id, &listed, part_bytes_min(like), now).map_err(
                        |error| match error {
                            Incomplete::NoSuchUpload => Problem::NO_UPLOAD,
                            Incomplete::InvalidPart => Problem::INVALID_PART,
                            Incomplete::EntityTooSmall => Problem::TOO_SMALL,
                        },
                    )?;
                Ok(Answer::xml(format!(
                    "<CompleteMultipartUploadResult><Key>{}</Key><ETag>\"{etag}\"</ETag></CompleteMultipartUploadResult>",
                    escape(key)
                )))
            }
            Operation::Abort { key, id } => {
                if self.objects.abort(key, id) {
                    Ok(Answer::empty(204))
                } else {
                    Err(Problem::NO_UPLOAD)
                }
            }
            Operation::ListBegun { prefix, delimited } => {
                let shown = self.objects.begun().filter(|(key, _, _)| {
                    key.strip_prefix(prefix.as_str()).is_some_and(|name| !delimited || !name.contains('/'))
                });
                let uploads: String = shown
                    .map(|(key, id, begun_at)| {
                        let (key, begun) = (escape(key), iso_time(begun_at));
                        format!(
                            "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>"
                        )
                    })
                    .collect();
                Ok(Answer::xml(format!(
                    "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>"
                )))
            }
        }
    }

    fn may_put(&mut self, key: &str, asked: &Asked<'_>) -> Result<(), Problem> {
        match asked.like {
            Like::Cubefs if self.objects.is_in_the_way(key) => Err(Problem::IN_THE_WAY),
            Like::Cubefs => Ok(()),
            Like::Plain | Like::CephRgw => self.check_conditions(key, asked),
        }
    }

    fn check_conditions(&mut self, key: &str, asked: &Asked<'_>) -> Result<(), Problem> {
        let header = |name: &str| asked.parts.headers.get(name).and_then(|value| value.to_str().ok());
        let stored = self.objects.get(key);
        if header("if-none-match") == Some("*") && stored.is_some() {
            return Err(Problem::CONDITION);
        }
        let Some(wanted) = header("if-match") else { return Ok(()) };
        let is_rgw = asked.like == Like::CephRgw;
        let wanted = if is_rgw { wanted } else { wanted.trim_matches('"') };
        match stored {
            Some(object) if object.etag == wanted => Ok(()),
            // Who lost a race is often told something else.
            Some(object) if is_rgw && object.stored_at + RACE > asked.now && self.random.below(2) == 0 => {
                Err(Problem::INTERNAL)
            }
            _ => Err(Problem::CONDITION),
        }
    }

    /// The object as a read finds it.
    fn seen(&self, key: &str, asked: &Asked<'_>, fault: Option<Fault>) -> Result<&Object, Problem> {
        let now = self.objects.get(key);
        let is_new = now.is_some_and(|object| object.stored_at + asked.behind > asked.now);
        let seen = match (fault, now) {
            (Some(Fault::Stale), None) => self.objects.before(key),
            (Some(Fault::Stale), Some(_)) if is_new => None,
            (_, now) => now,
        };
        seen.ok_or(Problem::NO_KEY)
    }

    fn get(&mut self, key: &str, asked: &Asked<'_>, fault: Option<Fault>) -> Result<Answer, Problem> {
        let object = self.seen(key, asked, fault)?.clone();
        let total = object.body.len();
        let asked = range(asked.parts, "range", total)?;
        let mut bytes = asked.clone().unwrap_or(0..total);
        if fault == Some(Fault::Short) && bytes.len() > 1 {
            bytes.end -= 1 + self.random.below(bytes.len() as u64 - 1) as usize;
        }
        let mut body = object.body.slice(bytes.clone());
        if fault == Some(Fault::Foreign)
            && let Some(other) = self.objects.live().find(|(name, other)| *name != key && other.body.len() >= bytes.end)
        {
            body = other.1.body.slice(bytes.clone());
        }
        if fault == Some(Fault::Flipped) && !body.is_empty() {
            let mut changed = body.to_vec();
            let bit = self.random.below(changed.len() as u64 * 8);
            changed[(bit / 8) as usize] ^= 1 << (bit % 8);
            body = changed.into();
        }
        let cut_at = (fault == Some(Fault::Cut)).then(|| self.random.below(body.len() as u64) as usize);
        let mut answer = described(&object, if asked.is_some() { 206 } else { 200 });
        if asked.is_some() {
            let (first, last) = (bytes.start, bytes.end - 1);
            answer = answer.with("content-range", format!("bytes {first}-{last}/{total}"));
        }
        Ok(Answer { body, cut_at, ..answer })
    }
}

fn described(object: &Object, status: u16) -> Answer {
    let answer = Answer::empty(status).with("etag", format!("\"{}\"", object.etag));
    answer.with("content-type", "application/octet-stream").with("accept-ranges", "bytes")
}

/// As `Incomplete::EntityTooSmall` has it.
fn part_bytes_min(like: Like) -> usize {
    if like == Like::Cubefs { 1 << 20 } else { 5 << 20 }
}

/// The checksums that came with a body.
fn verify(parts: &Parts, body: &Bytes, like: Like) -> Result<(), Problem> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if header("content-md5").is_some_and(|md5| md5 != base64(&Md5::digest(body))) {
        return Err(Problem::WRONG_MD5);
    }
    let crc = || crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, body) as u32;
    // The others ignore it.
    if like == Like::Plain && header("x-amz-checksum-crc32c").is_some_and(|sent| sent != base64(&crc().to_be_bytes())) {
        return Err(Problem::WRONG_CRC);
    }
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at) & 63) as usize;
            text.push(if at <= three.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&#34;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
