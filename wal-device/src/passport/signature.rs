//! Ed25519 over a passport. Keys come from PEM files, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` make them.
//!
//! What is signed is the passport's JSON without blanks and with the names of each object in order, so that a file that was only
//! laid out anew still holds.

use std::fmt;

use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::Value;

/// So that a signature of this key under anything else is none of a passport.
const PURPOSE: &[u8] = b"seawall passport\n";
/// What stands before the 32 bytes of an Ed25519 key in a `PUBLIC KEY`.
const PUBLIC_KEY_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no PEM file with a {0}")]
    NoPem(&'static str),
    #[error("not an Ed25519 key: `openssl genpkey -algorithm ed25519` makes one")]
    OtherKind,
}

/// The private key of a site.
pub struct SiteKey(Ed25519KeyPair);

impl SiteKey {
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::NoPem("PRIVATE KEY"))?;
        Ed25519KeyPair::from_pkcs8(key.secret_pkcs8_der()).map(Self).map_err(|_| KeyError::OtherKind)
    }

    pub fn public_key(&self) -> PublicKey {
        let mut key = [0; ED25519_PUBLIC_KEY_LEN];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    pub(super) fn sign(&self, passport: &Value) -> String {
        hex(self.0.sign(&signed_bytes(passport)).as_ref())
    }

    #[cfg(test)]
    pub(super) fn generate() -> Self {
        Self(Ed25519KeyPair::generate().expect("the system has random numbers"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; ED25519_PUBLIC_KEY_LEN]);

impl PublicKey {
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyError::NoPem("PUBLIC KEY"))?;
        let bytes = key.as_ref().strip_prefix(&PUBLIC_KEY_PREFIX[..]).ok_or(KeyError::OtherKind)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::OtherKind)
    }

    pub(super) fn has_signed(&self, passport: &Value, signature: &str) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        unhex(signature).is_some_and(|signature| key.verify(&signed_bytes(passport), &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn signed_bytes(passport: &Value) -> Vec<u8> {
    let mut text = String::new();
    canonical(passport, &mut text);
    [PURPOSE, text.as_bytes()].concat()
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            out.push('{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                canonical(value, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`.
    const PRIVATE: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

    #[test]
    fn keys_come_as_openssl_writes_them() {
        let key = SiteKey::from_pem(PRIVATE).unwrap();
        let public = [&PUBLIC_KEY_PREFIX[..], &key.public_key().0].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(&public));
        assert_eq!(PublicKey::from_pem(pem.as_bytes()).unwrap(), key.public_key());
        assert_eq!(key.public_key().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert!(PublicKey::from_pem(PRIVATE).is_err() && SiteKey::from_pem(b"text").is_err());
    }

    #[test]
    fn a_layout_changes_nothing_and_a_letter_does() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let key = SiteKey::generate();
        let signature = key.sign(&read(r#"{"b":[1,2.5],"a":{"x":"y"}}"#));
        let signed = |text: &str| key.public_key().has_signed(&read(text), &signature);
        assert!(signed("{ \"a\": {\"x\": \"y\"},\n \"b\": [1, 2.5] }"));
        assert!(!signed(r#"{"b":[1,2.5],"a":{"x":"z"}}"#) && !signed(r#"{"b":[1,2.5]}"#));
        assert!(!SiteKey::generate().public_key().has_signed(&read("{}"), &key.sign(&read("{}"))));
        assert!(!key.public_key().has_signed(&read("{}"), "no signature"));
    }

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for n in 0..4 {
                let letter = LETTERS[(word >> (18 - 6 * n) & 63) as usize] as char;
                text.push(if n <= chunk.len() { letter } else { '=' });
            }
        }
        text
    }
}
