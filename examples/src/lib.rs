//! What the examples share: their data, topics to put it in, and tables to print.
//!
//! An example is a whole program in a folder of its own; what is interesting about it stands there.
#![forbid(unsafe_code)]

pub mod args;
pub mod flights;
pub mod kafka;
pub mod postgres;
pub mod run;
pub mod show;
