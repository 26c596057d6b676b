//! Work that comes in trickles, done in batches.

use std::time::Duration;

use tokio::time::Instant;

/// Lets something be done once in a while: at once if it was not done for that long.
///
/// What costs as much for one item as for ten (a message, a sync, a thread that is woken) is worth a
/// wait that its caller does not notice.
#[derive(Debug)]
pub struct Beat {
    gap: Duration,
    next: Option<Instant>,
}

impl Beat {
    /// At most once in `gap`.
    pub const fn every(gap: Duration) -> Self {
        Self { gap, next: None }
    }

    /// Returns when it may be done, which begins the next gap. Nothing is lost if it is dropped.
    pub async fn wait(&mut self) {
        let now = Instant::now();
        let due = self.due(now);
        if due > now {
            tokio::time::sleep_until(due).await;
        }
        self.next = Some(due + self.gap);
    }

    fn due(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_goes_at_once_and_the_next_after_the_gap() {
        let gap = Duration::from_millis(4);
        let (mut beat, now) = (Beat::every(gap), Instant::now());
        assert_eq!(beat.due(now), now);
        beat.wait().await;
        let next = beat.due(now);
        assert!(next >= now + gap);
        beat.wait().await;
        assert!(Instant::now() >= next);
        // Whoever comes late owes nothing, and has saved nothing up.
        assert_eq!(beat.due(now + 100 * gap), now + 100 * gap);
    }
}
