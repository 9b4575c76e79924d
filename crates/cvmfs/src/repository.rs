//! A repository, opened and kept up to date.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Counters;
use crate::config::RepositoryConfig;
use crate::content::Content;
use crate::dirent::Dirent;
use crate::error::Error;
use crate::hash::ContentHash;
use crate::metrics::Metrics;
use crate::nodes::NodeId;
use crate::object::ObjectRef;
use crate::revision::Revision;

/// What a refresh found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing new, or fixed to a revision.
    UpToDate,
    /// [`Repository::current`] is a newer revision now.
    Changed,
}

/// An open repository. Cloning costs a reference count.
#[derive(Clone)]
pub struct Repository {}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl Repository {
    pub fn open(
        _config: RepositoryConfig,
        _cache: Arc<cache::Cache>,
        _runtime: tokio::runtime::Handle,
        _now: impl Fn() -> jiff::Timestamp + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        unimplemented!()
    }
    pub fn fqrn(&self) -> &str {
        unimplemented!()
    }
    pub fn current(&self) -> Arc<Revision> {
        unimplemented!()
    }
    pub fn refresh(&self) -> Result<Refresh, Error> {
        unimplemented!()
    }
    pub fn time_to_live(&self) -> Duration {
        unimplemented!()
    }
    pub fn metrics(&self) -> &Metrics {
        unimplemented!()
    }
    pub fn fetch(&self, _object: &ObjectRef, _size: Option<u64>) -> Result<cache::Object, Error> {
        unimplemented!()
    }
    pub fn fetch_external(
        &self,
        _path: &[u8],
        _offset: u64,
        _size: u64,
        _hash: &ContentHash,
    ) -> Result<cache::Object, Error> {
        unimplemented!()
    }
    pub fn root(&self) -> NodeId {
        unimplemented!()
    }
    pub fn node(&self, _node: NodeId) -> Result<Dirent, Error> {
        unimplemented!()
    }
    pub fn lookup_child(&self, _parent: NodeId, _name: &[u8]) -> Result<Option<(NodeId, Dirent)>, Error> {
        unimplemented!()
    }
    pub fn children(&self, _dir: NodeId, _after: u64, _limit: usize) -> Result<Vec<(u64, NodeId, Dirent)>, Error> {
        unimplemented!()
    }
    pub fn node_content(&self, _node: NodeId) -> Result<Arc<Content>, Error> {
        unimplemented!()
    }
    pub fn node_xattrs(&self, _node: NodeId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        unimplemented!()
    }
    pub fn statistics(&self) -> Result<Counters, Error> {
        unimplemented!()
    }
}
