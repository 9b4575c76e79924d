//! The program `outcrop`: command line, configuration and wiring. It constructs the libraries and hands them to each other;
//! what a layer, a repository or a snapshot *is* lies below.

pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
pub mod lazy_layers;
pub mod logging;
pub mod notify;
pub mod publishing;
pub mod repository;
pub mod scratch;
pub mod signals;
pub mod socket;
pub mod state;
pub mod wiring;
