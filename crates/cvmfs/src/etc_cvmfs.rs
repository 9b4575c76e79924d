//! `/etc/cvmfs`: settings of the original client, in files of plain assignments.
//!
//! Later files override earlier ones: `default.conf`, `default.d/*.conf`, `default.local`, `domain.d/<domain>.conf` and `.local`,
//! `config.d/<fqrn>.conf` and `.local`. The originals are shell scripts; here is read what is no programme: `KEY=value`, perhaps with
//! `export` or `readonly` before it, quotes, remarks, and `$KEY` or `${KEY}` for what was assigned before. Anything else is refused.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Larger files are refused.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EtcError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no plain assignment.
    #[error(
        "{path}:{line}: {reason}; only plain KEY=value lines are understood, set the values in Outcrop's own configuration instead"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Settings for one repository. `@fqrn@` and `@org@` (its first label) are replaced.
///
/// # Errors
/// [`EtcError`] if a file cannot be read or understood. Absent files are empty.
pub fn load(directory: &Path, fqrn: &str) -> Result<BTreeMap<String, String>, EtcError> {
    let mut settings = BTreeMap::new();
    settings.insert("CVMFS_FQRN".to_owned(), fqrn.to_owned());
    for path in files(directory, fqrn)? {
        match read(&path) {
            Ok(text) => parse(&path, &text, &mut settings)?,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(EtcError::Read { path, source }),
        }
    }
    settings.remove("CVMFS_FQRN");
    let organisation = fqrn.split('.').next().unwrap_or_default();
    for value in settings.values_mut() {
        *value = value.replace("@fqrn@", fqrn).replace("@org@", organisation);
    }
    Ok(settings)
}

fn files(directory: &Path, fqrn: &str) -> Result<Vec<PathBuf>, EtcError> {
    let mut files = vec![directory.join("default.conf")];
    let drop_ins = directory.join("default.d");
    let mut found = Vec::new();
    match std::fs::read_dir(&drop_ins) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(|source| EtcError::Read {
                    path: drop_ins.clone(),
                    source,
                })?;
                found.push(path.path());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(EtcError::Read {
                path: drop_ins,
                source,
            });
        }
    }
    found.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "conf")
    });
    found.sort();
    files.append(&mut found);
    files.push(directory.join("default.local"));
    if let Some((_, domain)) = fqrn.split_once('.') {
        files.push(directory.join(format!("domain.d/{domain}.conf")));
        files.push(directory.join(format!("domain.d/{domain}.local")));
    }
    files.push(directory.join(format!("config.d/{fqrn}.conf")));
    files.push(directory.join(format!("config.d/{fqrn}.local")));
    Ok(files)
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    if file.metadata()?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "too large for a configuration file",
        ));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(path: &Path, text: &str, settings: &mut BTreeMap<String, String>) -> Result<(), EtcError> {
    for (index, line) in text.lines().enumerate() {
        let assigned = assignment(line, settings).map_err(|reason| EtcError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })?;
        settings.extend(assigned);
    }
    Ok(())
}

fn assignment(
    line: &str,
    settings: &BTreeMap<String, String>,
) -> Result<Option<(String, String)>, &'static str> {
    let mut rest = line.trim();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(None);
    }
    for word in ["export ", "readonly "] {
        rest = rest.strip_prefix(word).map_or(rest, str::trim_start);
    }
    let (key, text) = rest.split_once('=').ok_or("no assignment")?;
    let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if key.is_empty()
        || !key.bytes().all(name)
        || key.starts_with(|first: char| first.is_ascii_digit())
    {
        return Err("no assignment");
    }
    Ok(Some((key.to_owned(), value(text, settings)?)))
}

/// A shell word.
fn value(text: &str, settings: &BTreeMap<String, String>) -> Result<String, &'static str> {
    let mut word = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let behind = &rest[first.len_utf8()..];
        rest = match first {
            '\'' => {
                let (quoted, behind) = behind.split_once('\'').ok_or("a quote is not closed")?;
                word.push_str(quoted);
                behind
            }
            '"' => double_quoted(behind, settings, &mut word)?,
            '$' => variable(behind, settings, &mut word)?,
            '\\' => escaped(behind, &mut word)?,
            ' ' | '\t' => {
                let remark = behind.trim_start();
                if remark.is_empty() || remark.starts_with('#') {
                    break;
                }
                return Err("more than one word; quote the value");
            }
            ';' | '&' | '|' | '`' | '(' | ')' | '<' | '>' => return Err("a shell command"),
            other => {
                word.push(other);
                behind
            }
        };
    }
    Ok(word)
}

fn double_quoted<'a>(
    text: &'a str,
    settings: &BTreeMap<String, String>,
    word: &mut String,
) -> Result<&'a str, &'static str> {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let behind = &rest[first.len_utf8()..];
        rest = match first {
            '"' => return Ok(behind),
            '$' => variable(behind, settings, word)?,
            '\\' if behind.starts_with(['"', '\\', '$', '`']) => escaped(behind, word)?,
            '`' => return Err("a shell command"),
            other => {
                word.push(other);
                behind
            }
        };
    }
    Err("a quote is not closed")
}

fn escaped<'a>(text: &'a str, word: &mut String) -> Result<&'a str, &'static str> {
    let first = text.chars().next().ok_or("a line that goes on")?;
    word.push(first);
    Ok(&text[first.len_utf8()..])
}

/// What stands behind a `$`.
fn variable<'a>(
    text: &'a str,
    settings: &BTreeMap<String, String>,
    word: &mut String,
) -> Result<&'a str, &'static str> {
    let (name, behind) = match text.strip_prefix('{') {
        Some(braced) => braced.split_once('}').ok_or("a brace is not closed")?,
        None => {
            let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            let end = text
                .bytes()
                .position(|byte| !is_name(&byte))
                .unwrap_or(text.len());
            text.split_at(end)
        }
    };
    if name.is_empty() {
        // `$(`…`)` and the like.
        return Err("a shell expression");
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return Err("a shell expression");
    }
    word.push_str(settings.get(name).map_or("", String::as_str));
    Ok(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let settings = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        for (text, expected) in [
            ("", Ok("")),
            ("plain", Ok("plain")),
            ("a  # remark", Ok("a")),
            ("a#b", Ok("a#b")),
            ("'$A \"'", Ok("$A \"")),
            ("\"$A ${A}b;|\" ", Ok("x xb;|")),
            ("$A$UNSET/y", Ok("x/y")),
            ("\"a\\\"b\\n\"", Ok("a\"b\\n")),
            ("a\\ b", Ok("a b")),
            ("'a'\"b\"c", Ok("abc")),
            ("a b", Err("more than one word; quote the value")),
            ("$(id)", Err("a shell expression")),
            ("\"${A:-b}\"", Err("a shell expression")),
            ("`id`", Err("a shell command")),
            ("a;b", Err("a shell command")),
            ("'a", Err("a quote is not closed")),
            ("\"a", Err("a quote is not closed")),
        ] {
            assert_eq!(
                value(text, &settings).as_deref(),
                expected.as_deref(),
                "{text}"
            );
        }
    }

    #[test]
    fn order_of_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "default.conf",
            "A=1\nB=1\nC=1\nD=1\nE=1\nF=1\nG=1 # remark\n",
        );
        write("default.d/20.conf", "B=20\nC=20\n");
        write("default.d/10.conf", "B=10\n");
        write("default.d/ignored.txt", "if true\n");
        write("default.local", "C=l\nD=l\nE=l\nF=l\n");
        write(
            "domain.d/cern.ch.conf",
            "D=d\nE=d\nF=d\nexport U='http://s/@fqrn@;http://t/@org@'\n",
        );
        write("domain.d/cern.ch.local", "E=dl\nF=dl\n");
        write("config.d/atlas.cern.ch.conf", "\n# remark\nF=c\n");
        write("config.d/atlas.cern.ch.local", "V=$CVMFS_FQRN-$F\n");
        write("config.d/cms.cern.ch.conf", "F=wrong\n");
        let settings = load(directory.path(), "atlas.cern.ch").unwrap();
        let settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            settings,
            [
                ("A", "1"),
                ("B", "20"),
                ("C", "l"),
                ("D", "d"),
                ("E", "dl"),
                ("F", "c"),
                ("G", "1"),
                ("U", "http://s/atlas.cern.ch;http://t/atlas"),
                ("V", "atlas.cern.ch-c"),
            ]
        );
        write("default.conf", "A=1\nif [ 1 ]; then\n");
        let error = load(directory.path(), "atlas.cern.ch").unwrap_err();
        assert!(error.to_string().contains("default.conf:2:"), "{error}");
    }
}
