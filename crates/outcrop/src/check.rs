//! Whether everything is there: facts are gathered by trying ([`kernel`], [`containerd`], [`facts`]) and judged by pure
//! functions ([`judge`]), so that the judgement is tested with facts that no test machine has.

pub mod child;
pub mod containerd;
pub mod facts;
pub mod judge;
pub mod kernel;
pub mod mounted;
pub mod report;
