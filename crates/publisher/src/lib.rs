//! Turns container images into content of a CVMFS repository, and keeps such a repository.
