//! Challenges and what answers them: Basic, and Bearer tokens from any token server
//! (distribution-spec "token authentication"; GitLab's differs only in realm and service).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::config::Config;
use crate::credentials::{Credential, Credentials};
use crate::error::{Attempt, Failure};
use crate::hosts::Host;
use crate::transport::{Exchange, Transport, shown};

/// Of a token that says nothing about it.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is renewed so long before it ends, or in the last quarter of its life.
const MARGIN: Duration = Duration::from_secs(30);
const MAX_TOKEN_BYTES: usize = 1 << 20;
const CLIENT_ID: &str = "outcrop";

/// Tokens and challenges, by host and scope.
pub(crate) struct Auth {
    credentials: Credentials,
    known: Mutex<HashMap<Key, Known>>,
    /// One fetches a token, the others wait for it.
    fetching: tokio::sync::Mutex<()>,
}

type Key = (String, Vec<String>);

#[derive(Clone)]
enum Known {
    Fixed(HeaderValue),
    Token {
        challenge: Challenge,
        value: HeaderValue,
        renew_at: Instant,
    },
}

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scopes: Vec<String>,
    },
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Who asks for what.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) host: &'a Host,
    pub(crate) repository: &'a str,
    /// `repository:NAME:ACTIONS`
    pub(crate) scopes: &'a [String],
}

impl Asking<'_> {
    fn key(&self) -> Key {
        (self.host.base.to_string(), self.scopes.to_vec())
    }
}

impl Auth {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            credentials: config.credentials.clone(),
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    fn known(&self, asking: &Asking<'_>) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&asking.key()).cloned()
    }

    fn learn(&self, asking: &Asking<'_>, what: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(asking.key(), what);
    }

    /// The header to send at once: what worked before, renewed if it is about to end.
    pub(crate) async fn header(
        &self,
        transport: &Transport,
        asking: &Asking<'_>,
    ) -> Result<Option<HeaderValue>, Attempt> {
        match self.known(asking) {
            None => Ok(None),
            Some(Known::Fixed(value)) => Ok(Some(value)),
            Some(Known::Token {
                value, renew_at, ..
            }) if Instant::now() < renew_at => Ok(Some(value)),
            Some(Known::Token {
                challenge, value, ..
            }) => self
                .answer(transport, asking, challenge, Some(&value))
                .await
                .map(Some),
        }
    }

    /// The answer to a 401; `refused` is what was sent.
    pub(crate) async fn challenged(
        &self,
        transport: &Transport,
        asking: &Asking<'_>,
        headers: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Attempt> {
        let Some(challenge) = read_challenge(headers) else {
            let failure =
                Failure::Credentials("asks for an unknown kind of credentials".to_owned());
            return Err(transport.failed(&asking.host.base, failure));
        };
        self.answer(transport, asking, challenge, refused).await
    }

    async fn answer(
        &self,
        transport: &Transport,
        asking: &Asking<'_>,
        challenge: Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Attempt> {
        let _one = self.fetching.lock().await;
        // Another may have renewed it while we waited.
        if let Some(Known::Fixed(value) | Known::Token { value, .. }) = self.known(asking)
            && Some(&value) != refused
        {
            return Ok(value);
        }
        let refuse = |text: String| transport.failed(&asking.host.base, Failure::Credentials(text));
        let (credential, complaint) = self.credential(asking).await;
        let known = match (&challenge, credential) {
            (_, Some(Credential::Bearer(token))) => {
                Known::Fixed(secret(format!("Bearer {}", token.reveal())).map_err(refuse)?)
            }
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                let value = basic(&username, password.reveal()).map_err(refuse)?;
                Known::Fixed(value)
            }
            (Challenge::Basic, _) => {
                let hint = complaint.unwrap_or_else(|| "give a user name and password".to_owned());
                return Err(refuse(format!("wants credentials: {hint}")));
            }
            (Challenge::Bearer { .. }, credential) => self
                .token(transport, asking, &challenge, credential.as_ref())
                .await
                .map_err(|attempt| with_complaint(attempt, complaint))?,
        };
        let (Known::Fixed(value) | Known::Token { value, .. }) = &known;
        let value = value.clone();
        if Some(&value) == refused {
            // What programs have answered may have expired: the next request asks them again.
            self.credentials.forget();
            return Err(refuse("refuses the credentials".to_owned()));
        }
        self.learn(asking, known);
        Ok(value)
    }

    /// With what is wrong with the configuration, which matters only if it does not go without.
    async fn credential(&self, asking: &Asking<'_>) -> (Option<Credential>, Option<String>) {
        let credentials = self.credentials.clone();
        // Credentials are kept under the name that images have.
        let registry = match asking.host.authority().as_str() {
            "registry-1.docker.io" => "docker.io".to_owned(),
            other => other.to_owned(),
        };
        let repository = asking.repository.to_owned();
        let found = tokio::task::spawn_blocking(move || credentials.find(&registry, &repository));
        match found.await {
            Ok(Ok(found)) => (found, None),
            Ok(Err(error)) => {
                tracing::warn!(host = asking.host.authority(), %error, "no credentials");
                (None, Some(error.to_string()))
            }
            Err(_) => (None, None),
        }
    }

    async fn token(
        &self,
        transport: &Transport,
        asking: &Asking<'_>,
        challenge: &Challenge,
        credential: Option<&Credential>,
    ) -> Result<Known, Attempt> {
        let exchange = token_request(asking, challenge, credential)
            .map_err(|text| transport.failed(&asking.host.base, Failure::Credentials(text)))?;
        let asked = Instant::now();
        let mut answer = transport.exchange(&exchange).await?;
        let status = answer.response.status();
        if !status.is_success() {
            let failure = match (status, transport.refusal(answer.response).await) {
                (
                    StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                    failure,
                ) => Failure::Credentials(format!("the token server refuses: {failure}")),
                (_, failure) => failure,
            };
            return Err(transport.failed(&answer.url, failure));
        }
        let wrong = |failure: Failure| transport.failed(&answer.url, failure);
        let body = transport
            .body(&mut answer.response, MAX_TOKEN_BYTES)
            .await
            .map_err(wrong)?;
        // The parser's message may quote the token.
        let parsed: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| wrong(Failure::Protocol("the token is malformed".to_owned())))?;
        let token = parsed
            .token
            .filter(|token| !token.is_empty())
            .or(parsed.access_token);
        let token = token.filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| wrong(Failure::Protocol("gives no token".to_owned())))?;
        let value =
            secret(format!("Bearer {token}")).map_err(|text| wrong(Failure::Protocol(text)))?;
        transport.metrics.tokens.inc();
        let lifetime = parsed
            .expires_in
            .map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let lifetime = lifetime.min(Duration::from_secs(86_400));
        Ok(Known::Token {
            challenge: challenge.clone(),
            value,
            renew_at: asked + lifetime - MARGIN.min(lifetime / 4),
        })
    }
}

fn with_complaint(mut attempt: Attempt, complaint: Option<String>) -> Attempt {
    if let (Failure::Credentials(text), Some(complaint)) = (&mut attempt.failure, complaint) {
        text.push_str(&format!(" (asked without credentials: {complaint})"));
    }
    attempt
}

fn secret(text: String) -> Result<HeaderValue, String> {
    let mut value =
        HeaderValue::try_from(text).map_err(|_| "the credentials hold forbidden characters")?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, String> {
    secret(format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    ))
}

/// Bearer is preferred.
fn read_challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let texts: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    let all = texts
        .iter()
        .filter_map(|text| http_auth::parse_challenges(text).ok());
    let mut basic = None;
    for challenge in all.flatten() {
        let parameter = |name: &str| {
            let mut found = challenge.params.iter();
            let found = found.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = parameter("realm")
        {
            let scopes = parameter("scope").unwrap_or_default();
            return Some(Challenge::Bearer {
                realm,
                service: parameter("service"),
                scopes: scopes.split_whitespace().map(str::to_owned).collect(),
            });
        }
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

fn token_request<'a>(
    asking: &Asking<'a>,
    challenge: &Challenge,
    credential: Option<&Credential>,
) -> Result<Exchange<'a>, String> {
    let Challenge::Bearer {
        realm,
        service,
        scopes,
    } = challenge
    else {
        return Err("asks for no token".to_owned());
    };
    // Relative realms are none by the standard, yet unambiguous.
    let mut url = asking
        .host
        .base
        .join(realm)
        .map_err(|_| "names no token server".to_owned())?;
    if url.scheme() != asking.host.base.scheme() && url.scheme() != "https" && credential.is_some()
    {
        return Err(format!(
            "sends to {} without TLS: the credentials stay here",
            shown(&url)
        ));
    }
    let mut pairs = Vec::new();
    pairs.extend(service.as_ref().map(|service| ("service", service.clone())));
    for scope in all_scopes(scopes, asking) {
        pairs.push(("scope", scope));
    }
    pairs.push(("client_id", CLIENT_ID.to_owned()));
    let (mut headers, mut secrets) = (HeaderMap::new(), HeaderMap::new());
    let mut method = Method::GET;
    let mut body = None;
    match credential {
        Some(Credential::Identity(token)) => {
            pairs.push(("grant_type", "refresh_token".to_owned()));
            pairs.push(("refresh_token", token.reveal().to_owned()));
            let scopes: Vec<_> = all_scopes(scopes, asking);
            pairs.retain(|(name, _)| *name != "scope");
            pairs.push(("scope", scopes.join(" ")));
            method = Method::POST;
            let form = "application/x-www-form-urlencoded";
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
            body = Some(form_encoded(&pairs).into_bytes());
        }
        Some(Credential::Password { username, password }) => {
            pairs.push(("account", username.clone()));
            secrets.insert(header::AUTHORIZATION, basic(username, password.reveal())?);
        }
        Some(Credential::Bearer(_)) | None => {}
    }
    if body.is_none() {
        url.query_pairs_mut().extend_pairs(&pairs);
    }
    Ok(Exchange {
        method,
        url,
        headers,
        secrets,
        tls: &asking.host.tls,
        body,
    })
}

fn form_encoded(pairs: &[(&str, String)]) -> String {
    let url = Url::parse("http://form/").map(|mut url| {
        url.query_pairs_mut().extend_pairs(pairs);
        url.query().unwrap_or_default().to_owned()
    });
    url.unwrap_or_default()
}

/// What the registry names; and ours about other repositories. A mirror below a path has names of its own.
fn all_scopes(named: &[String], asking: &Asking<'_>) -> Vec<String> {
    let resource = |scope: &str| {
        scope
            .rsplit_once(':')
            .map(|(resource, _)| resource.to_owned())
    };
    let mut scopes = named.to_vec();
    for own in asking.scopes {
        let covered = scopes.iter().any(|scope| resource(scope) == resource(own));
        if !covered && (named.is_empty() || asking.host.base.path() == "/v2/") {
            scopes.push(own.clone());
        }
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scopes: &[&str]| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        for (lines, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\""],
                Some(bearer(
                    "https://a/t",
                    Some("s"),
                    &["repository:a/b:pull,push"],
                )),
            ),
            (
                &["bearer REALM=\"https://g/jwt/auth\", Service=\"container_registry\""],
                Some(bearer(
                    "https://g/jwt/auth",
                    Some("container_registry"),
                    &[],
                )),
            ),
            (
                &[
                    "Basic realm=\"x\"",
                    "Bearer realm=\"t\",scope=\"a:b:c d:e:f\"",
                ],
                Some(bearer("t", None, &["a:b:c", "d:e:f"])),
            ),
            (
                &["Basic realm=\"x\", Bearer realm=\"a\\\"b\""],
                Some(bearer("a\"b", None, &[])),
            ),
            (&["Digest realm=\"x\""], None),
            (&["Bearer"], None),
            (&["=,=,="], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_str(line).unwrap(),
                );
            }
            assert_eq!(read_challenge(&headers), expected, "{lines:?}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        let pairs = [("a", "x y&z=ü".to_owned()), ("b", String::new())];
        assert_eq!(form_encoded(&pairs), "a=x+y%26z%3D%C3%BC&b=");
    }
}
