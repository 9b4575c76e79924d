use proptest::prelude::*;

use super::*;

/// As in DUCC's documentation.
const EXAMPLE: &str = "version: 1
user: robot
cvmfs_repo: 'unpacked.cern.ch'
output_format: '$(scheme)://registry.example/thin/$(image)'
input:
  - 'https://registry.hub.docker.com/library/fedora:latest'
  - 'https://registry.hub.docker.com/rootproject/root:*'
  - 'https://registry.hub.docker.com/library/debian@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
";

fn list(entries: &str) -> Wishlist {
    let text = format!("version: 1\ncvmfs_repo: a.example.org\ninput:\n{entries}");
    Wishlist::parse(text.as_bytes()).unwrap()
}

fn shown(image: &WishedImage) -> String {
    match &image.wanted {
        Wanted::Image(reference) => reference.to_string(),
        Wanted::Tags {
            repository,
            pattern,
        } => format!(
            "{}/{} {}",
            repository.registry(),
            repository.repository(),
            pattern.glob()
        ),
    }
}

#[test]
fn the_documented_example() {
    let list = Wishlist::parse(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(list.user, "robot");
    assert_eq!(list.repository, "unpacked.cern.ch");
    assert_eq!(
        list.output_format.as_deref(),
        Some("$(scheme)://registry.example/thin/$(image)")
    );
    assert!(list.warnings.is_empty() && list.problems.is_empty());
    let images: Vec<_> = list.images.iter().map(shown).collect();
    assert_eq!(
        images,
        [
            "registry.hub.docker.com/library/fedora:latest",
            "registry.hub.docker.com/rootproject/root *",
            "registry.hub.docker.com/library/debian@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ]
    );
    let lines: Vec<_> = list.images.iter().map(|image| image.line).collect();
    assert_eq!(lines, [6, 7, 8]);
}

#[test]
fn entries() {
    let cases = [
        ("https://r.example.org/a/b:1", "r.example.org/a/b:1"),
        ("http://r.example.org:5000/a:1", "r.example.org:5000/a:1"),
        ("r.example.org/a/b", "r.example.org/a/b:latest"),
        ("https://r.example.org/a/", "r.example.org/a:latest"),
        ("https://localhost/a:1", "localhost/a:1"),
        ("https://index.docker.io/a:1", "docker.io/library/a:1"),
        ("https://r.example.org/a:v[12].?", "r.example.org/a v[12].?"),
        ("https://r.example.org/a:{x,y}-*", "r.example.org/a {x,y}-*"),
    ];
    for (entry, expected) in cases {
        let list = list(&format!("  - '{entry}'\n"));
        assert_eq!(list.problems, [], "{entry}");
        assert_eq!(shown(&list.images[0]), expected, "{entry}");
        assert_eq!(list.images[0].plain_http, entry.starts_with("http:"));
    }
}

/// An entry as YAML, and how the reason begins.
fn bad_entries() -> Vec<(String, &'static str)> {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    vec![
        (
            "'ftp://r.example.org/a:1'".to_owned(),
            "scheme \"ftp\": https or http",
        ),
        (
            "'https:///a:1'".to_owned(),
            "it names no registry, such as https://registry.example.org/…",
        ),
        (
            "'https://r.example.org'".to_owned(),
            "it names no repository after the registry",
        ),
        (
            "'https://r.example.org/'".to_owned(),
            "it names no repository after the registry",
        ),
        (
            "'https://registry/a:1'".to_owned(),
            "the registry \"registry\" has neither a dot nor a port",
        ),
        (
            "'https://r.example.org/A:1'".to_owned(),
            "\"r.example.org/A\" is not a valid image name",
        ),
        (
            "'https://r.example.org/../a:1'".to_owned(),
            "\"r.example.org/../a\" is not a valid image name",
        ),
        (
            "'https://user:secret@r.example.org/a:1'".to_owned(),
            "user names and passwords belong into the docker configuration",
        ),
        (
            "'https://r.example.org/a:b:c'".to_owned(),
            "\"r.example.org/a:b\" is not a valid image name",
        ),
        (
            "'https://r.example.org/a:['".to_owned(),
            "the pattern of tags: unclosed character class; missing ']'",
        ),
        (
            format!("'https://r.example.org/a:*@sha256:{hex}'"),
            "a pattern of tags with a digest",
        ),
        (
            format!("'https://r.example.org/a:{}'", "*".repeat(600)),
            "the pattern of tags: it is too long",
        ),
        ("7".to_owned(), "it is no text"),
        ("~".to_owned(), "it is no text"),
        ("{a: b}".to_owned(), "it is no text"),
    ]
}

#[test]
fn entries_that_are_none() {
    for (entry, expected) in bad_entries() {
        let list = list(&format!("  - {entry}\n  - 'r.example.org/good:1'\n"));
        assert_eq!(list.images.len(), 1, "{entry}");
        assert_eq!(list.problems.len(), 1, "{entry}");
        assert_eq!(list.problems[0].line, 4, "{entry}");
        assert!(!list.problems[0].to_string().contains("secret"));
        assert!(
            list.problems[0].reason.starts_with(expected),
            "{entry}: {}",
            list.problems[0].reason
        );
    }
}

#[test]
fn lists_that_are_none() {
    let cases: [(&str, &str); 8] = [
        (
            "version: 2\ncvmfs_repo: a.b\ninput: []\n",
            "version 2: only version 1 is known",
        ),
        ("version: 1\ninput: []\n", "cvmfs_repo is missing or empty"),
        (
            "version: 1\ncvmfs_repo: ''\ninput: []\n",
            "cvmfs_repo is missing or empty",
        ),
        ("version: 1\ncvmfs_repo: a.b\n", "missing field"),
        ("version: one\ncvmfs_repo: a.b\ninput: []\n", "invalid"),
        ("version: 1\ncvmfs_repo: a.b\ninput: 'x'\n", ""),
        (
            "version: 1\nversion: 1\ncvmfs_repo: a.b\ninput: []\n",
            "duplicate",
        ),
        (": : :\n\t- [", ""),
    ];
    for (text, expected) in cases {
        let error = Wishlist::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert!(matches!(
        Wishlist::parse(b"\xff"),
        Err(WishlistError::NoText)
    ));
    let long = vec![b' '; MAX_WISHLIST_BYTES + 1];
    assert!(matches!(
        Wishlist::parse(&long),
        Err(WishlistError::TooLong)
    ));
}

#[test]
fn what_is_odd_is_said() {
    let text = "cvmfs_repo: a.b\nuzer: x\noutput_format: '$(imag)'\ninput: []\n";
    let list = Wishlist::parse(text.as_bytes()).unwrap();
    assert_eq!(
        list.warnings,
        [
            "it states no version; it is read as version 1",
            "unknown key \"uzer\"",
            "output_format: unknown variable $(imag)",
        ]
    );
}

#[test]
fn tags_that_match() {
    let repository: image::Reference = "r.example.org/a:latest".parse().unwrap();
    let tags = ["1.0", "1.1", "v1", "latest", "1.0", "no tag", "../1"];
    let cases: [(&str, &[&str]); 6] = [
        ("*", &["1.0", "1.1", "latest", "v1"]),
        ("1.*", &["1.0", "1.1"]),
        ("1.?", &["1.0", "1.1"]),
        ("*.[!0]", &["1.1"]),
        ("{v1,latest}", &["latest", "v1"]),
        ("2*", &[]),
    ];
    for (pattern, expected) in cases {
        let list = list(&format!("  - 'r.example.org/a:{pattern}'\n"));
        let Wanted::Tags { pattern, .. } = &list.images[0].wanted else {
            panic!("no pattern")
        };
        let tags = tags.map(str::to_owned).to_vec();
        let found = entry::matching(&repository, pattern, &tags);
        let found: Vec<_> = found.iter().filter_map(image::Reference::tag).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "version: 1\ncvmfs_repo: a.b\nx0: &x0 [a,a,a,a,a,a,a,a,a,a]\n".to_owned();
    for level in 1..12 {
        let names = vec![format!("*x{}", level - 1); 10].join(",");
        text.push_str(&format!("x{level}: &x{level} [{names}]\n"));
    }
    text.push_str("input: []\n");
    assert!(Wishlist::parse(text.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Wishlist::parse(&bytes);
    }

    #[test]
    fn no_entry_panics_or_is_lost(entries in proptest::collection::vec("[ -~]{0,60}", 0..8)) {
        let lines: String = entries
            .iter()
            .map(|entry| format!("  - '{}'\n", entry.replace('\'', "''")))
            .collect();
        let text = format!("version: 1\ncvmfs_repo: a.b\ninput: {}\n{lines}", if entries.is_empty() { "[]" } else { "" });
        let list = Wishlist::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(list.images.len() + list.problems.len(), entries.len());
    }
}
