//! Kafka's text form of a 16-byte id: base64 with the URL alphabet and without padding, 22 characters. Cluster ids and
//! topic ids are shown so by Kafka's tools.

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub fn kafka_text(id: Uuid) -> String {
    let bits = id.as_u128();
    // 128 bits are 21 groups of six and one of two, which is padded at its right.
    let group = |n: u32| if n < 21 { (bits >> (122 - 6 * n)) & 63 } else { (bits << 4) & 63 };
    (0..22).map(|n| char::from(ALPHABET[group(n) as usize])).collect()
}

pub fn from_kafka_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits = 0u128;
    for (n, c) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|a| *a == c)? as u128;
        bits = if n < 21 { bits << 6 | value } else { bits << 2 | value >> 4 };
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_as_kafka_writes_them() {
        assert_eq!(kafka_text(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(kafka_text(Uuid::from_u128(u128::MAX)), "_____________________w");
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(kafka_text(id), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!(from_kafka_text(&kafka_text(id)), Some(id));
        assert_eq!(from_kafka_text("short"), None);
    }
}
