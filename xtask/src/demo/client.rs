//! Who pulls and runs: the kubelet's way, and an operator's.

use anyhow::{Context, Result};
use e2e::cri::{Pod, api};
use e2e::{Containerd, Cri};

use super::job::{Form, Output};
use super::mode::Client;
use crate::workload::Workload;

/// Of container, sandbox and log.
const NAME: &str = "demo";

/// The steps from an image's name to a running container.
pub(super) trait Steps {
    fn pull(&mut self) -> Result<()>;
    fn create(&mut self) -> Result<()>;
    /// Does not wait for the end.
    fn start(&mut self) -> Result<Output>;
    fn ended(&self) -> Result<bool>;
    fn remove(&mut self) -> Result<()>;
}

/// The steps of `client` with `image`.
pub(super) fn steps_of<'a>(
    client: Client,
    containerd: &'a Containerd,
    image: &'a str,
) -> Result<Box<dyn Steps + 'a>> {
    Ok(match client {
        Client::Cri => Box::new(ByCri {
            containerd,
            image,
            cri: containerd.cri()?,
            pod: None,
        }),
        Client::Ctr => Box::new(ByCtr { containerd, image }),
    })
}

/// PullImage, sandbox, container.
struct ByCri<'a> {
    containerd: &'a Containerd,
    image: &'a str,
    cri: Cri,
    pod: Option<Pod>,
}

impl ByCri<'_> {
    fn pod(&self) -> Result<&Pod> {
        self.pod.as_ref().context("no container yet")
    }
}

impl Steps for ByCri<'_> {
    fn pull(&mut self) -> Result<()> {
        self.cri.pull(self.image)?;
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        let sandbox = self.cri.run_sandbox(NAME)?;
        let command = Workload::COMMAND;
        self.pod = Some(self.cri.create(&sandbox, NAME, self.image, &command)?);
        Ok(())
    }

    fn start(&mut self) -> Result<Output> {
        self.cri.start(self.pod()?)?;
        let logs = self.containerd.folder().join("logs");
        Ok(Output {
            file: logs.join(format!("{NAME}.log")),
            form: Form::Cri,
        })
    }

    fn ended(&self) -> Result<bool> {
        let status = self.cri.status(self.pod()?)?;
        Ok(status.state() == api::ContainerState::ContainerExited)
    }

    fn remove(&mut self) -> Result<()> {
        Ok(self.cri.remove(self.pod()?)?)
    }
}

/// `ctr`, or `ctr-remote`.
struct ByCtr<'a> {
    containerd: &'a Containerd,
    image: &'a str,
}

impl ByCtr<'_> {
    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        self.containerd.ctr("default", arguments)
    }
}

impl Steps for ByCtr<'_> {
    fn pull(&mut self) -> Result<()> {
        self.containerd.pull("default", self.image)
    }

    fn create(&mut self) -> Result<()> {
        let snapshotter = self.containerd.snapshotter();
        let create = ["containers", "create", "--snapshotter", snapshotter];
        let command = Workload::COMMAND;
        self.ctr(&[&create[..], &[self.image, NAME], &command].concat())
            .map(drop)
    }

    fn start(&mut self) -> Result<Output> {
        let file = self.containerd.folder().join(format!("{NAME}.out"));
        let log = format!("file://{}", file.display());
        self.ctr(&["tasks", "start", "--detach", "--log-uri", &log, NAME])?;
        Ok(Output {
            file,
            form: Form::Plain,
        })
    }

    fn ended(&self) -> Result<bool> {
        Ok(self.ctr(&["tasks", "list"])?.contains("STOPPED"))
    }

    fn remove(&mut self) -> Result<()> {
        self.ctr(&["tasks", "delete", "--force", NAME])?;
        self.ctr(&["containers", "delete", NAME]).map(drop)
    }
}
