//! The generic cell rate algorithm (ITU-T I.371, annex A): a rate limit with bursts whose state is
//! one number, the theoretical arrival time of the next request.

/// A rate limit. The caller chooses one unit and epoch for all times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time between two requests at the limit's pace.
    interval: i64,
    /// How far ahead of that pace requests may run.
    tolerance: i64,
}

impl Rate {
    /// Allows `limit` requests in `period`, of which `burst` may arrive at once. A `limit` or
    /// `burst` of 0 counts as 1. The time between requests is rounded up, so that no extra request
    /// gets through.
    #[must_use]
    pub fn new(limit: u32, period: i64, burst: u32) -> Self {
        let limit = i64::from(limit.max(1));
        let interval = (period / limit + i64::from(period % limit != 0)).max(1);
        Self { interval, tolerance: interval.saturating_mul(i64::from(burst.max(1))) }
    }

    /// Takes `cost` requests at `now`.
    ///
    /// `arrival` is the state, initially 0. It changes only on success.
    ///
    /// # Errors
    /// The time to wait, if the limit does not allow the requests yet. `i64::MAX` if the arithmetic
    /// overflows.
    pub fn take(self, arrival: &mut i64, now: i64, cost: u32) -> Result<(), i64> {
        let next = self.interval.checked_mul(i64::from(cost));
        let next = next.and_then(|cost| (*arrival).max(now).checked_add(cost)).ok_or(i64::MAX)?;
        let wait = next.saturating_sub(now).saturating_sub(self.tolerance);
        if wait > 0 {
            return Err(wait);
        }
        *arrival = next;
        Ok(())
    }

    /// Takes one request at `now` even if it exceeds the limit: later requests wait longer.
    pub fn owe(self, arrival: &mut i64, now: i64) {
        *arrival = (*arrival).max(now).saturating_add(self.interval);
    }

    /// Returns one request that was taken.
    pub fn give_back(self, arrival: &mut i64) {
        *arrival = arrival.saturating_sub(self.interval);
    }

    /// Number of requests that may arrive at once at `now`.
    #[must_use]
    pub fn remaining(self, arrival: i64, now: i64) -> i64 {
        self.tolerance.saturating_sub(self.reset(arrival, now)).max(0) / self.interval
    }

    /// Time from `now`, without requests, until a full burst is available again.
    #[must_use]
    pub fn reset(self, arrival: i64, now: i64) -> i64 {
        arrival.saturating_sub(now).max(0)
    }

    /// Time between two requests at the limit's pace.
    #[must_use]
    pub const fn interval(self) -> i64 {
        self.interval
    }

    /// Time that a full burst takes at the limit's pace.
    #[must_use]
    pub const fn window(self) -> i64 {
        self.tolerance
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

    #[test]
    fn an_owed_request_delays_later_ones() {
        let rate = Rate::new(10, 60, 1);
        let mut arrival = 0;
        assert_eq!(rate.take(&mut arrival, 1000, 1), Ok(()));
        rate.owe(&mut arrival, 1000);
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(12));
        rate.give_back(&mut arrival);
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(6));
    }

    #[test]
    fn reports_remaining_requests_and_reset_time() {
        let rate = Rate::new(10, 60, 5);
        let mut arrival = 0;
        assert_eq!((rate.remaining(arrival, 1000), rate.reset(arrival, 1000)), (5, 0));
        assert_eq!(rate.take(&mut arrival, 1000, 3), Ok(()));
        assert_eq!((rate.remaining(arrival, 1000), rate.reset(arrival, 1000)), (2, 18));
        assert_eq!((rate.remaining(arrival, 1007), rate.reset(arrival, 1007)), (3, 11));
        assert_eq!(rate.window(), 30);
    }

    #[test]
    fn an_extreme_period_and_burst_do_not_overflow() {
        let rate = Rate::new(1, i64::MAX / 4, u32::MAX);
        let mut arrival = 0;
        assert_eq!(rate.take(&mut arrival, 1000, 3), Ok(()));
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(i64::MAX));
        assert_eq!(rate.take(&mut arrival, 1000, u32::MAX), Err(i64::MAX));
    }

    #[test]
    fn an_uneven_period_rounds_to_the_slower_pace() {
        let rate = Rate::new(7, 1_000_000, 1);
        let mut arrival = 0;
        assert_eq!(rate.take(&mut arrival, 0, 1), Ok(()));
        assert_eq!(rate.take(&mut arrival, 142_857, 1), Err(1));
        assert_eq!(rate.take(&mut arrival, 142_858, 1), Ok(()));
    }

    proptest! {
        // In any span of time no more requests get through than the burst and the pace allow. A
        // request that waits for exactly the reported time gets through, and not one unit earlier.
        #[test]
        fn never_lets_more_through_than_defined(
            limit in 1u32..50,
            burst in 1u32..20,
            steps in prop::collection::vec((0i64..2_000, 1u32..4), 1..400),
        ) {
            let period = 10_000i64;
            let rate = Rate::new(limit, period, burst);
            let mut arrival = 0;
            let mut now = 1_000_000;
            let mut taken = Vec::new();
            for (step, cost) in steps {
                now += step;
                let before = arrival;
                match rate.take(&mut arrival, now, cost) {
                    Ok(()) => taken.push((now, i64::from(cost))),
                    Err(wait) => {
                        prop_assert_eq!(arrival, before);
                        if cost <= burst {
                            prop_assert!(rate.take(&mut arrival.clone(), now + wait, cost).is_ok());
                        }
                        prop_assert!(rate.take(&mut arrival.clone(), now + wait - 1, cost).is_err());
                    }
                }
            }
            let interval = period.div_euclid(limit.into()) + i64::from(period % i64::from(limit) != 0);
            for (at, (start, _)) in taken.iter().enumerate() {
                let mut through = 0;
                for (time, cost) in &taken[at..] {
                    through += cost;
                    prop_assert!(through <= i64::from(burst) + (time - start) / interval);
                }
            }
        }
    }
}
