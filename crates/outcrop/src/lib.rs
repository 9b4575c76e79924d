//! The program `outcrop`: command line, configuration and wiring. It constructs the libraries and hands them to each other;
//! what a layer, a repository or a snapshot *is* lies below.

pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
pub mod repository;
