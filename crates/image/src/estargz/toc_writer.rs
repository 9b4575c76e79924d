//! Writes the JSON of a TOC. Entries wait until it is known where their members begin, and what their digests are.

use std::collections::{HashMap, VecDeque};
use std::io::Write;

use super::WriteError;
use super::json::JsonEntry;
use super::members::Members;
use crate::Digest;

#[derive(Default)]
pub(crate) struct TocWriter {
    json: Vec<u8>,
    queue: VecDeque<Waiting>,
    /// How many have left the queue.
    gone: u64,
    /// The names last written for each number; the next is written only if it differs.
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

struct Waiting {
    entry: JsonEntry,
    /// The member that holds it.
    member: Option<u64>,
    /// The member after the whole file.
    end_member: Option<u64>,
    complete: bool,
}

impl TocWriter {
    /// Adds an entry without content.
    pub(crate) fn add(&mut self, entry: JsonEntry) {
        self.push(entry, None, true);
    }

    /// Adds a file or chunk that begins in a member; a file is complete only when [`TocWriter::complete`] says so.
    pub(crate) fn add_chunk(&mut self, entry: JsonEntry, member: u64) -> u64 {
        let complete = entry.kind == "chunk";
        self.push(entry, Some(member), complete);
        self.gone + self.queue.len() as u64 - 1
    }

    fn push(&mut self, mut entry: JsonEntry, member: Option<u64>, complete: bool) {
        entry.user_name = changed(&mut self.users, entry.uid, entry.user_name);
        entry.group_name = changed(&mut self.groups, entry.gid, entry.group_name);
        self.queue.push_back(Waiting {
            entry,
            member,
            end_member: None,
            complete,
        });
    }

    /// States what is known of the file with this number when all of it was read.
    pub(crate) fn complete(&mut self, number: u64, digest: Digest, end_member: Option<u64>) {
        // It is there: an incomplete entry never leaves the queue.
        if let Some(waiting) = self.queue.get_mut((number - self.gone) as usize) {
            waiting.entry.digest = Some(digest.to_string());
            waiting.end_member = end_member;
            waiting.complete = true;
        }
    }

    /// Writes the entries at the front whose places are known.
    pub(crate) fn drain<W: Write>(&mut self, members: &Members<W>) -> Result<(), WriteError> {
        while let Some(waiting) = self.queue.front_mut() {
            let start = waiting
                .member
                .map_or(Some(0), |member| members.start_of(member));
            let end = waiting
                .end_member
                .map_or(Some(0), |member| members.start_of(member));
            let (Some(start), Some(end), true) = (start, end, waiting.complete) else {
                return Ok(());
            };
            waiting.entry.offset = start;
            waiting.entry.end_offset = end;
            let before = if self.json.is_empty() {
                &b"{\"version\":1,\"entries\":[\n"[..]
            } else {
                b",\n"
            };
            self.json.extend_from_slice(before);
            serde_json::to_writer(&mut self.json, &waiting.entry)
                .map_err(|error| WriteError::Output(error.into()))?;
            self.queue.pop_front();
            self.gone += 1;
        }
        Ok(())
    }

    /// The whole JSON, with a further key if given; the queue must be drained.
    pub(crate) fn finish(mut self, further: Option<(&str, String)>) -> Vec<u8> {
        if self.json.is_empty() {
            self.json.extend_from_slice(b"{\"version\":1,\"entries\":[");
        }
        self.json.extend_from_slice(b"]");
        if let Some((key, value)) = further {
            self.json
                .extend_from_slice(format!(",\"{key}\":\"{value}\"").as_bytes());
        }
        self.json.extend_from_slice(b"}\n");
        self.json
    }
}

fn changed(last: &mut HashMap<u32, String>, id: u32, name: Option<String>) -> Option<String> {
    let name = name?;
    if last.get(&id) == Some(&name) {
        return None;
    }
    last.insert(id, name.clone());
    Some(name)
}
