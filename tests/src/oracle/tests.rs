use super::*;

const BLOCK: u64 = 4096;

fn device(blocks: u64) -> Oracle {
    Oracle::new(blocks * BLOCK, Rc::new(Cell::new(0)))
}

fn apply(content: &mut [u8], at: u64, data: &[u8]) {
    content[at as usize..at as usize + data.len()].copy_from_slice(data);
}

fn message(result: Result<(), Violation>) -> String {
    result.expect_err("this content is wrong").0
}

#[test]
fn an_unacknowledged_write_may_be_there_or_not_but_whole() {
    let o = device(8);
    let (_, a) = o.write(BLOCK, 3 * BLOCK, false);
    let mut c = vec![0; 8 * BLOCK as usize];
    o.check_crash(&c, o.length(), Floor::Acknowledged).expect("absent");
    apply(&mut c, BLOCK, &a[..4096]);
    assert!(message(o.check_crash(&c, o.length(), Floor::Flushed)).contains("no single request"));
    apply(&mut c, BLOCK, &a);
    o.check_crash(&c, o.length(), Floor::Acknowledged).expect("whole");
    assert!(o.check_crash(&c, 0, Floor::Flushed).is_err(), "before it was submitted");
}

#[test]
fn the_floor_depends_on_the_promise() {
    let o = device(8);
    let (a, _) = o.write(0, BLOCK, false);
    o.answered(a, true);
    let c = vec![0; 8 * BLOCK as usize];
    o.check_crash(&c, o.length(), Floor::Flushed).expect("not flushed");
    assert!(message(o.check_crash(&c, o.length(), Floor::Acknowledged)).contains("is lost"));
    let f = o.flush();
    o.check_crash(&c, o.length(), Floor::Flushed).expect("the flush has not completed");
    o.answered(f, true);
    assert!(message(o.check_crash(&c, o.length(), Floor::Flushed)).contains("flushed request"));
}

#[test]
fn a_later_write_is_not_kept_without_an_earlier_one() {
    let o = device(8);
    let (a, data_a) = o.write(0, BLOCK, false);
    o.answered(a, true);
    let (_, data_b) = o.write(4 * BLOCK, 2 * BLOCK, false);
    let mut c = vec![0; 8 * BLOCK as usize];
    apply(&mut c, 4 * BLOCK, &data_b);
    let text = message(o.check_crash(&c, o.length(), Floor::Flushed));
    assert!(text.contains("acknowledged before it was submitted"), "{text}");
    apply(&mut c, 0, &data_a);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("both");
}

#[test]
fn concurrent_writes_have_any_order_but_one() {
    let o = device(8);
    let (_, a) = o.write(0, 2 * BLOCK, false);
    let (_, b) = o.write(0, 2 * BLOCK, false);
    let mut c = vec![0; 8 * BLOCK as usize];
    apply(&mut c, 0, &a);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("a last");
    apply(&mut c, 0, &b);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("b last");
    apply(&mut c, 0, &a[..4096]);
    assert!(o.check_crash(&c, o.length(), Floor::Flushed).is_err(), "half of each");
}

#[test]
fn three_writes_in_a_circle_have_no_order() {
    let o = device(8);
    let (_, a) = o.write(0, 2 * BLOCK, false);
    let (_, b) = o.write(BLOCK, 2 * BLOCK, false);
    let (_, d) = o.write(2 * BLOCK, BLOCK, false);
    let (_, e) = o.write(0, 3 * BLOCK, false);
    let mut c = vec![0; 8 * BLOCK as usize];
    // a before b before d: a visible at 0, b at 1, d at 2; e before all or absent.
    apply(&mut c, 0, &e);
    apply(&mut c, 0, &a);
    apply(&mut c, BLOCK, &b);
    apply(&mut c, 2 * BLOCK, &d);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("a line");
    // b over a at 1, e over b at 2, a over e at 0: a < b < e < a.
    apply(&mut c, 0, &a[..4096]);
    apply(&mut c, BLOCK, &b[..4096]);
    apply(&mut c, 2 * BLOCK, &e[8192..]);
    assert!(message(o.check_crash(&c, o.length(), Floor::Flushed)).contains("no order"));
}

#[test]
fn a_transaction_is_there_in_all_its_ranges_or_in_none() {
    let o = device(8);
    let ranges = [(BLOCK, BLOCK), (4 * BLOCK + 100, BLOCK), (4 * BLOCK + 2000, 2 * BLOCK)];
    let (t, parts) = o.together(&ranges);
    let mut c = vec![0; 8 * BLOCK as usize];
    o.check_crash(&c, o.length(), Floor::Acknowledged).expect("absent");
    apply(&mut c, parts[0].0, &parts[0].1);
    let text = message(o.check_crash(&c, o.length(), Floor::Flushed));
    assert!(text.contains("in part"), "{text}");
    for (at, data) in &parts {
        apply(&mut c, *at, data);
    }
    o.check_crash(&c, o.length(), Floor::Acknowledged).expect("whole");
    // What lies between its ranges is not its own.
    c[3 * BLOCK as usize] = 1;
    assert!(o.check_crash(&c, o.length(), Floor::Flushed).is_err(), "a byte that nobody wrote");
    c[3 * BLOCK as usize] = 0;
    // A write over one range only, after it: the other ranges must stay.
    o.answered(t, true);
    let (w, data) = o.write(BLOCK, BLOCK, false);
    o.answered(w, true);
    apply(&mut c, BLOCK, &data);
    o.check_crash(&c, o.length(), Floor::Acknowledged).expect("both");
    c[4 * BLOCK as usize..7 * BLOCK as usize].fill(0);
    assert!(o.check_crash(&c, o.length(), Floor::Flushed).is_err(), "a range is lost");
}

#[test]
fn a_transaction_and_a_write_have_one_order_in_all_ranges() {
    let o = device(8);
    let (_, parts) = o.together(&[(0, 2 * BLOCK), (4 * BLOCK, BLOCK)]);
    let (_, w) = o.write(BLOCK, 4 * BLOCK, false);
    let content = |transaction_first: [bool; 2]| {
        let mut c = vec![0; 8 * BLOCK as usize];
        for (at, data) in &parts {
            apply(&mut c, *at, data);
        }
        apply(&mut c, 2 * BLOCK, &w[4096..3 * 4096]);
        for (i, at) in [(0, BLOCK), (1, 4 * BLOCK)] {
            if transaction_first[i] {
                let from = (at - BLOCK) as usize;
                apply(&mut c, at, &w[from..from + 4096]);
            }
        }
        c
    };
    for order in [true, false] {
        o.check_crash(&content([order; 2]), o.length(), Floor::Flushed).expect("an order");
        assert!(o.check_crash(&content([order, !order]), o.length(), Floor::Flushed).is_err());
    }
}

#[test]
fn discards_are_zeros_and_untouched_blocks_stay() {
    let o = device(8);
    let (a, data) = o.write(0, 4 * BLOCK, false);
    o.answered(a, true);
    let d = o.discard(BLOCK, BLOCK, false);
    o.answered(d, true);
    let mut c = vec![0; 8 * BLOCK as usize];
    o.check_crash(&c, o.length(), Floor::Flushed).expect("nothing was promised");
    apply(&mut c, 0, &data);
    assert!(o.check_crash(&c, o.length(), Floor::Acknowledged).is_err(), "the discard is lost");
    apply(&mut c, BLOCK, &[0; 4096]);
    o.check_crash(&c, o.length(), Floor::Acknowledged).expect("both");
    c[6 * 4096] = 1;
    assert!(message(o.check_crash(&c, o.length(), Floor::Flushed)).contains("none"));
}

#[test]
fn unaligned_writes_are_judged_by_the_byte() {
    let o = device(4);
    let (a, da) = o.write(100, 5000, true);
    o.answered(a, true);
    let (_, db) = o.write(3000, 4000, false);
    let mut c = vec![0; 4 * BLOCK as usize];
    apply(&mut c, 100, &da);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("a");
    apply(&mut c, 3000, &db);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("a and b");
    apply(&mut c, 100, &da);
    assert!(o.check_crash(&c, o.length(), Floor::Flushed).is_err(), "b's tail over a");
}

#[test]
fn reads_are_never_stale() {
    let o = device(4);
    let (a, da) = o.write(0, BLOCK, false);
    let early = o.read();
    o.answered(a, true);
    o.check_read(early, 0, &[0; 4096]).expect("submitted before the acknowledgement");
    let late = o.read();
    assert!(message(o.check_read(late, 0, &[0; 4096])).contains("after write"));
    o.check_read(late, 0, &da).expect("new");
    let (_, db) = o.write(0, BLOCK, false);
    o.check_read(late, 0, &db).expect("not acknowledged, but submitted");
}

#[test]
fn the_next_life_stands_on_what_was_read() {
    let o = device(4);
    let (_, da) = o.write(0, BLOCK, false);
    let mut c = vec![0; 4 * BLOCK as usize];
    apply(&mut c, 0, &da);
    let o = o.next_life(Rc::new(c.clone()), Rc::new(Cell::new(0)));
    let (b, db) = o.write(BLOCK, BLOCK, true);
    o.answered(b, true);
    assert_ne!(da[..], db[..]);
    apply(&mut c, BLOCK, &db);
    o.check_crash(&c, o.length(), Floor::Flushed).expect("both");
    c[..4096].fill(0);
    assert!(o.check_crash(&c, o.length(), Floor::Flushed).is_err(), "what was read is lost");
}
