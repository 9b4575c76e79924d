//! A client of containerd's CRI plugin: what the kubelet does to run a pod, as plain blocking calls with a deadline.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// Generated from `proto/cri.proto`.
#[allow(
    missing_docs,
    clippy::all,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub mod api {
    tonic::include_proto!("runtime.v1");
}

use api::image_service_client::ImageServiceClient;
use api::runtime_service_client::RuntimeServiceClient;

/// No call here may take longer.
const DEADLINE: Duration = Duration::from_secs(120);

/// A connection to one containerd.
#[derive(Debug)]
pub struct Cri {
    tokio: Runtime,
    images: ImageServiceClient<Channel>,
    runtime: RuntimeServiceClient<Channel>,
    logs: PathBuf,
}

/// One pod with one container.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The sandbox's id.
    pub sandbox: String,
    /// The container's id.
    pub container: String,
    log: PathBuf,
}

impl Cri {
    /// Connects to `socket`; containers' logs go below `logs`.
    pub fn connect(socket: &Path, logs: &Path) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let socket = socket.to_owned();
        // The address is never resolved: the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://localhost").timeout(DEADLINE);
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = tokio.block_on(async { endpoint.connect_with_connector_lazy(connector) });
        let (images, runtime) = (
            ImageServiceClient::new(channel.clone()),
            RuntimeServiceClient::new(channel),
        );
        Ok(Self {
            tokio,
            images,
            runtime,
            logs: logs.to_owned(),
        })
    }

    /// containerd's version as CRI states it.
    pub fn version(&self) -> Result<String, Status> {
        let mut client = self.runtime.clone();
        let answer = self
            .tokio
            .block_on(client.version(Request::new(api::VersionRequest::default())))?;
        Ok(answer.into_inner().runtime_version)
    }

    /// PullImage; the image's id.
    pub fn pull(&self, image: &str) -> Result<String, Status> {
        let mut client = self.images.clone();
        let answer = self
            .tokio
            .block_on(client.pull_image(api::PullImageRequest { image: spec(image) }))?;
        Ok(answer.into_inner().image_ref)
    }

    /// ImageStatus: none if it is not there.
    pub fn image(&self, image: &str) -> Result<Option<api::Image>, Status> {
        let mut client = self.images.clone();
        let answer = self
            .tokio
            .block_on(client.image_status(api::ImageStatusRequest { image: spec(image) }))?;
        Ok(answer.into_inner().image)
    }

    /// RemoveImage.
    pub fn remove_image(&self, image: &str) -> Result<(), Status> {
        let mut client = self.images.clone();
        self.tokio
            .block_on(client.remove_image(api::RemoveImageRequest { image: spec(image) }))?;
        Ok(())
    }

    /// ImageFsInfo: the mount point that the kubelet's image garbage collection watches.
    pub fn image_file_system(&self) -> Result<Vec<String>, Status> {
        let mut client = self.images.clone();
        let answer = self.tokio.block_on(client.image_fs_info(api::Empty {}))?;
        let file_systems = answer.into_inner().image_filesystems;
        Ok(file_systems
            .into_iter()
            .filter_map(|one| one.fs_id)
            .map(|id| id.mountpoint)
            .collect())
    }

    /// A sandbox on the host's network; no CNI is needed for it.
    pub fn run_sandbox(&self, name: &str) -> Result<String, Status> {
        let mut client = self.runtime.clone();
        let request = api::RunPodSandboxRequest {
            config: Some(self.sandbox_config(name)),
        };
        Ok(self
            .tokio
            .block_on(client.run_pod_sandbox(request))?
            .into_inner()
            .pod_sandbox_id)
    }

    /// A container of `image` in `sandbox`, not yet started. `name` must be the sandbox's.
    pub fn create(
        &self,
        sandbox: &str,
        name: &str,
        image: &str,
        command: &[&str],
    ) -> Result<Pod, Status> {
        let mut client = self.runtime.clone();
        let context = api::LinuxContainerSecurityContext {
            namespace_options: host_network(),
            run_as_user: None,
        };
        let config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: spec(image),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            args: Vec::new(),
            log_path: format!("{name}.log"),
            linux: Some(api::LinuxContainerConfig {
                security_context: Some(context),
            }),
        };
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.sandbox_config(name)),
        };
        let container = self
            .tokio
            .block_on(client.create_container(request))?
            .into_inner()
            .container_id;
        Ok(Pod {
            sandbox: sandbox.to_owned(),
            container,
            log: self.logs.join(format!("{name}.log")),
        })
    }

    /// StartContainer.
    pub fn start(&self, pod: &Pod) -> Result<(), Status> {
        let mut client = self.runtime.clone();
        self.tokio
            .block_on(client.start_container(api::ContainerRequest {
                container_id: pod.container.clone(),
            }))?;
        Ok(())
    }

    /// Sandbox, container, start.
    pub fn run(&self, name: &str, image: &str, command: &[&str]) -> Result<Pod, Status> {
        let sandbox = self.run_sandbox(name)?;
        let pod = self.create(&sandbox, name, image, command)?;
        self.start(&pod)?;
        Ok(pod)
    }

    /// Waits for the container's first line of output; an error if it ends without one.
    pub fn first_output(&self, pod: &Pod) -> Result<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // A line of CRI's log: time, stream, F or P, text.
            let log = std::fs::read_to_string(&pod.log).unwrap_or_default();
            if let Some((line, _)) = log.split_once('\n') {
                return Ok(line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned());
            }
            let status = self.status(pod)?;
            if status.state() == api::ContainerState::ContainerExited && !pod.log.exists() {
                bail!(
                    "the container ended with {} and no output: {}",
                    status.exit_code,
                    status.message
                );
            }
            if Instant::now() > deadline {
                bail!("no output after {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// ContainerStatus.
    pub fn status(&self, pod: &Pod) -> Result<api::ContainerStatus> {
        let mut client = self.runtime.clone();
        let request = api::ContainerStatusRequest {
            container_id: pod.container.clone(),
            verbose: false,
        };
        let answer = self.tokio.block_on(client.container_status(request))?;
        answer
            .into_inner()
            .status
            .context("a container without status")
    }

    /// Runs `command` in the container; its standard output, or an error if it does not exit with 0.
    pub fn exec(&self, pod: &Pod, command: &[&str]) -> Result<Vec<u8>> {
        let mut client = self.runtime.clone();
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = api::ExecSyncRequest {
            container_id: pod.container.clone(),
            cmd,
            timeout: 60,
        };
        let answer = self.tokio.block_on(client.exec_sync(request))?.into_inner();
        if answer.exit_code != 0 {
            bail!(
                "{command:?} exits with {}: {}",
                answer.exit_code,
                String::from_utf8_lossy(&answer.stderr)
            );
        }
        Ok(answer.stdout)
    }

    /// Ids of all containers.
    pub fn containers(&self) -> Result<Vec<String>, Status> {
        let mut client = self.runtime.clone();
        let answer = self
            .tokio
            .block_on(client.list_containers(api::ListContainersRequest {}))?;
        Ok(answer
            .into_inner()
            .containers
            .into_iter()
            .map(|container| container.id)
            .collect())
    }

    /// Stops and removes container and sandbox.
    pub fn remove(&self, pod: &Pod) -> Result<(), Status> {
        let deadline = Instant::now() + DEADLINE;
        // A container that ends at this moment is "still running" for a little while, as the kubelet knows.
        while let Err(error) = self.remove_container(&pod.container) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.remove_sandbox(&pod.sandbox)
    }

    fn remove_container(&self, container: &str) -> Result<(), Status> {
        let mut client = self.runtime.clone();
        let (container_id, timeout) = (container.to_owned(), 0);
        let (stop, remove) = (
            api::StopContainerRequest {
                container_id: container_id.clone(),
                timeout,
            },
            api::ContainerRequest { container_id },
        );
        self.tokio.block_on(async {
            client.stop_container(stop).await?;
            client.remove_container(remove).await
        })?;
        Ok(())
    }

    /// Stops and removes a sandbox.
    pub fn remove_sandbox(&self, sandbox: &str) -> Result<(), Status> {
        let mut client = self.runtime.clone();
        let request = api::PodSandboxRequest {
            pod_sandbox_id: sandbox.to_owned(),
        };
        self.tokio.block_on(async {
            client.stop_pod_sandbox(request.clone()).await?;
            client.remove_pod_sandbox(request).await
        })?;
        Ok(())
    }

    fn sandbox_config(&self, name: &str) -> api::PodSandboxConfig {
        let metadata = api::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let context = api::LinuxSandboxSecurityContext {
            namespace_options: host_network(),
        };
        api::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: String::new(),
            log_directory: self.logs.display().to_string(),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: String::new(),
                security_context: Some(context),
            }),
        }
    }
}

fn spec(image: &str) -> Option<api::ImageSpec> {
    Some(api::ImageSpec {
        image: image.to_owned(),
    })
}

fn host_network() -> Option<api::NamespaceOption> {
    let network = api::NamespaceMode::Node.into();
    Some(api::NamespaceOption {
        network,
        ..api::NamespaceOption::default()
    })
}
