//! A disk with a volatile cache, over a file.
//!
//! The file is the medium: what is there after a cut. What the machine reads is a second file, the
//! view. A change (a write, a trim, a write of zeros) goes to the view and waits in a list; only a
//! FLUSH or FUA takes it to the medium. A cut takes a random part of the list there, in random
//! order, some of it only in some sectors.
//!
//! As little as a disk may promise is promised: a FLUSH covers the changes that were answered
//! before it arrived, not those that it overtook; FUA covers its own write.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::rng::Rng;

/// What a write is torn at.
pub const SECTOR: u64 = 512;

/// What a change puts there.
#[derive(Clone, Debug)]
enum Content {
    Data(Vec<u8>),
    Zeros(u64),
}

/// A change that the medium does not have.
#[derive(Clone, Debug)]
struct Change {
    offset: u64,
    content: Content,
    ticket: u64,
    /// How many requests had arrived when it was answered.
    answered: Option<u64>,
}

impl Change {
    fn len(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64,
            Content::Zeros(len) => *len,
        }
    }

    fn end(&self) -> u64 {
        self.offset + self.len()
    }

    /// The part from `from` to `to`, which lie in it.
    fn part(&self, from: u64, to: u64) -> Change {
        let content = match &self.content {
            Content::Data(data) => Content::Data(
                data[(from - self.offset) as usize..(to - self.offset) as usize].to_vec(),
            ),
            Content::Zeros(_) => Content::Zeros(to - from),
        };
        Change { offset: from, content, ..*self }
    }

    fn apply(&self, file: &File) -> io::Result<()> {
        match &self.content {
            Content::Data(data) => file.write_all_at(data, self.offset),
            Content::Zeros(len) => zero(file, self.offset, *len),
        }
    }
}

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Trims, and writes of zeros.
    pub zeros: u64,
    /// Flushes.
    pub flushes: u64,
    /// Changes with FUA.
    pub fua: u64,
}

/// What a cut did to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Changes that no flush had covered.
    pub volatile: u64,
    /// Those that the medium has whole.
    pub kept: u64,
    /// Those that it has nothing of.
    pub lost: u64,
    /// Those that it has in some sectors.
    pub torn: u64,
    /// Bytes of the volatile changes.
    pub bytes: u64,
}

/// How a cut chooses.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The part of the volatile changes that is kept, 0 to 100; without it every disk keeps another
    /// part, between nothing and all.
    pub keep: Option<u64>,
    /// Tear some of those that are kept.
    pub tear: bool,
}

/// A disk with a volatile cache.
pub struct Disk {
    medium: File,
    view: File,
    size: u64,
    changes: Vec<Change>,
    tickets: u64,
    lying: bool,
    asked: Asked,
}

impl Disk {
    /// A disk on this medium. `view` is an empty file for the other copy.
    ///
    /// # Errors
    /// If the medium cannot be copied.
    pub fn new(medium: File, view: File) -> io::Result<Disk> {
        let size = medium.metadata()?.len();
        view.set_len(size)?;
        copy(&medium, &view, size)?;
        let asked = Asked::default();
        Ok(Disk { medium, view, size, changes: Vec::new(), tickets: 0, lying: false, asked })
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What was asked so far.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// Changes that a cut could lose.
    #[must_use]
    pub fn volatile(&self) -> usize {
        self.changes.len()
    }

    /// From now on FLUSH and FUA are answered and not done.
    pub fn lie(&mut self) {
        self.lying = true;
    }

    /// Is this range on the disk?
    #[must_use]
    pub fn has(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// Reads what was written last.
    ///
    /// # Errors
    /// Of the file.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.asked.reads += 1;
        self.view.read_exact_at(into, offset)
    }

    /// Writes; the ticket is for [`Disk::answered`].
    ///
    /// # Errors
    /// Of the files.
    pub fn write(&mut self, offset: u64, data: Vec<u8>, fua: bool) -> io::Result<u64> {
        self.asked.writes += 1;
        self.change(offset, Content::Data(data), fua)
    }

    /// Makes a range zeros: a trim, too.
    ///
    /// # Errors
    /// Of the files.
    pub fn zero(&mut self, offset: u64, len: u64, fua: bool) -> io::Result<u64> {
        self.asked.zeros += 1;
        self.change(offset, Content::Zeros(len), fua)
    }

    fn change(&mut self, offset: u64, content: Content, fua: bool) -> io::Result<u64> {
        self.tickets += 1;
        self.asked.fua += u64::from(fua);
        let change = Change { offset, content, ticket: self.tickets, answered: None };
        change.apply(&self.view)?;
        self.changes.push(change);
        if fua && !self.lying {
            self.settle(self.changes.len() - 1)?;
        }
        Ok(self.tickets)
    }

    /// The change with this ticket is being answered, after so many requests had arrived.
    pub fn answered(&mut self, ticket: u64, arrived: u64) {
        // It is among the last, and may have been split since.
        for change in self.changes.iter_mut().rev().take_while(|c| c.ticket >= ticket) {
            if change.ticket == ticket {
                change.answered = Some(arrived);
            }
        }
    }

    /// A flush that arrived as the request of this number.
    ///
    /// # Errors
    /// Of the medium.
    pub fn flush(&mut self, number: u64) -> io::Result<()> {
        self.asked.flushes += 1;
        if self.lying {
            return Ok(());
        }
        let covered = |c: &Change| c.answered.is_some_and(|arrived| arrived < number);
        if self.changes.iter().all(covered) {
            for change in self.changes.drain(..) {
                change.apply(&self.medium)?;
            }
            return Ok(());
        }
        while let Some(first) = self.changes.iter().position(covered) {
            self.settle(first)?;
        }
        Ok(())
    }

    /// Everything to the medium, as when a machine is switched off in order.
    ///
    /// # Errors
    /// Of the medium.
    pub fn close(&mut self) -> io::Result<()> {
        self.changes.drain(..).try_for_each(|change| change.apply(&self.medium))
    }

    /// Takes one change to the medium. Older ones of the same sectors can no longer come after it.
    fn settle(&mut self, index: usize) -> io::Result<()> {
        let settled = self.changes.remove(index);
        settled.apply(&self.medium)?;
        let (from, to) = (settled.offset, settled.end());
        let newer = self.changes.split_off(index);
        for older in std::mem::take(&mut self.changes) {
            if older.end() <= from || to <= older.offset {
                self.changes.push(older);
                continue;
            }
            if older.offset < from {
                self.changes.push(older.part(older.offset, from));
            }
            if to < older.end() {
                self.changes.push(older.part(to, older.end()));
            }
        }
        self.changes.extend(newer);
        Ok(())
    }

    /// The power is cut: the medium gets what the choice leaves of the changes.
    ///
    /// # Errors
    /// Of the medium.
    pub fn cut(&mut self, choice: Choice, rng: &mut Rng) -> io::Result<Fate> {
        let keep = choice.keep.unwrap_or_else(|| [0, 10, 50, 50, 50, 90, 97, 100][rng.index(8)]);
        let mut fate = Fate { volatile: self.changes.len() as u64, ..Fate::default() };
        let mut left = Vec::new();
        for change in self.changes.drain(..) {
            fate.bytes += change.len();
            if rng.below(100) < keep {
                left.push(change);
            } else {
                fate.lost += 1;
            }
        }
        rng.shuffle(&mut left);
        for change in left {
            if choice.tear && change.len() > SECTOR && rng.one_in(4) {
                fate.torn += 1;
                let mut at = change.offset;
                while at < change.end() {
                    // Sectors of the disk, not of the write.
                    let to = ((at / SECTOR + 1) * SECTOR).min(change.end());
                    if rng.one_in(2) {
                        change.part(at, to).apply(&self.medium)?;
                    }
                    at = to;
                }
            } else {
                fate.kept += 1;
                change.apply(&self.medium)?;
            }
        }
        Ok(fate)
    }
}

/// Punches a hole into a file that stays as long as it is.
///
/// # Errors
/// Of the file.
pub fn zero(file: &File, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is involved, and the descriptor is open as long as the file is.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Copies what is no hole.
fn copy(from: &File, to: &File, size: u64) -> io::Result<()> {
    let seek = |offset: u64, whence| {
        // SAFETY: no memory is involved, and the descriptor is open as long as the file is.
        match unsafe { libc::lseek(from.as_raw_fd(), offset as i64, whence) } {
            -1 => Err(io::Error::last_os_error()),
            at => Ok(at as u64),
        }
    };
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        at = match seek(at, libc::SEEK_DATA) {
            // There is no more.
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => break,
            other => other?,
        };
        let end = seek(at, libc::SEEK_HOLE)?.min(size);
        while at < end {
            let n = (end - at).min(buffer.len() as u64) as usize;
            from.read_exact_at(&mut buffer[..n], at)?;
            to.write_all_at(&buffer[..n], at)?;
            at += n as u64;
        }
    }
    Ok(())
}

/// A file without a name in this directory.
///
/// # Errors
/// If it cannot be made.
pub fn nameless(directory: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // O_TMPFILE includes O_DIRECTORY, which must not be combined with O_CREAT.
    File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;
    const ALL: Choice = Choice { keep: Some(100), tear: false };
    const NONE: Choice = Choice { keep: Some(0), tear: false };

    fn file() -> File {
        let file = nameless(&std::env::temp_dir()).unwrap();
        file.set_len(SIZE).unwrap();
        file
    }
    fn disk() -> (Disk, File) {
        let medium = file();
        let disk = Disk::new(medium.try_clone().unwrap(), file()).unwrap();
        (disk, medium)
    }
    fn sector(file: &File, number: u64) -> u8 {
        let mut bytes = [0; SECTOR as usize];
        file.read_exact_at(&mut bytes, number * SECTOR).unwrap();
        assert!(bytes.iter().all(|b| *b == bytes[0]), "sector {number} is torn");
        bytes[0]
    }
    /// Writes sectors, and the write is answered at once.
    fn put(disk: &mut Disk, number: u64, sectors: u64, byte: u8) {
        let ticket =
            disk.write(number * SECTOR, vec![byte; (sectors * SECTOR) as usize], false).unwrap();
        disk.answered(ticket, 0);
    }

    #[test]
    fn the_view_has_the_media_and_every_change() {
        let medium = file();
        medium.write_all_at(&[3; 512], 512).unwrap();
        let mut disk = Disk::new(medium.try_clone().unwrap(), file()).unwrap();
        put(&mut disk, 2, 2, 4);
        disk.zero(3 * SECTOR, SECTOR, false).unwrap();
        let mut read = [0; 2048];
        disk.read(512, &mut read).unwrap();
        assert_eq!([read[0], read[512], read[1024], read[1536]], [3, 4, 0, 0]);
        assert_eq!((sector(&medium, 1), sector(&medium, 2)), (3, 0), "the medium has it already");
        assert_eq!(disk.asked(), Asked { reads: 1, writes: 1, zeros: 1, ..Asked::default() });
        disk.close().unwrap();
        assert_eq!((sector(&medium, 2), sector(&medium, 3)), (4, 0));
    }

    #[test]
    fn what_was_flushed_survives_and_what_was_not_may_be_lost() {
        let (mut disk, medium) = disk();
        put(&mut disk, 1, 1, 1);
        put(&mut disk, 2, 1, 1);
        disk.flush(1).unwrap();
        put(&mut disk, 2, 1, 2);
        disk.zero(SECTOR, SECTOR, false).unwrap();
        let fate = disk.cut(NONE, &mut Rng::new(1)).unwrap();
        assert_eq!((sector(&medium, 1), sector(&medium, 2)), (1, 1));
        assert_eq!(fate, Fate { volatile: 2, lost: 2, bytes: 1024, ..Fate::default() });
    }

    #[test]
    fn a_later_write_may_be_kept_and_an_earlier_one_lost_and_the_other_way_round() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let (mut disk, medium) = disk();
            put(&mut disk, 1, 1, 1);
            put(&mut disk, 2, 1, 2);
            put(&mut disk, 1, 1, 3);
            let choice = Choice { keep: Some(50), tear: false };
            let fate = disk.cut(choice, &mut Rng::new(seed)).unwrap();
            assert_eq!(fate.kept + fate.lost, 3);
            seen.insert((sector(&medium, 1), sector(&medium, 2)));
        }
        assert_eq!(seen.len(), 6, "not every outcome was seen: {seen:?}");
    }

    #[test]
    fn a_flush_does_not_cover_what_it_overtook() {
        let (mut disk, medium) = disk();
        put(&mut disk, 1, 1, 1);
        let late = disk.write(2 * SECTOR, vec![2; 512], false).unwrap();
        // Answered when request 5 had arrived: the flush.
        disk.answered(late, 5);
        disk.flush(5).unwrap();
        assert_eq!((sector(&medium, 1), sector(&medium, 2), disk.volatile()), (1, 0, 1));
        disk.flush(6).unwrap();
        assert_eq!((sector(&medium, 2), disk.volatile()), (2, 0));
    }

    #[test]
    fn fua_covers_its_own_write_and_nothing_older_comes_back_over_it() {
        let (mut disk, medium) = disk();
        put(&mut disk, 1, 4, 1);
        put(&mut disk, 8, 1, 1);
        disk.write(2 * SECTOR, vec![2; 512], true).unwrap();
        assert_eq!((sector(&medium, 1), sector(&medium, 2), sector(&medium, 8)), (0, 2, 0));
        disk.cut(ALL, &mut Rng::new(1)).unwrap();
        let now: Vec<u8> = (1..6).map(|n| sector(&medium, n)).collect();
        assert_eq!(now, [1, 2, 1, 1, 0]);
    }

    #[test]
    fn a_torn_write_is_torn_at_sectors() {
        let (mut some, mut none, mut all) = (0, 0, 0);
        for seed in 0..200 {
            let (mut disk, medium) = disk();
            put(&mut disk, 0, 8, 7);
            let choice = Choice { keep: Some(100), tear: true };
            let fate = disk.cut(choice, &mut Rng::new(seed)).unwrap();
            // sector() looks that each is one write's.
            match (0..8).filter(|n| sector(&medium, *n) == 7).count() {
                0 => none += 1,
                8 => all += 1,
                _ => some += 1,
            }
            assert_eq!((fate.kept + fate.torn, fate.lost), (1, 0));
        }
        assert!(some > 20 && all > 100 && none < 10, "{some} {all} {none}");
    }

    #[test]
    fn a_liar_forgets_what_it_promised() {
        let (mut disk, medium) = disk();
        put(&mut disk, 1, 1, 1);
        disk.flush(9).unwrap();
        disk.lie();
        put(&mut disk, 1, 1, 2);
        disk.flush(9).unwrap();
        disk.write(SECTOR * 2, vec![2; 512], true).unwrap();
        let fate = disk.cut(NONE, &mut Rng::new(1)).unwrap();
        assert_eq!((sector(&medium, 1), sector(&medium, 2), fate.lost), (1, 0, 2));
    }
}
