//! The same block run without help and with it, in turns, so that whatever else the machine does
//! troubles both alike.

use std::time::{Duration, Instant};

/// Times of runs, one of each in a turn.
#[derive(Default)]
pub struct Paired {
    turns: Vec<(Duration, Duration)>,
}

impl Paired {
    /// One turn. Both do the same work; which goes first alternates.
    pub fn turn(&mut self, alone: &mut dyn FnMut(), aided: &mut dyn FnMut()) -> Duration {
        let time = |run: &mut dyn FnMut()| {
            let start = Instant::now();
            run();
            start.elapsed()
        };
        let turn = if self.turns.len().is_multiple_of(2) {
            let alone = time(alone);
            (alone, time(aided))
        } else {
            let aided = time(aided);
            (time(alone), aided)
        };
        self.turns.push(turn);
        turn.1
    }

    /// Prints medians of both and of their ratio, with the ratio's quartiles. Returns those of both, in
    /// microseconds a transaction.
    pub fn tell(&self, name: &str, txs: usize) -> [f64; 2] {
        let each = |duration: Duration| duration.as_secs_f64() * 1e6 / txs as f64;
        let alone = quantiles(self.turns.iter().map(|turn| each(turn.0)));
        let aided = quantiles(self.turns.iter().map(|turn| each(turn.1)));
        let ratios = self.turns.iter().map(|(a, b)| a.as_secs_f64() / b.as_secs_f64());
        let [low, middle, high] = quantiles(ratios);
        println!(
            "{name}: {middle:.2} x ({low:.2}-{high:.2}); µs a transaction {:.2} alone, {:.2} with help; \
             {} turns of {txs} transactions",
            alone[1],
            aided[1],
            self.turns.len(),
        );
        [alone[1], aided[1]]
    }
}

/// Lower quartile, median, upper quartile.
fn quantiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values.get(quarter * (values.len() - 1) / 4).copied();
    [1, 2, 3].map(|quarter| at(quarter).unwrap_or(f64::NAN))
}
