//! Variant symlinks: `$(NAME)` and `$(NAME:-default)` in targets.

/// Expands variables in a stored symlink target. A variable that `lookup` does not know becomes its default, or nothing;
/// an unterminated `$(` stays as it is. Expanded text is not expanded again.
pub fn expand_variables(target: &[u8], lookup: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut expanded = Vec::with_capacity(target.len());
    let mut rest = target;
    while let Some(start) = find(rest, b"$(") {
        let inner = &rest[start + 2..];
        let Some(end) = inner.iter().position(|byte| *byte == b')') else {
            break;
        };
        expanded.extend_from_slice(&rest[..start]);
        expanded.extend_from_slice(&value(&inner[..end], lookup));
        rest = &inner[end + 1..];
    }
    expanded.extend_from_slice(rest);
    expanded
}

fn value(expression: &[u8], lookup: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    let (name, default) = match find(expression, b":-") {
        Some(at) => (&expression[..at], &expression[at + 2..]),
        None => (expression, &b""[..]),
    };
    std::str::from_utf8(name)
        .ok()
        .and_then(lookup)
        .map_or_else(|| default.to_vec(), String::into_bytes)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let lookup = |name: &str| (name == "A").then(|| "x$(A)".to_owned());
        for (target, expected) in [
            ("plain", "plain"),
            ("$(A)", "x$(A)"),
            ("p/$(A)/q$(A)", "p/x$(A)/qx$(A)"),
            ("$(B)/q", "/q"),
            ("$(B:-d)/q", "d/q"),
            ("$(A:-d)/q", "x$(A)/q"),
            ("$(B:-a:-b)", "a:-b"),
            ("$(BROKEN", "$(BROKEN"),
            ("$HOME/$x)", "$HOME/$x)"),
            ("$()", ""),
            ("$(A)$(", "x$(A)$("),
        ] {
            let expanded = expand_variables(target.as_bytes(), &lookup);
            assert_eq!(String::from_utf8(expanded).unwrap(), expected, "{target}");
        }
    }
}
