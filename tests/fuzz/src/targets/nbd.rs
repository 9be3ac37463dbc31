//! What NBD clients send.

use evenkeel_ublk_target::nbd::protocol::options::{
    CLIENT_FLAGS_BYTES, MAX_OPTION_BYTES, MAX_OPTIONS, OPTION_HEADER_BYTES, client_flags,
    option_header,
};
use evenkeel_ublk_target::nbd::protocol::request::{
    EXTENDED_REQUEST_BYTES, REQUEST_BYTES, check_request, extended_request_header, request_header,
};
use evenkeel_ublk_target::nbd::protocol::{Agreement, Export, Haggle, Next, Request, Style};

use crate::choices::Choices;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;

fn export(read_only: bool) -> Export {
    Export {
        name: "tank".into(),
        size_bytes: 100 << 20,
        read_only,
        preferred_bytes: 4096,
        max_bytes: 1 << 20,
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut b = OPTION_MAGIC.to_be_bytes().to_vec();
    b.extend_from_slice(&number.to_be_bytes());
    b.extend_from_slice(&(data.len() as u32).to_be_bytes());
    b.extend_from_slice(data);
    b
}

pub fn handshake_seeds() -> Vec<Vec<u8>> {
    let flags = 3u32.to_be_bytes();
    let go = [&4u32.to_be_bytes()[..], b"tank", &[0, 2, 0, 1, 0, 3]].concat();
    let context =
        [&[0; 4][..], &1u32.to_be_bytes(), &15u32.to_be_bytes(), b"base:allocation"].concat();
    let talk = |options: &[Vec<u8>]| [&flags[..], &options.concat()].concat();
    vec![
        talk(&[option(8, &[]), option(10, &context), option(7, &go)]),
        talk(&[option(11, &[]), option(9, &context), option(6, &go), option(2, &[])]),
        talk(&[option(3, &[]), option(5, &[]), option(1, b"tank")]),
        talk(&[option(7, &[0, 0, 0, 0, 0, 0])]),
    ]
}

/// Talks like a connection does, with what a client sent.
pub fn handshake(input: &[u8]) {
    let export = export(false);
    let Some((flags, mut rest)) = input.split_first_chunk::<CLIENT_FLAGS_BYTES>() else { return };
    let flags = client_flags(*flags).or_else(|_| client_flags(3u32.to_be_bytes()));
    let mut haggle = Haggle::new(&export, flags.expect("flags that were offered"));
    let mut out = Vec::new();
    let mut answered = 0;
    while let Some((head, tail)) = rest.split_first_chunk::<OPTION_HEADER_BYTES>() {
        let _ = option_header(head);
        // Behind the magic, too.
        let mut head = *head;
        head[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        let header = option_header(&head).expect("the magic is right");
        let before = out.len();
        let len = header.len as usize;
        let next = if header.len > MAX_OPTION_BYTES {
            haggle.answer_too_big(header.option, &mut out)
        } else if let Some((data, after)) = tail.split_at_checked(len) {
            rest = after;
            haggle.answer(header.option, data, &mut out)
        } else {
            return;
        };
        if header.len > MAX_OPTION_BYTES {
            rest = tail.get(len..).unwrap_or_default();
        }
        answered += 1;
        assert!(out.len() - before <= 512, "an answer of {} bytes", out.len() - before);
        assert!(answered <= MAX_OPTIONS + 1, "a client may go on for ever");
        match next {
            Next::Haggle => assert!(out.len() > before, "an option without an answer"),
            Next::Transmit(_) | Next::Close => return,
        }
    }
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for command in 0..8u16 {
        for (mode, magic) in [(0u8, 0x2560_9513u32), (1, 0x2560_9513), (2, 0x21e4_1c71)] {
            let mut b = vec![mode | 4];
            b.extend_from_slice(&magic.to_be_bytes());
            let flags = if mode == 2 && command == 1 { 32u16 } else { 0 };
            b.extend_from_slice(&flags.to_be_bytes());
            b.extend_from_slice(&command.to_be_bytes());
            b.extend_from_slice(&7u64.to_be_bytes());
            let (at, len) = if command == 3 { (0u64, 0u64) } else { (8192, 4096) };
            b.extend_from_slice(&at.to_be_bytes());
            if mode == 2 {
                b.extend_from_slice(&len.to_be_bytes());
            } else {
                b.extend_from_slice(&(len as u32).to_be_bytes());
            }
            all.push(b);
        }
    }
    all
}

pub fn requests(input: &[u8]) {
    let mut c = Choices::new(input);
    let mode = c.byte();
    let style = [Style::Simple, Style::Structured, Style::Extended][usize::from(mode % 4).min(2)];
    let agreed = Agreement { style, allocation: mode & 4 != 0 };
    let export = export(mode & 8 != 0);
    let mut rest = c.rest();
    loop {
        let header = if style == Style::Extended {
            let Some((b, after)) = rest.split_first_chunk::<EXTENDED_REQUEST_BYTES>() else {
                return;
            };
            rest = after;
            let _ = extended_request_header(b);
            let mut b = *b;
            b[..4].copy_from_slice(&0x21e4_1c71u32.to_be_bytes());
            extended_request_header(&b)
        } else {
            let Some((b, after)) = rest.split_first_chunk::<REQUEST_BYTES>() else { return };
            rest = after;
            let _ = request_header(b);
            let mut b = *b;
            b[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
            request_header(&b)
        };
        let header = header.expect("the magic is right");
        let payload = header.payload_bytes(style);
        let inside = |at: u64, len: u64| {
            assert!(len > 0 && at.checked_add(len).is_some_and(|end| end <= export.size_bytes));
        };
        let data = |len: usize| assert!(len <= export.max_bytes as usize);
        let may_change = |fua: bool| {
            let _ = fua;
            assert!(!export.read_only, "a change of what may only be read");
        };
        match check_request(&header, &export, agreed) {
            Ok(Request::Read { at, len, .. }) => {
                inside(at, len as u64);
                data(len);
            }
            Ok(Request::Write { at, len, fua }) => {
                inside(at, len as u64);
                data(len);
                may_change(fua);
                assert_eq!(payload, len as u64, "another payload than is read");
            }
            Ok(Request::Trim { at, len, fua } | Request::WriteZeroes { at, len, fua }) => {
                inside(at, len);
                may_change(fua);
                assert_eq!(payload, 0);
            }
            Ok(Request::BlockStatus { at, len, .. }) => {
                inside(at, len);
                assert!(agreed.allocation);
            }
            Ok(Request::Disconnect) => {
                assert_eq!(payload, 0);
                return;
            }
            Ok(Request::Flush | Request::Cache) => assert_eq!(payload, 0),
            Err(refusal) => assert!(refusal.error != 0 && !refusal.text.is_empty()),
        }
    }
}
