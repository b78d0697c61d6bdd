//! The real core in a world that goes wrong, decided by a seed.
//!
//! Several cores are members of one group over one topic and one store. Nothing here has threads or
//! a clock: consumers, pools, sinks, the group's coordinator and the store are models whose every
//! step is a choice of the seed, so that any schedule that hardware could bring is some seed's, and
//! comes again with it. Only the cores are real, each between its own consumer, pool and sink
//! ([`member`]); the models promise no more than the real things do. What was stored is judged by a
//! [`checker`] that knows nothing of the engine.

mod attempts;
mod chance;
mod checker;
mod commit;
mod coverage;
mod delivery;
mod group;
mod kafka;
mod kafka_commit;
mod log;
mod member;
mod plan;
mod pool;
mod reposition;
mod source;
mod sql;
mod store;
mod tests;
mod trace;
mod trouble;
mod world;
