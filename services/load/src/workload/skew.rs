//! Which account: skewed choice, and even rotation.

use rand::{Rng, seq::SliceRandom};

use super::World;

/// Draws from the accounts with probability proportional to `1 / rank^s`, where an account's rank
/// is its index + 1. Restricted to a shard, or to all others, the proportions stay the same.
pub struct Skew {
    shards: Vec<Ranks>,
    total: f64,
}

/// The members of one shard with the running sum of their weights.
#[derive(Default)]
struct Ranks {
    members: Vec<u32>,
    running: Vec<f64>,
}

impl Ranks {
    fn total(&self) -> f64 {
        self.running.last().copied().unwrap_or(0.0)
    }

    fn draw(&self, rng: &mut impl Rng) -> Option<u32> {
        let at = rng.random::<f64>() * self.total();
        let index = self.running.partition_point(|running| *running <= at);
        self.members.get(index).or(self.members.last()).copied()
    }
}

impl Skew {
    /// Over the accounts of a world, with exponent `s`; 0 is uniform.
    pub fn new(world: &World, s: f64) -> Self {
        let mut shards: Vec<Ranks> = Vec::new();
        shards.resize_with(usize::from(world.shards()), Ranks::default);
        let mut total = 0.0;
        for index in 0..world.len() {
            let weight = f64::from(index + 1).powf(-s);
            let ranks = &mut shards[usize::from(world.shard(index))];
            ranks.running.push(ranks.total() + weight);
            ranks.members.push(index);
            total += weight;
        }
        Self { shards, total }
    }

    /// An account of the shard; `None` if it has none.
    pub fn within(&self, shard: u16, rng: &mut impl Rng) -> Option<u32> {
        self.shards[usize::from(shard)].draw(rng)
    }

    /// An account of any other shard; `None` if they have none.
    pub fn outside(&self, shard: u16, rng: &mut impl Rng) -> Option<u32> {
        let others = |(number, _): &(usize, &Ranks)| *number != usize::from(shard);
        let rest = self.total - self.shards[usize::from(shard)].total();
        self.among(rest, rng, others)
    }

    /// Any account.
    pub fn any(&self, rng: &mut impl Rng) -> Option<u32> {
        self.among(self.total, rng, |_| true)
    }

    fn among(
        &self,
        total: f64,
        rng: &mut impl Rng,
        which: impl Fn(&(usize, &Ranks)) -> bool,
    ) -> Option<u32> {
        let mut at = rng.random::<f64>() * total;
        let mut last = None;
        for (_, ranks) in self.shards.iter().enumerate().filter(which) {
            if ranks.members.is_empty() {
                continue;
            }
            last = Some(ranks);
            if at < ranks.total() {
                break;
            }
            at -= ranks.total();
        }
        last?.draw(rng)
    }
}

/// Everybody in turn, in a shuffled order: the transactions of one account are as far apart as they
/// can be.
pub struct Rotation {
    order: Vec<u32>,
    at: usize,
}

impl Rotation {
    pub fn new(mut order: Vec<u32>, rng: &mut impl Rng) -> Self {
        order.shuffle(rng);
        Self::in_order(order)
    }

    /// Everybody in the order given.
    pub fn in_order(order: Vec<u32>) -> Self {
        Self { order, at: 0 }
    }

    /// The next one; `None` if there is nobody.
    pub fn turn(&mut self) -> Option<u32> {
        let turn = self.order.get(self.at).copied();
        self.at = (self.at + 1) % self.order.len().max(1);
        turn
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::workload::tests::world;

    const DRAWS: u32 = 200_000;

    fn counts(size: u32, mut draw: impl FnMut() -> u32) -> Vec<u32> {
        let mut counts = vec![0; size as usize];
        for _ in 0..DRAWS {
            counts[draw() as usize] += 1;
        }
        counts
    }

    /// Within five standard deviations of a binomial.
    fn fits(count: u32, probability: f64) -> bool {
        let mean = f64::from(DRAWS) * probability;
        (f64::from(count) - mean).abs() < 5.0 * (mean * (1.0 - probability)).sqrt() + 1.0
    }

    #[test]
    fn frequencies_follow_the_exponent() {
        let world = world(100, 4);
        for s in [0.0, 0.8, 1.2, 2.0] {
            let skew = Skew::new(&world, s);
            let mut rng = StdRng::seed_from_u64(1);
            let total: f64 = (1..=100).map(|rank| f64::from(rank).powf(-s)).sum();
            let counts = counts(100, || skew.any(&mut rng).unwrap());
            for (index, count) in counts.iter().enumerate() {
                let probability = (index as f64 + 1.0).powf(-s) / total;
                assert!(fits(*count, probability), "s {s}, rank {index}: {count}");
            }
        }
    }

    #[test]
    fn a_shard_or_its_complement_keeps_the_proportions() {
        let world = world(60, 3);
        let skew = Skew::new(&world, 1.0);
        let mut rng = StdRng::seed_from_u64(2);
        for inside in [true, false] {
            let member = |index: u32| (world.shard(index) == 1) == inside;
            let weight = |index: u32| 1.0 / f64::from(index + 1);
            let total: f64 = (0..60).filter(|i| member(*i)).map(weight).sum();
            let counts = counts(60, || {
                let drawn =
                    if inside { skew.within(1, &mut rng) } else { skew.outside(1, &mut rng) };
                drawn.unwrap()
            });
            for index in 0..60 {
                let expected = if member(index) { weight(index) / total } else { 0.0 };
                assert!(fits(counts[index as usize], expected), "{inside} {index}");
            }
        }
    }

    #[test]
    fn an_empty_side_gives_nobody() {
        let world = world(5, 1);
        let skew = Skew::new(&world, 1.0);
        let mut rng = StdRng::seed_from_u64(3);
        assert_eq!(skew.outside(0, &mut rng), None);
        assert!(skew.within(0, &mut rng).is_some());
        assert_eq!(Rotation::new(vec![], &mut rng).turn(), None);
    }

    #[test]
    fn a_rotation_takes_everybody_once_a_round() {
        let mut rotation = Rotation::new((0..10).collect(), &mut StdRng::seed_from_u64(4));
        for _ in 0..3 {
            let mut round: Vec<_> = (0..10).filter_map(|_| rotation.turn()).collect();
            round.sort_unstable();
            assert_eq!(round, (0..10).collect::<Vec<_>>());
        }
    }
}
