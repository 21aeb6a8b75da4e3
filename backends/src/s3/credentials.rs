//! Access keys: from the environment, from files, or from the AWS shared credentials file; or from AWS's whole chain
//! ([`Chain`]). Files are read again while the process runs, so that keys can be rotated; nothing that is secret is ever shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, future};
use zeroize::Zeroizing;

mod chain;

pub(super) use chain::Chain;

/// Cannot be printed. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Pair {
    access_key: Secret,
    secret_key: Secret,
    session_token: Option<Secret>,
}

/// Where the keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// Fixed for the life of the process.
    Environment,
    Files {
        access_key: PathBuf,
        secret_key: PathBuf,
    },
    Shared {
        file: PathBuf,
        profile: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(
        "no access keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, backend.access_key_file and backend.secret_key_file, or AWS_SHARED_CREDENTIALS_FILE"
    )]
    None,
    #[error("{set} is set and {missing} is not: both or none")]
    Half { set: &'static str, missing: &'static str },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} must hold a key and nothing else, on one line")]
    NotAKey { path: PathBuf },
    #[error("{path} has no keys for the profile \"{profile}\"")]
    NoProfile { path: PathBuf, profile: String },
}

/// How old may be what was read from files.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// A key is longer than nothing and shorter than this.
const KEY_BYTES_MAX: usize = 4_096;

/// What signs requests.
#[derive(Debug, Clone)]
pub(super) enum KeySource {
    Static(Arc<Keys>),
    Chain(Arc<Chain>),
}

impl KeySource {
    /// After a refusal: whether there are, or may be, other keys now.
    pub(super) fn read_again(&self) -> bool {
        match self {
            Self::Static(keys) => keys.read_again(),
            Self::Chain(chain) => chain.forget(),
        }
    }

    /// The text without any key of this process in it.
    pub(super) fn scrub(&self, text: &str) -> String {
        match self {
            Self::Static(keys) => keys.scrub(text),
            Self::Chain(chain) => chain.scrub(text),
        }
    }
}

/// The store's client asks it for each request.
impl ProvideCredentials for KeySource {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        match self {
            Self::Static(keys) => future::ProvideCredentials::ready(Ok(keys.current())),
            Self::Chain(chain) => future::ProvideCredentials::new(chain.current()),
        }
    }
}

fn scrub(ever: &[Secret], text: &str) -> String {
    ever.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "[hidden]"))
}

/// The keys in use.
pub(super) struct Keys {
    source: Source,
    state: Mutex<State>,
}

struct State {
    pair: Pair,
    credentials: Credentials,
    read_at: Instant,
    /// What the process ever had: none of it is shown, the keys of yesterday neither.
    ever: Vec<Secret>,
    complained: bool,
}

impl Keys {
    /// `env` is the environment, `files` what the configuration names.
    pub(super) fn open(
        env: &dyn Fn(&str) -> Option<String>,
        access_key_file: Option<&Path>,
        secret_key_file: Option<&Path>,
    ) -> Result<Self, KeysError> {
        let (source, pair) = find(env, access_key_file, secret_key_file)?;
        let state = State {
            credentials: pair.credentials(),
            read_at: Instant::now(),
            ever: pair.secrets(),
            pair,
            complained: false,
        };
        Ok(Self { source, state: Mutex::new(state) })
    }

    /// Reads the files once more; whether that gave other keys.
    pub(super) fn read_again(&self) -> bool {
        let mut state = self.state();
        self.refresh(&mut state)
    }

    fn scrub(&self, text: &str) -> String {
        scrub(&self.state().ever, text)
    }

    fn current(&self) -> Credentials {
        let mut state = self.state();
        if state.read_at.elapsed() >= FRESH_FOR {
            self.refresh(&mut state);
        }
        state.credentials.clone()
    }

    /// Keys that cannot be read are not replaced: a file may be in the middle of being written.
    fn refresh(&self, state: &mut State) -> bool {
        state.read_at = Instant::now();
        match self.source.read() {
            None => false,
            Some(Ok(pair)) => {
                state.complained = false;
                let is_new = pair != state.pair;
                if is_new {
                    state.credentials = pair.credentials();
                    state.ever.extend(pair.secrets());
                    state.pair = pair;
                    tracing::info!("access keys of the store have changed");
                }
                is_new
            }
            Some(Err(error)) => {
                if !state.complained {
                    tracing::warn!(%error, "access keys of the store cannot be read; those from before stay in use");
                }
                state.complained = true;
                false
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({:?})", self.source)
    }
}

impl Pair {
    fn credentials(&self) -> Credentials {
        let token = self.session_token.as_ref().map(|token| token.expose().to_owned());
        Credentials::new(self.access_key.expose(), self.secret_key.expose(), token, None, "seawall")
    }

    fn secrets(&self) -> Vec<Secret> {
        let keys = [self.access_key.clone(), self.secret_key.clone()];
        keys.into_iter().chain(self.session_token.clone()).collect()
    }
}

fn find(
    env: &dyn Fn(&str) -> Option<String>,
    access_key_file: Option<&Path>,
    secret_key_file: Option<&Path>,
) -> Result<(Source, Pair), KeysError> {
    let env = |name| env(name).filter(|value| !value.is_empty());
    match (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
        (Some(access), Some(secret)) => {
            let session_token = env("AWS_SESSION_TOKEN").map(|token| Secret::new(&token));
            let pair = Pair { access_key: Secret::new(&access), secret_key: Secret::new(&secret), session_token };
            return Ok((Source::Environment, pair));
        }
        (Some(_), None) => {
            return Err(KeysError::Half { set: "AWS_ACCESS_KEY_ID", missing: "AWS_SECRET_ACCESS_KEY" });
        }
        (None, Some(_)) => {
            return Err(KeysError::Half { set: "AWS_SECRET_ACCESS_KEY", missing: "AWS_ACCESS_KEY_ID" });
        }
        (None, None) => {}
    }
    let source = match (access_key_file, secret_key_file) {
        (Some(access), Some(secret)) => Source::Files { access_key: access.to_owned(), secret_key: secret.to_owned() },
        (Some(_), None) => {
            return Err(KeysError::Half { set: "backend.access_key_file", missing: "backend.secret_key_file" });
        }
        (None, Some(_)) => {
            return Err(KeysError::Half { set: "backend.secret_key_file", missing: "backend.access_key_file" });
        }
        (None, None) => {
            let in_home =
                || env("HOME").map(|home| Path::new(&home).join(".aws/credentials")).filter(|path| path.exists());
            let file = env("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(in_home).ok_or(KeysError::None)?;
            Source::Shared { file, profile: env("AWS_PROFILE").unwrap_or_else(|| "default".to_owned()) }
        }
    };
    let pair = source.read().ok_or(KeysError::None)??;
    Ok((source, pair))
}

impl Source {
    /// None when there is nothing to read again.
    fn read(&self) -> Option<Result<Pair, KeysError>> {
        match self {
            Self::Environment => None,
            Self::Files { access_key, secret_key } => Some(read_key(access_key).and_then(|access_key| {
                Ok(Pair { access_key, secret_key: read_key(secret_key)?, session_token: None })
            })),
            Self::Shared { file, profile } => Some(read_shared(file, profile)),
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let text = std::fs::read_to_string(path);
    text.map(Zeroizing::new).map_err(|source| KeysError::Read { path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<Secret, KeysError> {
    let text = read_file(path)?;
    let key = text.trim();
    let is_key = !key.is_empty() && key.len() <= KEY_BYTES_MAX && key.bytes().all(|byte| byte.is_ascii_graphic());
    if is_key { Ok(Secret::new(key)) } else { Err(KeysError::NotAKey { path: path.to_owned() }) }
}

/// `[profile]` and `name = value`, as AWS tools write it.
fn read_shared(path: &Path, profile: &str) -> Result<Pair, KeysError> {
    let text = read_file(path)?;
    let (mut in_profile, mut access_key, mut secret_key, mut session_token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            in_profile = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| in_profile) {
            let value = Some(value.trim()).filter(|value| !value.is_empty()).map(Secret::new);
            match name.trim() {
                "aws_access_key_id" => access_key = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => session_token = value,
                _ => {}
            }
        }
    }
    match (access_key, secret_key) {
        (Some(access_key), Some(secret_key)) => Ok(Pair { access_key, secret_key, session_token }),
        _ => Err(KeysError::NoProfile { path: path.to_owned(), profile: profile.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn keys_come_from_the_environment_then_from_files_then_from_the_shared_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (access, secret) = (file("access", "AF\n"), file("secret", "SF\n"));
        let shared = "[other]\naws_access_key_id = no\n[site]\naws_access_key_id = AS\naws_secret_access_key=SS\naws_session_token = T\n";
        let shared = file("shared", shared);
        let shared = [("AWS_SHARED_CREDENTIALS_FILE", shared.to_str().unwrap()), ("AWS_PROFILE", "site")];
        let both = [("AWS_ACCESS_KEY_ID", "AE"), ("AWS_SECRET_ACCESS_KEY", "SE")];
        let files = (Some(access.as_path()), Some(secret.as_path()));
        let open = |env: &dyn Fn(&str) -> Option<String>, (access, secret)| {
            Keys::open(env, access, secret).map(|keys| keys.current().access_key_id().to_owned())
        };
        assert_eq!(open(&env(&both), files).unwrap(), "AE");
        assert_eq!(open(&env(&shared), files).unwrap(), "AF");
        assert_eq!(open(&env(&shared), (None, None)).unwrap(), "AS");
        assert!(matches!(open(&env(&[]), (None, None)), Err(KeysError::None)));
        assert!(matches!(open(&env(&both[..1]), files), Err(KeysError::Half { missing: "AWS_SECRET_ACCESS_KEY", .. })));
        assert!(matches!(open(&env(&[]), (files.0, None)), Err(KeysError::Half { .. })));
        let two_lines = file("two", "a\nb\n");
        assert!(matches!(open(&env(&[]), (Some(&two_lines), files.1)), Err(KeysError::NotAKey { .. })));
    }

    #[test]
    fn keys_that_change_in_their_files_are_taken_and_none_of_them_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (access, secret) = (folder.path().join("access"), folder.path().join("secret"));
        std::fs::write(&access, "first-access").unwrap();
        std::fs::write(&secret, "first-secret").unwrap();
        let keys = Keys::open(&|_| None, Some(&access), Some(&secret)).unwrap();
        assert!(!keys.read_again());
        std::fs::write(&secret, "second-secret").unwrap();
        assert!(keys.read_again());
        assert_eq!(keys.current().secret_access_key(), "second-secret");
        std::fs::write(&secret, "").unwrap();
        assert!(!keys.read_again(), "half written");
        assert_eq!(keys.current().secret_access_key(), "second-secret");
        let shown = keys.scrub("first-access first-secret second-secret and more");
        assert_eq!(shown, "[hidden] [hidden] [hidden] and more");
        assert!(!format!("{keys:?}").contains("second-secret"));
    }
}
