//! Pickles that kill a naive decoder: each has one verdict, and none becomes more than its bounds allow.

use std::fs::File;
use std::io::Read;

use actors::core::datapoint::Reason;
use actors::core::pickle::{Bounds, Decoder};
use flate2::read::GzDecoder;

use crate::support::{Received, data, decode_pickle, decode_with, listing};

/// The decoder's answer to a frame.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Nothing is taken from it.
    Refused(Reason),
    /// It is legal, and so many of its items are malformed, all for one reason, and none is a datapoint.
    Items(usize, Reason),
}

use Verdict::{Items, Refused};

/// What such a frame does to a naive decoder: `actors/TRAPS.md`, "serde-pickle can kill the process".
const VERDICTS: &[(&str, Verdict)] = &[
    // Half a million bytes of name, 65,533 times over: legal, but no name that Blueflood could store.
    ("bigname", Items(65_533, Reason::NameTooLong)),
    ("binbytes8", Refused(Reason::PickleUnfinished)),
    ("binunicode4g", Refused(Reason::PickleUnfinished)),
    ("binunicode8", Refused(Reason::PickleUnfinished)),
    ("dup", Refused(Reason::PickleTooDeep)),
    ("escapes", Items(1, Reason::ItemShape)),
    ("float_text", Refused(Reason::PickleNoList)),
    ("frame", Refused(Reason::PickleUnfinished)),
    ("laughs", Refused(Reason::PickleTooDeep)),
    ("lists", Refused(Reason::PickleTooLarge)),
    ("long4", Refused(Reason::PickleNoList)),
    ("long_text", Refused(Reason::PickleNoList)),
    ("long_text_dp", Items(1, Reason::ItemNumber)),
    ("marklists", Refused(Reason::PickleTooLarge)),
    // A byte over 1 MiB, so its marks are never counted; see `a_mebibyte_of_marks`.
    ("marks", Refused(Reason::FrameTooLong)),
    ("nest", Refused(Reason::PickleTooLarge)),
    ("nest_20k", Refused(Reason::PickleTooDeep)),
    ("nest_tuple", Refused(Reason::PickleTooDeep)),
    ("put_huge", Refused(Reason::PickleTooLarge)),
    // Half a million datapoints in a mebibyte, all the same.
    ("refs", Refused(Reason::PickleTooLarge)),
    ("stackerr2", Refused(Reason::PickleBroken)),
];

fn frame(name: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let file = File::open(data(&format!("hostile-frames/{name}.pkl.gz"))).unwrap();
    GzDecoder::new(file).read_to_end(&mut frame).unwrap();
    frame
}

fn verdict(received: Result<Received, Reason>) -> Verdict {
    match received {
        Err(reason) => Refused(reason),
        Ok(items) => {
            let reason = *items[0].as_ref().unwrap_err();
            assert!(items.iter().all(|item| item == &Err(reason)));
            Items(items.len(), reason)
        }
    }
}

#[test]
fn each_has_its_verdict() {
    let files = listing(data("hostile-frames"));
    let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let listed: Vec<_> = VERDICTS.iter().map(|(name, _)| format!("{name}.pkl.gz")).collect();
    assert_eq!(names, listed);
    for (name, expected) in VERDICTS {
        assert_eq!(&verdict(decode_pickle(&frame(name))), expected, "{name}");
    }
}

#[test]
fn a_decoder_that_met_them_all_decodes_as_before() {
    let mut decoder = Decoder::new(Bounds::default());
    for (name, expected) in VERDICTS {
        assert_eq!(&verdict(decode_with(&mut decoder, &frame(name))), expected, "{name}");
        let received = decode_with(&mut decoder, b"\x80\x02]U\x01aK\x01K\x02\x86\x86a.").unwrap();
        assert_eq!(received.len(), 1);
    }
}

#[test]
fn a_mebibyte_of_marks() {
    let marks = frame("marks");
    assert_eq!(decode_pickle(&marks[..marks.len() - 1]), Err(Reason::PickleTooDeep));
}

#[test]
fn a_frame_becomes_as_much_as_its_bounds_allow_and_no_more() {
    let bounds = Bounds::default();
    let references = |count: usize| {
        [b"\x80\x02](U\x01aK\x01K\x02\x86\x86q\x00", &b"h\x00".repeat(count - 1)[..], b"e."].concat()
    };
    assert_eq!(
        decode_pickle(&references(bounds.datapoints_max)).map(|items| items.len()),
        Ok(bounds.datapoints_max)
    );
    assert_eq!(decode_pickle(&references(bounds.datapoints_max + 1)), Err(Reason::PickleTooLarge));

    let name = "n".repeat(bounds.name_bytes_max);
    let long_names = |count: usize| {
        let first =
            [b"\x80\x02](X", &(name.len() as u32).to_le_bytes()[..], name.as_bytes(), b"q\x00"].concat();
        [first, b"K\x01K\x02\x86\x86q\x01".to_vec(), b"h\x01".repeat(count - 1), b"e.".to_vec()].concat()
    };
    let most = bounds.names_bytes_max / name.len();
    assert_eq!(decode_pickle(&long_names(most)).map(|items| items.len()), Ok(most));
    assert_eq!(decode_pickle(&long_names(most + 1)), Err(Reason::PickleTooLarge));
}

#[test]
fn the_longest_honest_frame_of_carbons_shape_is_taken_whole() {
    let item = |n: usize| {
        [format!("X\x0a\0\0\0host{n:06}").as_bytes(), b"q\x01JAAAAG@@@@@@@@\x86q\x02\x86q\x03"].concat()
    };
    let mut frame = b"\x80\x02](".to_vec();
    let mut count = 0;
    while frame.len() < (1 << 20) - 40 {
        frame.extend(item(count));
        count += 1;
    }
    frame.extend(b"e.");
    assert_eq!(decode_pickle(&frame).map(|items| items.len()), Ok(count));
    frame.splice(frame.len() - 1.., *b"N0.");
    assert_eq!(decode_pickle(&frame).map(|items| items.len()), Ok(count), "without the fast path");
}
