//! containerd's filter language (`pkg/filters`), which exists only in Go elsewhere.
//!
//! ```text
//! filter    := selector ("," selector)*            all must match; an empty filter matches everything
//! selector  := fieldpath (operator value)?         no operator: the field is present
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="                  ~= is RE2
//! value     := quoted | [^\s,]+                    ~= takes /…/ and |…| as quotes, too
//! quoted    := Go's string syntax
//! ```
//! Of a list of filters any one must match.

mod parser;
mod scanner;

use regex::Regex;

pub use parser::ParseError;

/// Longer filters are refused; containerd's own are below 9 KiB (two labels of 4 KiB).
pub const MAX_FILTER_BYTES: usize = 64 * 1024;

/// A parsed list of filters.
#[derive(Debug, Default)]
pub struct Filters {
    /// Any of these; none at all matches everything.
    any: Vec<Vec<Selector>>,
}

/// One condition.
#[derive(Debug)]
struct Selector {
    fieldpath: Vec<String>,
    condition: Condition,
}

/// What a field must be.
#[derive(Debug)]
enum Condition {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// What filters look at.
pub trait Fields {
    /// The value at `fieldpath`, e.g. `["labels", "a.b/c"]`; `None` when it is absent.
    fn field(&self, fieldpath: &[String]) -> Option<String>;
}

impl Filters {
    /// Parses a List request's filters.
    ///
    /// # Errors
    /// Bad syntax; the message shows where.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, ParseError> {
        let any = filters
            .iter()
            .map(|filter| parser::parse(filter.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { any })
    }

    /// Whether `fields` is one of those asked for.
    pub fn matches(&self, fields: &dyn Fields) -> bool {
        self.any.is_empty()
            || self
                .any
                .iter()
                .any(|all| all.iter().all(|selector| selector.matches(fields)))
    }

    /// The value that every match must have in `fieldpath`, if the filters demand exactly one; for an index.
    pub fn only_value(&self, fieldpath: &[&str]) -> Option<&str> {
        let [all] = self.any.as_slice() else {
            return None;
        };
        all.iter().find_map(|selector| match &selector.condition {
            Condition::Equal(value) if joined(&selector.fieldpath) == fieldpath.join(".") => {
                Some(value.as_str())
            }
            _ => None,
        })
    }
}

fn joined(fieldpath: &[String]) -> String {
    fieldpath.join(".")
}

impl Selector {
    fn matches(&self, fields: &dyn Fields) -> bool {
        let value = fields.field(&self.fieldpath);
        match &self.condition {
            Condition::Present => value.is_some(),
            Condition::Equal(wanted) => value.as_deref() == Some(wanted),
            // As in Go, an absent field differs from everything but "".
            Condition::NotEqual(unwanted) => value.as_deref().unwrap_or_default() != unwanted,
            Condition::Matches(regex) => regex.is_match(value.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
