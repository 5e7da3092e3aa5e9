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
    /// the one of `theirs` that was taken beside it, so that what the machine did in the meantime is in neither.
    ///
    /// By rank, whatever the distribution: on which side of the median a ratio lies is as with coins, and two of their
    /// standard deviations are the root of how many there are.
    pub(crate) fn ratio_by_pairs(&self, theirs: &Self) -> [f64; 2] {
        let pairs = self.taken.iter().zip(&theirs.taken);
        let ratios = Self::new(pairs.map(|(ours, theirs)| ours / theirs).collect());
        let (middle, aside) = (ratios.len() / 2, ratios.len().isqrt());
        [middle.saturating_sub(aside + 1), middle + aside]
            .map(|rank| ratios.sorted.get(rank).copied().unwrap_or(f64::NAN))
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

    #[test]
    fn what_disturbs_both_of_a_pair_is_not_in_their_ratio() {
        let disturbed = |round: usize| count(1000 + round * round % 977);
        let theirs: Vec<_> = (0..100).map(disturbed).collect();
        let ours = theirs.iter().map(|number| number * 0.99).collect();
        let [low, high] = Sample::new(ours).ratio_by_pairs(&Sample::new(theirs));
        assert!(
            (0.989..=high).contains(&low) && high < 0.991,
            "{low} to {high}"
        );
    }

    #[test]
    fn the_median_of_coins_is_not_told_from_one() {
        // Every other ratio is above, and they are far apart.
        let ours = (0..100).map(|round| if round % 2 == 0 { 0.5 } else { 2.0 });
        let theirs = vec![1.0; 100];
        let [low, high] = Sample::new(ours.collect()).ratio_by_pairs(&Sample::new(theirs));
        assert!(low < 1.0 && high > 1.0, "{low} to {high}");
    }

    #[test]
    fn too_few_pairs_say_nothing() {
        let [low, high] = Sample::new(vec![1.0; 2]).ratio_by_pairs(&Sample::new(vec![2.0; 2]));
        assert!(low.is_finite() && high.is_nan(), "{low} to {high}");
    }
}
