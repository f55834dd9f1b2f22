//! The generic cell rate algorithm (ITU-T I.371, annex A): a limit of `limit` in a period, with
//! bursts, kept in one number: the theoretical arrival time of the next request.

/// A rate limit. Times are in one unit and epoch of the caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time between two requests at the limit's pace.
    interval: i64,
    /// How far ahead of that pace requests may run.
    tolerance: i64,
}

impl Rate {
    /// `limit` requests in `period`, of which `burst` may come at once. Values below 1 count as 1.
    #[must_use]
    pub fn new(limit: u32, period: i64, burst: u32) -> Self {
        let interval = (period / i64::from(limit.max(1))).max(1);
        Self { interval, tolerance: interval.saturating_mul(i64::from(burst.max(1))) }
    }

    /// Takes `cost` requests at `now`, or says how long to wait for them.
    ///
    /// `arrival` is the state, 0 at first; it changes only if the requests are taken.
    ///
    /// # Errors
    /// The time to wait.
    pub fn take(self, arrival: &mut i64, now: i64, cost: u32) -> Result<(), i64> {
        let next =
            (*arrival).max(now).saturating_add(self.interval.saturating_mul(i64::from(cost)));
        let wait = next.saturating_sub(now).saturating_sub(self.tolerance);
        if wait > 0 {
            return Err(wait);
        }
        *arrival = next;
        Ok(())
    }

    /// Gives back one request that was taken.
    pub fn give_back(self, arrival: &mut i64) {
        *arrival = arrival.saturating_sub(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_pace() {
        let rate = Rate::new(10, 60, 10);
        let mut arrival = 0;
        for _ in 0..10 {
            assert_eq!(rate.take(&mut arrival, 1000, 1), Ok(()));
        }
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(6));
        assert_eq!(rate.take(&mut arrival, 1005, 1), Err(1));
        assert_eq!(rate.take(&mut arrival, 1006, 1), Ok(()));
        assert_eq!(rate.take(&mut arrival, 1006, 1), Err(6));
        rate.give_back(&mut arrival);
        assert_eq!(rate.take(&mut arrival, 1006, 1), Ok(()));
    }

    proptest! {
        // In any window of the period, at most the burst and one period's worth get through.
        #[test]
        fn never_lets_more_through_than_defined(
            limit in 1u32..50,
            burst in 1u32..20,
            steps in prop::collection::vec(0i64..2_000, 1..400),
        ) {
            let period = 10_000;
            let rate = Rate::new(limit, period, burst);
            let mut arrival = 0;
            let mut now = 1_000_000;
            let mut taken = Vec::new();
            for step in steps {
                now += step;
                if rate.take(&mut arrival, now, 1).is_ok() {
                    taken.push(now);
                }
            }
            let interval = period / i64::from(limit);
            for (at, start) in taken.iter().enumerate() {
                let window = taken[at..].iter().take_while(|time| *time - start < period).count();
                let most = i64::from(burst) + period / interval + 1;
                prop_assert!(i64::try_from(window).is_ok_and(|window| window <= most));
            }
        }
    }
}
