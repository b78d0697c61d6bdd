//! Drawing copiers.

/// Copiers in a random order, each once before any comes again.
pub(super) struct Slots {
    dice: fastrand::Rng,
    copiers: usize,
    left: Vec<usize>,
}

impl Slots {
    pub(super) fn new(dice: &mut fastrand::Rng, copiers: usize) -> Self {
        Self { dice: dice.fork(), copiers, left: Vec::new() }
    }

    pub(super) fn next(&mut self) -> usize {
        if self.left.is_empty() {
            self.left = (0..self.copiers).collect();
            self.dice.shuffle(&mut self.left);
        }
        self.left.pop().expect("just filled")
    }
}
