use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::{Answer, Incoming, form, header};

/// Who may use a registry, and how it asks. Clones share the tokens.
#[derive(Clone, Debug)]
pub struct Access {
    kind: Kind,
    users: Vec<(String, String)>,
    identities: Vec<String>,
    anonymous_pull: bool,
    /// What tokens say, and how long they are valid.
    stated: Option<u64>,
    lifetime: Duration,
    issued: Arc<Mutex<Vec<Token>>>,
}

#[derive(Clone, Debug)]
enum Kind {
    Basic,
    Bearer { realm: String, service: String },
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    until: Instant,
    /// `repository:NAME:ACTIONS`
    scopes: Vec<String>,
}

impl Access {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            users: Vec::new(),
            identities: Vec::new(),
            anonymous_pull: false,
            stated: Some(300),
            lifetime: Duration::from_secs(300),
            issued: Arc::default(),
        }
    }

    /// Basic authentication.
    #[must_use]
    pub fn basic() -> Self {
        Self::new(Kind::Basic)
    }

    /// Tokens from this path of the registry's own server, for instance `/token`.
    #[must_use]
    pub fn bearer(realm: &str, service: &str) -> Self {
        Self::new(Kind::Bearer {
            realm: realm.to_owned(),
            service: service.to_owned(),
        })
    }

    /// As GitLab: another path, `container_registry`, five minutes.
    #[must_use]
    pub fn gitlab() -> Self {
        Self::bearer("/jwt/auth", "container_registry")
    }

    /// Lets a user in.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Accepts a refresh token.
    #[must_use]
    pub fn identity(mut self, token: &str) -> Self {
        self.identities.push(token.to_owned());
        self
    }

    /// Anybody may pull, with a token.
    #[must_use]
    pub fn anonymous_pull(mut self) -> Self {
        self.anonymous_pull = true;
        self
    }

    /// Tokens end after `lifetime`, and say so many seconds (nothing if None).
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration, stated: Option<u64>) -> Self {
        (self.lifetime, self.stated) = (lifetime, stated);
        self
    }

    /// All tokens end now.
    pub fn revoke(&self) {
        self.tokens()
            .iter_mut()
            .for_each(|token| token.until = Instant::now());
    }

    /// Number of tokens handed out.
    #[must_use]
    pub fn issued(&self) -> usize {
        self.tokens().len()
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<Token>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// 401 unless the request may pass.
    pub(super) fn refuses(&self, request: &Incoming, rest: &str) -> Option<Answer> {
        let parts = ["/blobs/", "/manifests/", "/tags/"];
        let name = parts
            .iter()
            .find_map(|part| rest.split_once(part))
            .map(|(name, _)| name);
        let write = !matches!(request.method.as_str(), "GET" | "HEAD");
        let wanted = name.map(|name| (name, if write { "push" } else { "pull" }));
        let given = header(&request.headers, "authorization").unwrap_or_default();
        let challenge = match &self.kind {
            Kind::Basic if self.knows(given) => return None,
            Kind::Basic => "Basic realm=\"test\"".to_owned(),
            Kind::Bearer { .. } if self.admits(given, wanted) => return None,
            Kind::Bearer { realm, service } => {
                let host = header(&request.headers, "host").unwrap_or_default();
                let actions = if write { "pull,push" } else { "pull" };
                let scope = name.map_or(String::new(), |name| {
                    format!(",scope=\"repository:{name}:{actions}\"")
                });
                format!("Bearer realm=\"http://{host}{realm}\",service=\"{service}\"{scope}")
            }
        };
        Some(refused().with("WWW-Authenticate", &challenge))
    }

    fn knows(&self, authorization: &str) -> bool {
        let basic = |(name, password): &(String, String)| {
            format!("Basic {}", base64(format!("{name}:{password}").as_bytes()))
        };
        self.users.iter().any(|user| basic(user) == authorization)
    }

    fn admits(&self, authorization: &str, wanted: Option<(&str, &str)>) -> bool {
        let text = authorization.strip_prefix("Bearer ").unwrap_or_default();
        let allows = |scope: &String| {
            let mut parts = scope.split(':');
            let (_, name, actions) = (parts.next(), parts.next(), parts.next());
            wanted.is_none_or(|(repository, action)| {
                name == Some(repository)
                    && actions
                        .unwrap_or_default()
                        .split(',')
                        .any(|one| one == action)
            })
        };
        self.tokens().iter().any(|token| {
            token.text == text
                && token.until > Instant::now()
                && (wanted.is_none() || token.scopes.iter().any(allows))
        })
    }

    /// The token server.
    pub(super) fn token(&self, request: &Incoming, path: &str) -> Option<Answer> {
        let Kind::Bearer { realm, service } = &self.kind else {
            return None;
        };
        if path != realm {
            return None;
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let field = |name: &str| match request.method.as_str() {
            "POST" => form(&body, name),
            _ => request.query(name),
        };
        if field("service") != [service.clone()] {
            return Some(Answer::status(400));
        }
        let mut scopes: Vec<_> = field("scope")
            .iter()
            .flat_map(|scopes| scopes.split(' '))
            .map(str::to_owned)
            .collect();
        let given = header(&request.headers, "authorization");
        let refresh = field("refresh_token");
        let known = match (request.method.as_str(), given) {
            ("POST", _) => {
                refresh.iter().all(|token| self.identities.contains(token)) && !refresh.is_empty()
            }
            (_, Some(given)) => self.knows(given),
            (_, None) if self.anonymous_pull => {
                scopes
                    .iter_mut()
                    .for_each(|scope| *scope = scope.replace(",push", ""));
                true
            }
            _ => false,
        };
        Some(if known { self.issue(scopes) } else { refused() })
    }

    fn issue(&self, scopes: Vec<String>) -> Answer {
        let mut tokens = self.tokens();
        let text = format!("secret-token-{}", tokens.len());
        let mut answer = json!({"token": text});
        if let Some(stated) = self.stated {
            answer["expires_in"] = stated.into();
        }
        tokens.push(Token {
            text,
            until: Instant::now() + self.lifetime,
            scopes,
        });
        Answer::bytes("application/json", answer.to_string().as_bytes())
    }
}

fn refused() -> Answer {
    let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Answer {
        status: 401,
        ..Answer::bytes("application/json", body)
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = (0..3).fold(0_usize, |number, at| {
            number << 8 | group.get(at).copied().map_or(0, usize::from)
        });
        for at in 0..4 {
            let letter = LETTERS[number >> (18 - 6 * at) & 63];
            text.push(if at <= group.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}
