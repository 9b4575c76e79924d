//! From facts to lines: what is wrong, how bad it is, and the next step.

use super::containerd::{Configuration, Plugin, Running, Version};
use super::facts::{Facts, Kernel, Looked};
use super::report::{Line, Status};
use std::path::Path;

/// All lines in the order in which one would set things up.
pub fn judge(facts: &Facts) -> Vec<Line> {
    let mut lines = kernel(&facts.kernel);
    lines.push(state_directory(facts));
    lines.extend(
        facts
            .repositories
            .iter()
            .map(|(name, opened)| repository(name, opened)),
    );
    if facts.repositories.is_empty() {
        lines.push(
            Line::new(
                Status::Failed,
                "repositories",
                "none is configured: no layer can be lazy",
            )
            .next("add a [[repository]] to the configuration (`outcrop config show` has examples)"),
        );
    }
    match &facts.containerd {
        Err(reason) => lines.push(
            Line::new(Status::Failed, "containerd", reason.clone())
                .next("start containerd, or set [containerd] socket"),
        ),
        Ok(running) => lines.extend(containerd(running, &facts.socket, &facts.root)),
    }
    lines
}

fn kernel(kernel: &Kernel) -> Vec<Line> {
    let line = |subject: &str, tried: &Result<String, String>, next: &str| match tried {
        Ok(found) => Line::new(Status::Ok, subject, found.clone()),
        Err(reason) => Line::new(Status::Failed, subject, reason.clone()).next(next),
    };
    let mut lines = vec![
        line(
            "FUSE device",
            &kernel.fuse_device,
            "modprobe fuse; in a container, pass the device /dev/fuse",
        ),
        line(
            "FUSE protocol",
            &kernel.fuse_protocol,
            "run as root with CAP_SYS_ADMIN; see the kernel's log (dmesg)",
        ),
        line(
            "overlayfs",
            &kernel.overlayfs,
            "modprobe overlay; the root must lie on a file system that can be an upper (ext4, xfs)",
        ),
    ];
    lines.push(match &kernel.erofs {
        Ok(found) => Line::new(Status::Ok, "EROFS", found.clone()),
        Err(reason) => Line::new(Status::Note, "EROFS", format!("{reason}; not used yet")),
    });
    lines
}

fn state_directory(facts: &Facts) -> Line {
    match &facts.state_directory {
        Ok(found) => Line::new(Status::Ok, "state directory", found.clone()),
        Err((reason, next)) => {
            Line::new(Status::Failed, "state directory", reason.clone()).next(next.clone())
        }
    }
}

fn repository(name: &str, opened: &Looked) -> Line {
    let subject = format!("repository {name}");
    match opened {
        Ok(found) => Line::new(Status::Ok, subject, found.clone()),
        Err((reason, next)) => {
            Line::new(Status::Failed, subject, reason.clone()).next(next.clone())
        }
    }
}

fn containerd(running: &Running, socket: &Path, root: &Path) -> Vec<Line> {
    let mut lines = vec![match running.version {
        Some(version) if version >= Version(1, 6) => {
            Line::new(Status::Ok, "containerd", format!("{version} answers"))
        }
        Some(version) => Line::new(Status::Failed, "containerd", format!("{version} answers"))
            .next("1.6 is the oldest that is supported"),
        None => Line::new(
            Status::Warning,
            "containerd",
            "answers; its version could not be learnt",
        ),
    }];
    let configuration = match &running.configuration {
        Ok(configuration) => configuration,
        Err(reason) => {
            lines.push(
                Line::new(Status::Failed, "containerd's configuration", reason.clone()).next(
                    "correct the file; `containerd config dump` shows what containerd makes of it",
                ),
            );
            return lines;
        }
    };
    let Some(plugin) = configuration
        .plugin
        .as_ref()
        .filter(|plugin| plugin.is_snapshotter)
    else {
        lines.push(
            Line::new(
                Status::Failed,
                "containerd's configuration",
                format!(
                    "no proxy plugin of type \"snapshot\" has the address {}",
                    socket.display()
                ),
            )
            .next("add the drop-in for this version (docs/containerd.md) and restart containerd"),
        );
        return lines;
    };
    lines.push(plugin_line(plugin, root));
    let version = running.version.unwrap_or(Version(2, 1));
    lines.push(cri(version, configuration, plugin));
    lines.extend(ctr(version, configuration, plugin));
    lines
}

fn plugin_line(plugin: &Plugin, root: &Path) -> Line {
    let subject = "containerd's configuration";
    let named = format!("proxy plugin {:?}", plugin.name);
    match &plugin.root {
        Some(exported) if Path::new(exported) == root => Line::new(Status::Ok, subject, named),
        Some(exported) => Line::new(Status::Warning, subject, format!("{named} exports root {exported:?}"))
            .next(format!("set exports.root = {root:?}: the kubelet watches the space there")),
        None => Line::new(Status::Warning, subject, format!("{named} exports no root"))
            .next(format!("add exports.root = {root:?}: without it the kubelet watches a directory that does not exist")),
    }
}

/// CRI: by the pulling client of containerd up to 2.0, by the transfer service from 2.1 on unless told otherwise.
fn cri(version: Version, configuration: &Configuration, plugin: &Plugin) -> Line {
    let subject = "client: CRI";
    if configuration.cri_disabled {
        return Line::new(
            Status::Note,
            subject,
            "disabled in containerd's configuration",
        );
    }
    if configuration.cri_snapshotter.as_deref() != Some(&plugin.name) {
        let other = configuration
            .cri_snapshotter
            .as_deref()
            .unwrap_or("another snapshotter");
        return Line::new(
            Status::Warning,
            subject,
            format!("not lazy: CRI uses {other}"),
        )
        .next(format!(
            "set snapshotter = {:?} for CRI (docs/containerd.md)",
            plugin.name
        ));
    }
    // From 2.1 on, an explicit `disable_snapshot_annotations = false` also switches CRI back to its own pull.
    let local = version < Version(2, 1)
        || configuration.cri_local_pull
        || configuration.cri_annotations_disabled == Some(false);
    if !local && !configuration.unpack.contains(&plugin.name) {
        return Line::new(
            Status::Warning,
            subject,
            "not lazy: the transfer service does not unpack for this snapshotter",
        )
        .next(format!(
            "add an unpack_config entry with snapshotter = {:?} (docs/containerd.md)",
            plugin.name
        ));
    }
    let annotated = if local {
        configuration.cri_annotations_disabled == Some(false)
    } else {
        plugin.annotations
    };
    if annotated {
        return Line::new(Status::Ok, subject, "lazy");
    }
    let key = if local {
        "disable_snapshot_annotations = false for CRI"
    } else {
        "exports.enable_remote_snapshot_annotations = \"true\""
    };
    Line::new(
        Status::Warning,
        subject,
        "lazy; each layer is found by asking containerd for the manifest",
    )
    .next(format!(
        "set {key}: then the layer's digest comes with the request"
    ))
}

fn ctr(version: Version, configuration: &Configuration, plugin: &Plugin) -> Vec<Line> {
    let name = &plugin.name;
    let pull = format!("client: ctr images pull --snapshotter {name}");
    if version < Version(2, 0) {
        return vec![
            Line::new(
                Status::Note,
                pull,
                format!(
                    "not lazy on {version}: it fetches every blob before it asks a snapshotter"
                ),
            ),
            Line::new(
                Status::Note,
                format!("client: ctr-remote images rpull --snapshotter {name}"),
                "lazy (package stargz-snapshotter)",
            ),
        ];
    }
    if configuration.unpack.contains(name) {
        return vec![Line::new(Status::Ok, pull, "lazy (not with --local)")];
    }
    vec![
        Line::new(
            Status::Warning,
            pull,
            "fails: \"unable to initialize unpacker\"",
        )
        .next(format!(
            "add an unpack_config entry with snapshotter = {name:?} (docs/containerd.md)"
        )),
    ]
}

#[cfg(test)]
mod tests;
