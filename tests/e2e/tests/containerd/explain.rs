//! `outcrop explain`, of an image that is lazy but for its top.

use std::process::Command;
use std::time::Duration;

use e2e::child;
use e2e::merged::Image;
use e2e::outcrop::binary;
use serde_json::Value;
use testkit::DuccOptions;

use crate::images::{World, base, image, layer};
use crate::node::Node;

const LIMIT: Duration = Duration::from_secs(30);

fn command(node: &Node, name: &str) -> Command {
    let config = node.outcrop.root().with_file_name("outcrop.toml");
    let mut command = Command::new(binary("outcrop").unwrap());
    command.arg("explain").arg("--config").arg(config).arg(name);
    command
}

fn explained(node: &Node, name: &str) -> Value {
    let json = child::run(command(node, name).arg("--json"), LIMIT).unwrap();
    serde_json::from_str(&json).unwrap()
}

#[test]
fn each_layer_says_where_it_comes_from() {
    let built = image([base(), layer("middle"), layer("top")]);
    let lazy = built.layers[..2].iter();
    let world = World::new(
        &[("partly", &built)],
        lazy.map(|layer| (layer, DuccOptions::default())),
    );
    let image = Image::read(&world.images(), "partly", "1").unwrap();
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        let cri = node.cri();
        cri.pull("registry.test/partly:1").unwrap();
        let run = ["/bin/sh", "-c", "cat layers/middle; tail -f /dev/null"];
        let pod = cri.run("one", "registry.test/partly:1", &run).unwrap();
        assert_eq!(cri.first_output(&pod).unwrap(), "this is middle");
        let why = Value::from(node.label(&image.chain_ids[2], "reason").unwrap());
        for (name, subject) in [
            ("registry.test/partly:1", "image"),
            (pod.container.as_str(), "container"),
            (&pod.container[..12], "container"),
        ] {
            let report = explained(&node, name);
            assert_eq!(report["subject"], subject);
            let layers = report["layers"].as_array().unwrap();
            assert_eq!(layers.len(), 3, "{report}");
            for (number, layer) in layers.iter().enumerate() {
                assert_eq!(layer["layer"], *image.layers[number], "{report}");
                assert_eq!(layer["snapshot"], *image.chain_ids[number], "{report}");
                let (source, reason) = match number {
                    2 => ("pulled", why.clone()),
                    _ => ("cvmfs:unpacked.test.local", Value::Null),
                };
                assert_eq!(
                    (&layer["source"], &layer["reason"]),
                    (&source.into(), &reason)
                );
            }
            let number = |at: usize, key: &str| layers[at][key].as_u64();
            let text = "this is middle\n".len() as u64 * 100;
            assert_eq!(number(1, "read_bytes"), Some(text), "{report}");
            // DUCC states the tar's length.
            assert!(number(1, "held_bytes").unwrap() >= text, "{report}");
            assert!(number(0, "read_bytes").unwrap() > 100_000, "{report}");
            assert_eq!(number(2, "read_bytes"), None);
        }
        let table = child::run(&mut command(&node, &pod.container), LIMIT).unwrap();
        assert!(
            table.contains("registry.test/partly:1") && table.contains(why.as_str().unwrap()),
            "{table}"
        );
        let unknown = child::output(&mut command(&node, "nobody"), LIMIT).unwrap();
        assert_eq!(unknown.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&unknown.stderr).contains("hint:"));
    }
}
