use crate::builder::ServerBuilder;
use crate::client::{send, split_url};
use crate::http::{Answer, Body, Incoming};
use crate::server::Handler;

/// Header lines that belong to one connection, or that the server states itself.
const OWN_HEADERS: [&str; 5] = [
    "connection",
    "content-length",
    "accept-ranges",
    "transfer-encoding",
    "content-range",
];

/// A forward proxy that keeps nothing: passes `GET http://host/path` on to `host`.
///
/// The whole object is fetched and ranges are cut from it, as a caching proxy does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proxy;

impl Proxy {
    /// A proxy to whatever it is asked for.
    #[must_use]
    pub fn forwarding() -> ServerBuilder<Self> {
        ServerBuilder::new(Self)
    }
}

impl Handler for Proxy {
    fn answer(&self, request: &Incoming) -> Answer {
        let Ok((authority, path)) = split_url(&request.target) else {
            return Answer::status(400);
        };
        let own = |name: &str| {
            name.eq_ignore_ascii_case("host")
                || OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own))
        };
        let headers: Vec<(&str, &str)> = request
            .headers
            .iter()
            .filter(|(name, _)| !own(name) && !name.eq_ignore_ascii_case("range"))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        match send("GET", authority, authority, path, &headers, b"") {
            Ok(fetched) => Answer {
                status: fetched.status,
                headers: fetched
                    .headers
                    .into_iter()
                    .filter(|(name, _)| !own(name))
                    .collect(),
                body: Body::Bytes(fetched.body.into()),
            },
            Err(_) => Answer::status(502),
        }
    }

    fn object(&self, path: &str) -> Option<String> {
        let (_, object) = path.split_once("/data/")?;
        Some(object.replace('/', ""))
    }
}
