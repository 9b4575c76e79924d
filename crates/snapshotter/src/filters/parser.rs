//! Selectors from tokens.

use regex::Regex;

use super::scanner::{Scanner, Token, unquote};
use super::{Condition, MAX_FILTER_BYTES, Selector};

/// A filter that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filters: parse error at byte {position} of {input:?}: {problem}: invalid argument")]
pub struct ParseError {
    input: String,
    position: usize,
    problem: String,
}

/// Which quotes a value may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Double,
    Any,
}

/// Parses one filter.
pub(super) fn parse(input: &str) -> Result<Vec<Selector>, ParseError> {
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut parser = Parser {
        input,
        scanner: Scanner::new(input),
    };
    if input.len() > MAX_FILTER_BYTES {
        return Err(parser.error(0, "filter is too long"));
    }
    parser.selectors()
}

struct Parser<'a> {
    input: &'a str,
    scanner: Scanner<'a>,
}

impl Parser<'_> {
    fn selectors(&mut self) -> Result<Vec<Selector>, ParseError> {
        let mut all = vec![self.selector()?];
        loop {
            match self.scanner.peek() {
                None => return Ok(all),
                Some(',') => {
                    self.scanner.scan();
                    all.push(self.selector()?);
                }
                Some(other) => {
                    return Err(self.error(
                        self.scanner.position(),
                        &format!("unexpected input {other:?}"),
                    ));
                }
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, ParseError> {
        let fieldpath = self.fieldpath()?;
        let condition = match self.scanner.peek() {
            None | Some(',') => Condition::Present,
            Some(_) => self.condition()?,
        };
        Ok(Selector {
            fieldpath,
            condition,
        })
    }

    fn fieldpath(&mut self) -> Result<Vec<String>, ParseError> {
        let mut fields = vec![self.field()?];
        while self.scanner.peek() == Some('.') {
            self.scanner.scan();
            fields.push(self.field()?);
        }
        Ok(fields)
    }

    fn field(&mut self) -> Result<String, ParseError> {
        match self.scanner.scan() {
            (_, Token::Field, text) => Ok(text.to_owned()),
            (position, Token::Quoted, text) => self.unquote(position, text, Quotes::Double),
            (position, Token::Illegal(problem), _) => Err(self.error(position, problem)),
            (position, _, _) => Err(self.error(position, "expected field or quoted")),
        }
    }

    fn condition(&mut self) -> Result<Condition, ParseError> {
        match self.scanner.scan() {
            (_, Token::Operator, "==") => Ok(Condition::Equal(self.value(Quotes::Double)?.1)),
            (_, Token::Operator, "!=") => Ok(Condition::NotEqual(self.value(Quotes::Double)?.1)),
            (_, Token::Operator, "~=") => {
                let (position, pattern) = self.value(Quotes::Any)?;
                // Go compiles at the first match and lets a bad pattern match nothing; an error helps more.
                let regex = Regex::new(&pattern)
                    .map_err(|error| self.error(position, &error.to_string()))?;
                Ok(Condition::Matches(regex))
            }
            (position, Token::Operator, other) => {
                Err(self.error(position, &format!("unsupported operator {other:?}")))
            }
            (position, Token::Illegal(problem), _) => Err(self.error(position, problem)),
            (position, _, _) => {
                Err(self.error(position, r#"expected an operator ("=="|"!="|"~=")"#))
            }
        }
    }

    fn value(&mut self, quotes: Quotes) -> Result<(usize, String), ParseError> {
        match self.scanner.scan() {
            (position, Token::Value | Token::Field, text) => Ok((position, text.to_owned())),
            (position, Token::Quoted, text) => {
                Ok((position, self.unquote(position, text, quotes)?))
            }
            (position, Token::Illegal(problem), _) => Err(self.error(position, problem)),
            (position, _, _) => Err(self.error(position, "expected value or quoted")),
        }
    }

    fn unquote(&self, position: usize, text: &str, quotes: Quotes) -> Result<String, ParseError> {
        if quotes == Quotes::Double && !text.starts_with('"') {
            return Err(self.error(position, "invalid quote encountered"));
        }
        unquote(text).map_err(|problem| self.error(position, problem))
    }

    fn error(&self, position: usize, problem: &str) -> ParseError {
        // A label's worth of input is enough to recognise the filter in a log.
        let input = self.input.chars().take(4096).collect();
        ParseError {
            input,
            position,
            problem: problem.to_owned(),
        }
    }
}
