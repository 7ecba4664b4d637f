//! What the benchmarks share: load, seeds, counters, and what a process costs. The servers and nodes are the
//! integration tests' own (`tests/common`).

#![allow(dead_code, reason = "each benchmark uses its own part of this module")]

pub mod bare;
pub mod crowd;
pub mod load;
pub mod probe;
pub mod process;
pub mod redis;
pub mod role;
pub mod scrape;
pub mod seed;

use std::time::Duration;

/// The number given after `--`, to make a benchmark smaller or larger.
pub fn size(usual: usize) -> usize {
    std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(usual)
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds with one decimal.
pub fn micros(duration: Duration) -> String {
    format!("{:.1} µs", duration.as_secs_f64() * 1e6)
}

/// The middle of some numbers, and their ends.
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The median.
    pub middle: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of at least one number.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        let middle = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { least, middle, most }
    }
}
