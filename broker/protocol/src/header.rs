//! Headers and frames around messages.

use bytes::Bytes;

use crate::codec::{DecodeError, Decoder, EncodeError, Encoder, Message, Segments};
use crate::messages::{ApiKey, RequestHeader, ResponseHeader};

/// The header version of a request; also defined for versions that no definition holds, so that a too new
/// ApiVersions request can be answered.
pub fn request_header_version(api_key: ApiKey, api_version: i16) -> i16 {
    if is_flexible(api_key, api_version) { 2 } else { 1 }
}

/// The header version of a response. ApiVersions has 0 at every version: its answer must be readable by a client
/// that does not know yet what the broker speaks.
pub fn response_header_version(api_key: ApiKey, api_version: i16) -> i16 {
    if api_key != ApiKey::ApiVersions && is_flexible(api_key, api_version) { 1 } else { 0 }
}

impl RequestHeader {
    /// Reads the header at the start of a frame (without its length); the body is what remains in `input`.
    /// The key is one of [`ApiKey`], the version may be any.
    pub fn decode_from(input: &mut Decoder) -> Result<(ApiKey, Self), DecodeError> {
        let mut peek = input.clone();
        let (key, api_version) = (peek.i16()?, peek.i16()?);
        let api_key = ApiKey::try_from(key).map_err(|key| DecodeError::UnknownApiKey { key })?;
        let header = Self::decode(input, request_header_version(api_key, api_version))?;
        Ok((api_key, header))
    }
}

/// A response as a whole frame: length, header, body.
pub fn encode_response<M: Message>(
    api_key: ApiKey,
    api_version: i16,
    correlation_id: i32,
    body: &M,
) -> Result<Segments, EncodeError> {
    assert_eq!(M::API_KEY, Some(api_key as i16), "{} is no message of {}", M::NAME, api_key.name());
    let mut out = Encoder::with_capacity(256);
    let header = ResponseHeader { correlation_id, ..ResponseHeader::default() };
    header.encode(&mut out, response_header_version(api_key, api_version))?;
    body.encode(&mut out, api_version)?;
    out.into_frame()
}

/// A request as a whole frame: length, header, body. For clients and tests.
pub fn encode_request<M: Message>(
    api_key: ApiKey,
    api_version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body: &M,
) -> Result<Segments, EncodeError> {
    assert_eq!(M::API_KEY, Some(api_key as i16), "{} is no message of {}", M::NAME, api_key.name());
    let mut out = Encoder::with_capacity(256);
    let header = RequestHeader {
        api_key: api_key as i16,
        api_version,
        correlation_id,
        client_id: client_id.map(str::to_owned),
        ..RequestHeader::default()
    };
    header.encode(&mut out, request_header_version(api_key, api_version))?;
    body.encode(&mut out, api_version)?;
    out.into_frame()
}

/// A data schema behind its version in two bytes, as consumers put subscriptions and assignments into JoinGroup and
/// SyncGroup. A version newer than known is read as the newest known: such schemas only grow at their end.
pub fn decode_versioned<M: Message>(bytes: Bytes) -> Result<(i16, M), DecodeError> {
    let mut input = Decoder::new(bytes);
    let version = input.i16()?;
    let message = M::decode(&mut input, version.min(*M::VALID_VERSIONS.end()))?;
    Ok((version, message))
}

/// The opposite of [`decode_versioned`].
pub fn encode_versioned<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut out = Encoder::new();
    out.i16(version);
    message.encode(&mut out, version)?;
    Ok(out.into_bytes())
}

fn is_flexible(api_key: ApiKey, api_version: i16) -> bool {
    api_key.flexible_from().is_some_and(|from| api_version >= from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use crate::messages::{
        ApiVersionsRequest, ApiVersionsResponse, ConsumerProtocolSubscription, ProduceRequest, SyncGroupResponse,
    };

    fn unframed(segments: Segments) -> Decoder {
        let mut frame = Decoder::new(segments.into_bytes());
        assert_eq!(frame.i32().unwrap() as usize, frame.remaining());
        frame
    }

    #[test]
    fn a_request_comes_back_from_its_frame_at_every_version() {
        for version in ProduceRequest::VALID_VERSIONS {
            let records = Some(Bytes::from(vec![7; 3000]));
            let partition_data = vec![PartitionProduceData { index: 3, records, ..Default::default() }];
            let name = if version < 13 { "orders".to_owned() } else { String::new() };
            let topic = TopicProduceData { name, partition_data, ..Default::default() };
            let request = ProduceRequest { acks: -1, timeout_ms: 1500, topic_data: vec![topic], ..Default::default() };
            let frame = encode_request(ApiKey::Produce, version, 42, Some("client"), &request).unwrap();
            let mut input = unframed(frame);
            let (api_key, header) = RequestHeader::decode_from(&mut input).unwrap();
            assert_eq!((api_key, header.api_version, header.correlation_id), (ApiKey::Produce, version, 42));
            assert_eq!(header.client_id.as_deref(), Some("client"));
            assert_eq!(ProduceRequest::decode(&mut input, version).unwrap(), request);
            input.finish().unwrap();
        }
    }

    #[test]
    fn trap_01_the_header_of_a_too_new_api_versions_request_can_be_read() {
        let mut frame = Encoder::new();
        let header =
            RequestHeader { api_key: 18, api_version: 99, correlation_id: 5, client_id: None, ..Default::default() };
        header.encode(&mut frame, 2).unwrap();
        let (api_key, read) = RequestHeader::decode_from(&mut Decoder::new(frame.into_bytes())).unwrap();
        assert_eq!((api_key, read), (ApiKey::ApiVersions, header));
        assert!(ApiVersionsRequest::decode(&mut Decoder::new(Bytes::new()), 99).is_err());
    }

    #[test]
    fn trap_02_the_header_of_an_api_versions_response_has_version_0() {
        for version in ApiVersionsResponse::VALID_VERSIONS {
            assert_eq!(response_header_version(ApiKey::ApiVersions, version), 0);
            let response = ApiVersionsResponse { error_code: 35, ..Default::default() };
            let frame = encode_response(ApiKey::ApiVersions, version, 9, &response).unwrap();
            let mut input = unframed(frame);
            assert_eq!(input.i32().unwrap(), 9);
            assert_eq!(input.i16().unwrap(), 35);
        }
        assert_eq!(response_header_version(ApiKey::Produce, 9), 1);
        assert_eq!(response_header_version(ApiKey::Produce, 8), 0);
    }

    #[test]
    fn trap_26_bytes_and_strings_of_members_come_back_as_they_were_given() {
        let given = Bytes::from_static(&[0, 0xff, 0x80, 0, 7]);
        let response = SyncGroupResponse { assignment: given.clone(), ..Default::default() };
        for version in SyncGroupResponse::VALID_VERSIONS {
            let mut out = Encoder::new();
            response.encode(&mut out, version).unwrap();
            let read = SyncGroupResponse::decode(&mut Decoder::new(out.into_bytes()), version).unwrap();
            assert_eq!(read.assignment, given);
        }
        let subscription = ConsumerProtocolSubscription {
            topics: vec!["orders".into()],
            user_data: Some(given),
            generation_id: 4,
            ..Default::default()
        };
        let bytes = encode_versioned(&subscription, 2).unwrap();
        assert_eq!(decode_versioned(bytes.clone()).unwrap(), (2, subscription.clone()));
        // A member of a newer Kafka: version 9 has at least what version 3 has.
        let mut newer = encode_versioned(&subscription, 3).unwrap().to_vec();
        newer[1] = 9;
        newer.extend([1, 2, 3]);
        assert_eq!(decode_versioned(newer.into()).unwrap(), (9, subscription));
    }

    #[test]
    fn a_frame_of_an_unknown_api_is_an_error() {
        let mut input = Decoder::new(Bytes::from_static(&[0, 56, 0, 2, 0, 0, 0, 1, 0xff, 0xff]));
        assert_eq!(RequestHeader::decode_from(&mut input), Err(DecodeError::UnknownApiKey { key: 56 }));
        for short in 0..4 {
            assert!(RequestHeader::decode_from(&mut Decoder::new(Bytes::from(vec![0; short]))).is_err());
        }
    }
}
