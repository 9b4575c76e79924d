//! Generates containerd's gRPC types from the vendored protos; protox stands in for protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(
        [
            "services/snapshots/v1/snapshots.proto",
            "services/containers/v1/containers.proto",
            "services/content/v1/content.proto",
            "services/diff/v1/diff.proto",
            "services/images/v1/images.proto",
            "services/leases/v1/leases.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
