//! Benchmarks: `benches/` holds those of criterion (`cargo bench -p evenkeel-benches`), `fio/` the
//! runs side by side with other targets.
