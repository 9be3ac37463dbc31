//! Lines of the control socket, files that people edit, and sizes on the command line.

use evenkeel_ublk_target::control::{Answer, Request};

// The command is a program alone; these of its files stand by themselves.
#[path = "../../../../tools/src/paths.rs"]
mod paths;
#[path = "../../../../tools/src/size.rs"]
mod sizes;

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|t| t.as_bytes().to_vec()).collect()
}

pub fn control_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"op":"status"}"#,
        r#"{"op":"stop","force":true}"#,
        r#"{"op":"fail","disk":"/dev/sdb"}"#,
        r#"{"op":"add","disk":"/dev/sdc","seen":[7,2065]}"#,
        r#"{"op":"remove","disk":"/dev/sdb"}"#,
        r#"{"op":"replace","old":"/dev/sdb","new":"/dev/sdc"}"#,
        r#"{"op":"wait","what":"rebuild"}"#,
        r#"{"op":"locate","byte":4096}"#,
        r#"{"op":"scrub","check_only":false}"#,
        r#"{"op":"scrub_stop"}"#,
        r#"{"op":"wait","what":"destage","timeout_s":1.5e3}"#,
        r#"{"op":"wait","what":"scrub"}"#,
        r#"{"ok":{"a":[1,2.5,null,"x"]}}"#,
        r#"{"error":{"code":13,"message":"Held."}}"#,
    ])
}

pub fn control(input: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let line = serde_json::to_vec(&request).expect("what was read can be written");
        assert!(!line.contains(&b'\n'), "a request of two lines");
        let again: Request = serde_json::from_slice(&line).expect("what was written can be read");
        match (&request, &again) {
            // A number of seconds may come back as its neighbour.
            (
                Request::Wait { what, timeout_s: Some(a) },
                Request::Wait { what: other, timeout_s: Some(b) },
            ) => assert!(what == other && (a - b).abs() <= a.abs() * 1e-12, "{a} {b}"),
            _ => assert_eq!(request, again),
        }
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(input) {
        let line = serde_json::to_vec(&answer).expect("what was read can be written");
        assert!(!line.contains(&b'\n'), "an answer of two lines");
        assert!(serde_json::from_slice::<Answer>(&line).is_ok());
    }
}

pub fn config_seeds() -> Vec<Vec<u8>> {
    texts(&["# disks\n/dev/sda\n  /dev/sdb \n\n/srv/a b\n", "/dev/sda", "#", "\r\n/x\r\n"])
}

pub fn config(input: &[u8]) {
    let found = paths::paths_in(input);
    assert!(found.len() <= input.len());
    assert_eq!(paths::paths_in(&paths::list_of(&found)), found, "another list");
}

pub fn size_seeds() -> Vec<Vec<u8>> {
    texts(&["0", "512", "64K", "64KiB", "1.5G", "0.25T", "16777215T", "1.000000001B", "9e9"])
}

pub fn size(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(bytes) = sizes::parse_size(&text) {
        assert_eq!(sizes::parse_size(&bytes.to_string()), Ok(bytes), "another size");
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        assert!(!plain || text.parse() == Ok(bytes), "\"{text}\" is {bytes}");
        assert!(!sizes::human(bytes).is_empty());
    }
    let bytes = input.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b));
    let text = sizes::human(bytes);
    // A person may give back what was printed, but for the space, and is near what it was.
    let back = sizes::parse_size(&text.replace(' ', ""));
    if let Ok(back) = back {
        let off = back.abs_diff(bytes) as f64;
        assert!(off <= bytes as f64 * 0.06, "{bytes} is printed as {text}, which is {back}");
    }
}
