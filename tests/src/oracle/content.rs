//! Content that says where it comes from: every 8 bytes of a write name the request and the
//! position, mixed so that no part of it repeats.

use super::{Effect, Request};
use crate::rng::{mix, unmix};

const POSITION_BITS: u32 = 40;

fn word(number: u64, index: u64) -> u64 {
    mix(number << POSITION_BITS | index)
}

/// The content of request `number` at bytes `at..at+len`.
#[must_use]
pub fn pattern(number: u64, at: u64, len: usize) -> Vec<u8> {
    let first = at / 8;
    let words = (at % 8 + len as u64).div_ceil(8);
    let mut bytes = Vec::with_capacity((words * 8) as usize);
    for i in first..first + words {
        bytes.extend_from_slice(&word(number, i).to_le_bytes());
    }
    bytes.drain(..(at % 8) as usize);
    bytes.truncate(len);
    bytes
}

/// Which request's content for which position these 8 bytes are: (number, position).
#[must_use]
pub fn decode(bytes: [u8; 8]) -> (u64, u64) {
    let x = unmix(u64::from_le_bytes(bytes));
    (x >> POSITION_BITS, (x & ((1 << POSITION_BITS) - 1)) * 8)
}

impl Request {
    /// In words, for people.
    pub(super) fn name(&self) -> String {
        let fua = if self.fua { " FUA" } else { "" };
        match self.effect {
            Effect::Write(_) => {
                format!("write {}{fua} ({} bytes at {})", self.number, self.len, self.at)
            }
            Effect::Zero => {
                format!("discard {}{fua} ({} bytes at {})", self.number, self.len, self.at)
            }
            Effect::Together(ref parts) => {
                let ranges: Vec<String> =
                    parts.iter().map(|(at, data)| format!("{} at {at}", data.len())).collect();
                format!("transaction {} ({} bytes)", self.number, ranges.join(", "))
            }
            Effect::Flush => format!("flush {}", self.number),
        }
    }
}

/// What `content` (the device from byte `at` on) seems to be, run by run.
pub(super) fn describe(content: &[u8], at: u64, size: u64, newest: u64) -> String {
    let mut runs: Vec<(u64, String)> = Vec::new();
    let skip = (8 - at % 8) % 8;
    for (i, w) in content.get(skip as usize..).unwrap_or(&[]).chunks_exact(8).enumerate() {
        let position = at + skip + i as u64 * 8;
        let w: [u8; 8] = w.try_into().expect("eight bytes");
        let (number, wanted) = decode(w);
        let what = if w == [0; 8] {
            "zeros".to_owned()
        } else if number == 0 || number > newest || wanted >= size {
            "foreign bytes".to_owned()
        } else if wanted == position {
            format!("write {number}")
        } else {
            format!("write {number} displaced by {}", position as i64 - wanted as i64)
        };
        if runs.last().is_none_or(|(_, last)| *last != what) {
            runs.push((position, what));
        }
    }
    let shown: Vec<String> = runs.iter().take(12).map(|(p, w)| format!("{p}: {w}")).collect();
    let more =
        if runs.len() > 12 { format!(" and {} more", runs.len() - 12) } else { String::new() };
    format!("[{}{more}]", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_names_its_request_and_place() {
        let p = pattern(12, 4096 + 3, 100);
        assert_eq!(p[5..], pattern(12, 4096 + 8, 95));
        assert_eq!(decode(p[5..13].try_into().expect("eight")), (12, 4104));
        assert_eq!(describe(&p, 4099, 1 << 20, 20), "[4104: write 12]");
        assert!(describe(&p, 8192 + 3, 1 << 20, 20).contains("displaced by 4096"));
    }
}
