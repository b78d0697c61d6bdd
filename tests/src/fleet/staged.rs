//! Scenes in which one fault comes at one moment: the usual copier, waiting for its commits, and the end.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{Copier, Feed, Mix, Orders, Scene, Trail, generate, until};
use crate::audit::{Compared, Rules};

/// What anything staged may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);
/// How long the group waits for a silent member.
pub const SESSION_MS: &str = "2000";

/// The usual copier of a staged scene: short times, few threads, two retries.
#[must_use]
pub fn copier(scene: &Scene, name: &str) -> Orders {
    scene
        .copier(name)
        .flag("--retries", "2")
        .flag("--threads", "2")
        .flag("--commit-interval-ms", "20")
        .flag("--session-timeout-ms", SESSION_MS)
        .flag("--transaction-timeout-ms", "10000")
        .flag("--drain-ms", "5000")
}

/// Input with some of everything that comes as long as anything staged may take: however slow the machine is, there is
/// always something left to do. It is to be ended before everything can be stored.
#[must_use]
pub fn feed(scene: &Scene, seed: u64, partitions: i32) -> Feed {
    Feed::start(scene.client(), &scene.input, generate(seed, 60_000, partitions, Mix::ALL), 400)
}

/// Slow enough to be caught in the middle.
#[must_use]
pub fn slow(orders: Orders) -> Orders {
    orders.flag("--work-us", "500..4000")
}

/// What the usual copier was told.
#[must_use]
pub fn rules() -> Rules {
    Rules { retries: 2, ..Rules::default() }
}

impl Orders {
    /// Everything the evidence says so far; nothing, if there is none yet.
    ///
    /// # Errors
    /// When a line of it cannot be read.
    pub fn trail_so_far(&self) -> Result<Trail> {
        if self.evidence().exists() { self.trail() } else { Ok(Trail::default()) }
    }

    /// The end of the evidence; nothing, if there is none yet.
    ///
    /// # Errors
    /// As [`trail_so_far`](Self::trail_so_far).
    pub fn last_words(&self) -> Result<Trail> {
        let path = self.evidence();
        if path.exists() { Trail::read_end(&path) } else { Ok(Trail::default()) }
    }

    /// How often its copiers have committed so far.
    ///
    /// # Errors
    /// As [`trail_so_far`](Self::trail_so_far).
    pub fn committed(&self) -> Result<usize> {
        Ok(self.trail_so_far()?.fates("committed"))
    }
}

/// Waits until a copier's orders have led to so many commits.
///
/// # Errors
/// When it ends before, or they do not come.
pub async fn commits(copier: &mut Copier, orders: &Orders, count: usize) -> Result<()> {
    until("commits", SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        Ok(orders.committed()? >= count)
    })
    .await
}

/// Waits until a copier has handed over a cut and not heard how it ended.
///
/// # Errors
/// When it ends before, or none hangs.
pub async fn commit_in_flight(copier: &mut Copier, orders: &Orders) -> Result<()> {
    until("a commit that hangs", SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        let before = orders.last_words()?.open_cut();
        sleep(Duration::from_millis(300)).await;
        Ok(before.is_some() && before == orders.last_words()?.open_cut())
    })
    .await
}

/// Waits until everything is stored, ends these copiers cleanly, and audits.
///
/// # Errors
/// When one of it fails, or something is not there exactly once.
pub async fn finish(scene: &Scene, copiers: Vec<Copier>) -> Result<Compared> {
    finish_by(scene, copiers, &rules()).await
}

/// As [`finish`], by other rules.
///
/// # Errors
/// As [`finish`].
pub async fn finish_by(scene: &Scene, copiers: Vec<Copier>, rules: &Rules) -> Result<Compared> {
    stop_when_done(scene, copiers).await?;
    scene.audit(rules).await?.exactly_once().map_err(anyhow::Error::msg)
}

/// Waits until everything is stored and ends these copiers cleanly.
///
/// # Errors
/// When one of it fails.
pub async fn stop_when_done(scene: &Scene, mut copiers: Vec<Copier>) -> Result<()> {
    until("everything to be stored", SOON, async || {
        for copier in &mut copiers {
            ensure!(copier.is_running()?, "a copier ended: {}", copier.words());
        }
        // A server that has just come back may not answer yet.
        Ok(scene.is_done().await.unwrap_or_else(|error| {
            println!("not to be read yet: {error:#}");
            false
        }))
    })
    .await?;
    for copier in &mut copiers {
        copier.signal("TERM")?;
    }
    for copier in &mut copiers {
        copier.end(SOON).await?.with_code(0)?;
    }
    Ok(())
}
