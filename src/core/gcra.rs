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
    /// A period that does not divide evenly is rounded so that no more get through.
    #[must_use]
    pub fn new(limit: u32, period: i64, burst: u32) -> Self {
        let limit = i64::from(limit.max(1));
        let interval = (period / limit + i64::from(period % limit != 0)).max(1);
        Self { interval, tolerance: interval.saturating_mul(i64::from(burst.max(1))) }
    }

    /// Takes `cost` requests at `now`, or says how long to wait for them.
    ///
    /// `arrival` is the state, 0 at first; it changes only if the requests are taken.
    ///
    /// # Errors
    /// The time to wait.
    pub fn take(self, arrival: &mut i64, now: i64, cost: u32) -> Result<(), i64> {
        let next = self.interval.checked_mul(i64::from(cost));
        // More than can be counted is more than is allowed.
        let next = next.and_then(|cost| (*arrival).max(now).checked_add(cost)).ok_or(i64::MAX)?;
        let wait = next.saturating_sub(now).saturating_sub(self.tolerance);
        if wait > 0 {
            return Err(wait);
        }
        *arrival = next;
        Ok(())
    }

    /// Takes one request at `now` even if it is over the limit: later ones wait for it.
    pub fn owe(self, arrival: &mut i64, now: i64) {
        *arrival = (*arrival).max(now).saturating_add(self.interval);
    }

    /// Gives back one request that was taken.
    pub fn give_back(self, arrival: &mut i64) {
        *arrival = arrival.saturating_sub(self.interval);
    }

    /// How many requests may come at once at `now`.
    #[must_use]
    pub fn remaining(self, arrival: i64, now: i64) -> i64 {
        self.tolerance.saturating_sub(self.reset(arrival, now)).max(0) / self.interval
    }

    /// How long it takes from `now`, without requests, until all of the burst may come at once.
    #[must_use]
    pub fn reset(self, arrival: i64, now: i64) -> i64 {
        arrival.saturating_sub(now).max(0)
    }

    /// How long one request takes at the limit's pace.
    #[must_use]
    pub const fn interval(self) -> i64 {
        self.interval
    }

    /// How long a burst takes at the limit's pace.
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
    fn what_is_owed_is_waited_for() {
        let rate = Rate::new(10, 60, 1);
        let mut arrival = 0;
        assert_eq!(rate.take(&mut arrival, 1000, 1), Ok(()));
        rate.owe(&mut arrival, 1000);
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(12));
        rate.give_back(&mut arrival);
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(6));
    }

    #[test]
    fn tells_what_remains() {
        let rate = Rate::new(10, 60, 5);
        let mut arrival = 0;
        assert_eq!((rate.remaining(arrival, 1000), rate.reset(arrival, 1000)), (5, 0));
        assert_eq!(rate.take(&mut arrival, 1000, 3), Ok(()));
        assert_eq!((rate.remaining(arrival, 1000), rate.reset(arrival, 1000)), (2, 18));
        assert_eq!((rate.remaining(arrival, 1007), rate.reset(arrival, 1007)), (3, 11));
        assert_eq!(rate.window(), 30);
    }

    #[test]
    fn is_kept_however_wide_it_is() {
        let rate = Rate::new(1, i64::MAX / 4, u32::MAX);
        let mut arrival = 0;
        assert_eq!(rate.take(&mut arrival, 1000, 3), Ok(()));
        assert_eq!(rate.take(&mut arrival, 1000, 1), Err(i64::MAX));
        assert_eq!(rate.take(&mut arrival, 1000, u32::MAX), Err(i64::MAX));
    }

    #[test]
    fn what_does_not_divide_evenly_is_slower_not_faster() {
        let rate = Rate::new(7, 1_000_000, 1);
        let mut arrival = 0;
        assert_eq!(rate.take(&mut arrival, 0, 1), Ok(()));
        assert_eq!(rate.take(&mut arrival, 142_857, 1), Err(1));
        assert_eq!(rate.take(&mut arrival, 142_858, 1), Ok(()));
    }

    proptest! {
        // Between any two of those that got through there are, besides the burst, at most as many
        // as the time between them allows. And it is no stricter than it says: who is told to
        // wait and does gets through, and no earlier.
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
