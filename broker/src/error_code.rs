//! The one place where our errors become Kafka error codes.
//!
//! No match here has a `_` arm: a new variant does not compile until someone picks its code.

use seawall_metadata::{ProposeError, Rejection};
use seawall_protocol::ErrorCode;

use crate::group::GroupError;
use crate::{
    batch_check::InvalidBatch,
    fetch_session::SessionError,
    handlers::{
        delete_records::DeleteRecordsError, fetch::FetchError, list_offsets::ListOffsetsError, produce::ProduceError,
    },
    partition::{AppendError, LeaderError},
    partitions::PartitionError,
    producer_state::SequenceError,
    read_path::ReadError,
    retention::TrimError,
};

/// A code and the sentence that goes with it, where the API has a place for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: Option<String>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None }
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        let code = propose_error_code(&error);
        Self::new(code, error.to_string())
    }
}

pub fn propose_error_code(error: &ProposeError) -> ErrorCode {
    match error {
        ProposeError::Rejected(rejection) => rejection_code(rejection),
        ProposeError::TooLarge { .. } => ErrorCode::InvalidRequest,
        ProposeError::NotLeader => ErrorCode::NotController,
        ProposeError::Unknown => ErrorCode::RequestTimedOut,
        ProposeError::Stopped => ErrorCode::BrokerNotAvailable,
    }
}

pub fn rejection_code(rejection: &Rejection) -> ErrorCode {
    match rejection {
        Rejection::TopicExists { .. } => ErrorCode::TopicAlreadyExists,
        Rejection::TopicCollides { .. } => ErrorCode::InvalidTopicException,
        Rejection::UnknownTopic(_) => ErrorCode::UnknownTopicId,
        Rejection::UnknownTopicName(_) | Rejection::UnknownPartition(_) | Rejection::UnknownStream(_) => {
            ErrorCode::UnknownTopicOrPartition
        }
        Rejection::Partitions { .. } => ErrorCode::InvalidPartitions,
        Rejection::NotOwner { .. } => ErrorCode::NotLeaderOrFollower,
        Rejection::StaleLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        Rejection::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        Rejection::StaleBrokerEpoch { .. } => ErrorCode::StaleBrokerEpoch,
        Rejection::UnknownBroker(_) | Rejection::BrokerFenced(_) => ErrorCode::BrokerIdNotRegistered,
        Rejection::Feature { .. } => ErrorCode::FeatureUpdateFailed,
        // Whoever changes configs looks again and repeats; this is for one who gave up.
        Rejection::ConfigChanged { .. } => ErrorCode::RequestTimedOut,
        Rejection::NotInitialised => ErrorCode::NotController,
        Rejection::OtherCluster { .. } => ErrorCode::InconsistentClusterId,
        Rejection::Malformed(_) => ErrorCode::InvalidRequest,
        Rejection::TopicIdInUse(_)
        | Rejection::PartitionDirty(_)
        | Rejection::StaleGeneration { .. }
        | Rejection::NotReserved(_)
        | Rejection::OtherObject(_)
        | Rejection::NotDeletable(_)
        | Rejection::UnknownWal(_)
        | Rejection::OtherWalOwner { .. }
        | Rejection::StaleOwnerEpoch { .. }
        | Rejection::WalState { .. }
        | Rejection::LsnTooLow { .. }
        | Rejection::LegSetEpoch { .. }
        | Rejection::Legs { .. }
        | Rejection::Exhausted(_) => ErrorCode::UnknownServerError,
    }
}

/// The field of a response that says how it went.
pub fn group_result_code(result: Result<(), GroupError>) -> i16 {
    result.err().map_or(ErrorCode::None, group_error_code).code()
}

pub fn group_error_code(error: GroupError) -> ErrorCode {
    match error {
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
        // What Kafka answers; clients do not repeat it.
        GroupError::RecordTooLarge => ErrorCode::UnknownServerError,
        GroupError::InvalidRequest => ErrorCode::InvalidRequest,
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
        GroupError::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
        GroupError::UnknownTopicId => ErrorCode::UnknownTopicId,
        GroupError::MemoryFull | GroupError::TooManyJoining => ErrorCode::CoordinatorNotAvailable,
        GroupError::CoordinatorLoadInProgress => ErrorCode::CoordinatorLoadInProgress,
        GroupError::NotCoordinator => ErrorCode::NotCoordinator,
        GroupError::FencedMemberEpoch => ErrorCode::FencedMemberEpoch,
        GroupError::StaleMemberEpoch => ErrorCode::StaleMemberEpoch,
        GroupError::UnreleasedInstanceId => ErrorCode::UnreleasedInstanceId,
        GroupError::UnsupportedAssignor => ErrorCode::UnsupportedAssignor,
        GroupError::InvalidRegularExpression => ErrorCode::InvalidRegularExpression,
        GroupError::UnsupportedVersion => ErrorCode::UnsupportedVersion,
    }
}

impl From<&PartitionError> for ErrorCode {
    fn from(error: &PartitionError) -> Self {
        match error {
            PartitionError::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
            PartitionError::UnknownTopicId => ErrorCode::UnknownTopicId,
            PartitionError::NotLeader { .. } | PartitionError::Opening => ErrorCode::NotLeaderOrFollower,
        }
    }
}

impl From<&AppendError> for ErrorCode {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::NotLeader | AppendError::FencedLeaderEpoch { .. } => ErrorCode::NotLeaderOrFollower,
            AppendError::Deleted => ErrorCode::UnknownTopicOrPartition,
            AppendError::Sequence(SequenceError::StaleEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
            AppendError::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
            AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
            // Retriable for clients.
            AppendError::WalFull | AppendError::TooFarAhead | AppendError::WalFailed(_) => ErrorCode::KafkaStorageError,
        }
    }
}

impl From<&LeaderError> for ErrorCode {
    fn from(error: &LeaderError) -> Self {
        match error {
            LeaderError::Partition(error) => error.into(),
            LeaderError::Ended(error) => error.into(),
            LeaderError::Fenced { .. } => ErrorCode::FencedLeaderEpoch,
            LeaderError::Unknown { .. } => ErrorCode::UnknownLeaderEpoch,
        }
    }
}

impl From<&InvalidBatch> for ErrorCode {
    fn from(error: &InvalidBatch) -> Self {
        match error {
            InvalidBatch::Missing
            | InvalidBatch::SeveralBatches
            | InvalidBatch::Magic(_)
            | InvalidBatch::Control
            | InvalidBatch::Counts { .. }
            | InvalidBatch::Sequence(_)
            | InvalidBatch::NullKeys { .. }
            | InvalidBatch::Record { .. } => ErrorCode::InvalidRecord,
            InvalidBatch::Corrupt(_) => ErrorCode::CorruptMessage,
            InvalidBatch::TooLarge { .. } => ErrorCode::MessageTooLarge,
            InvalidBatch::Codec(_) | InvalidBatch::ZstdBeforeVersion7 => ErrorCode::UnsupportedCompressionType,
            InvalidBatch::Transactional => ErrorCode::InvalidTxnState,
            InvalidBatch::Timestamp { .. } => ErrorCode::InvalidTimestamp,
        }
    }
}

impl From<&ProduceError> for ErrorCode {
    fn from(error: &ProduceError) -> Self {
        match error {
            ProduceError::InvalidAcks(_) => ErrorCode::InvalidRequiredAcks,
            ProduceError::InternalTopic => ErrorCode::InvalidTopicException,
            ProduceError::Partition(error) => error.into(),
            ProduceError::Invalid(error) => error.into(),
            ProduceError::Append(error) => error.into(),
            ProduceError::TimedOut => ErrorCode::RequestTimedOut,
        }
    }
}

impl From<&TrimError> for ErrorCode {
    fn from(error: &TrimError) -> Self {
        match error {
            TrimError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            TrimError::NotLeader => ErrorCode::NotLeaderOrFollower,
            TrimError::Unavailable => ErrorCode::RequestTimedOut,
        }
    }
}

impl From<&DeleteRecordsError> for ErrorCode {
    fn from(error: &DeleteRecordsError) -> Self {
        match error {
            DeleteRecordsError::Partition(error) => error.into(),
            DeleteRecordsError::InternalTopic => ErrorCode::InvalidTopicException,
            DeleteRecordsError::CompactedOnly => ErrorCode::PolicyViolation,
            DeleteRecordsError::Trim(error) => error.into(),
            DeleteRecordsError::TimedOut => ErrorCode::RequestTimedOut,
        }
    }
}

impl From<&ReadError> for ErrorCode {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::NotLeader(error) => error.into(),
            // Shown to the application; repeating would not help.
            ReadError::Corrupt(_) => ErrorCode::CorruptMessage,
            ReadError::Unavailable(_) => ErrorCode::KafkaStorageError,
        }
    }
}

impl From<&FetchError> for ErrorCode {
    fn from(error: &FetchError) -> Self {
        match error {
            FetchError::Leader(error) => error.into(),
            FetchError::Read(error) => error.into(),
        }
    }
}

impl From<SessionError> for ErrorCode {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotFound => ErrorCode::FetchSessionIdNotFound,
            SessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
            SessionError::TopicIds => ErrorCode::FetchSessionTopicIdError,
        }
    }
}

impl From<&ListOffsetsError> for ErrorCode {
    fn from(error: &ListOffsetsError) -> Self {
        match error {
            ListOffsetsError::Leader(error) => error.into(),
            ListOffsetsError::Duplicate => ErrorCode::InvalidRequest,
            ListOffsetsError::UnsupportedTimestamp(_) => ErrorCode::UnsupportedVersion,
            ListOffsetsError::Read(error) => error.into(),
        }
    }
}
