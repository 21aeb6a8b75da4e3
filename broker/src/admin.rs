//! Admin HTTP: metrics, health, readiness, state.
