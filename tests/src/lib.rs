//! What Tidegate's tests on real servers share. [`servers`] starts Kafka and PostgreSQL; [`copier`] is the program
//! that the crash and torture tests drive, [`fleet`] drives it, [`wire`] cuts
//! what connects it, [`readers`] reads back what it left, [`segments`] what the broker wrote
//! down of it, and [`audit`] decides whether that is what was promised.

#![forbid(unsafe_code)]

pub mod audit;
pub mod copier;
mod documents;
pub mod fleet;
pub mod readers;
pub mod segments;
pub mod servers;
pub mod torture;
pub mod wire;
