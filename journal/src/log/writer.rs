//! The task that writes commits, a step at a time, and the one that ends idleness.

use super::{Columns, CommitInfo, Halted, IDLE, Journal, LogDevices, Pending, Step};
use crate::commit::{
    ColumnHeader, FLAG_INLINE, INLINE_MAX, MAX_PAYLOAD, column_crc, meta_blocks, shape,
};
use crate::mem::{Buf, Slice};
use crate::sabotage::{Sabotage, broken};
use crate::sync::{after_the_ready, join_all};
use crate::units::{BLOCK, CommitNumber, Lsn, MemberIndex};
use crate::world::World;

impl<W: World, D: LogDevices> Journal<W, D> {
    /// Starts the tasks that write commits.
    pub fn spawn(&self) {
        let writer = self.clone();
        self.0.world.spawn("log writer", async move {
            if writer.run_writer().await == Err(Halted) {
                writer.halt();
            }
            writer.0.writer_gone.set(true);
            writer.0.progress.notify();
            writer.0.room.notify();
            writer.0.idle.notify();
        });
        let idler = self.clone();
        self.0.world.spawn("log idler", async move { idler.run_idler().await });
    }

    /// Writes commits until the journal is closed. A commit is begun whenever none is in flight
    /// and something waits.
    async fn run_writer(&self) -> Result<(), Halted> {
        loop {
            let step = self.next_step();
            match step {
                Step::Wait => self.0.work.wait().await,
                Step::Stop => return Ok(()),
                Step::Flush => self.flush_all().await?,
                Step::Commit => {
                    // Requests that came together share a commit: it costs no time, and saves
                    // the headers and parity of a commit for the first one alone.
                    after_the_ready().await;
                    let batch = self.gather();
                    if batch.iter().any(|p| p.is_place) && !broken(Sabotage::PlaceBeforeFlush) {
                        // The chunks that a Place names are stable before it is written.
                        if let Err(halted) = self.flush_chunks().await {
                            self.0.state.borrow_mut().stranded = batch;
                            return Err(halted);
                        }
                    }
                    self.write_commit(batch).await?;
                }
            }
        }
    }

    fn next_step(&self) -> Step {
        let s = self.0.state.borrow();
        if s.halted || (s.stopped && s.pending.is_empty()) {
            return Step::Stop;
        }
        let unflushed = s.last > s.durable_number;
        let waited_for = s.want_durable > s.durable || s.room_waiters > 0 || s.flush_tail;
        // Somebody waits for what is written already, or nothing more can be gathered for them.
        let gathered = s.want_first <= s.written || s.pending.is_empty();
        if unflushed && waited_for && gathered && !s.want_empty {
            return Step::Flush;
        }
        if !s.pending.is_empty() || s.want_empty {
            return Step::Commit;
        }
        // A commit without records that moves the tail and gives back more than it takes.
        let tail = s.commits.front().map_or(s.head_total, |c| c.row_total);
        if s.room_waiters > 0 && !unflushed && tail >= s.announced_tail + 2 {
            return Step::Commit;
        }
        Step::Wait
    }

    /// Takes whole requests off the queue, as many as fit one commit.
    fn gather(&self) -> Vec<Pending> {
        let mut s = self.0.state.borrow_mut();
        s.want_empty = false;
        let (mut blocks, mut meta, mut taken) = (0, 0, 0);
        for (i, p) in s.pending.iter().enumerate() {
            blocks += p.data.len();
            meta += p.meta.len();
            if taken > 0 && blocks + meta.div_ceil(BLOCK) > MAX_PAYLOAD {
                break;
            }
            if p.last_of_request {
                taken = i + 1;
            }
        }
        s.pending.drain(..taken).collect()
    }

    /// What a Place names is stable. One flush serves that and the log where both are on the
    /// members, and only there.
    async fn flush_chunks(&self) -> Result<(), Halted> {
        if !self.0.geometry.apart || broken(Sabotage::PlaceFlushesLogAlone) {
            return self.flush_all().await;
        }
        self.0.devices.flush_members().await
    }

    async fn flush_all(&self) -> Result<(), Halted> {
        let (number, lsn) = {
            let s = self.0.state.borrow();
            (s.last, s.written)
        };
        if self.0.geometry.apart && broken(Sabotage::FlushOfMembersAlone) {
            self.0.devices.flush_members().await?;
        } else if !broken(Sabotage::FlushSkipped) {
            self.0.devices.flush().await?;
        }
        self.now_durable(number, lsn);
        Ok(())
    }

    fn now_durable(&self, number: CommitNumber, lsn: Lsn) {
        let mut released = Vec::new();
        {
            let mut s = self.0.state.borrow_mut();
            s.durable_number = s.durable_number.max(number);
            // Space is free again once a commit with a tail beyond it is durable.
            let durable = s.durable_number;
            let announced =
                s.commits.iter().take_while(|c| c.number <= durable).map(|c| c.tail_total);
            if let Some(tail) = announced.max() {
                s.announced_tail = s.announced_tail.max(tail);
                Self::free_space(&mut s);
            }
            if s.durable_number >= s.last {
                s.flush_tail = false;
            }
            s.durable = s.durable.max(lsn);
            s.want_first = s.want_first.max(s.durable.next());
            while s.on_durable.front().is_some_and(|(l, _)| *l <= s.durable) {
                released.extend(s.on_durable.pop_front());
            }
        }
        released.into_iter().for_each(|(_, r)| self.let_go(r));
        Self::advance_tail(&mut self.0.state.borrow_mut());
        self.0.progress.notify();
        self.0.room.notify();
        self.0.idle.notify();
    }

    async fn write_commit(&self, batch: Vec<Pending>) -> Result<(), Halted> {
        let columns = self.build(&batch);
        let writes = columns.writes.into_iter().map(|(member, at, segs)| {
            let w = self.0.devices.write(member, at, segs);
            async move { w.await.map(|_| ()) }
        });
        for done in join_all(writes.collect()).await {
            if let Err(halted) = done {
                self.0.state.borrow_mut().stranded = batch;
                return Err(halted);
            }
        }
        let ring_end = batch.last().map_or(0, |p| p.ring_end);
        if ring_end > 0 {
            self.0.ring.advance_tail(ring_end);
        }
        drop(batch);
        let mut s = self.0.state.borrow_mut();
        s.last = columns.number;
        s.written = s.written.max(columns.lsn_last);
        s.known_durable = columns.durable;
        s.activity += 1;
        drop(s);
        if broken(Sabotage::AckBeforeDurable) {
            self.now_durable(columns.number, columns.lsn_last);
        }
        self.0.progress.notify();
        self.0.room.notify();
        Ok(())
    }

    /// Makes the columns of the next commit and takes its rows.
    fn build(&self, batch: &[Pending]) -> Columns {
        let g = &self.0.geometry;
        let live = self.0.devices.live();
        let gone = g.members - live.len();
        let parity = g.parity.saturating_sub(gone);
        let mut meta = Vec::new();
        batch.iter().for_each(|p| meta.extend_from_slice(&p.meta));
        let inline = meta.len() <= INLINE_MAX;
        let mut payload: Vec<(Slice, u32)> = Vec::new();
        if !inline {
            payload.extend(meta_blocks(&meta).into_iter().map(|b| {
                let crc = crc32c::crc32c(&b);
                (b, crc)
            }));
        }
        batch.iter().for_each(|p| payload.extend(p.data.iter().cloned()));
        let (width, rows) = shape(payload.len(), g.data.min(live.len() - parity));

        let mut s = self.0.state.borrow_mut();
        let number = s.next_number;
        s.next_number = CommitNumber(number.0 + 1);
        let row_total = s.head_total;
        let reserved: u64 = batch.iter().map(|p| p.rows).sum();
        assert!(batch.is_empty() || rows as u64 <= reserved, "rows were reserved");
        s.reserved_rows -= reserved;
        s.head_total += rows as u64;
        assert!(s.head_total - s.space_tail <= g.rows, "I2: the log does not overwrite its tail");
        let (tail, tail_total) =
            s.commits.front().map_or((number, row_total), |c| (c.number, c.row_total));
        let lsn_last = batch.last().map_or(s.written, |p| p.lsn);
        let lsn_first = batch.first().map_or(lsn_last.next(), |p| p.lsn);
        s.commits.push_back(CommitInfo { number, row_total, lsn_last, tail_total });
        s.placed.push_back((number, row_total));
        if !batch.is_empty() {
            s.last_with_records = number;
        }
        if broken(Sabotage::TailReuse) {
            s.space_tail = row_total;
        }

        let first = number.0 as usize % live.len();
        let members: Vec<u8> =
            (0..width + parity).map(|i| live[(first + i) % live.len()].0).collect();
        let crc_of = |c: usize| column_crc(payload.iter().skip(c).step_by(width).map(|b| b.1));
        let data_crcs: Vec<u32> = (0..width).map(crc_of).collect();
        let mut header = ColumnHeader {
            array: g.array,
            incarnation: s.incarnation,
            number,
            prev_number: s.last,
            prev_crc: s.last_crc,
            commit_crc: 0,
            lsn_first,
            lsn_last,
            durable: s.durable_number,
            tail,
            tail_row: tail_total % g.rows,
            row: row_total % g.rows,
            rows: rows as u32,
            payload_blocks: payload.len() as u32,
            width: width as u16,
            column: 0,
            member: 0,
            meta_bytes: meta.len() as u32,
            flags: if inline { FLAG_INLINE } else { 0 },
            column_crc: 0,
            records: batch.len() as u32,
            epoch: self.0.devices.epoch(),
            members: members.clone(),
        };
        header.commit_crc = header.compute_commit_crc(if inline { &meta } else { &[] }, &data_crcs);
        s.last_crc = header.commit_crc;
        drop(s);

        let parity_blocks = self.encode_parity(&payload, width, rows - 1, parity);
        let mut writes = Vec::new();
        let all = members.len() - usize::from(broken(Sabotage::LastColumnDropped));
        for (column, member) in members.iter().enumerate().take(all) {
            let blocks: Vec<Slice> = if column < width {
                payload.iter().skip(column).step_by(width).map(|b| b.0.clone()).collect()
            } else {
                parity_blocks[column - width].clone()
            };
            header.column = column as u16;
            header.member = u16::from(*member);
            header.column_crc = if column < width {
                data_crcs[column]
            } else {
                column_crc(blocks.iter().map(|b| crc32c::crc32c(b)))
            };
            let mut segs = vec![header.encode(&meta).freeze()];
            segs.extend(blocks);
            let before_wrap = (g.rows - header.row) as usize;
            let rest = segs.split_off(before_wrap.min(segs.len()));
            let member = MemberIndex(*member);
            writes.push((member, g.offset + header.row * BLOCK as u64, segs));
            if !rest.is_empty() {
                writes.push((member, g.offset, rest));
            }
        }
        Columns { number, lsn_last, durable: header.durable, writes }
    }

    fn encode_parity(
        &self,
        payload: &[(Slice, u32)],
        width: usize,
        rows: usize,
        parity: usize,
    ) -> Vec<Vec<Slice>> {
        let mut columns: Vec<Buf> = (0..parity).map(|_| Buf::new(rows * BLOCK)).collect();
        for (r, row) in payload.chunks(width).enumerate() {
            let data: Vec<&[u8]> = row.iter().map(|b| &b.0[..]).collect();
            let mut out: Vec<&mut [u8]> =
                columns.iter_mut().map(|c| &mut c[r * BLOCK..(r + 1) * BLOCK]).collect();
            self.0.devices.encode(&data, &mut out);
        }
        let split = |c: Buf| {
            let c = c.freeze();
            (0..rows).map(|r| c.part(r * BLOCK, BLOCK)).collect()
        };
        columns.into_iter().map(split).collect()
    }

    /// After [`IDLE`] without anything new, has an empty commit written that makes the last one
    /// with records known as durable: so that its loss is damage and never a torn tail (P6).
    async fn run_idler(&self) {
        loop {
            let activity = {
                let s = self.0.state.borrow();
                if s.halted || s.stopped || self.0.writer_gone.get() {
                    return;
                }
                let unknown = s.last_with_records <= s.durable_number
                    && s.known_durable < s.last_with_records;
                unknown.then_some(s.activity)
            };
            let Some(activity) = activity else {
                self.0.idle.wait().await;
                continue;
            };
            self.0.world.sleep(IDLE).await;
            if self.0.state.borrow().activity != activity {
                continue;
            }
            let fits = self.free_rows(&self.0.state.borrow()) > 0;
            let waited = self.0.idle.wait();
            if fits {
                self.0.state.borrow_mut().want_empty = true;
                self.0.work.notify();
            }
            waited.await;
        }
    }
}
