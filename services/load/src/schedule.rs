//! The instants at which transactions are due.

use std::time::Duration;

use crate::args::Rate;

/// When transactions are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub rate: Rate,
    /// From the first transaction to the begin of the measured time.
    pub warmup: Duration,
    /// Length of the measured time; `None` sends everything at once and measures all of it.
    pub duration: Option<Duration>,
    /// Number of transactions, if it is known.
    pub planned: Option<u64>,
}

impl Schedule {
    /// When transaction number `index` is due after the start, whatever happened to those before;
    /// `None`: as soon as there is room.
    pub fn due(&self, index: u64) -> Option<Duration> {
        let rate = self.rate.per_second()?;
        Some(Duration::from_secs_f64(index as f64 / rate))
    }

    /// From the start to the end of sending.
    pub fn end(&self) -> Option<Duration> {
        self.duration.map(|duration| self.warmup + duration)
    }

    /// How many of the transactions from number `index` on are due within the measured time.
    pub fn measured_from(&self, index: u64) -> u64 {
        let Some((planned, warmup)) = self.planned.zip(self.due(0).map(|_| self.warmup)) else {
            return 0;
        };
        (index..planned).filter(|index| self.due(*index).is_some_and(|due| due >= warmup)).count()
            as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_due_whatever_happened_before() {
        let schedule = Schedule {
            rate: Rate::PerSecond(400.0),
            warmup: Duration::from_secs(1),
            duration: Some(Duration::from_secs(2)),
            planned: Some(1_200),
        };
        assert_eq!(schedule.due(0), Some(Duration::ZERO));
        assert_eq!(schedule.due(1), Some(Duration::from_micros(2_500)));
        assert_eq!(schedule.due(1_000_000), Some(Duration::from_secs(2_500)));
        assert_eq!(schedule.end(), Some(Duration::from_secs(3)));
        // The last of the plan is due before the end, the one after it no more.
        assert!(schedule.due(1_199) < schedule.end() && schedule.due(1_200) == schedule.end());
        // What is left unsent counts from the end of the warm-up only.
        assert_eq!(schedule.measured_from(0), 800);
        assert_eq!(schedule.measured_from(401), 799);
        assert_eq!(schedule.measured_from(1_200), 0);
        let max = Schedule { rate: Rate::Max, planned: None, ..schedule };
        assert_eq!((max.due(7), max.measured_from(7)), (None, 0));
    }
}
