//! Keys from the chain that AWS's tools have: environment, profiles with their roles, web identity, the container's endpoint, the
//! machine's (IMDSv2). They are good for some hours; new ones are asked for minutes before that, and when the store refuses those in
//! use. Of several requests at a time one asks.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials};
use aws_sdk_s3::config::{BehaviorVersion, Region, SharedHttpClient};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use super::{FRESH_FOR, Secret};

/// Before they expire.
const NEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// Between two questions while the chain gives nothing new.
const PAUSE: Duration = Duration::from_secs(10);

pub(in super::super) struct Chain {
    http: SharedHttpClient,
    region: Region,
    provider: OnceCell<DefaultCredentialsChain>,
    /// Held by the one who asks.
    asking: AsyncMutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Credentials>,
    asked_at: Option<Instant>,
    /// What the process ever had.
    ever: Vec<Secret>,
}

impl Chain {
    /// Asks nobody yet. `http` reaches the services that give keys, not the store.
    pub(in super::super) fn new(http: SharedHttpClient, region: Region) -> Self {
        let (asking, state) = (AsyncMutex::default(), Mutex::default());
        Self { http, region, provider: OnceCell::new(), asking, state }
    }

    pub(super) async fn current(&self) -> provider::Result {
        if let Some(held) = self.held(NEW_BEFORE) {
            return Ok(held);
        }
        let _asking = self.asking.lock().await;
        if let Some(held) = self.held(NEW_BEFORE) {
            return Ok(held);
        }
        // Until they expire those from before will do.
        if let Some(held) = self.held(Duration::ZERO).filter(|_| self.asked_within(PAUSE)) {
            return Ok(held);
        }
        self.state().asked_at = Some(Instant::now());
        let given = self.provider().await.provide_credentials().await;
        match given {
            Ok(given) => {
                let mut state = self.state();
                let keys = [Some(given.access_key_id()), Some(given.secret_access_key()), given.session_token()];
                let new: Vec<_> = keys.into_iter().flatten().map(Secret::new).collect();
                let new: Vec<_> = new.into_iter().filter(|key| !state.ever.contains(key)).collect();
                state.ever.extend(new);
                state.held = Some(given.clone());
                Ok(given)
            }
            Err(error) => self.held(Duration::ZERO).ok_or(error),
        }
    }

    /// Whether the next request asks for new keys: not if those in use were given just now.
    pub(super) fn forget(&self) -> bool {
        let is_new = self.asked_within(FRESH_FOR);
        if !is_new {
            self.state().held = None;
        }
        !is_new
    }

    pub(super) fn scrub(&self, text: &str) -> String {
        super::scrub(&self.state().ever, text)
    }

    /// Those in use, if they are good for so long at least.
    fn held(&self, at_least: Duration) -> Option<Credentials> {
        let held = self.state().held.clone()?;
        let good = held.expiry().is_none_or(|expiry| expiry > now() + at_least);
        good.then_some(held)
    }

    fn asked_within(&self, time: Duration) -> bool {
        self.state().asked_at.is_some_and(|at| at.elapsed() < time)
    }

    async fn provider(&self) -> &DefaultCredentialsChain {
        let chain = async || {
            let config = ProviderConfig::without_region()
                .with_region(Some(self.region.clone()))
                .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
                .with_http_client(self.http.clone());
            DefaultCredentialsChain::builder().region(self.region.clone()).configure(config).build().await
        };
        self.provider.get_or_init(chain).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chain")
    }
}

#[expect(clippy::disallowed_methods, reason = "keys expire by the time of day")]
fn now() -> SystemTime {
    SystemTime::now()
}
