//! The rules of the core, one test each: events in, actions out.

mod admission;
mod callbacks;
mod doubt;
mod fences;
mod identity;
mod lag;
mod model;
mod ordering;
mod rejection;
mod rig;
mod seek;
mod sharing;
mod skip_and_pause;
mod start;
mod stop;
mod wake;
