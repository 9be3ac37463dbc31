//! RUN/NAME.ublk: which ublk device serves the array, so that a restarted daemon takes it over.
//!
//! It is written after the device was added and before it is started, and replaced in one step.
//! It is a hint: the kernel's own word (64 bits of the array's UUID in the device's target flags)
//! decides whether that device is ours.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// UUID of the array, 32 hexadecimal digits.
    pub uuid: String,
    /// N of `/dev/ublkbN`.
    pub ublk_id: u32,
}

impl Record {
    /// A record of this array and device.
    #[must_use]
    pub fn new(uuid: u128, ublk_id: u32) -> Record {
        Record { uuid: format!("{uuid:032x}"), ublk_id }
    }

    /// The array's UUID, if it is one.
    #[must_use]
    pub fn uuid(&self) -> Option<u128> {
        parse_uuid(&self.uuid)
    }

    /// The record of the array `name`. None if there is none, or none that makes sense.
    #[must_use]
    pub fn load(run_dir: &Path, name: &str) -> Option<Record> {
        let text = std::fs::read(path(run_dir, name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers.
    ///
    /// # Errors
    /// What the kernel says; the old record is then as it was.
    pub fn store(&self, run_dir: &Path, name: &str) -> io::Result<()> {
        let draft = run_dir.join(format!(".{name}.ublk.new"));
        std::fs::write(&draft, serde_json::to_vec(self)?)?;
        std::fs::rename(draft, path(run_dir, name))
    }

    /// Forgets.
    pub fn forget(run_dir: &Path, name: &str) {
        // One that stays is recognised as stale.
        let _ = std::fs::remove_file(path(run_dir, name));
    }
}

fn path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.ublk"))
}

/// A UUID with or without dashes.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<u128> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

/// The bits of a UUID that a device carries in its target flags.
#[must_use]
pub fn tag_of(uuid: u128) -> u64 {
    (uuid >> 64) as u64 ^ uuid as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_rubbish_does_not() {
        let dir = std::env::temp_dir().join(format!("evenkeel-record-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        assert_eq!(Record::load(&dir, "a"), None);
        let r = Record::new(0x1234_5678_9abc_def0_0000_0000_0000_0001, 7);
        r.store(&dir, "a").expect("stored");
        assert_eq!(Record::load(&dir, "a"), Some(r.clone()));
        assert_eq!(r.uuid().map(|u| format!("{u:032x}")), Some(r.uuid.clone()));
        assert_eq!(parse_uuid("12345678-9abc-def0-0000-000000000001"), r.uuid());
        std::fs::write(path(&dir, "a"), "{\"uuid\":3}").expect("written");
        assert_eq!(Record::load(&dir, "a"), None);
        Record::forget(&dir, "a");
        let _ = std::fs::remove_dir_all(dir);
    }
}
