//! Room: places, ring bytes and log rows, taken in one step before a request takes any lock.
//!
//! What must hold, so that a full log makes writers wait but never stops: every dirty stripe is
//! charged for the Place that can destage it; [`SPARE_ROWS`] are left for commits that only move
//! the tail; destage waits for ring bytes alone, which the writer task frees by itself.

use super::{Halted, Journal, LOST_ROWS, LogDevices, Need, Room, SPARE_ROWS, State};
use crate::sabotage::{Sabotage, broken};
use crate::world::World;

impl<W: World, D: LogDevices> Journal<W, D> {
    pub(super) fn free_rows(&self, s: &State) -> u64 {
        self.unspared_rows(s).saturating_sub(LOST_ROWS)
    }

    /// Rows that are free but for [`SPARE_ROWS`].
    fn unspared_rows(&self, s: &State) -> u64 {
        let charged = if broken(Sabotage::ReserveForgotten) { 0 } else { s.charged_rows };
        let taken = (s.head_total - s.space_tail) + s.reserved_rows + charged + SPARE_ROWS;
        self.0.geometry.rows.saturating_sub(taken)
    }

    fn fits(&self, s: &State, need: &Need) -> bool {
        need.places + s.reserved_places <= self.0.ring.free_places()
            && need.ring_bytes + s.reserved_ring <= self.0.ring.free_record_bytes()
            && need.rows <= self.free_rows(s)
    }

    fn take(&self, s: &mut State, need: Need) -> Room<W, D> {
        s.reserved_places += need.places;
        s.reserved_ring += need.ring_bytes;
        s.reserved_rows += need.rows;
        Room { journal: self.clone(), left: need }
    }

    /// Waits until there is room for all of `need`, first come first served, and takes it in one
    /// step.
    pub async fn reserve(&self, need: Need) -> Result<Room<W, D>, Halted> {
        let _turn = self.0.door.lock().await;
        let mut waiting = false;
        let result = loop {
            {
                let mut s = self.0.state.borrow_mut();
                if s.halted || s.stopped {
                    break Err(Halted);
                }
                if self.fits(&s, &need) {
                    break Ok(self.take(&mut s, need));
                }
                if !waiting {
                    waiting = true;
                    s.room_waiters += 1;
                }
            }
            let woken = self.0.room.wait();
            self.0.work.notify();
            self.0.pressure.notify();
            woken.await;
        };
        if waiting {
            self.0.state.borrow_mut().room_waiters -= 1;
        }
        result
    }

    /// Takes room if it is there now: for destage, which must not wait behind writers.
    pub fn try_reserve(&self, need: Need) -> Option<Room<W, D>> {
        let mut s = self.0.state.borrow_mut();
        if s.halted || !self.fits(&s, &need) {
            return None;
        }
        Some(self.take(&mut s, need))
    }

    /// Takes room for marks of lost blocks, out of the rows kept for them, if it is there now.
    pub fn try_reserve_lost(&self, ring_bytes: usize) -> Option<Room<W, D>> {
        let mut s = self.0.state.borrow_mut();
        let fits = ring_bytes + s.reserved_ring <= self.0.ring.free_record_bytes()
            && self.unspared_rows(&s) >= LOST_ROWS;
        if s.halted || !fits {
            return None;
        }
        Some(self.take(&mut s, Need { places: 0, ring_bytes, rows: LOST_ROWS }))
    }

    /// Waits for ring bytes alone, before any writer: the writer task always empties the ring's
    /// records, so this ends without anybody's help. The rows are those a stripe was charged for.
    pub async fn reserve_for_place(&self, ring_bytes: usize) -> Result<Room<W, D>, Halted> {
        let rows = self.0.geometry.place_rows;
        loop {
            {
                let mut s = self.0.state.borrow_mut();
                if s.halted {
                    return Err(Halted);
                }
                if ring_bytes + s.reserved_ring <= self.0.ring.free_record_bytes() {
                    assert!(s.charged_rows >= rows, "I2: every dirty stripe is charged");
                    s.charged_rows -= rows;
                    return Ok(self.take(&mut s, Need { places: 0, ring_bytes, rows }));
                }
            }
            let woken = self.0.room.wait();
            self.0.work.notify();
            woken.await;
        }
    }

    /// Charges a stripe that became dirty for its Place, out of a request's room.
    pub fn charge(&self, room: &mut Room<W, D>) {
        let rows = self.0.geometry.place_rows;
        assert!(room.left.rows >= rows);
        room.left.rows -= rows;
        let mut s = self.0.state.borrow_mut();
        s.reserved_rows -= rows;
        s.charged_rows += rows;
    }

    /// Charges a stripe at start-up, when the log's content itself shows that it fits.
    pub fn charge_at_start(&self) {
        self.0.state.borrow_mut().charged_rows += self.0.geometry.place_rows;
    }

    /// Gives a stripe's charge back: it is clean.
    pub fn uncharge(&self) {
        let mut s = self.0.state.borrow_mut();
        assert!(s.charged_rows >= self.0.geometry.place_rows);
        s.charged_rows -= self.0.geometry.place_rows;
        drop(s);
        self.0.room.notify();
    }
}
