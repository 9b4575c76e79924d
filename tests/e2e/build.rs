//! Generates the CRI client from the vendored subset of the API, without protoc.
fn main() -> anyhow::Result<()> {
    let files = protox::compile(["proto/cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(files)?;
    println!("cargo::rerun-if-changed=proto/cri.proto");
    Ok(())
}
