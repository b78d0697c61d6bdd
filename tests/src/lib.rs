//! What Tidegate's tests on real servers share. [`servers`] starts Kafka and PostgreSQL;
//! [`copier`] is the program that the crash and torture tests drive.

#![forbid(unsafe_code)]

pub mod copier;
mod documents;
pub mod servers;
