//! A start on disks and rings that were changed behind their CRCs, and what comes after.

use std::time::Duration;

use evenkeel_journal::{BLOCK, Buf, Slice};
use evenkeel_raid::{Ack, Array, StartOptions};
use evenkeel_tests::rng::hash;
use evenkeel_tests::sim::Simulation;

use crate::choices::Choices;
use crate::hostile::{bases, change};

/// Simulated time that all of it may take.
const LIMIT: Duration = Duration::from_secs(600);

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..bases().len() as u8 {
        for what in [0, 4, 5, 9, 12, 14, 15] {
            let mut s = vec![base, base % 8, 0, what];
            s.extend_from_slice(&[1, 8, 0, 0, 0, 1, 0, 7, 9, 3, 0, 2, 5]);
            seeds.push(s);
        }
    }
    seeds
}

pub fn start(input: &[u8]) {
    let mut c = Choices::new(input);
    let bases = bases();
    let base = &bases[c.below(bases.len())];
    let how = c.byte();
    let options = StartOptions {
        ack: if how & 1 == 0 { Ack::Cached } else { Ack::Durable },
        read_only: how & 2 != 0,
        force: how & 4 != 0,
        accept_missing: how & 8 != 0,
        ..StartOptions::default()
    };
    let from = change(base, &mut c);
    if from.disks.is_empty() {
        return;
    }
    let sim = Simulation::new(hash(&[1, u64::from(how)]), &from);
    let (world, disks) = (sim.world(), sim.disks());
    let started =
        sim.run(LIMIT, async move { Array::start(&world, &disks, &options, &|_| ()).await });
    let array = match started {
        Ok(Ok(array)) => array,
        Ok(Err(e)) => {
            assert!(!e.message.is_empty());
            return;
        }
        Err(stop) => panic!("the start did not end: {stop}"),
    };
    // What cannot be read is EIO; the array goes on.
    let own = array.clone();
    let ran = sim.run(LIMIT, async move {
        let bytes = own.size_bytes().min(16 << 20) as usize;
        for at in (0..bytes).step_by(1 << 20) {
            let _ = own.read(at as u64, Buf::new((bytes - at).min(1 << 20))).await;
        }
        let block = Slice::copy_of(&[0x77; BLOCK]);
        let mut fine = true;
        for nth in [0, 3, 9] {
            let at = (nth * BLOCK) as u64 % own.size_bytes();
            fine &= own.write(at, block.clone(), false).await.is_ok();
        }
        fine &= own.flush().await.is_ok();
        if fine {
            let (done, buf) = own.read(0, Buf::new(BLOCK)).await;
            assert!(done.is_ok() && buf[..] == block[..], "what was just written is not there");
        }
        fine &= own.destage_all().await.is_ok();
        let stopped = own.stop().await.is_ok();
        fine && stopped
    });
    match ran {
        Err(stop) => panic!("the array did not end: {stop}"),
        Ok(false) => {}
        // What was stopped in order starts again.
        Ok(true) => {
            drop(array);
            let from = sim.snapshot().leave();
            let sim = Simulation::new(hash(&[2, u64::from(how)]), &from);
            let (world, disks) = (sim.world(), sim.disks());
            let again = StartOptions { read_only: true, accept_missing: true, ..options };
            let started =
                sim.run(LIMIT, async move { Array::start(&world, &disks, &again, &|_| ()).await });
            match started {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => panic!("stopped in order, it does not start again: {e}"),
                Err(stop) => panic!("the second start did not end: {stop}"),
            }
        }
    }
}
