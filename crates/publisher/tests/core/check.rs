use publisher::storage::LocalStorage;
use publisher::{CheckOptions, Repository};
use std::sync::Arc;

use crate::support::{at, keys, new_repository, shared_fixture};

const ALL: CheckOptions = CheckOptions {
    content: true,
    tags: true,
};

#[test]
fn the_real_servers_repository_is_clean() {
    let storage = Arc::new(LocalStorage::new(&shared_fixture().repository()));
    let repository = Repository::open(storage, Some(keys()), at(0)).unwrap();
    let report = repository.check(ALL).unwrap();
    for finding in &report.findings {
        println!("{finding}");
    }
    assert!(report.is_clean());
    assert!(report.catalogs > 30 && report.objects > 700, "{report:?}");
    assert_eq!(report.revisions, 11);
}

#[test]
fn a_new_repository_is_clean() {
    let new = new_repository();
    let report = new.repository.check(ALL).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.catalogs, report.unnamed), (1, 0));
}
