use crate::support::new_repository;

#[test]
fn init_and_open() {
    let new = new_repository();
    assert_eq!(new.reopened().head().revision, 1);
}
