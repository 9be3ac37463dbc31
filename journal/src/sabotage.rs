//! Breaking the array on purpose, so that the suites can show that they notice. Without the
//! feature `sabotage` nothing here can be switched on.

/// One deliberate breakage, named by the invariant that it breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// I1: sparse destage writes in place without waiting for its Parity.
    ParityNotLogged,
    /// I2: the tail passes what was destaged before the members were flushed.
    TailBeforeFlush,
    /// I2: log space is reused although commits in it are still needed.
    TailReuse,
    /// I3: a failed member is not recorded in the survivors' superblocks.
    FailureNotRecorded,
    /// I4: a slot is reused before the commit that replaced it is durable.
    SlotReuse,
    /// I5: FLUSH does not flush the members.
    FlushSkipped,
    /// P1: a commit counts as durable as soon as it is written.
    AckBeforeDurable,
    /// A Place is committed before the chunks it names were flushed.
    PlaceBeforeFlush,
    /// The same where the log is on journal devices: these are flushed, the members are not.
    PlaceFlushesLogAlone,
    /// I5: FLUSH flushes the members where the log is on journal devices.
    FlushOfMembersAlone,
    /// P5: the ring of a dead daemon is not looked at.
    RingIgnored,
    /// P7: replay does not take checksums from the log.
    ChecksumsNotLogged,
    /// I2: the tail passes records whose checksums have no home.
    ChecksumsNotHome,
    /// P7: a block is believed whatever its checksum says.
    ChecksumNotCompared,
    /// P3: a transaction is appended one record after the other.
    TransactionSplit,
    /// I7: what a member may have lost while it was away is not written again.
    NotWrittenAgain,
    /// I3: a member that missed epochs is taken for a current one.
    EpochIgnored,
    /// P6: a column of the log counts whatever its CRC says.
    AnyCrc,
    /// P6: replay goes on behind a commit that is not whole.
    TornCommitPassed,
    /// P6: a durable commit that is damaged counts as a torn tail.
    DamageAsTail,
    /// P1: the last column of a commit is not written.
    LastColumnDropped,
    /// P2: replay forgets discards.
    DiscardsForgotten,
    /// P2: at replay a Place supersedes Writes that came after it.
    HorizonIgnored,
    /// I5: a FUA write is acknowledged as any other.
    FuaLost,
    /// I5: FLUSH covers what is in a commit, and not what others have just written.
    FlushShort,
    /// I2: dirty stripes are not charged for the Places that can destage them.
    ReserveForgotten,
    /// I2: the tail passes map entries that have no home.
    MapNotHome,
    /// P4: a stripe is written to in part before it was moved out of the shape before.
    WrittenBeforeMoved,
    /// I4: a slot of the shape before is free when one stripe that it backs has a record of its own.
    BeforeGivenUpEarly,
    /// I6: an epoch names a wider shape whose root pages are not there.
    WidenedWithoutRoots,
    /// P1: the shape before is forgotten before all that was moved is durable.
    ForgottenBeforeMoved,
    /// I9: how far a member is filled is written down before it is so.
    FilledTooEarly,
    /// I9: it is written down before the log says durably where the filled stripes lie.
    FilledBeforePlace,
    /// I3: a write that fails on the disk being filled is taken for done, and not flushed.
    TwinIgnored,
    /// I9: a disk takes its place before the epoch that says so is durable.
    SeatBeforeEpoch,
    /// I9: a member turns active although the tail has not passed commits that it holds no column of.
    SeatBeforeTail,
    /// I9: a member turns active without the pages of map and checksums.
    PagesNotFilled,
    /// I9: what is written while a member is being filled does not go to it.
    NotMirrored,
    /// §9: a member that comes back is not given what was changed meanwhile.
    ChangesForgotten,
    /// I6: what a growth has added is used before the epoch that says so is durable.
    GrownBeforeEpoch,
    /// P3: the ring's head moves before the records are there.
    HeadBeforeRecords,
    /// P2: records of the ring that the log has already are adopted again.
    StaleRing,
}

impl Sabotage {
    /// All of them, with the names that tests use.
    pub const ALL: [(&'static str, Sabotage); 42] = [
        ("parity-not-logged", Sabotage::ParityNotLogged),
        ("tail-before-flush", Sabotage::TailBeforeFlush),
        ("tail-reuse", Sabotage::TailReuse),
        ("failure-not-recorded", Sabotage::FailureNotRecorded),
        ("slot-reuse", Sabotage::SlotReuse),
        ("flush-skipped", Sabotage::FlushSkipped),
        ("ack-before-durable", Sabotage::AckBeforeDurable),
        ("place-before-flush", Sabotage::PlaceBeforeFlush),
        ("place-flushes-log-alone", Sabotage::PlaceFlushesLogAlone),
        ("flush-of-members-alone", Sabotage::FlushOfMembersAlone),
        ("ring-ignored", Sabotage::RingIgnored),
        ("checksums-not-logged", Sabotage::ChecksumsNotLogged),
        ("checksums-not-home", Sabotage::ChecksumsNotHome),
        ("checksum-not-compared", Sabotage::ChecksumNotCompared),
        ("transaction-split", Sabotage::TransactionSplit),
        ("not-written-again", Sabotage::NotWrittenAgain),
        ("epoch-ignored", Sabotage::EpochIgnored),
        ("any-crc", Sabotage::AnyCrc),
        ("torn-commit-passed", Sabotage::TornCommitPassed),
        ("damage-as-tail", Sabotage::DamageAsTail),
        ("last-column-dropped", Sabotage::LastColumnDropped),
        ("discards-forgotten", Sabotage::DiscardsForgotten),
        ("horizon-ignored", Sabotage::HorizonIgnored),
        ("fua-lost", Sabotage::FuaLost),
        ("flush-short", Sabotage::FlushShort),
        ("reserve-forgotten", Sabotage::ReserveForgotten),
        ("map-not-home", Sabotage::MapNotHome),
        ("filled-too-early", Sabotage::FilledTooEarly),
        ("filled-before-place", Sabotage::FilledBeforePlace),
        ("twin-ignored", Sabotage::TwinIgnored),
        ("seat-before-epoch", Sabotage::SeatBeforeEpoch),
        ("seat-before-tail", Sabotage::SeatBeforeTail),
        ("pages-not-filled", Sabotage::PagesNotFilled),
        ("not-mirrored", Sabotage::NotMirrored),
        ("changes-forgotten", Sabotage::ChangesForgotten),
        ("grown-before-epoch", Sabotage::GrownBeforeEpoch),
        ("written-before-moved", Sabotage::WrittenBeforeMoved),
        ("before-given-up-early", Sabotage::BeforeGivenUpEarly),
        ("forgotten-before-moved", Sabotage::ForgottenBeforeMoved),
        ("widened-without-roots", Sabotage::WidenedWithoutRoots),
        ("head-before-records", Sabotage::HeadBeforeRecords),
        ("stale-ring", Sabotage::StaleRing),
    ];
}

#[cfg(feature = "sabotage")]
thread_local! {
    static NOW: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Switches one breakage on, or all off, for this thread.
#[cfg(feature = "sabotage")]
pub fn set(which: Option<Sabotage>) {
    NOW.with(|n| n.set(which));
}

/// Whether this breakage is on.
#[must_use]
pub fn broken(which: Sabotage) -> bool {
    #[cfg(feature = "sabotage")]
    return NOW.with(|n| n.get()) == Some(which);
    #[cfg(not(feature = "sabotage"))]
    {
        let _ = which;
        false
    }
}
