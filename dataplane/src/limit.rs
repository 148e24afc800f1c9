//! Token bucket: a rate with a burst, counted in packets.

/// Allows `rate` packets a second on average and `burst` at once.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate_per_s: u64,
    burst: u64,
    /// In thousandths of a packet, so that a millisecond adds exactly `rate_per_s` of them.
    milli_tokens: u64,
    last_ms: u64,
}

impl TokenBucket {
    /// A full bucket. A rate of 0 allows the burst once and then nothing.
    #[must_use]
    pub fn new(rate_per_s: u32, burst: u32) -> Self {
        let burst = u64::from(burst);
        Self {
            rate_per_s: rate_per_s.into(),
            burst,
            milli_tokens: burst * 1000,
            last_ms: 0,
        }
    }

    /// Takes one packet's worth at this time, in milliseconds of any monotonic clock.
    /// False when there is none left.
    #[must_use]
    pub fn take(&mut self, now_ms: u64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(self.last_ms);
        self.last_ms = self.last_ms.max(now_ms);
        let refill = elapsed_ms.saturating_mul(self.rate_per_s);
        self.milli_tokens = self
            .milli_tokens
            .saturating_add(refill)
            .min(self.burst * 1000);
        let Some(rest) = self.milli_tokens.checked_sub(1000) else {
            return false;
        };
        self.milli_tokens = rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(100, 3);
        let taken =
            |bucket: &mut TokenBucket, now_ms| (0..10).filter(|_| bucket.take(now_ms)).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 9), 0);
        assert_eq!(taken(&mut bucket, 10), 1);
        assert_eq!(
            taken(&mut bucket, 1_000_000),
            3,
            "never more than the burst"
        );
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_twice() {
        let mut bucket = TokenBucket::new(1000, 1);
        assert!(bucket.take(50));
        assert!(!bucket.take(40));
        assert!(!bucket.take(50));
        assert!(bucket.take(51));
    }
}
