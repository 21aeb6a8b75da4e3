//! Microseconds, exact up to 100 ms, then one bucket: nothing is allocated while measuring.

pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; 100_000], count: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, us: u64) {
        let at = (us as usize).min(self.buckets.len() - 1);
        self.buckets[at] += 1;
        self.count += 1;
    }

    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
    }

    pub fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn quantile(&self, q: f64) -> u64 {
        let mut left = (self.count as f64 * q) as u64;
        for (us, &count) in self.buckets.iter().enumerate() {
            if u64::from(count) > left {
                return us as u64;
            }
            left -= u64::from(count);
        }
        self.buckets.len() as u64
    }
}
