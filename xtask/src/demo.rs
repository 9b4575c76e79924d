//! From a clean machine to a checked result in one command: a real image is built from packages, published into a repository of our own,
//! and runs its job from there, beside stock containerd; by CRI, as Kubernetes pulls, and by `ctr`.

mod client;
mod disk;
pub(crate) mod estargz;
mod image;
mod interrupt;
mod job;
mod measure;
mod mode;
mod offer;
mod publication;
mod row;
mod servers;
mod usage;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::{Runtime, Version, containerd, workspace};

use crate::cargo::cargo;
use crate::workload::Workload;
use crate::{commands, packages};
use interrupt::Interrupt;
use measure::Stage;
use mode::{Client, Mode};
use offer::Forms;
use row::Row;

/// Shows all rows and writes `target/demo.json`.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let interrupt = Interrupt::watch()?;
    let rows = prepare(&interrupt).and_then(|workload| show(&workload, &interrupt));
    let rows = match rows {
        // The error is that of whatever was ended then.
        Err(_) if interrupt.happened() => anyhow::bail!("interrupted"),
        rows => rows?,
    };
    println!("\n{}", row::table(&rows));
    let file = workspace().join("target/demo.json");
    fs::write(&file, serde_json::to_vec(&Report { modes: rows })?)?;
    println!("every row has computed the same");
    println!("written: {}", file.display());
    println!("all of it took {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// `target/demo.json`.
#[derive(serde::Serialize)]
struct Report {
    modes: Vec<Row>,
}

fn prepare(interrupt: &Interrupt) -> Result<Workload> {
    packages::run()?;
    interrupt.check()?;
    println!("building");
    let build = ["build", "--release", "--quiet"];
    commands::run(cargo().args(build).args(["-p", "outcrop", "-p", "testkit"]))?;
    interrupt.check()?;
    Workload::build()
}

fn show(workload: &Workload, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let runtime = Version::ALL
        .into_iter()
        .find_map(Runtime::find)
        .context("no containerd")?;
    let folder = containerd::new_folder()?;
    let stage = Stage {
        runtime: &runtime,
        interrupt,
    };
    let mut forms = Forms::new(workload, folder.path());
    let mut offers = Vec::new();
    for mode in Mode::ALL {
        offers.push((mode, forms.offer(mode, interrupt)?));
    }
    let mut rows: Vec<Row> = Vec::new();
    for client in [Client::Cri, Client::Ctr] {
        for (mode, offer) in &offers {
            println!("\n{mode} by {client} (containerd {})", runtime.version);
            let row = stage.measure(*mode, client, offer)?;
            same_result(rows.first(), &row)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Every file system must give the job the same bytes.
fn same_result(first: Option<&Row>, row: &Row) -> Result<()> {
    let expected = first.map_or(&row.result_digest, |first| &first.result_digest);
    ensure!(
        *expected == row.result_digest,
        "{} by {} has computed {}, {} has computed {expected}",
        row.mode,
        row.client,
        row.result_digest,
        Mode::ALL[0],
    );
    Ok(())
}
