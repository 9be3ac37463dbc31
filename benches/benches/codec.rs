//! The codes: data bytes a second of encode, update and reconstruct, one thread, in cache.
//!
//! `cargo bench -p evenkeel-benches --bench codec`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use evenkeel_raid::codec::{Code, Level};

const SHAPES: [(Level, usize, usize); 9] = [
    (Level::Raid5, 4, 1),
    (Level::Raid5, 8, 1),
    (Level::Raid6, 4, 2),
    (Level::Raid6, 8, 2),
    (Level::Evenodd, 4, 2),
    (Level::Evenodd, 8, 2),
    (Level::Evenodd, 20, 2),
    (Level::Rs, 10, 4),
    (Level::Rs, 4, 12),
];

fn columns(n: usize, len: usize) -> Vec<Vec<u8>> {
    (0..n).map(|c| (0..len).map(|i| (i * 7 + c * 13) as u8).collect()).collect()
}

fn codes(c: &mut Criterion) {
    for len in [4096, 65536] {
        for (level, k, m) in SHAPES {
            let code = Code::new(level, k, m).expect("a shape of the level");
            let data = columns(k, len);
            let mut parity = columns(m, len);
            let name = format!("{}-{k}+{m}", level.as_str());

            let mut group = c.benchmark_group("encode");
            group.throughput(Throughput::Bytes((k * len) as u64));
            group.bench_function(BenchmarkId::new(&name, len), |b| {
                let views: Vec<&[u8]> = data.iter().map(|d| &d[..]).collect();
                b.iter(|| {
                    let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
                    code.encode(&views, &mut out);
                });
            });
            group.finish();

            let mut group = c.benchmark_group("update");
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(&name, len), |b| {
                b.iter(|| {
                    let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
                    code.update(k - 1, &data[0], &mut out);
                });
            });
            group.finish();

            let mut group = c.benchmark_group("reconstruct");
            let lost: Vec<usize> = (0..m.min(2).min(k)).collect();
            group.throughput(Throughput::Bytes((k * len) as u64));
            group.bench_function(BenchmarkId::new(&name, len), |b| {
                let mut made = columns(lost.len(), len);
                let mut shards: Vec<Option<&[u8]>> =
                    data.iter().chain(&parity).map(|s| Some(&s[..])).collect();
                lost.iter().for_each(|l| shards[*l] = None);
                b.iter(|| {
                    let mut out: Vec<&mut [u8]> = made.iter_mut().map(|p| &mut p[..]).collect();
                    code.reconstruct(k, &shards, &lost, &mut out).expect("enough are there");
                });
            });
            group.finish();
        }
    }
}

mod group {
    #![allow(missing_docs, reason = "the macro makes a public function without any")]
    use super::codes;
    criterion::criterion_group!(benches, codes);
}
use group::benches;
criterion_main!(benches);
