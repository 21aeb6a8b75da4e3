//! `backend.credentials = "provider-chain"`: the program asks each of those that give keys to containers, machines and pods, and
//! the store takes what it signs by them.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use seawall_backends::config::CredentialsFrom;
use seawall_hostile_store::{Server, Settings};

use super::*;

const ACCESS: &str = "given-access";
const SECRET: &str = "given-secret";
const TOKEN: &str = "given-token";

/// Gives keys as all of them do; the requests that it had.
async fn giver() -> (String, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let record = asked.clone();
    let answer = move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (path, method) = (parts.uri.path().to_owned(), parts.method.clone());
        let (token, authorization) = (header("x-aws-ec2-metadata-token"), header("authorization"));
        let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
        record.lock().unwrap().push(format!("{method} {path} {}", String::from_utf8_lossy(&body)));
        let keys = format!(
            "{{\"Code\":\"Success\",\"AccessKeyId\":\"{ACCESS}\",\"SecretAccessKey\":\"{SECRET}\",\"Token\":\"{TOKEN}\",\
             \"Expiration\":\"2126-01-01T00:00:00Z\"}}"
        );
        let text = match (method.as_str(), path.as_str()) {
            ("GET", "/container") if authorization == "for-the-container" => keys,
            ("PUT", "/latest/api/token") => "of-the-machine".to_owned(),
            ("GET", "/latest/meta-data/iam/security-credentials/") if token == "of-the-machine" => "role".to_owned(),
            ("GET", "/latest/meta-data/iam/security-credentials/role") if token == "of-the-machine" => keys,
            ("POST", "/") => format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{ACCESS}</AccessKeyId>\
                 <SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>{TOKEN}</SessionToken>\
                 <Expiration>2126-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            ),
            _ => {
                let mut missing = Response::new(Body::empty());
                *missing.status_mut() = axum::http::StatusCode::NOT_FOUND;
                return missing;
            }
        };
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", "21600".parse().unwrap());
        response
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    (url, asked)
}

/// `seawall backend ls` by such a configuration, with nothing in the environment but this.
async fn list(server: &Server, dir: &Path, env: BTreeMap<&'static str, String>) -> Output {
    let mut config = s3_config(dir, &format!("http://{}", server.address()));
    config.backend.bucket = Some("testbed".into());
    config.backend.credentials = Some(CredentialsFrom::ProviderChain);
    (config.backend.access_key_file, config.backend.secret_key_file) = (None, None);
    let file = dir.join("chain.toml");
    fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
    let mut command = Command::new(binary());
    command.args(["backend", "ls", "--config"]).arg(file);
    command.env_clear().env("HOME", dir).env("AWS_EC2_METADATA_DISABLED", "true").envs(env);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn env<const N: usize>(set: [(&'static str, &str); N]) -> BTreeMap<&'static str, String> {
    set.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_the_container_the_machine_a_web_identity_and_a_profile() {
    let settings = Settings { access: ACCESS.into(), secret: SECRET.into(), ..Settings::default() };
    let server = Server::start(settings).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (url, asked) = giver().await;
    let identity = dir.path().join("identity");
    fs::write(&identity, "of-the-pod").unwrap();
    let profile = dir.path().join("profile");
    fs::write(&profile, format!("[site]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")).unwrap();
    for (env, request) in [
        (
            env([
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{url}/container")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "for-the-container"),
            ]),
            "GET /container",
        ),
        (
            env([("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()), ("AWS_EC2_METADATA_DISABLED", "false")]),
            "GET /latest/meta-data/iam/security-credentials/role",
        ),
        (
            env([
                ("AWS_WEB_IDENTITY_TOKEN_FILE", identity.to_str().unwrap()),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/seawall"),
                ("AWS_ENDPOINT_URL_STS", &url),
            ]),
            "WebIdentityToken=of-the-pod",
        ),
        (env([("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().unwrap()), ("AWS_PROFILE", "site")]), ""),
    ] {
        asked.lock().unwrap().clear();
        let done = list(&server, dir.path(), env).await;
        let errors = String::from_utf8_lossy(&done.stderr);
        let asked = asked.lock().unwrap().join("\n");
        assert!(done.status.success(), "{request}: {errors}\n{asked}");
        assert!(asked.contains(request), "{request}: {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_gives_no_keys_says_so() {
    let server = Server::start(Settings::default()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let done = list(&server, dir.path(), BTreeMap::new()).await;
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(11), "{errors}");
    assert!(errors.contains("denies access: ") && errors.contains("no credentials found in chain"), "{errors}");
}
