//! Tokens of a filter, cut as Go's `pkg/filters/scanner.go` cuts them.

/// A token's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    End,
    Quoted,
    Value,
    Field,
    Separator,
    Operator,
    /// The message says why.
    Illegal(&'static str),
    /// A character that begins no token.
    Stray,
}

/// Cursor over a filter.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    input: &'a str,
    position: usize,
    /// The last token was an operator, so the next bare word is a value.
    value_next: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self {
            input,
            position: 0,
            value_next: false,
        }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The next character, unread.
    pub(super) fn peek(&self) -> Option<char> {
        self.input[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += character.len_utf8();
        Some(character)
    }

    fn skip_while(&mut self, accept: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&accept) {
            self.next();
        }
    }

    /// Reads one token: where it starts, what it is, its text.
    pub(super) fn scan(&mut self) -> (usize, Token, &'a str) {
        self.skip_while(char::is_whitespace);
        let start = self.position;
        let Some(first) = self.next() else {
            return (start, Token::End, "");
        };
        let token = self.classify(first);
        (start, token, &self.input[start..self.position])
    }

    fn classify(&mut self, first: char) -> Token {
        match first {
            '\0' => Token::Illegal("unexpected null"),
            char::REPLACEMENT_CHARACTER => Token::Illegal("rune error"),
            '/' | '|' | '"' => self.quoted(first),
            ',' | '.' => {
                self.value_next = false;
                Token::Separator
            }
            '=' | '!' | '~' => {
                self.skip_while(|character| matches!(character, '=' | '!' | '~'));
                self.value_next = true;
                Token::Operator
            }
            _ if self.value_next => {
                self.skip_while(is_value);
                self.value_next = false;
                Token::Value
            }
            _ if is_field(first) => {
                self.skip_while(is_field);
                Token::Field
            }
            _ => Token::Stray,
        }
    }

    /// Finds the end of a quoted text. What its escapes mean, `unquote` says.
    fn quoted(&mut self, quote: char) -> Token {
        loop {
            match self.next() {
                None | Some('\n' | '\0' | char::REPLACEMENT_CHARACTER) => {
                    return Token::Illegal("quoted literal not terminated");
                }
                Some(end) if end == quote => return Token::Quoted,
                Some('\\') => {
                    self.next();
                }
                Some(_) => {}
            }
        }
    }
}

fn is_field(character: char) -> bool {
    character == '_' || character.is_ascii_alphanumeric()
}

fn is_value(character: char) -> bool {
    character != ','
        && character != char::REPLACEMENT_CHARACTER
        && !character.is_whitespace()
        && !character.is_control()
}

/// Go's string syntax within any quote.
///
/// # Errors
/// An escape that Go does not know, or bytes that are no UTF-8 in the end.
pub(super) fn unquote(text: &str) -> Result<String, &'static str> {
    let mut characters = text.chars();
    let (Some(quote), Some(last)) = (characters.next(), characters.next_back()) else {
        return Err("quote syntax error");
    };
    if quote != last {
        return Err("quote syntax error");
    }
    let mut bytes = Vec::with_capacity(text.len());
    while let Some(character) = characters.next() {
        if character == '\\' {
            unescape(&mut characters, quote, &mut bytes)?;
        } else {
            push(&mut bytes, character);
        }
    }
    String::from_utf8(bytes).map_err(|_| "value is not UTF-8")
}

fn push(bytes: &mut Vec<u8>, character: char) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

fn unescape(
    rest: &mut std::str::Chars<'_>,
    quote: char,
    bytes: &mut Vec<u8>,
) -> Result<(), &'static str> {
    const SYNTAX: &str = "illegal escape sequence";
    let kind = rest.next().ok_or(SYNTAX)?;
    match kind {
        'a' => bytes.push(7),
        'b' => bytes.push(8),
        'f' => bytes.push(12),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(11),
        '\\' => bytes.push(b'\\'),
        'x' => bytes.push(u8::try_from(number(rest, 0, 16, 2)?).map_err(|_| SYNTAX)?),
        'u' | 'U' => {
            let code = number(rest, 0, 16, if kind == 'u' { 4 } else { 8 })?;
            if code > u32::from(char::MAX) {
                return Err(SYNTAX);
            }
            push(
                bytes,
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
            );
        }
        '0'..='7' => {
            let first = kind.to_digit(8).unwrap_or_default();
            bytes.push(u8::try_from(number(rest, first, 8, 2)?).map_err(|_| SYNTAX)?);
        }
        _ if kind == quote => push(bytes, kind),
        _ => return Err(SYNTAX),
    }
    Ok(())
}

fn number(
    rest: &mut std::str::Chars<'_>,
    start: u32,
    base: u32,
    digits: usize,
) -> Result<u32, &'static str> {
    (0..digits).try_fold(start, |value, _| {
        let digit = rest
            .next()
            .and_then(|character| character.to_digit(base))
            .ok_or("illegal numeric escape sequence")?;
        value
            .checked_mul(base)
            .and_then(|value| value.checked_add(digit))
            .ok_or("illegal numeric escape sequence")
    })
}
