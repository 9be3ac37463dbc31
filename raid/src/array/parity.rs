//! Parity made right: what a start with force does for every stripe that has a slot, since rows
//! may be half-written whose Parity was given up with the log.
//!
//! What must hold: the superblock says *uneven* until all of it is flushed, so that a start that is
//! cut here is made good by the next; and no request is taken before.

use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{Buf, Slice, Slot, Stripe, World};

use super::Array;
use crate::error::{ArrayError, ErrorKind};
use crate::options::Progress;

/// Stripes that are worked on together.
const AT_ONCE: usize = 8;

/// What became of a stripe.
enum Row {
    Right,
    Mended,
    Unreadable,
}

impl<W: World> Array<W> {
    /// Computes the parity of every mapped stripe from its data, and writes it where it is not
    /// what lies there.
    pub(super) async fn make_parity_right(
        &self,
        progress: &dyn Fn(Progress),
    ) -> Result<(), ArrayError> {
        let all: Vec<(Stripe, Slot)> = {
            let map = self.0.map.borrow();
            map.entries().filter_map(|(s, e)| e.slot.map(|slot| (s, slot))).collect()
        };
        let (mut mended, mut lost) = (0u64, Vec::new());
        for (i, some) in all.chunks(AT_ONCE).enumerate() {
            progress(Progress::Parity((i * AT_ONCE) as u64, all.len() as u64));
            let rows = some.iter().map(|(_, slot)| self.parity_of(*slot)).collect();
            for ((stripe, _), row) in some.iter().zip(join_all(rows).await) {
                match row.map_err(|Halted| halted())? {
                    Row::Right => {}
                    Row::Mended => mended += 1,
                    Row::Unreadable => lost.push(stripe.to_string()),
                }
            }
        }
        self.0.members.flush().await.map_err(|Halted| halted())?;
        let mut notices = self.0.notices.borrow_mut();
        notices.push(format!(
            "The parity of all {} stripes in use was checked; that of {mended} was made right.",
            all.len()
        ));
        if !lost.is_empty() {
            notices.push(format!(
                "Warning: too much of these stripes cannot be read to make their parity right: {}.",
                lost.join(", ")
            ));
        }
        Ok(())
    }

    async fn parity_of(&self, slot: Slot) -> Result<Row, Halted> {
        let (g, members) = (&self.0.geometry, &self.0.members);
        let rows = g.chunk_blocks;
        let data: Vec<usize> = (0..g.data).collect();
        let Ok(data) = self.read_rows(slot, 0, rows, &data).await else {
            return if members.is_halted() { Err(Halted) } else { Ok(Row::Unreadable) };
        };
        let columns: Vec<&[u8]> = data.iter().map(|c| &c[..]).collect();
        let chunk = g.chunk_bytes() as usize;
        let mut parity: Vec<Buf> = (0..g.parity).map(|_| Buf::new(chunk)).collect();
        let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
        members.code().encode(&columns, &mut out);
        let mut row = Row::Right;
        for (i, right) in parity.into_iter().enumerate() {
            let (member, at) = (g.member_of(slot, g.data + i), g.byte_of(slot, 0));
            let there = members.read(member, at, Buf::new(chunk)).await;
            if there.is_some_and(|there| there[..] == right[..]) || !members.is_active(member) {
                continue;
            }
            let right: Slice = right.freeze();
            members.write(member, at, vec![right]).await?;
            row = Row::Mended;
        }
        Ok(row)
    }
}

fn halted() -> ArrayError {
    ArrayError::new(
        ErrorKind::Failed,
        "Too many members failed while the parity was being made right. The next start goes on \
         with that.",
    )
}
