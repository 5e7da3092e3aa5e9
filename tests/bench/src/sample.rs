//! Numbers, and what is said about them.

/// Measured numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// As they came, round by round.
    taken: Vec<f64>,
    sorted: Vec<f64>,
}

impl Sample {
    pub(crate) fn new(taken: Vec<f64>) -> Self {
        let mut sorted = taken.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        Self { taken, sorted }
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The number that `percent` of them do not exceed; not a number where there are none.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let rank = (self.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }

    /// The two numbers between which, in 95 of 100 such measurements, the median of the rounds' ratios is: each of ours to
    /// the one of `theirs` of the same round, so that what the machine does from round to round is in neither. `None` where
    /// they are too few to say.
    ///
    /// By rank, whatever the distribution: on which side of the median a ratio lies is as with coins, and two of their
    /// standard deviations are the root of how many there are.
    pub(crate) fn ratio_by_pairs(&self, theirs: &Self) -> Option<[f64; 2]> {
        let pairs = self.taken.iter().zip(&theirs.taken);
        let ratios = Self::new(pairs.map(|(ours, theirs)| ours / theirs).collect());
        let low = (ratios.len() / 2).checked_sub(ratios.len().isqrt() + 1)?;
        let high = ratios.len() - 1 - low;
        Some([ratios.sorted[low], ratios.sorted[high]])
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ours to theirs.
    fn interval(pairs: impl Iterator<Item = (f64, f64)>) -> Option<[f64; 2]> {
        let (ours, theirs) = pairs.unzip();
        Sample::new(ours).ratio_by_pairs(&Sample::new(theirs))
    }

    #[test]
    fn each_is_compared_with_the_one_of_its_round() {
        // The same numbers on both sides, but for their order: always less than beside it, and once much more.
        let pairs = (0..100).map(|round| (count(round + 1), count((round + 1) % 100 + 1)));
        assert!(interval(pairs).is_some_and(|[_, high]| high < 1.0));
    }

    #[test]
    fn the_interval_is_as_wide_as_coins_scatter() {
        // The ratios are their own ranks: 50.5 in the middle, and ten on both sides.
        let pairs = |rounds| (0..rounds).rev().map(|rank| (count(rank + 1), 1.0));
        assert_eq!(interval(pairs(100)), Some([40.0, 61.0]));
        assert_eq!(interval(pairs(15)), Some([4.0, 12.0]));
    }

    #[test]
    fn too_few_say_nothing() {
        assert_eq!(interval((0..5).map(|_| (2.0, 1.0))), None);
        assert_eq!(interval((0..6).map(|_| (2.0, 1.0))), Some([2.0, 2.0]));
    }
}
