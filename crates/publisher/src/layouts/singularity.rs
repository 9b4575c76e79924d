//! `/.singularity.d`: how Apptainer starts an image that was made of an OCI image. The same files that DUCC writes, in words of our own.

use serde::Deserialize;
use tree::Tree;

use crate::entry::Entry;
use crate::error::Error;
use crate::layer::Sink;
use crate::objects::How;

const ENVIRONMENT: &str =
    "for script in /.singularity.d/env/*.sh; do\n    [ ! -f \"$script\" ] || . \"$script\"\ndone\n";

const EXEC: &str = "exec \"$@\"\n";
const RUN: &str = r#"app="/scif/apps/${SINGULARITY_APPNAME:-}/scif/runscript"
if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    [ -x "$app" ] || { echo "No runscript for contained app: $SINGULARITY_APPNAME"; exit 1; }
    exec "$app" "$@"
fi
[ ! -x /.singularity.d/runscript ] || exec /.singularity.d/runscript "$@"
exec /bin/sh "$@"
"#;
const SHELL: &str = r#"[ -z "${SINGULARITY_SHELL:-}" ] || [ ! -x "$SINGULARITY_SHELL" ] || exec "$SINGULARITY_SHELL" "$@"
if [ -x /bin/bash ]; then
    SHELL=/bin/bash
    PS1="Singularity ${SINGULARITY_NAME:-}:\\w> "
    export SHELL PS1
    exec /bin/bash --norc "$@"
fi
SHELL=/bin/sh
export SHELL
exec /bin/sh "$@"
"#;
const START: &str = "# The parent waits for this signal.\nkill -CONT 1\n";
const START_SCRIPT: &str =
    "[ ! -x /.singularity.d/startscript ] || exec /.singularity.d/startscript\n";
const TEST: &str = r#"app="/scif/apps/${SINGULARITY_APPNAME:-}/scif/test"
if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    [ -x "$app" ] || { echo "No tests for contained app: $SINGULARITY_APPNAME"; exit 1; }
    exec "$app" "$@"
fi
[ ! -x /.singularity.d/test ] || exec /.singularity.d/test "$@"
exec /bin/sh -c true
"#;
const CUSTOM: &str = "# Custom environment shell code should follow\n";
const APPS: &str = r#"if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    SCIF_APPS=/scif/apps
    SCIF_APPROOT="$SCIF_APPS/$SINGULARITY_APPNAME"
    [ -d "$SCIF_APPROOT" ] || { echo "Could not locate the container application: $SINGULARITY_APPNAME"; exit 1; }
    PATH="$SCIF_APPROOT/bin:$SCIF_APPROOT:$PATH"
    [ ! -d "$SCIF_APPROOT/lib" ] || LD_LIBRARY_PATH="$SCIF_APPROOT/lib:${LD_LIBRARY_PATH:-}"
    export SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT PATH LD_LIBRARY_PATH
    for script in 01-base.sh 90-environment.sh; do
        [ ! -f "$SCIF_APPROOT/scif/env/$script" ] || . "$SCIF_APPROOT/scif/env/$script"
    done
fi
"#;
const LIBRARIES: &str = r#"LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1="Singularity> "
export LD_LIBRARY_PATH PS1
"#;
const PATHS: &str = r#"[ -z "${SING_USER_DEFINED_PREPEND_PATH:-}" ] || PATH="$SING_USER_DEFINED_PREPEND_PATH:$PATH"
[ -z "${SING_USER_DEFINED_APPEND_PATH:-}" ] || PATH="$PATH:$SING_USER_DEFINED_APPEND_PATH"
[ -z "${SING_USER_DEFINED_PATH:-}" ] || PATH="$SING_USER_DEFINED_PATH"
unset SING_USER_DEFINED_PREPEND_PATH SING_USER_DEFINED_APPEND_PATH SING_USER_DEFINED_PATH
export PATH
"#;
/// Entry point and command as words of a shell; arguments take the place of the command.
const RUN_WORDS: &str = r#"arguments=
for argument in "$@"; do
    arguments="$arguments \"$(printf '%s' "$argument" | sed 's/[\\"$`]/\\&/g')\""
done
if [ $# -gt 0 ]; then
    words="$OCI_ENTRYPOINT $arguments"
else
    words="$OCI_ENTRYPOINT $OCI_CMD"
fi
eval "set -- $words"
exec "$@"
"#;

const LINKS: [(&str, &str); 6] = [
    (".exec", ".singularity.d/actions/exec"),
    (".run", ".singularity.d/actions/run"),
    (".shell", ".singularity.d/actions/shell"),
    (".test", ".singularity.d/actions/test"),
    ("environment", ".singularity.d/env/90-environment.sh"),
    ("singularity", ".singularity.d/runscript"),
];

/// Where Apptainer mounts something.
const MOUNT_POINTS: [(&str, u32); 7] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o755),
    ("sys", 0o755),
    ("tmp", 0o755),
    ("var/tmp", 0o755),
];
const MOUNT_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

#[derive(Default, Deserialize)]
struct Configuration {
    #[serde(default)]
    config: Option<Process>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
}

/// Between double quotes of a shell.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for character in word.chars() {
        if matches!(character, '\\' | '"' | '$' | '`') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    text
}

/// Words that `eval` finds again, between single quotes.
fn words(words: Option<&Vec<String>>) -> String {
    let words: Vec<String> = words
        .into_iter()
        .flatten()
        .map(|word| quoted(word))
        .collect();
    words.join(" ").replace('\'', r#"'"'"'"#)
}

fn run_script(process: &Process) -> String {
    format!(
        "OCI_ENTRYPOINT='{}'\nOCI_CMD='{}'\n{RUN_WORDS}",
        words(process.entrypoint.as_ref()),
        words(process.cmd.as_ref())
    )
}

/// Variables whose names a shell takes; others would be run as commands.
fn exports(process: &Process) -> String {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let variables = process.env.iter().flatten().filter_map(|variable| {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        let valid =
            name.bytes().all(word) && !name.starts_with(|first: char| first.is_ascii_digit());
        (valid && !name.is_empty()).then(|| format!("export {name}={}\n", quoted(value)))
    });
    variables.collect()
}

/// What lies at a path whose directories are none, or symlinks, is the image's business.
fn is_free(tree: &Tree<Vec<u8>>, path: &str) -> bool {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let parent = match parent {
        "" => Some(tree::Kind::Directory),
        parent => tree
            .lookup_path(parent.as_bytes())
            .map(|id| tree.attributes(id).kind),
    };
    let below = parent.is_none_or(|kind| kind == tree::Kind::Directory);
    below && tree.lookup_path(path.as_bytes()).is_none()
}

fn add_mount_points(sink: &mut dyn Sink, tree: &Tree<Vec<u8>>, mtime: i64) -> Result<(), Error> {
    for (path, mode) in MOUNT_POINTS {
        if is_free(tree, path) {
            sink.add(path.as_bytes(), Entry::directory(mode, mtime))?;
        }
    }
    for path in MOUNT_FILES {
        if is_free(tree, path) {
            let entry = Entry::file(0o644, mtime);
            sink.file(
                path.as_bytes(),
                entry,
                &mut std::io::empty(),
                0,
                How::DEFLATED,
            )?;
        }
    }
    Ok(())
}

/// Adds the files, mount points, and links where the image has nothing of that name.
pub(crate) fn add(
    sink: &mut dyn Sink,
    tree: &Tree<Vec<u8>>,
    config: &[u8],
    mtime: i64,
) -> Result<(), Error> {
    // What is no image's configuration starts nothing.
    let process = serde_json::from_slice::<Configuration>(config)
        .ok()
        .and_then(|configuration| configuration.config)
        .unwrap_or_default();
    for path in ["", "/actions", "/env", "/libs"] {
        let path = format!(".singularity.d{path}");
        sink.add(path.as_bytes(), Entry::directory(0o755, mtime))?;
    }
    let action = |script: &str| format!("{ENVIRONMENT}{script}");
    for (path, script) in [
        ("actions/exec", action(EXEC)),
        ("actions/run", action(RUN)),
        ("actions/shell", action(SHELL)),
        (
            "actions/start",
            format!("{START}{ENVIRONMENT}{START_SCRIPT}"),
        ),
        ("actions/test", action(TEST)),
        ("env/01-base.sh", String::new()),
        ("env/10-docker2singularity.sh", exports(&process)),
        ("env/90-environment.sh", CUSTOM.to_owned()),
        ("env/95-apps.sh", APPS.to_owned()),
        ("env/99-base.sh", LIBRARIES.to_owned()),
        ("env/99-runtimevars.sh", PATHS.to_owned()),
        ("runscript", run_script(&process)),
        ("startscript", String::new()),
    ] {
        let text = format!("#!/bin/sh\n{script}");
        let path = format!(".singularity.d/{path}");
        let length = text.len() as u64;
        let entry = Entry::file(0o755, mtime);
        sink.file(
            path.as_bytes(),
            entry,
            &mut text.as_bytes(),
            length,
            How::DEFLATED,
        )?;
    }
    add_mount_points(sink, tree, mtime)?;
    for (path, target) in LINKS {
        if tree.lookup_path(path.as_bytes()).is_none() {
            sink.add(path.as_bytes(), Entry::symlink(target, mtime))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn process(entrypoint: &[&str], cmd: &[&str], env: &[&str]) -> Process {
        let owned = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        Process {
            env: owned(env),
            entrypoint: owned(entrypoint),
            cmd: owned(cmd),
        }
    }

    fn shell(script: &str, arguments: &[&str]) -> String {
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn words_reach_the_command_unchanged() {
        let hostile = "it's \"$HOME\" `id` \\ $(id)";
        let print = ["printf", "<%s>"];
        let script = run_script(&process(&print, &[hostile, "two words"], &[]));
        assert_eq!(shell(&script, &[]), format!("<{hostile}><two words>"));
        assert_eq!(
            shell(&script, &["in its place", hostile]),
            format!("<in its place><{hostile}>")
        );
        let script = run_script(&process(&[], &["printf", "<%s>", "x"], &[]));
        assert_eq!(shell(&script, &[]), "<x>");
    }

    #[test]
    fn variables_are_set_and_run_nothing() {
        let process = process(
            &[],
            &[],
            &[
                "A=b c",
                "Q=\"$HOME\" `id` '",
                "EMPTY=",
                "X;id=1",
                "1X=1",
                "$(id)=1",
                "=",
                "N\nid=1",
            ],
        );
        let exported = exports(&process);
        assert_eq!(exported.lines().count(), 3, "{exported}");
        let script = format!("{exported}printf '<%s>' \"$A\" \"$Q\" \"$EMPTY\"");
        assert_eq!(shell(&script, &[]), "<b c><\"$HOME\" `id` '><>");
    }
}
