//! A wishlist from its file.

use crate::error::{Error, Kind};
use publisher::wishlist::{MAX_WISHLIST_BYTES, Wishlist, WishlistName};
use std::io::Read;
use std::path::Path;

/// Reads the list, which must be for this repository.
///
/// # Errors
/// It cannot be read, is no list, or is another repository's.
pub fn read(file: &Path, fqrn: &str) -> Result<Wishlist, Error> {
    let shown = file.display();
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|list| {
            list.take(MAX_WISHLIST_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|error| {
            Error::new(Kind::Config, format!("cannot read wishlist {shown}")).because(error)
        })?;
    let list = Wishlist::parse(&bytes).map_err(|error| {
        Error::new(Kind::Config, format!("wishlist {shown}: {error}")).hint(
            "it needs version: 1, cvmfs_repo: NAME, and input: with a list such as - 'https://registry.example.org/group/image:v*'",
        )
    })?;
    if list.repository != fqrn {
        let message = format!(
            "wishlist {shown} is for the repository {}, not for {fqrn}",
            list.repository
        );
        let hint = "name that repository with --repository, or change cvmfs_repo in the list";
        return Err(Error::new(Kind::Config, message).hint(hint));
    }
    Ok(list)
}

/// By what the repository knows the list: the file's name without its extension, wherever it lies.
///
/// # Errors
/// The file's name has nothing that could be a name.
pub fn name(file: &Path) -> Result<WishlistName, Error> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name: String = stem
        .chars()
        .map(|character| if allowed(character) { character } else { '-' })
        .collect();
    name.trim_start_matches('.').parse().map_err(|error| {
        Error::new(Kind::Usage, "the wishlist needs another file name").because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        let cases = [
            ("/srv/recipe.yaml", Some("recipe")),
            ("list", Some("list")),
            ("my list (2).yml", Some("my-list--2-")),
            (".hidden.yaml", Some("hidden")),
            ("/", None),
        ];
        for (file, expected) in cases {
            let name = name(Path::new(file)).ok().map(|name| name.to_string());
            assert_eq!(name.as_deref(), expected, "{file}");
        }
    }

    #[test]
    fn a_list_of_another_repository_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("list.yaml");
        let missing = read(&file, "a.example.org").unwrap_err();
        assert_eq!(missing.kind(), Kind::Config);
        std::fs::write(&file, "version: 1\ncvmfs_repo: b.example.org\ninput: []\n").unwrap();
        let error = read(&file, "a.example.org").unwrap_err();
        assert!(
            error
                .message()
                .contains("is for the repository b.example.org, not for a.example.org")
        );
        assert!(error.next_step().unwrap().contains("--repository"));
        assert!(read(&file, "b.example.org").is_ok());
        std::fs::write(&file, vec![b'#'; MAX_WISHLIST_BYTES + 1]).unwrap();
        assert!(
            read(&file, "b.example.org")
                .unwrap_err()
                .message()
                .contains("longer than")
        );
    }
}
