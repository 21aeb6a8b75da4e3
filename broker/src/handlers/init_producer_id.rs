//! The InitProducerId API.
