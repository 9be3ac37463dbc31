//! What libFuzzer drives: one target, which the environment names. Built by tests/fuzz/run.
#![no_main]

use std::sync::OnceLock;

use evenkeel_fuzz::{TARGETS, Target};

fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|t| t.name == name);
        found.unwrap_or_else(|| panic!("FUZZ_TARGET names no target: \"{name}\""))
    })
}

/// One input.
///
/// # Safety
/// `data` is valid for `len` bytes, as libFuzzer promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, len: usize) -> i32 {
    let input = if len == 0 {
        &[][..]
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(data, len) }
    };
    evenkeel_fuzz::run(target(), input);
    0
}
