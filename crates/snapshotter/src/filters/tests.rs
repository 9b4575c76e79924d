use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Thing(
    BTreeMap<&'static str, &'static str>,
    BTreeMap<&'static str, &'static str>,
);

impl Fields for Thing {
    fn field(&self, fieldpath: &[String]) -> Option<String> {
        let (first, rest) = fieldpath.split_first()?;
        let found = if first == "labels" {
            self.1.get(rest.join(".").as_str())
        } else {
            self.0.get(first.as_str())
        };
        found.map(|value| (*value).to_owned())
    }
}

fn thing() -> Thing {
    Thing(
        BTreeMap::from([
            ("kind", "committed"),
            ("name", "k8s.io/1/sha256:ab"),
            ("parent", ""),
        ]),
        BTreeMap::from([
            ("containerd.io/snapshot.ref", "sha256:ab"),
            ("foo", "bar"),
            ("with.dots", "x y"),
            ("quote", "a\"b"),
        ]),
    )
}

#[test]
fn filters_match_as_in_go() {
    let table: &[(&[&str], bool)] = &[
        (&[], true),
        (&[""], true),
        (&["kind==committed"], true),
        (&["kind==active"], false),
        (&["kind!=active"], true),
        (&["kind==active", "kind==committed"], true),
        (&["kind==committed,name==other"], false),
        (&["kind == committed,labels.foo"], true),
        (
            &[r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="""#],
            true,
        ),
        (
            &[r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="x""#],
            false,
        ),
        (&["labels.foo==bar"], true),
        (&["labels.foo"], true),
        (&["labels.none"], false),
        (&["labels.with.dots==\"x y\""], true),
        (&[r#"labels."with.dots"=="\x78 \171""#], true),
        (&[r#"labels.quote=="a\"b""#], true),
        (&["labels.none!=x"], true),
        (&["labels.none==\"\""], false),
        (&["parent"], true),
        (&["parent==\"\""], true),
        (&["name~=sha256"], true),
        (&["name~=/^k8s\\.io/"], false),
        (&["name~=/^k8s\\\\.io\\/1/"], true),
        (&["name~=|^k8s.io/[0-9]+/|"], true),
        (&["name~=^sha"], false),
        (&["labels.none~=^$"], true),
        (&["nosuchfield"], false),
        (&["name==k8s.io/1/sha256:ab"], true),
        (&["\"name\"==k8s.io/1/sha256:ab"], true),
        (&[r#"kind=="\u0063ommitted""#], true),
    ];
    for (filters, expected) in table {
        match Filters::parse(filters) {
            Ok(parsed) => assert_eq!(parsed.matches(&thing()), *expected, "{filters:?}"),
            // `\.` is no escape of Go's strings.
            Err(error) => assert!(
                !expected && filters[0].contains("\\."),
                "{filters:?}: {error}"
            ),
        }
    }
}

#[test]
fn bad_filters_are_errors() {
    let table = [
        "==",
        "kind=",
        "kind=committed",
        "kind===committed",
        "kind==",
        "kind==\"open",
        "kind==committed,",
        ",kind",
        "kind..name",
        ".kind",
        "kind.",
        "kind==a b",
        "kind==/slash/",
        "kind~=[",
        r#"kind=="\q""#,
        r#"kind=="\777""#,
        r#"kind=="\xff""#,
        "kind\0",
        "kind==committed ",
        "/kind/==x",
        "kind ~",
        "\u{fffd}",
        r#"kind=="\UFFFFFFFF""#,
        "kind==\"a\nb\"",
        "labels.%=x",
    ];
    for filter in table {
        assert!(
            Filters::parse(&[filter]).is_err(),
            "{filter:?} must not parse"
        );
        assert!(
            Filters::parse(&["kind==active", filter]).is_err(),
            "{filter:?} must not parse as second"
        );
    }
    assert!(Filters::parse(&["a".repeat(MAX_FILTER_BYTES + 1)]).is_err());
}

#[test]
fn a_demanded_value_is_found_only_when_it_is_demanded() {
    let path = ["labels", "containerd.io/snapshot.ref"];
    let only = |filters: &[&str]| {
        Filters::parse(filters)
            .unwrap()
            .only_value(&path)
            .map(str::to_owned)
    };
    let quoted = r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="""#;
    assert_eq!(only(&[quoted]).as_deref(), Some("sha256:ab"));
    assert_eq!(only(&[quoted, "kind==active"]), None);
    assert_eq!(only(&["kind==active"]), None);
    assert_eq!(only(&[]), None);
    assert_eq!(
        only(&[r#"labels."containerd.io/snapshot.ref"!=sha256:ab"#]),
        None
    );
}

/// Go's `strconv.Quote`, as containerd's clients quote.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            _ if character.is_control() || character == '\u{fffd}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

struct One(String, String);

impl Fields for One {
    fn field(&self, fieldpath: &[String]) -> Option<String> {
        (fieldpath.len() == 2 && fieldpath[0] == "labels" && fieldpath[1] == self.0)
            .then(|| self.1.clone())
    }
}

proptest! {
    #[test]
    fn no_input_panics(filter in "\\PC*", noise in r#"[a-z"/|=!~,.\\x0-9 ]{0,40}"#) {
        for text in [filter, noise] {
            if let Ok(parsed) = Filters::parse(&[&text]) {
                parsed.matches(&thing());
            }
        }
    }

    #[test]
    fn every_quoted_label_is_found(key in any::<String>(), value in any::<String>(), other in any::<String>()) {
        prop_assume!(key.len() + value.len() < 1000);
        let one = One(key.clone(), value.clone());
        let equal = format!("labels.{}=={}", quote(&key), quote(&value));
        prop_assert!(Filters::parse(&[&equal]).unwrap().matches(&one), "{}", equal);
        let different = format!("labels.{}=={}", quote(&key), quote(&other));
        prop_assert_eq!(Filters::parse(&[&different]).unwrap().matches(&one), other == value);
    }
}
