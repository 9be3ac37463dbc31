//! What the array says of its content (`Array::extents`), on the simulator's disks: what is called a
//! hole reads as zeros, stripes with data are never called so, whatever the cache, a destage, a
//! discard or a restart made of them.

use std::time::Duration;

use evenkeel_journal::{BLOCK, Buf, Slice};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{Array, CreateOptions, Extent, RequestError, StartOptions, create};
use evenkeel_tests::rng::Rng;
use evenkeel_tests::sim::{Mode, SimDisk, SimWorld, Simulation, Survivors};

const LIMIT: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;

/// Level, k, m and chunk.
const SHAPES: [(Level, usize, usize, u64); 4] = [
    (Level::Raid5, 2, 1, 4096),
    (Level::Raid6, 4, 2, 8192),
    (Level::Rs, 3, 3, 16384),
    (Level::Raid5, 3, 1, 65536),
];

fn options(shape: (Level, usize, usize, u64)) -> CreateOptions {
    let (level, data, parity, chunk_bytes) = shape;
    CreateOptions {
        name: "a".into(),
        level,
        data,
        parity,
        chunk_bytes,
        log_bytes: Some(MIB),
        cache_bytes: Some(MIB),
        checksums: true,
        force: false,
    }
}

async fn start(world: &SimWorld, disks: &[SimDisk], options: &StartOptions) -> Array<SimWorld> {
    Array::start(world, disks, options, &|_| ()).await.expect("it starts")
}

/// What a test knows of each stripe.
#[derive(Clone)]
struct Known {
    content: Vec<u8>,
    /// Has been written since it was last known to be a hole.
    written: Vec<bool>,
    stripe: u64,
}

impl Known {
    fn write(&mut self, at: u64, len: u64, value: u8) {
        self.content[at as usize..(at + len) as usize].fill(value);
        for s in at / self.stripe..(at + len).div_ceil(self.stripe) {
            self.written[s as usize] = true;
        }
    }

    /// A discard: whole stripes become holes at once, unless parts of blocks are in it: then it is
    /// one write of zeros, for atomicity.
    fn discard(&mut self, at: u64, len: u64) {
        let block = BLOCK as u64;
        if !at.is_multiple_of(block) || !len.is_multiple_of(block) {
            return self.write(at, len, 0);
        }
        self.content[at as usize..(at + len) as usize].fill(0);
        for s in at.div_ceil(self.stripe)..(at + len) / self.stripe {
            self.written[s as usize] = false;
        }
    }

    /// Compares what the array says of a range with what is known: byte by byte, what is called a
    /// hole holds zeros. Whole stripes: what was discarded and not written is a hole, what was
    /// written and is not all zeros is none.
    fn check(&self, array: &Array<SimWorld>, at: u64, len: u64, most: usize) -> u64 {
        let list = array.extents(at, len, most).expect("inside the device");
        assert!(!list.is_empty() && list.len() <= most);
        assert!(list.iter().all(|e| e.bytes > 0));
        assert!(list.windows(2).all(|w| w[0].mapped != w[1].mapped), "kinds alternate");
        let told: u64 = list.iter().map(|e| e.bytes).sum();
        assert!(told == len || (told < len && list.len() == most), "{told} of {len}: {list:?}");
        let (mut from, mut holes) = (at, 0);
        for e in list {
            for s in from / self.stripe..(from + e.bytes).div_ceil(self.stripe) {
                let of_stripe = (s * self.stripe) as usize..((s + 1) * self.stripe) as usize;
                let zeros = self.content[of_stripe].iter().all(|b| *b == 0);
                if e.mapped {
                    assert!(self.written[s as usize], "stripe {s} is a hole");
                } else {
                    assert!(zeros, "stripe {s} is no hole");
                    holes += 1;
                }
            }
            from += e.bytes;
        }
        holes
    }
}

async fn reads_as_known(array: &Array<SimWorld>, known: &Known) {
    let mut at = 0;
    while at < array.size_bytes() {
        let n = MIB.min(array.size_bytes() - at);
        let (done, buf) = array.read(at, Buf::new(n as usize)).await;
        assert_eq!(done, Ok(()));
        assert!(buf[..] == known.content[at as usize..(at + n) as usize], "at {at}");
        at += n;
    }
}

#[test]
fn what_is_called_a_hole_reads_as_zeros() {
    for shape in SHAPES {
        for seed in 0..6 {
            let sim = Simulation::new(seed, &Survivors::new(shape.1 + shape.2, 6 * MIB));
            let (world, disks) = (sim.world(), sim.disks());
            let array = sim.run(LIMIT, async move {
                create(&world, &disks, &options(shape)).await.expect("made");
                start(&world, &disks, &StartOptions::default()).await
            });
            let array = array.expect("it runs");
            let stripe = array.geometry().stripe_blocks() * BLOCK as u64;
            let size = array.size_bytes();
            let mut known = Known {
                content: vec![0; size as usize],
                written: vec![false; (size / stripe) as usize],
                stripe,
            };
            let most = (size / stripe) as usize + 1;
            assert_eq!(array.extents(0, size, 9), Ok(vec![Extent { bytes: size, mapped: false }]));

            let mut rng = Rng::new(seed);
            let mut holes = 0;
            for round in 0..60u64 {
                let at = rng.below(size);
                let len = 1 + rng.below((size - at).min(3 * stripe));
                // Whole stripes take another way than parts.
                let (at, len) = if rng.below(3) == 0 {
                    (at / stripe * stripe, stripe.min(size - at / stripe * stripe))
                } else {
                    (at, len)
                };
                let a = array.clone();
                let kind = rng.below(6);
                let value = round as u8 + 1;
                let done = sim.run(LIMIT, async move {
                    match kind {
                        0..3 => {
                            let data = Slice::copy_of(&vec![value; len.min(MIB) as usize]);
                            a.write(at, data, false).await
                        }
                        3 | 4 => a.discard(at, len, false).await,
                        _ => {
                            a.destage_all().await.expect("destaged");
                            Ok(())
                        }
                    }
                });
                assert_eq!(done, Ok(Ok(())));
                match kind {
                    0..3 => known.write(at, len.min(MIB), value),
                    3 | 4 => known.discard(at, len),
                    _ => {}
                }
                holes += known.check(&array, 0, size, most);
                let (from, limit) = (rng.below(size), 1 + rng.below(4) as usize);
                known.check(&array, from, 1 + rng.below(size - from), limit);
                known.check(&array, from, 1, 1);
            }
            assert!(holes > 0, "some were told");
            let (a, k) = (array.clone(), known.clone());
            sim.run(LIMIT, async move { reads_as_known(&a, &k).await }).expect("read");

            // After the death of the daemon, and in a read-only start that has replayed in memory.
            let left = sim.snapshot().survive(Mode::Process(seed));
            for read_only in [true, false] {
                let sim = Simulation::new(seed + 100, &left);
                let (world, disks) = (sim.world(), sim.disks());
                let k = known.clone();
                sim.run(LIMIT, async move {
                    let options = StartOptions { read_only, ..StartOptions::default() };
                    let array = start(&world, &disks, &options).await;
                    k.check(&array, 0, size, most);
                    reads_as_known(&array, &k).await;
                })
                .expect("it starts again");
            }
        }
    }
}

#[test]
fn a_look_is_bounded_and_stays_inside() {
    // Many stripes: 4 KiB chunks on 256 MiB.
    let sim = Simulation::new(1, &Survivors::new(3, 256 * MIB));
    let (world, disks) = (sim.world(), sim.disks());
    sim.run(LIMIT, async move {
        create(&world, &disks, &options(SHAPES[0])).await.expect("made");
        let array = start(&world, &disks, &StartOptions::default()).await;
        let size = array.size_bytes();
        let look = (1 << 14) * 8192;
        assert!(size > 2 * look);
        let hole = |bytes| Extent { bytes, mapped: false };
        assert_eq!(array.extents(0, size, 10), Ok(vec![hole(look)]));
        assert_eq!(array.extents(5, look, 10), Ok(vec![hole(look - 5)]));
        assert_eq!(array.extents(size - 1, 1, 10), Ok(vec![hole(1)]));
        let zeros = Slice::copy_of(&[0]);
        array.write(8192 + 7, zeros, false).await.expect("written");
        let mapped = Extent { bytes: 8192, mapped: true };
        assert_eq!(array.extents(0, 100_000, 1), Ok(vec![hole(8192)]));
        assert_eq!(array.extents(0, 100_000, 2), Ok(vec![hole(8192), mapped]));
        assert_eq!(
            array.extents(0, 100_000, 3),
            Ok(vec![hole(8192), mapped, hole(100_000 - 16384)])
        );
        for (at, len) in [(0, 0), (0, size + 1), (size, 1), (u64::MAX, 1), (1 << 63, 1 << 63)] {
            assert_eq!(array.extents(at, len, 10), Err(RequestError::Invalid), "{at} {len}");
        }
        array.stop().await.expect("stopped");
        assert_eq!(array.extents(0, 1, 1), Err(RequestError::Stopping));
    })
    .expect("it runs");
}
