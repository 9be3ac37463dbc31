//! The bytes alone: every option in every state, a grid of requests, and garbage.

use super::options::*;
use super::reply::*;
use super::request::*;
use super::*;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 10 * MIB;

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

fn export(read_only: bool) -> Export {
    Export {
        name: "tank".into(),
        size_bytes: SIZE,
        read_only,
        preferred_bytes: 4096,
        max_bytes: MIB as u32,
    }
}

/// Seeded bytes; the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.roll() as u8).collect()
    }
}

fn info(name: &[u8], infos: &[u16]) -> Vec<u8> {
    let mut d = (name.len() as u32).to_be_bytes().to_vec();
    d.extend_from_slice(name);
    d.extend_from_slice(&(infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|i| d.extend_from_slice(&i.to_be_bytes()));
    d
}

fn contexts(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut d = (name.len() as u32).to_be_bytes().to_vec();
    d.extend_from_slice(name);
    d.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for q in queries {
        d.extend_from_slice(&(q.len() as u32).to_be_bytes());
        d.extend_from_slice(q);
    }
    d
}

/// Kinds of the replies in `out`, with their data. All of them are to this option.
fn replies(option: u32, mut out: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut list = Vec::new();
    while !out.is_empty() {
        let mut r = Reader(out);
        assert_eq!(r.u64(), Some(OPTION_REPLY_MAGIC));
        assert_eq!(r.u32(), Some(option));
        let kind = r.u32().expect("a kind");
        let len = r.u32().expect("a length") as usize;
        list.push((kind, r.take(len).expect("data").to_vec()));
        out = r.0;
    }
    list
}

const ACK: u32 = Answer::Ack as u32;
const SERVER: u32 = Answer::Server as u32;
const INFO: u32 = Answer::Info as u32;
const META: u32 = Answer::MetaContext as u32;
const UNSUPPORTED: u32 = Answer::Unsupported as u32;
const INVALID: u32 = Answer::Invalid as u32;
const UNKNOWN: u32 = Answer::Unknown as u32;

/// A client's side of the haggling.
struct Haggling<'a>(Haggle<'a>);

impl<'a> Haggling<'a> {
    fn new(export: &'a Export) -> Haggling<'a> {
        Haggling(Haggle::new(export, ClientFlags { no_zeroes: false }))
    }

    fn say(&mut self, option: u32, data: &[u8]) -> (Next, Vec<(u32, Vec<u8>)>) {
        let mut out = Vec::new();
        let next = self.0.answer(option, data, &mut out);
        (next, replies(option, &out))
    }

    /// The kinds of the replies to an option after which haggling goes on.
    fn kinds(&mut self, option: u32, data: &[u8]) -> Vec<u32> {
        let (next, replies) = self.say(option, data);
        assert_eq!(next, Next::Haggle);
        let last = replies.last().expect("an answer");
        assert!(last.0 == ACK || last.0 >> 31 == 1, "the last one is final");
        assert!(last.0 == ACK || last.1.ends_with(b"."), "errors are sentences");
        replies.iter().map(|r| r.0).collect()
    }

    fn go(mut self) -> Agreement {
        match self.say(OPT_GO, &info(b"", &[])).0 {
            Next::Transmit(agreed) => agreed,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_export_is_described_and_chosen() {
    let e = export(false);
    let mut h = Haggling::new(&e);
    let (next, got) = h.say(OPT_INFO, &info(b"tank", &[INFO_NAME, 77]));
    assert_eq!(next, Next::Haggle);
    assert_eq!(got.iter().map(|r| r.0).collect::<Vec<_>>(), [INFO, INFO, INFO, ACK]);
    assert_eq!(got[0].1[2..10], SIZE.to_be_bytes());
    assert_eq!(got[1].1, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 0, 16, 0, 0]);
    assert_eq!(got[2].1, b"\0\x01tank");
    assert_eq!(h.kinds(OPT_INFO, &info(b"pond", &[])), [UNKNOWN]);
    assert_eq!(h.kinds(OPT_GO, &info(b"pond", &[])), [UNKNOWN]);
    assert_eq!(h.kinds(OPT_GO, &info(b"tank", &[1])[..9]), [INVALID]);
    let (next, got) = h.say(OPT_LIST, &[]);
    assert_eq!(next, Next::Haggle);
    assert_eq!(got, [(SERVER, b"\0\0\0\x04tank".to_vec()), (ACK, vec![])]);
    assert_eq!(h.kinds(OPT_LIST, b"x"), [INVALID]);
    assert_eq!(h.kinds(OPT_STARTTLS, &[]), [UNSUPPORTED]);
    for unknown in [0, 4, 12, 77, u32::MAX] {
        assert_eq!(h.kinds(unknown, b"x"), [UNSUPPORTED]);
    }
    for name in [&b""[..], b"tank"] {
        let (next, got) = Haggling::new(&e).say(OPT_GO, &info(name, &[3]));
        assert_eq!(next, Next::Transmit(Agreement::default()));
        assert_eq!(got.iter().map(|r| r.0).collect::<Vec<_>>(), [INFO, INFO, ACK]);
    }
    assert_eq!(h.say(OPT_ABORT, b"anything"), (Next::Close, vec![(ACK, vec![])]));
}

#[test]
fn the_oldest_way_to_choose() {
    let e = export(false);
    for (no_zeroes, len) in [(false, 134), (true, 10)] {
        let mut out = Vec::new();
        let mut h = Haggle::new(&e, ClientFlags { no_zeroes });
        let next = h.answer(OPT_EXPORT_NAME, b"tank", &mut out);
        assert_eq!((next, out.len()), (Next::Transmit(Agreement::default()), len));
        assert_eq!(out[..8], SIZE.to_be_bytes());
    }
    assert_eq!(Haggling::new(&e).say(OPT_EXPORT_NAME, b"pond"), (Next::Close, vec![]));
    let mut h = Haggling::new(&e);
    assert_eq!(h.kinds(OPT_EXTENDED_HEADERS, &[]), [ACK]);
    assert_eq!(h.say(OPT_EXPORT_NAME, b"tank"), (Next::Close, vec![]), "GO is needed then");
    let mut h = Haggle::new(&e, ClientFlags { no_zeroes: true });
    assert_eq!(h.answer_too_big(OPT_EXPORT_NAME, &mut Vec::new()), Next::Close);
}

#[test]
fn styles_are_agreed_on_and_the_wider_one_stays() {
    let e = export(false);
    let df = |style| e.flags(style) >> 7 & 1;
    assert_eq!(STYLES.map(df), [0, 1, 1]);
    let mut h = Haggling::new(&e);
    assert_eq!(h.kinds(OPT_STRUCTURED_REPLY, b"x"), [INVALID]);
    assert_eq!(h.kinds(OPT_EXTENDED_HEADERS, b"x"), [INVALID]);
    assert_eq!(h.kinds(OPT_STRUCTURED_REPLY, &[]), [ACK]);
    let (_, got) = h.say(OPT_INFO, &info(b"", &[]));
    assert_eq!(got[0].1[10..], e.flags(Style::Structured).to_be_bytes());
    assert_eq!(h.kinds(OPT_EXTENDED_HEADERS, &[]), [ACK]);
    assert_eq!(h.kinds(OPT_STRUCTURED_REPLY, &[]), [Answer::ExtendedHeaders as u32]);
    assert_eq!(h.go(), Agreement { style: Style::Extended, allocation: false });
}

#[test]
fn contexts_are_listed_and_set() {
    let e = export(false);
    let allocation = &b"base:allocation"[..];
    for first in [OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS] {
        let mut h = Haggling::new(&e);
        for option in [OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT] {
            assert_eq!(h.kinds(option, &contexts(b"", &[allocation])), [INVALID], "too early");
        }
        assert_eq!(h.kinds(first, &[]), [ACK]);
        let lists: [(&[&[u8]], bool); 6] = [
            (&[], true),
            (&[b"base:"], true),
            (&[b"x:y", allocation, allocation], true),
            (&[b"base:other"], false),
            (&[b"qemu:allocation-depth", b"x"], false),
            (&[b""], false),
        ];
        for (queries, found) in lists {
            let (next, got) = h.say(OPT_LIST_META_CONTEXT, &contexts(b"tank", queries));
            assert_eq!(next, Next::Haggle);
            if found {
                assert_eq!(got[0], (META, b"\0\0\0\0base:allocation".to_vec()));
            }
            assert_eq!(got.len(), if found { 2 } else { 1 });
        }
        let (_, got) = h.say(OPT_SET_META_CONTEXT, &contexts(b"tank", &[allocation, b"x:"]));
        assert_eq!(got[0], (META, b"\0\0\0\x01base:allocation".to_vec()));
        assert_eq!(h.kinds(OPT_LIST_META_CONTEXT, &contexts(b"", &[b"base:x"])), [ACK]);
        assert!(h.go().allocation, "a list changes nothing");

        // Each of these takes back what was set before.
        let resets: [(Vec<u8>, u32); 5] = [
            (contexts(b"", &[]), ACK),
            (contexts(b"", &[b"base:"]), ACK),
            (contexts(b"pond", &[allocation]), UNKNOWN),
            (contexts(b"", &[allocation])[..12].to_vec(), INVALID),
            ([contexts(b"", &[allocation]), vec![0]].concat(), INVALID),
        ];
        for (data, answer) in resets {
            let mut h = Haggling::new(&e);
            assert_eq!(h.kinds(first, &[]), [ACK]);
            let set = contexts(b"", &[allocation]);
            assert_eq!(h.kinds(OPT_SET_META_CONTEXT, &set), [META, ACK]);
            assert_eq!(h.kinds(OPT_SET_META_CONTEXT, &data), [answer]);
            assert!(!h.go().allocation);
        }
    }
}

#[test]
fn options_are_counted() {
    let e = export(false);
    let mut h = Haggling::new(&e);
    for i in 0..MAX_OPTIONS {
        if i % 2 == 0 {
            assert_eq!(h.kinds(OPT_LIST, &[]), [SERVER, ACK]);
        } else {
            let mut out = Vec::new();
            assert_eq!(h.0.answer_too_big(OPT_LIST, &mut out), Next::Haggle);
            assert_eq!(replies(OPT_LIST, &out)[0].0, Answer::TooBig as u32);
        }
    }
    assert_eq!(h.say(OPT_LIST, &[]), (Next::Close, vec![]));
    assert_eq!(h.0.answer_too_big(OPT_LIST, &mut Vec::new()), Next::Close);
}

/// What the protocol says of a request, written down a second time, as plainly as can be.
fn expected(h: &RequestHeader, read_only: bool, agreed: Agreement) -> Result<(), u32> {
    let wide = agreed.style == Style::Extended;
    let flags_of = |command| match command {
        0 if agreed.style != Style::Simple => vec![FLAG_DF],
        1 if wide => vec![FLAG_PAYLOAD_LEN],
        6 => vec![FLAG_NO_HOLE, FLAG_FAST_ZERO],
        7 => vec![FLAG_REQ_ONE],
        _ => vec![],
    };
    if h.command == 2 {
        return Ok(());
    }
    if h.command > 7 || (h.command == 7 && !agreed.allocation) {
        return Err(EINVAL);
    }
    let allowed = flags_of(h.command).iter().fold(FLAG_FUA, |a, f| a | f);
    let all_known = (0..16).all(|bit| h.flags >> bit & 1 == 0 || allowed >> bit & 1 == 1);
    let payload_said = !(wide && h.command == 1) || h.flags & FLAG_PAYLOAD_LEN != 0;
    if !all_known || !payload_said {
        return Err(EINVAL);
    }
    if read_only && [1, 4, 6].contains(&h.command) {
        return Err(EPERM);
    }
    if h.command == 3 {
        return if h.offset == 0 && h.len == 0 { Ok(()) } else { Err(EINVAL) };
    }
    if h.len == 0 || (h.command <= 1 && h.len > MIB) {
        return Err(EINVAL);
    }
    if u128::from(h.offset) + u128::from(h.len) > u128::from(SIZE) {
        return Err(if [1, 6].contains(&h.command) { ENOSPC } else { EINVAL });
    }
    if h.flags & FLAG_FAST_ZERO != 0 && !(h.offset | h.len).is_multiple_of(4096) {
        return Err(ENOTSUP);
    }
    Ok(())
}

#[test]
fn a_grid_of_requests() {
    let offsets = [
        0,
        1,
        4096,
        SIZE - 4096,
        SIZE - 1,
        SIZE,
        SIZE + 1,
        1 << 32,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - MIB,
        u64::MAX - 1,
        u64::MAX,
    ];
    let lengths = [
        0,
        1,
        512,
        4096,
        MIB - 1,
        MIB,
        MIB + 1,
        SIZE - 1,
        SIZE,
        u64::from(u32::MAX),
        1 << 32,
        1 << 63,
        u64::MAX,
    ];
    let mut counts = [0; 2];
    for read_only in [false, true] {
        let e = export(read_only);
        for (style, allocation) in STYLES.iter().flat_map(|s| [(*s, false), (*s, true)]) {
            let agreed = Agreement { style, allocation };
            for command in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, u16::MAX] {
                for flags in (0..64).chain([64, 1 << 15, u16::MAX]) {
                    for offset in offsets {
                        for len in lengths {
                            let h = RequestHeader { flags, command, cookie: 9, offset, len };
                            let got = check_request(&h, &e, agreed);
                            let error = got.as_ref().map(|_| ()).map_err(|r| r.error);
                            assert_eq!(error, expected(&h, read_only, agreed), "{h:?} {agreed:?}");
                            counts[usize::from(got.is_ok())] += 1;
                            match got {
                                Ok(request) => assert_means(request, &h),
                                Err(r) => assert!(r.text.ends_with('.')),
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(counts.iter().all(|n| *n > 10_000), "both happen: {counts:?}");
}

/// The request says what the header said.
fn assert_means(request: Request, h: &RequestHeader) {
    let has = |flag| h.flags & flag != 0;
    let (range, fua) = match request {
        Request::Read { at, len, whole } => {
            assert_eq!((h.command, whole), (0, has(FLAG_DF)));
            ((at, len as u64), has(FLAG_FUA))
        }
        Request::Write { at, len, fua } => {
            assert_eq!(h.command, 1);
            ((at, len as u64), fua)
        }
        Request::Trim { at, len, fua } => {
            assert_eq!(h.command, 4);
            ((at, len), fua)
        }
        Request::WriteZeroes { at, len, fua } => {
            assert_eq!(h.command, 6);
            ((at, len), fua)
        }
        Request::BlockStatus { at, len, one } => {
            assert_eq!((h.command, one), (7, has(FLAG_REQ_ONE)));
            ((at, len), has(FLAG_FUA))
        }
        Request::Disconnect => return assert_eq!(h.command, 2),
        Request::Flush => return assert_eq!(h.command, 3),
        Request::Cache => return assert_eq!(h.command, 5),
    };
    assert_eq!((range, fua), ((h.offset, h.len), has(FLAG_FUA)));
}

#[test]
fn payload_is_known_whatever_the_request_is_worth() {
    for command in 0..20 {
        for flags in 0..64 {
            let h = RequestHeader { flags, command, cookie: 0, offset: u64::MAX, len: 77 };
            let compact = if command == 1 { 77 } else { 0 };
            let wide = if flags & FLAG_PAYLOAD_LEN != 0 && command != 2 { 77 } else { 0 };
            let got = STYLES.map(|style| h.payload_bytes(style));
            assert_eq!(got, [compact, compact, wide]);
        }
    }
}

#[test]
fn what_arrives_is_read_back() {
    let mut b = REQUEST_MAGIC.to_be_bytes().to_vec();
    b.extend_from_slice(&[0, 1, 0, 1]);
    b.extend_from_slice(&0xc0u64.to_be_bytes());
    b.extend_from_slice(&8u64.to_be_bytes());
    b.extend_from_slice(&16u32.to_be_bytes());
    let bytes: [u8; REQUEST_BYTES] = b.clone().try_into().expect("28 bytes");
    let want = RequestHeader { flags: 1, command: 1, cookie: 0xc0, offset: 8, len: 16 };
    assert_eq!(request_header(&bytes), Ok(want));

    b[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
    b.truncate(24);
    b.extend_from_slice(&(1u64 << 40).to_be_bytes());
    let mut bytes: [u8; EXTENDED_REQUEST_BYTES] = b.try_into().expect("32 bytes");
    assert_eq!(extended_request_header(&bytes), Ok(RequestHeader { len: 1 << 40, ..want }));
    bytes[0] = 0x25;
    assert!(extended_request_header(&bytes).is_err());
}

#[test]
fn replies_say_how_long_they_are() {
    let to = RequestHeader { flags: 0, command: 0, cookie: 0xc0ffee, offset: 4096, len: 8192 };
    let simple = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xee];
    assert_eq!(*failed(Style::Simple, &to, EIO, "It broke."), simple);
    for style in STYLES {
        let head = done(style, &to);
        if style == Style::Extended {
            assert_eq!(chunk(style, &head), (TYPE_NONE, true, 0, vec![]));
        } else {
            assert_eq!((head.len(), &head[..8]), (16, &b"\x67\x44\x66\x98\0\0\0\0"[..]));
        }
    }
    assert_eq!(data(Style::Simple, &to, 4096, 8192, true).len(), 16);
    for style in [Style::Structured, Style::Extended] {
        for last in [false, true] {
            let at = 4096u64.to_be_bytes().to_vec();
            let head = data(style, &to, 4096, 512, last);
            assert_eq!(chunk(style, &head), (TYPE_DATA, last, 8 + 512, at.clone()));
            let head = hole(style, &to, 4096, 512, last);
            let fields = [at, 512u32.to_be_bytes().to_vec()].concat();
            assert_eq!(chunk(style, &head), (TYPE_HOLE, last, 12, fields));
        }
        let head = failed(style, &to, EINVAL, "No.");
        assert_eq!(chunk(style, &head), (TYPE_ERROR, true, 6 + 3, b"\0\0\0\x16\0\x03".to_vec()));

        let mut body = Vec::new();
        for (bytes, state) in [(4096, 0), (8192, STATE_HOLE_AND_ZERO)] {
            descriptor(style, bytes, state, &mut body);
        }
        let head = block_status(style, &to, 1, 2);
        let (kind, last, len, fields) = chunk(style, &head);
        assert_eq!(len, fields.len() + body.len());
        assert!(last);
        if style == Style::Extended {
            assert_eq!(
                (kind, fields),
                (TYPE_BLOCK_STATUS_EXTENDED, b"\0\0\0\x01\0\0\0\x02".into())
            );
            assert_eq!(body[16..], *b"\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\0\x03");
        } else {
            assert_eq!((kind, fields), (TYPE_BLOCK_STATUS, b"\0\0\0\x01".into()));
            assert_eq!(body[8..], *b"\0\0\x20\0\0\0\0\x03");
        }
    }
}

/// Type, whether it is the last, bytes that follow the header, and those of them in the head.
fn chunk(style: Style, head: &[u8]) -> (u16, bool, usize, Vec<u8>) {
    let mut r = Reader(head);
    let extended = style == Style::Extended;
    assert_eq!(r.u32(), Some(if extended { EXTENDED_REPLY_MAGIC } else { CHUNK_MAGIC }));
    let (flags, kind) = (r.u16().expect("flags"), r.u16().expect("a type"));
    assert_eq!(r.u64(), Some(0xc0ffee));
    let len = if extended {
        assert_eq!(r.u64(), Some(4096), "the request's offset");
        r.u64().expect("a length") as usize
    } else {
        r.u32().expect("a length") as usize
    };
    (kind, flags == 1, len, r.0.to_vec())
}

/// Seeded garbage, and good messages with some bytes changed: nothing panics, answers stay small
/// and well-formed, and what passes lies inside the device.
#[test]
fn garbage_never_panics_and_answers_stay_small() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let e = export(false);
    let mut passed = 0;
    for round in 0..40_000 {
        let mut h = Haggling::new(&e);
        for _ in 0..8 {
            let good = match dice.below(4) {
                0 => info(b"tank", &[0, 1, 3]),
                1 => contexts(b"tank", &[b"base:allocation", b"base:", b""]),
                2 => Vec::new(),
                _ => {
                    let len = dice.below(64);
                    dice.bytes(len)
                }
            };
            let mut data = good;
            if !data.is_empty() && dice.below(2) == 0 {
                let at = dice.below(data.len() as u64) as usize;
                data[at] = dice.roll() as u8;
                data.truncate(dice.below(64) as usize);
            }
            let option = dice.below(14) as u32;
            let mut out = Vec::new();
            let next = h.0.answer(option, &data, &mut out);
            assert!(out.len() < 400 && out.capacity() < 4096, "{} bytes", out.len());
            if option != OPT_EXPORT_NAME {
                assert!(!replies(option, &out).is_empty());
            }
            if next != Next::Haggle {
                break;
            }
        }
        let mut b: [u8; OPTION_HEADER_BYTES] = [0; 16];
        b.fill_with(|| dice.roll() as u8);
        assert!(option_header(&b).is_err());
        let flags = (dice.roll() as u32 & 0x8000_0007).to_be_bytes();
        assert_eq!(client_flags(flags).is_ok(), u32::from_be_bytes(flags) <= 3);

        let style = STYLES[round % 3];
        let agreed = Agreement { style, allocation: dice.below(2) == 0 };
        let mut b = [0u8; EXTENDED_REQUEST_BYTES];
        b.fill_with(|| dice.roll() as u8);
        assert!(extended_request_header(&b).is_err());
        let magic = if style == Style::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        b[..4].copy_from_slice(&magic.to_be_bytes());
        (b[4], b[5], b[6], b[7]) = (0, b[5] & b[4] & b[8] & 0x3f, 0, b[7] % 9);
        // Numbers of any magnitude.
        let offset = dice.roll() >> dice.below(64);
        let len = dice.roll() >> dice.below(64);
        b[16..24].copy_from_slice(&offset.to_be_bytes());
        b[24..].copy_from_slice(&len.to_be_bytes());
        if style != Style::Extended {
            b[24..28].copy_from_slice(&(len as u32).to_be_bytes());
        }
        let header = if style == Style::Extended {
            extended_request_header(&b)
        } else {
            request_header(b[..REQUEST_BYTES].try_into().expect("28 bytes"))
        };
        let header = header.expect("the magic is right");
        let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| end <= SIZE);
        match check_request(&header, &e, agreed) {
            Ok(Request::Read { at, len, .. } | Request::Write { at, len, .. }) => {
                assert!(len as u64 <= MIB && inside(at, len as u64));
                passed += 1;
            }
            Ok(
                Request::Trim { at, len, .. }
                | Request::WriteZeroes { at, len, .. }
                | Request::BlockStatus { at, len, .. },
            ) => {
                assert!(inside(at, len));
                passed += 1;
            }
            Ok(Request::Disconnect | Request::Flush | Request::Cache) | Err(_) => {}
        }
    }
    assert!(passed > 500, "{passed} requests passed");
}
