//! Children that look at mounts, which the process that serves them never may.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use testkit::{Field, Truth};

use crate::world::{FQRN, World};

/// The other process, see `examples/outside.rs`. Killed when it takes longer than a minute.
fn outside(words: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    // <target>/<profile>/deps/<test> → <target>/<profile>/examples/outside
    let example = test.ancestors().nth(2).unwrap().join("examples/outside");
    assert!(
        example.exists(),
        "{} is missing: `cargo test -p layerfs` builds it, `--test layers` alone does not",
        example.display()
    );
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60"]).arg(example).args(words);
    command
}

fn run(words: &[&str]) -> Output {
    outside(words).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// All that a user sees below a directory; sizes of directories mean nothing.
pub(crate) fn walk(directory: &Path, user: u32) -> Truth {
    let output = run(&["walk", text(directory), &user.to_string()]);
    assert!(output.status.success(), "{output:?}");
    let mut truth = Truth::parse(&output.stdout).unwrap();
    for row in truth.rows.values_mut() {
        if row.get(Field::Kind) == "d" {
            row.set(Field::Size, "0");
        }
    }
    truth
}

/// What a child said, or the errno with which it failed.
fn answer(words: &[&str]) -> Result<Vec<u8>, i32> {
    let output = run(words);
    match output.status.code() {
        Some(0) => Ok(output.stdout),
        Some(code) => Err(code),
        None => panic!("{words:?}: {output:?}"),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, i32> {
    answer(&["read", text(path)])
}

pub(crate) fn xattr(path: &Path, name: &str) -> Result<Vec<u8>, i32> {
    answer(&["xattr", text(path), name])
}

pub(crate) fn readlink(path: &Path) -> Result<Vec<u8>, i32> {
    answer(&["readlink", text(path)])
}

pub(crate) const EIO: i32 = 5;
pub(crate) const ENOENT: i32 = 2;

/// A child that works step by step; killed with its owner.
pub(crate) struct Outside {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Outside {
    /// Starts it and waits for its first word.
    pub(crate) fn start(words: &[&str], ready: &str) -> Self {
        let mut child = outside(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut outside = Self { child, out };
        assert_eq!(outside.line(), ready);
        outside
    }

    /// Serves the repository at a directory; `owner` 0 shows the stored ones.
    pub(crate) fn serve(world: &World, directory: &Path, owner: u32) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let (key, state) = (world.path("key.pub"), world.path("their-state"));
        let url = world.servers[0].repository_url(FQRN);
        let owner = owner.to_string();
        let words = [
            "serve",
            &url,
            FQRN,
            text(&key),
            text(&state),
            text(directory),
            &owner,
        ];
        Self::start(&words, "mounted")
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn tell(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Goes on and gives what it says until its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.tell();
        let mut said = Vec::new();
        self.out.read_to_end(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status:?}");
        said
    }

    /// Ends a server in order: its mount goes.
    pub(crate) fn finish_serving(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status:?}");
    }

    /// As a crash ends it: `kill -9`, the mount stays.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // `timeout` runs the process as its child, which gets the signal from here.
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Some(pid) = child.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.end();
    }
}
