use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What goes wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status and a short text.
    StatusCode(u16),
    /// Answers with this status, and asks to come again after so many seconds.
    RetryAfter(u16, u64),
    /// Announces the whole length, sends this many bytes of the body, closes.
    Truncate(usize),
    /// Inverts the byte at this offset of the body (of the last byte if it is shorter).
    FlipByte(usize),
    /// Sends nothing for this long, then answers as usual.
    Stall(Duration),
    /// Sends this many bytes of the body, then nothing for this long, then the rest.
    StallAfter(usize, Duration),
    /// Sends the body in pieces of so many bytes, each after this pause.
    SlowDrip(usize, Duration),
    /// Closes in the middle of the header.
    CloseMidHeader,
    /// Closes without a byte.
    Close,
    /// Redirects (302) to this URL.
    Redirect(String),
    /// Ignores the Range header: answers 200 with the whole object.
    IgnoreRange,
    /// Answers 200 with these bytes, whatever was asked for.
    Body(Vec<u8>),
}

/// Which requests a fault strikes: a pattern, and which of the requests that match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    pattern: Pattern,
    first: u64,
    last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    Path(String),
    Object(String),
}

impl When {
    const fn matching(pattern: Pattern) -> Self {
        Self {
            pattern,
            first: 1,
            last: u64::MAX,
        }
    }

    /// Each request.
    #[must_use]
    pub const fn always() -> Self {
        Self::matching(Pattern::Any)
    }

    /// Each request whose path with query contains `text`.
    #[must_use]
    pub fn path(text: &str) -> Self {
        Self::matching(Pattern::Path(text.to_owned()))
    }

    /// Each request for the object with this hash (or its beginning), with or without the slash that paths in `data/`
    /// have after two digits, and whatever its suffix.
    #[must_use]
    pub fn object(hash: &str) -> Self {
        Self::matching(Pattern::Object(hash.replace(['/', ':'], "")))
    }

    /// Of those, only the `n`th, counted from 1 since the rule was given.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        Self {
            first: n,
            last: n,
            ..self
        }
    }

    /// Of those, only the first `n`.
    #[must_use]
    pub fn first(self, n: u64) -> Self {
        Self {
            first: 1,
            last: n,
            ..self
        }
    }

    /// Of those, all but the first `n`.
    #[must_use]
    pub fn after(self, n: u64) -> Self {
        Self {
            first: n + 1,
            last: u64::MAX,
            ..self
        }
    }

    fn matches(&self, path: &str) -> bool {
        match &self.pattern {
            Pattern::Any => true,
            Pattern::Path(text) => path.contains(text.as_str()),
            Pattern::Object(hash) => path.replace(['/', ':'], "").contains(hash.as_str()),
        }
    }
}

/// A fault with its condition and count.
#[derive(Debug)]
pub(crate) struct Rule {
    when: When,
    fault: Fault,
    seen: AtomicU64,
}

impl Rule {
    pub(crate) fn new(when: When, fault: Fault) -> Self {
        Self {
            when,
            fault,
            seen: AtomicU64::new(0),
        }
    }

    /// Counts the request if it matches; the fault if it is one of those that are struck.
    pub(crate) fn strike(&self, path: &str) -> Option<Fault> {
        if !self.when.matches(path) {
            return None;
        }
        let number = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        (self.when.first..=self.when.last)
            .contains(&number)
            .then(|| self.fault.clone())
    }
}

/// A rule as JSON, for faults scripted at run time:
/// `{"path"|"object": "…", "nth"|"first"|"after": 1, "fault": "status", "value": 503}`.
pub(crate) fn parse_rule(text: &[u8]) -> anyhow::Result<(When, Fault)> {
    use anyhow::Context as _;
    let json: serde_json::Value = serde_json::from_slice(text)?;
    let word = |key: &str| json.get(key).and_then(|value| value.as_str());
    let number = |key: &str| json.get(key).and_then(serde_json::Value::as_u64);
    let mut when = match (word("path"), word("object")) {
        (Some(text), _) => When::path(text),
        (None, Some(hash)) => When::object(hash),
        (None, None) => When::always(),
    };
    if let Some(n) = number("nth") {
        when = when.nth(n);
    } else if let Some(n) = number("first") {
        when = when.first(n);
    } else if let Some(n) = number("after") {
        when = when.after(n);
    }
    let value = number("value").unwrap_or(0);
    let size = usize::try_from(value)?;
    let pause = Duration::from_millis(number("milliseconds").unwrap_or(60_000));
    let fault = match word("fault").context("\"fault\" is missing")? {
        "status" => Fault::StatusCode(u16::try_from(value)?),
        "truncate" => Fault::Truncate(size),
        "flip-byte" => Fault::FlipByte(size),
        "stall" => Fault::Stall(pause),
        "stall-after" => Fault::StallAfter(size, pause),
        "slow-drip" => Fault::SlowDrip(size.max(1), pause),
        "close-mid-header" => Fault::CloseMidHeader,
        "close" => Fault::Close,
        "redirect" => Fault::Redirect(word("url").context("\"url\" is missing")?.to_owned()),
        "ignore-range" => Fault::IgnoreRange,
        "body" => Fault::Body(word("text").unwrap_or_default().into()),
        other => anyhow::bail!("unknown fault {other:?}"),
    };
    Ok((when, fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(when: When, paths: &[&str]) -> Vec<bool> {
        let rule = Rule::new(when, Fault::Close);
        paths
            .iter()
            .map(|path| rule.strike(path).is_some())
            .collect()
    }

    #[test]
    fn which_requests_are_struck() {
        let paths = ["/data/3f/9aC", "/data/00/11", "/data/3f/9a", "/x?3f9a"];
        assert_eq!(struck(When::always(), &paths), [true; 4]);
        assert_eq!(
            struck(When::always().nth(2), &paths),
            [false, true, false, false]
        );
        assert_eq!(
            struck(When::object("3f9a"), &paths),
            [true, false, true, true]
        );
        assert_eq!(
            struck(When::object("3f9a").nth(2), &paths),
            [false, false, true, false]
        );
        assert_eq!(
            struck(When::path("/data/").after(1), &paths),
            [false, true, true, false]
        );
        assert_eq!(
            struck(When::path("/data/").first(1), &paths),
            [true, false, false, false]
        );
        assert_eq!(
            struck(When::object("sha256:ab"), &["/v2/x/blobs/sha256:abcd"]),
            [true]
        );
    }

    #[test]
    fn rules_from_json() {
        let (when, fault) =
            parse_rule(br#"{"path":"/data","first":2,"fault":"status","value":503}"#).unwrap();
        assert_eq!(
            (when, fault),
            (When::path("/data").first(2), Fault::StatusCode(503))
        );
        let (when, fault) = parse_rule(br#"{"fault":"stall","milliseconds":5}"#).unwrap();
        assert_eq!(
            (when, fault),
            (When::always(), Fault::Stall(Duration::from_millis(5)))
        );
        for bad in [
            "",
            "{}",
            r#"{"fault":"no"}"#,
            r#"{"fault":"redirect"}"#,
            r#"{"fault":"status","value":99999}"#,
        ] {
            assert!(parse_rule(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
