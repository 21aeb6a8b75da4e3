//! The codecs of record batches behind one function each way. What is decompressed is bounded before it is allocated:
//! a few hundred bytes may claim gigabytes.

use std::io::{Read, Write};

use zstd::zstd_safe;

use super::{RecordsError, lz4, snappy};

/// Codec of a batch's records; the number is the one in the batch's attributes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(i16)]
pub enum Compression {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The name in Kafka's configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl TryFrom<i16> for Compression {
    type Error = RecordsError;

    fn try_from(code: i16) -> Result<Self, RecordsError> {
        Self::ALL.get(code as usize).copied().ok_or(RecordsError::UnknownCompression { code })
    }
}

const GZIP_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// Kafka's default, for which lz4-java has a compressor of its own.
const LZ4_FAST_LEVEL: i32 = 9;
/// `-ZSTD_error_dstSize_tooSmall`, part of zstd's stable interface.
const ZSTD_OUTPUT_TOO_SMALL: usize = 0usize.wrapping_sub(70);

/// Compresses as Kafka's Java client does: gzip, xerial-framed snappy, lz4 frames of independent 64 KiB blocks, zstd; each
/// at its default level.
pub fn compress(codec: Compression, data: &[u8]) -> Vec<u8> {
    compress_at(codec, None, data)
}

/// The same at a level in Kafka's numbers: gzip 1 to 9 or -1, lz4 1 to 17 where 9 is the fast default, zstd up to 22.
/// Snappy has none.
pub fn compress_at(codec: Compression, level: Option<i32>, data: &[u8]) -> Vec<u8> {
    match codec {
        Compression::None => data.to_vec(),
        Compression::Gzip => {
            let level = level.filter(|level| (1..=9).contains(level)).unwrap_or(GZIP_LEVEL);
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level.unsigned_abs()));
            out.write_all(data).expect("writing to memory does not fail");
            out.finish().expect("writing to memory does not fail")
        }
        Compression::Snappy => snappy::compress(data),
        Compression::Lz4 => lz4::compress(data, level.filter(|level| *level != LZ4_FAST_LEVEL)),
        Compression::Zstd => {
            zstd::bulk::compress(data, level.unwrap_or(ZSTD_LEVEL)).expect("the output buffer has zstd's own bound")
        }
    }
}

/// The decompressed data, [`RecordsError::TooLarge`] if it has more than `max` bytes. No more than `max` bytes of
/// output are ever allocated, whatever the input claims.
pub fn decompress_bounded(codec: Compression, data: &[u8], max: usize) -> Result<Vec<u8>, RecordsError> {
    match codec {
        Compression::None if data.len() > max => Err(RecordsError::TooLarge { max }),
        Compression::None => Ok(data.to_vec()),
        Compression::Gzip => gunzip(data, max),
        Compression::Snappy => snappy::decompress(data, max),
        Compression::Lz4 => lz4::decompress(data, max),
        Compression::Zstd => unzstd(data, max),
    }
}

fn gunzip(data: &[u8], max: usize) -> Result<Vec<u8>, RecordsError> {
    let mut input = flate2::read::MultiGzDecoder::new(data);
    let mut out = Vec::new();
    loop {
        // Grown by hand: `read_to_end` would double past the bound.
        if out.len() == out.capacity() {
            out.reserve_exact(out.len().max(2 * data.len()).max(1024).min(max - out.len()));
        }
        let start = out.len();
        let room = (out.capacity() - start).min(max - start);
        if room == 0 {
            let more = input.read(&mut [0]).map_err(|_| RecordsError::Compressed { codec: Compression::Gzip })?;
            return if more == 0 { Ok(out) } else { Err(RecordsError::TooLarge { max }) };
        }
        out.resize(start + room, 0);
        let read = input.read(&mut out[start..]).map_err(|_| RecordsError::Compressed { codec: Compression::Gzip })?;
        out.truncate(start + read);
        if read == 0 {
            return Ok(out);
        }
    }
}

/// In one call into a buffer of the right size, so that no window is allocated: a frame's header may ask for 128 MiB.
fn unzstd(data: &[u8], max: usize) -> Result<Vec<u8>, RecordsError> {
    let corrupt = RecordsError::Compressed { codec: Compression::Zstd };
    let claimed = zstd_safe::get_frame_content_size(data).map_err(|_| corrupt.clone())?;
    let mut capacity = match claimed {
        Some(claimed) if claimed > max as u64 => return Err(RecordsError::TooLarge { max }),
        Some(claimed) => claimed as usize,
        None => data.len().saturating_mul(4).clamp(1024.min(max), max),
    };
    let mut context = zstd_safe::DCtx::try_create().ok_or(corrupt.clone())?;
    loop {
        let mut out = Vec::with_capacity(capacity);
        match context.decompress(&mut out, data) {
            Ok(_) => return Ok(out),
            Err(ZSTD_OUTPUT_TOO_SMALL) if capacity < max => capacity = capacity.max(512).saturating_mul(2).min(max),
            Err(ZSTD_OUTPUT_TOO_SMALL) => return Err(RecordsError::TooLarge { max }),
            Err(_) => return Err(corrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let noise = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let text = b"orders-0 orders-1 ".repeat(20_000);
        vec![vec![], b"x".to_vec(), noise, text, vec![0; 1 << 20]]
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in Compression::ALL {
            for sample in samples() {
                let compressed = compress(codec, &sample);
                assert!(decompress_bounded(codec, &compressed, sample.len()).unwrap() == sample, "{codec:?}");
            }
        }
    }

    #[test]
    fn levels_change_the_size_and_not_the_data() {
        let text: Vec<u8> = (0..60_000u32).flat_map(|n| format!("order-{} ", n * n % 9_973).into_bytes()).collect();
        for (codec, low, high) in [(Compression::Gzip, 1, 9), (Compression::Lz4, 1, 12), (Compression::Zstd, -5, 19)] {
            let [low, high] = [low, high].map(|level| compress_at(codec, Some(level), &text));
            assert!(high.len() < low.len(), "{codec:?}: {} is not below {}", high.len(), low.len());
            for compressed in [low, high] {
                assert!(decompress_bounded(codec, &compressed, text.len()).unwrap() == text, "{codec:?}");
            }
        }
        assert_eq!(compress_at(Compression::Gzip, Some(-1), &text), compress(Compression::Gzip, &text));
        assert_eq!(compress_at(Compression::Lz4, Some(9), &text), compress(Compression::Lz4, &text));
    }

    #[test]
    fn one_byte_over_the_bound_is_too_large() {
        for codec in Compression::ALL {
            for sample in samples().into_iter().filter(|sample| !sample.is_empty()) {
                let compressed = compress(codec, &sample);
                let max = sample.len() - 1;
                assert_eq!(
                    decompress_bounded(codec, &compressed, max),
                    Err(RecordsError::TooLarge { max }),
                    "{codec:?}"
                );
            }
        }
    }

    #[test]
    fn a_bomb_costs_no_more_than_its_bound() {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let bomb = compress(codec, &vec![0; 64 << 20]);
            let max = 1 << 20;
            assert_eq!(decompress_bounded(codec, &bomb, max), Err(RecordsError::TooLarge { max }), "{codec:?}");
        }
    }

    #[test]
    fn damaged_data_is_an_error_or_other_data_never_a_panic() {
        for codec in Compression::ALL {
            for sample in samples() {
                let mut compressed = compress(codec, &sample);
                let step = (compressed.len() / 50).max(1);
                for at in (0..compressed.len()).step_by(step) {
                    let _ = decompress_bounded(codec, &compressed[..at], 1 << 21);
                    compressed[at] ^= 0x55;
                    let _ = decompress_bounded(codec, &compressed, 1 << 21);
                    compressed[at] ^= 0x55;
                }
            }
        }
    }
}
