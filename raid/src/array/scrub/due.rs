//! A scrub by itself, when the last one is so old (`StartOptions::scrub_every`).
//!
//! What must hold: none is begun while the array stops or is halted, while one is under way, while a
//! member is being filled, or while so many members are out that nothing could be mended; a clock that
//! is wrong makes a scrub come early or late, and never makes one follow another at once.

use std::time::Duration;

use evenkeel_journal::World;

use super::either;
use crate::array::Array;
use crate::status::MemberState;

/// Between two looks at most: the clock may be set meanwhile, and what hinders a scrub may end.
const LOOK: Duration = Duration::from_secs(3600);
/// Between two looks at least.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

impl<W: World> Array<W> {
    /// From now on a scrub begins by itself when the last one ended, or was stopped, so long ago. Never
    /// in an array that is read-only.
    pub(in crate::array) fn spawn_scrub_clock(&self) {
        let Some(every) = self.0.options.scrub_every.filter(|_| !self.0.options.read_only) else {
            return;
        };
        let this = self.clone();
        self.0.world.spawn("scrub clock", async move { this.run_scrub_clock(every).await });
    }

    async fn run_scrub_clock(&self, every: Duration) {
        let (world, began) = (&self.0.world, self.0.world.now());
        while !self.0.stopping.get() && !self.0.members.is_halted() {
            let due_in = self.scrub_due_in(every, began);
            if due_in.is_zero() && self.scrub_may_begin() {
                // Without checksums nobody can say whether data or parity is wrong: a person decides.
                let check_only = !self.0.geometry.get().has_checksums();
                // Nothing speaks against it that was not looked at just now.
                let _ = self.begin_scrub_because(check_only, Some(every)).await;
            }
            // The end of a scrub, and the array's, wake it before.
            let pause = if due_in.is_zero() { LOOK } else { due_in.clamp(SHORTEST_LOOK, LOOK) };
            either(world.sleep(pause), self.0.scrub.changed.wait()).await;
        }
    }

    /// How long until a scrub is due. The page says when the last one ended; before the first one the
    /// array's creation counts. Where there is no page, and where the clock was set back so that both
    /// are still to come, the time since the start counts, by the clock that never goes back.
    fn scrub_due_in(&self, every: Duration, began: Duration) -> Duration {
        let (world, g) = (&self.0.world, &self.0.geometry.get());
        let last = self.0.scrub.last.get().map(|run| run.ended);
        let created = || g.has_checksums().then(|| self.0.members.superblock().created);
        let age = last.or_else(created).and_then(|then| world.wall_clock().checked_sub(then));
        let age = age.map_or_else(|| world.now().saturating_sub(began), Duration::from_secs);
        every.saturating_sub(age)
    }

    fn scrub_may_begin(&self) -> bool {
        let (members, g) = (&self.0.members, &self.0.geometry.get());
        let being_filled = |m: &crate::superblock::MemberEntry| {
            matches!(m.state, MemberState::Rebuilding | MemberState::Failing)
        };
        !self.0.scrub.is_running()
            && !self.is_growing()
            && members.gone_members() < g.parity
            && !members.superblock().members.iter().any(being_filled)
    }
}
