//! Numbers, and what is said about them.

/// Measured numbers, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn new(mut numbers: Vec<f64>) -> Self {
        numbers.sort_unstable_by(f64::total_cmp);
        Self(numbers)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The number that `percent` of them do not exceed; not a number where there are none.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    /// The points of the distribution: a number, and the percentage that does not exceed it.
    pub(crate) fn distribution(&self) -> Vec<(f64, f64)> {
        (1..=99)
            .map(|percent| (self.at(percent), count(percent)))
            .collect()
    }
}

/// A count as a number to calculate with. None here comes near the 53 bits that are exact.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn count(count: usize) -> f64 {
    count as f64
}
