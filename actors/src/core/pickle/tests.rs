//! Owns the decoder's behaviour in small: one shape of pickle a test.
//! Never needs a file: whole streams and hostile frames are in `tests/contract`.
use super::*;
use proptest::prelude::*;

type Items = Vec<Result<(String, f64, f64), &'static str>>;

/// What a frame decodes to under the given bounds, by both paths.
fn decode_within(bounds: Bounds, frame: &[u8]) -> Result<Items, &'static str> {
    let mut decoder = Decoder::new(bounds);
    let by_machine = decoder.read_any(frame).map(|()| decoder.entries.clone()).map_err(|(reason, _)| reason);
    decoder.forget();
    let by_either = decoder.read(frame).map(|()| decoder.entries.clone()).map_err(|(reason, _)| reason);
    // By their text, as NaN equals nothing.
    assert_eq!(
        format!("{by_either:?}"),
        format!("{by_machine:?}"),
        "the fast path has an opinion of its own"
    );

    let mut datapoints = decoder.decode(frame).map_err(|malformed| malformed.reason.label())?;
    let mut items = Items::new();
    while let Some(item) = datapoints.next() {
        items.push(match item {
            Ok(Datapoint { name, timestamp, value }) => {
                Ok((String::from_utf8_lossy(name).into_owned(), timestamp, value))
            }
            Err(malformed) => Err(malformed.reason.label()),
        });
    }
    Ok(items)
}

fn decode(frame: impl AsRef<[u8]>) -> Result<Items, &'static str> {
    decode_within(Bounds::default(), frame.as_ref())
}

fn datapoint(name: &str, timestamp: f64, value: f64) -> Result<(String, f64, f64), &'static str> {
    Ok((name.to_owned(), timestamp, value))
}

/// A list of one datapoint `a`, whose value is what the opcodes push.
fn with_value(opcodes: &[u8]) -> Result<Items, &'static str> {
    decode([b"\x80\x02](U\x01aK\x01", opcodes, b"\x86\x86e."].concat())
}

/// A list of one datapoint, whose name is what the opcodes push.
fn with_name(opcodes: &[u8]) -> Result<Items, &'static str> {
    decode([b"\x80\x02](", opcodes, b"K\x01K\x02\x86\x86e."].concat())
}

fn with_item(opcodes: &[u8]) -> Result<Items, &'static str> {
    decode([b"\x80\x02](", opcodes, b"U\x02okK\x01K\x02\x86\x86e."].concat())
}

#[test]
fn the_usual_frame_of_each_protocol() {
    let expected = Ok(vec![datapoint("a.b", 1448390000.0, 1.5)]);
    for frame in [
        &b"(lp1\n(S'a.b'\np2\n(I1448390000\nF1.5\ntp3\ntp4\na."[..],
        b"]q\x01(U\x03a.bq\x02(Jp\xadTVG?\xf8\0\0\0\0\0\0tq\x03tq\x04a.",
        b"\x80\x02]q\x01(X\x03\0\0\0a.bq\x02Jp\xadTVG?\xf8\0\0\0\0\0\0\x86q\x03\x86q\x04e.",
        b"\x80\x03]q\x00X\x03\0\0\0a.bq\x01Jp\xadTVG?\xf8\0\0\0\0\0\0\x86q\x02\x86q\x03a.",
        b"\x80\x04\x95\x1d\0\0\0\0\0\0\0]\x94(\x8c\x03a.b\x94Jp\xadTVG?\xf8\0\0\0\0\0\0\x86\x94\x86\x94e.",
        b"\x80\x05\x95\x1c\0\0\0\0\0\0\0]\x94\x8c\x03a.b\x94Jp\xadTVG?\xf8\0\0\0\0\0\0\x86\x94\x86\x94a.",
    ] {
        assert_eq!(decode(frame), expected, "{}", frame.escape_ascii());
    }
}

#[test]
fn lists_and_tuples_are_the_same_at_every_level() {
    let expected = Ok(vec![datapoint("a", 1.0, 2.0)]);
    assert_eq!(decode(b"(U\x01aK\x01K\x02\x86\x86t."), expected, "tuple of tuples");
    assert_eq!(decode(b"](](U\x01a](K\x01K\x02eee."), expected, "list of lists");
    assert_eq!(
        decode(b"(lp0\n(lp1\nS'a'\na(lp2\nI1\naI2\naaa."),
        expected,
        "lists that grow as they are filled"
    );
    assert_eq!(decode(b"\x80\x02]."), Ok(vec![]));
}

#[test]
fn a_name_may_have_several_points() {
    let items = decode(b"]((U\x01aK\x01K\x02\x86K\x03\x85K\x05K\x06\x86te.");
    assert_eq!(items, Ok(vec![datapoint("a", 1.0, 2.0), Err("item_shape"), datapoint("a", 5.0, 6.0)]));
}

#[test]
fn names_are_any_text() {
    for (opcodes, name) in [
        (&b"S'a\\'b'\n"[..], "a'b"),
        (b"S\"a.b\"\n", "a.b"),
        (b"S'\xc3\xa9'\n", "é"),
        (b"Va\\u4e2d\n", "a中"),
        (b"Va\xe9\n", "aé"),
        (b"V\\ud83d\\ude00\n", "😀"),
        (b"T\x01\0\0\0a", "a"),
        (b"X\x02\0\0\0\xc3\xa9", "é"),
        (b"B\x01\0\0\0a", "a"),
        (b"C\x01a", "a"),
        (b"\x8c\x01a", "a"),
        (b"\x8d\x01\0\0\0\0\0\0\0a", "a"),
        (b"\x8e\x01\0\0\0\0\0\0\0a", "a"),
        (b"\x96\x01\0\0\0\0\0\0\0a", "a"),
        (b"U\0", ""),
    ] {
        assert_eq!(with_name(opcodes), Ok(vec![datapoint(name, 1.0, 2.0)]), "{}", opcodes.escape_ascii());
    }
    for opcodes in [&b"K\x05"[..], b"N", b"]", b"c_codecs\nencode\n", b"Sa\n", b"V\\u12\n"] {
        assert_eq!(with_name(opcodes), Ok(vec![Err("item_name")]), "{}", opcodes.escape_ascii());
    }
}

#[test]
fn python_3_bytes_at_protocol_2_are_a_name() {
    let encode = |text: &str, encoding: &str| {
        let mut opcodes = b"c_codecs\nencode\nq\x01".to_vec();
        for text in [text, encoding] {
            opcodes.push(b'X');
            opcodes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            opcodes.extend_from_slice(text.as_bytes());
        }
        opcodes.extend_from_slice(b"\x86R");
        with_name(&opcodes)
    };
    assert_eq!(encode("a.b", "latin1"), Ok(vec![datapoint("a.b", 1.0, 2.0)]));
    assert_eq!(encode("\u{c3}\u{a9}", "latin1"), Ok(vec![datapoint("é", 1.0, 2.0)]));
    assert_eq!(encode("€", "latin1"), Ok(vec![Err("item_name")]), "Latin-1 has no such letter");
    let not_called = Ok(vec![Err("item_class")]);
    assert_eq!(encode("a.b", "utf8"), not_called);
    assert_eq!(with_name(b"c_codecs\nencode\nU\x01a\x85R"), not_called);
    assert_eq!(with_name(b"c_codecs\ndecode\nU\x01aU\x06latin1\x86R"), not_called);
    assert_eq!(with_name(b"NU\x01aU\x06latin1\x86R"), not_called);
}

#[test]
fn encoding_the_same_text_over_and_over_is_bounded() {
    let mut frame = b"c_codecs\nencode\nq\x00X\x00\x00\x01\x00".to_vec();
    frame.resize(frame.len() + 65_536, b'a');
    frame.extend_from_slice(b"q\x01X\x06\0\0\0latin1q\x02000");
    for _ in 0..1_000 {
        frame.extend_from_slice(b"h\x00h\x01h\x02\x86R0");
    }
    frame.extend_from_slice(b"].");
    assert_eq!(decode(frame), Err("pickle_too_large"));
}

/// What only running code could tell: each of them is one value that means nothing.
const OBJECTS: &[&[u8]] = &[
    b"cos\nsystem\n",
    b"cos\nsystem\n(S'touch x'\ntR",
    b"c__builtin__\neval\nU\x031+1\x85R",
    b"(ios\nsystem\n",
    b"(S'touch x'\nios\nsystem\n",
    b"(cos\nsystem\nS'touch x'\no",
    b"(No",
    b"Pabc\n",
    b"NQ",
    b"N}b",
    b"cm\nC\n)\x81}(U\x01aK\x01ub",
    b"cm\nDeque\n)\x81(K\x01K\x02eK\x03a",
    b"cm\nDict\n)RU\x01aK\x01s(U\x01bK\x01u",
    b"cm\nSet\n)R(K\x01K\x02\x90",
    b"N)\x81",
    b"N)}\x92",
    b"\x82\x01",
    b"\x83\x01\x02",
    b"\x84\x01\x02\x03\x04",
    b"\x8c\x02os\x8c\x06system\x93",
    b"\x97",
    b"\x97\x98",
];

#[test]
fn nothing_is_ever_called_and_an_object_costs_only_its_item() {
    let (ok, bad) = (datapoint("ok", 1.0, 2.0), Err("item_class"));
    for object in OBJECTS {
        let expected = Ok(vec![bad.clone(), ok.clone()]);
        for (what, item) in [
            ("value", [b"U\x01aK\x01", *object, b"\x86\x86"].concat()),
            ("timestamp", [b"U\x01a", *object, b"K\x01\x86\x86"].concat()),
            ("timestamp of no number", [b"U\x01a", *object, b"N\x86\x86"].concat()),
            ("point", [b"U\x01a", *object, b"\x86"].concat()),
            ("name", [*object, b"K\x01K\x02\x86\x86"].concat()),
            ("item", object.to_vec()),
            ("value out of the memo", [b"U\x01aK\x01", *object, b"\x940h\x00\x86\x86"].concat()),
        ] {
            assert_eq!(with_item(&item), expected, "{what}: {}", item.escape_ascii());
        }
        let whole = [b"\x80\x02", *object, b"."].concat();
        assert_eq!(decode(&whole), Err("pickle_call"), "{}", whole.escape_ascii());
    }
}

#[test]
fn an_object_that_lacks_its_parts_breaks_the_frame() {
    for opcodes in
        [&b"R"[..], b"(R", b")R", b"b", b"}b", b"(}b", b"\x81", b"\x92", b"\x93", b"o", b"(o", b"Q", b"\x98"]
    {
        let frame = [opcodes, b"]."].concat();
        assert_eq!(decode(&frame), Err("pickle_broken"), "{}", frame.escape_ascii());
    }
    for opcodes in [&b"cos\nsys"[..], b"(ios\n", b"Pabc", b"\x82", b"\x83\x01", b"\x84\x01\x02\x03"] {
        assert_eq!(decode(opcodes), Err("pickle_unfinished"), "{}", opcodes.escape_ascii());
    }
    assert_eq!(decode(b"i\n\n]."), Err("pickle_broken"), "there is no mark");
}

#[test]
fn objects_are_within_the_bounds_of_all_else() {
    let small = Bounds { stack_items_max: 8, ..Bounds::default() };
    assert_eq!(decode_within(small, &b"\x82\x01".repeat(9)), Err("pickle_too_large"));
    let deep = [&b"]"[..], &b"cm\nC\n(".repeat(9), b"."].concat();
    assert_eq!(decode(&deep), Err("pickle_too_deep"));
}

#[test]
fn an_object_is_shown_by_its_name_or_that_of_its_class() {
    let mut decoder = Decoder::new(Bounds::default());
    for (item, sample) in [
        (&b"U\x01aK\x01cm\nC\n)R\x86\x86"[..], &b"a"[..]),
        (b"cm\nC\n)R", b"m\nC"),
        (b"(im\nC\n", b"m\nC"),
        (b"\x8c\x01m\x8c\x01C\x93)\x81}b", b"m"),
        (b"P42\n", b"42"),
        (b"NN\x81", b""),
    ] {
        let frame = [b"]", item, b"a."].concat();
        let mut datapoints = decoder.decode(&frame).unwrap();
        let malformed = Malformed { reason: Reason::ItemClass, sample };
        assert_eq!(datapoints.next(), Some(Err(malformed)), "{}", item.escape_ascii());
        assert_eq!(datapoints.next(), None);
    }
}

#[test]
fn values_are_any_number() {
    for (opcodes, value) in [
        (&b"K\x07"[..], 7.0),
        (b"M\x01\x01", 257.0),
        (b"J\xff\xff\xff\xff", -1.0),
        (b"I-7\n", -7.0),
        (b"I01\n", 1.0),
        (b"L1448390000L\n", 1448390000.0),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x40", 1180591620717411303424.0),
        (b"\x8b\x02\0\0\0\x00\xff", -256.0),
        (b"\x8a\0", 0.0),
        (b"F1e3\n", 1000.0),
        (b"G\x3f\xf8\0\0\0\0\0\0", 1.5),
        (b"\x88", 1.0),
        (b"\x89", 0.0),
        (b"U\x04 1.5", 1.5),
        (b"S'1e3'\n", 1000.0),
        (b"\x8c\x03inf", f64::INFINITY),
        (b"X\x05\0\0\x001e400", f64::INFINITY),
    ] {
        assert_eq!(with_value(opcodes), Ok(vec![datapoint("a", 1.0, value)]), "{}", opcodes.escape_ascii());
    }
    let overflow = [&b"\x8a\xff"[..], &[0x7f; 255]].concat();
    for opcodes in [&b"N"[..], b"]", b"U\0", b"U\x040x10", b"}", b"I1_0\n", b"Fx\n", b"(K\x01\x91", &overflow]
    {
        assert_eq!(with_value(opcodes), Ok(vec![Err("item_number")]), "{}", opcodes.escape_ascii());
    }
}

#[test]
fn a_bad_item_costs_only_itself() {
    let ok = datapoint("ok", 1.0, 2.0);
    for (opcodes, reason) in [
        (&b"K\x05"[..], "item_shape"),
        (b"U\x01a", "item_shape"),
        (b")", "item_shape"),
        (b"U\x01a\x85", "item_shape"),
        (b"U\x01aK\x05\x86", "item_shape"),
        (b"U\x01aU\x0212\x86", "item_shape"),
        (b"U\x01a)\x86", "item_shape"),
        (b"K\x05K\x01K\x02\x86\x86", "item_name"),
        (b"U\x01aK\x01N\x86\x86", "item_number"),
        (b"U\x01aNK\x01\x86\x86", "item_number"),
        (b"U\x01aK\x01]K\x01a\x86\x86", "item_number"),
        (b"}U\x01aK\x01s", "item_shape"),
        (b"}(U\x01aK\x01u", "item_shape"),
    ] {
        assert_eq!(with_item(opcodes), Ok(vec![Err(reason), ok.clone()]), "{}", opcodes.escape_ascii());
    }
}

#[test]
fn a_malformed_item_is_shown_by_its_name() {
    let mut decoder = Decoder::new(Bounds::default());
    let mut datapoints = decoder.decode(b"](U\x03a.bK\x01N\x86\x86e.").unwrap();
    assert_eq!(datapoints.next(), Some(Err(Malformed { reason: Reason::ItemNumber, sample: b"a.b" })));
    assert_eq!(datapoints.next(), None);
}

#[test]
fn a_broken_frame_is_shown_from_where_it_breaks() {
    let mut decoder = Decoder::new(Bounds::default());
    let malformed = decoder.decode(b"\x80\x02](U\x01a\xffrest").unwrap_err();
    assert_eq!(malformed, Malformed { reason: Reason::PickleBroken, sample: b"\xffrest" });
}

#[test]
fn broken_frames_say_how() {
    for (frame, reason) in [
        (&b""[..], "pickle_unfinished"),
        (b"\x80", "pickle_unfinished"),
        (b"\x80\x02](X\x05\0\0\0a.b", "pickle_unfinished"),
        (b"\x80\x02](X\xff\xff\xff\xffa", "pickle_unfinished"),
        (b"(lS'a'", "pickle_unfinished"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff].", "pickle_unfinished"),
        (b"\x80\x06].", "pickle_protocol"),
        (b".", "pickle_broken"),
        (b"a.", "pickle_broken"),
        (b"]e.", "pickle_broken"),
        (b"(\x85.", "pickle_broken"),
        (b"](a.", "pickle_broken"),
        (b"NNa.", "pickle_broken"),
        (b")Na.", "pickle_broken"),
        (b"h\x05.", "pickle_broken"),
        (b"]pa\n.", "pickle_too_large"),
        (b"ga\n.", "pickle_broken"),
        (b"\xff.", "pickle_broken"),
        (b"N.", "pickle_no_list"),
        (b"}U\x01aK\x01s.", "pickle_no_list"),
        (b"U\x01a.", "pickle_no_list"),
    ] {
        assert_eq!(decode(frame), Err(reason), "{}", frame.escape_ascii());
    }
}

#[test]
fn what_follows_stop_is_not_looked_at_and_does_not_vanish() {
    for tail in [&b"cos\nsystem\n"[..], b"\0", b"\x80\x02](U\x01bK\x01K\x02\x86\x86e."] {
        let frame = [b"\x80\x02](U\x01aK\x01K\x02\x86\x86e.", tail].concat();
        assert_eq!(decode(&frame), Ok(vec![datapoint("a", 1.0, 2.0), Err("pickle_tail")]));
        let mut decoder = Decoder::new(Bounds::default());
        let mut datapoints = decoder.decode(&frame).unwrap();
        datapoints.next();
        assert_eq!(datapoints.next(), Some(Err(Malformed { reason: Reason::PickleTail, sample: tail })));
    }
    assert_eq!(decode(b"].x"), Ok(vec![Err("pickle_tail")]));
    let full = Bounds { datapoints_max: 1, ..Bounds::default() };
    assert_eq!(decode_within(full, b"](U\x01aK\x01K\x02\x86\x86e.x"), Err("pickle_too_large"));
}

#[test]
fn the_memo_the_stack_and_marks_are_pythons() {
    let expected = Ok(vec![datapoint("a", 1.0, 2.0), datapoint("a", 1.0, 2.0)]);
    for frame in [
        &b"](U\x01aq\x00K\x01K\x02\x86q\x01\x86h\x00h\x01\x86e."[..],
        b"](U\x01ar\0\0\0\0K\x01K\x02\x86\x86p2\ng2\ne.",
        b"](U\x01a\x94K\x01K\x02\x86\x86\x940h\x01j\x01\0\0\0e.",
        b"](U\x01aK\x01K\x02\x86\x862e.",
        b"](U\x01aK\x01K\x02\x86\x862N0e.",
        b"](U\x01aK\x01K\x02\x86\x862(NN1e.",
        b"](U\x01aK\x01K\x02\x86\x862(0e.",
        b"N]q\x002(U\x01aK\x01K\x02\x86\x86e0h\x00(U\x01aK\x01K\x02\x86\x86e.",
    ] {
        assert_eq!(decode(frame), expected, "{}", frame.escape_ascii());
    }
}

#[test]
fn a_list_that_holds_itself_is_a_bad_item() {
    assert_eq!(decode(b"\x80\x02]q\x00h\x00a."), Ok(vec![Err("item_name")]));
}

#[test]
fn each_bound_refuses_the_frame_as_a_whole() {
    let small = Bounds {
        frame_bytes_max: 1_000,
        depth_max: 4,
        memo_entries_max: 10,
        stack_items_max: 20,
        items_max: 61,
        datapoints_max: 12,
        name_bytes_max: 8,
        names_bytes_max: 40,
        numbers_bytes_max: 40,
    };
    let frame = |count: usize, item: &[u8]| [b"\x80\x02](", &item.repeat(count)[..], b"e."].concat();
    let item = b"U\x01aK\x01K\x02\x86\x86";
    assert_eq!(decode_within(small, &frame(12, item)).map(|items| items.len()), Ok(12));

    let too_large = Err("pickle_too_large");
    for (what, frame) in [
        ("datapoints", frame(13, item)),
        ("items", [b"\x80\x02](", &item.repeat(12)[..], b"](NNNe0e."].concat()),
        ("names", frame(6, b"U\x07aaaaaaaK\x01K\x02\x86\x86")),
        ("numbers", frame(3, b"U\x01aK\x01U\x0f000000000000002\x86\x86")),
        ("stack", frame(21, b"N")),
        ("memo", [b"\x80\x02]", &b"\x94".repeat(11)[..], b"."].concat()),
        ("memo index", b"\x80\x02]r\x0a\0\0\0............".to_vec()),
        ("memo index past the frame", b"\x80\x02]q\x09.".to_vec()),
    ] {
        assert_eq!(decode_within(small, &frame), too_large, "{what}");
    }
    let too_long = Decoder::new(small).decode(&[b'.'; 1_001]).unwrap_err().reason;
    assert_eq!(too_long, Reason::FrameTooLong);
    assert_eq!(decode_within(small, b"N\x85\x85\x85\x85."), Ok(vec![Err("item_name")]));
    assert_eq!(decode_within(small, b"N\x85\x85\x85\x85\x85."), Err("pickle_too_deep"));
    assert_eq!(decode_within(small, b"]]]]]aaaa."), Err("pickle_too_deep"));
    assert_eq!(decode_within(small, b"(((((."), Err("pickle_too_deep"));
    let long_name = decode_within(small, &frame(1, b"U\x09aaaaaaaaaK\x01K\x02\x86\x86"));
    assert_eq!(long_name, Ok(vec![Err("name_too_long")]), "a long name costs only its item");
    let long_number = [b"](U\x01aK\x01T\x01\x02\0\0", &[b'1'; 513][..], b"\x86\x86e."].concat();
    assert_eq!(decode(long_number), Ok(vec![Err("item_number")]), "and so does a long number");
}

#[test]
fn memory_that_a_large_frame_took_is_given_back() {
    let mut decoder = Decoder::new(Bounds::default());
    let frame = [b"\x80\x02](", &b"U\x01aK\x01K\x02\x86\x86".repeat(100_000)[..], b"e."].concat();
    let mut datapoints = decoder.decode(&frame).unwrap();
    assert!(datapoints.next().is_some());
    drop(datapoints);
    assert!(decoder.entries.capacity() <= KEPT_ELEMENTS);
}

/// Frames as binary picklers write them, or nearly.
fn nearly_usual_frames() -> impl Strategy<Value = Vec<u8>> {
    let name = || {
        prop_oneof![
            9 => "[é.a]{0,9}".prop_map(|name| [&[0x8c, name.len() as u8][..], name.as_bytes()].concat()),
            9 => "[a-z.]{0,9}".prop_map(|name| [b"X", &(name.len() as u32).to_le_bytes()[..], name.as_bytes()].concat()),
            1 => Just(b"N".to_vec()),
            1 => (0..4u8).prop_map(|index| vec![b'h', index]),
        ]
    };
    let number = || {
        prop_oneof![
            9 => any::<f64>().prop_map(|number| [b"G", &number.to_be_bytes()[..]].concat()),
            9 => any::<i32>().prop_map(|number| [b"J", &number.to_le_bytes()[..]].concat()),
            3 => any::<[u8; 2]>().prop_map(|number| [b"M", &number[..]].concat()),
            3 => any::<u8>().prop_map(|number| vec![b'K', number]),
            1 => Just(b"\x88".to_vec()),
            1 => Just(b"U\x011".to_vec()),
        ]
    };
    let put = || {
        prop_oneof![
            3 => Just(vec![]),
            3 => Just(b"\x94".to_vec()),
            3 => (0..9u8).prop_map(|index| vec![b'q', index]),
            1 => (0..99u32).prop_map(|index| [b"r", &index.to_le_bytes()[..]].concat()),
        ]
    };
    let tuple = || put().prop_map(|put| [b"\x86", &put[..]].concat());
    let item = (name(), put(), number(), number(), tuple(), tuple()).prop_map(
        |(name, put, timestamp, value, point, item)| [name, put, timestamp, value, point, item].concat(),
    );
    let batch =
        prop::collection::vec(item, 0..6).prop_map(|items| [b"(", &items.concat()[..], b"e"].concat());
    (prop::collection::vec(batch, 0..3), put(), any::<bool>()).prop_map(|(batches, put, framed)| {
        let body = [b"]", &put[..], &batches.concat()[..], b"."].concat();
        match framed {
            true => [b"\x80\x04\x95", &(body.len() as u64).to_le_bytes()[..], &body[..]].concat(),
            false => [b"\x80\x02", &body[..]].concat(),
        }
    })
}

/// Bounds that the frames above run into.
fn small_bounds() -> impl Strategy<Value = Bounds> {
    (0..5u8, 0..20usize, 0..20usize, 0..60usize, 0..12usize, 0..9usize, 0..60usize).prop_map(
        |(
            depth_max,
            memo_entries_max,
            stack_items_max,
            items_max,
            datapoints_max,
            name_bytes_max,
            names_bytes_max,
        )| {
            Bounds {
                frame_bytes_max: 10_000,
                depth_max,
                memo_entries_max,
                stack_items_max,
                items_max,
                datapoints_max,
                name_bytes_max,
                names_bytes_max,
                numbers_bytes_max: 9,
            }
        },
    )
}

/// Opcodes and arguments that keep a random pickle going for a while.
const OPCODES: &[u8] =
    b"cc\nRRb\x81\x81\x92\x93ioPQ\x82\x83\x84\x97\x98((((.0012}]]]]aaaeeeelll)tttt\x85\x86\x87KMUqhqhh\0\0\x01\x02NNNRd\x94I1\nF1\ng1\np1\nS'a'\nV\\u00";

proptest! {
    #[test]
    fn the_fast_path_is_the_machine(frame in nearly_usual_frames(), bounds in small_bounds()) {
        decode(&frame).ok();
        decode_within(bounds, &frame).ok();
    }

    #[test]
    fn a_damaged_frame_is_answered(mut frame in nearly_usual_frames(), index: prop::sample::Index, byte: u8) {
        *index.get_mut(&mut frame) = byte;
        decode(&frame).ok();
        frame.truncate(index.index(frame.len()));
        decode(&frame).ok();
    }

    #[test]
    fn any_bytes_are_answered(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        decode(frame).ok();
    }

    #[test]
    fn any_opcodes_are_answered(frame in prop::collection::vec(prop::sample::select(OPCODES), 0..200)) {
        decode(frame).ok();
    }
}
