//! One measurement, and the ways in which bytes fail to be one.

/// A datapoint as a sender wrote it: nothing about it has been judged yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Datapoint<'a> {
    /// The metric's name: usually UTF-8, but any bytes may come.
    pub name: &'a [u8],
    /// Seconds since the epoch, fractions allowed. -1 means "now"; NaN and infinities may come.
    pub timestamp: f64,
    /// The measured value; NaN and infinities may come.
    pub value: f64,
}

/// What yields the datapoints of a frame: whoever makes rows of them knows no protocol. A new protocol is one more of these.
///
/// Datapoints are pulled, so that whoever takes them may hand some on, and wait, before it takes more.
pub trait Pull {
    /// The next datapoint, or what stands there and is none; `None` at the end. It lives until the next one is asked for,
    /// which no `Iterator` can promise.
    fn pull(&mut self) -> Option<Result<Datapoint<'_>, Malformed<'_>>>;
}

/// Something on the wire that never became a datapoint, with enough of it to show an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed<'a> {
    /// What was wrong: the `reason` under which it is counted.
    pub reason: Reason,
    /// The offending bytes, cut to [`SAMPLE_BYTES_MAX`].
    pub sample: &'a [u8],
}

/// How much of an offending line or frame is kept for the log.
pub const SAMPLE_BYTES_MAX: usize = 64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// Why bytes did not become a datapoint.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order in which they are shown.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The name under which it is counted: `malformed{reason="..."}`.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// A line that has not exactly three fields.
    LineFields = "line_fields",
    /// A line whose value or timestamp is no number.
    LineNumber = "line_number",
    /// A line over 16,384 bytes.
    LineTooLong = "line_too_long",
    /// A connection that ended within a frame, or within a line to which fields are missing.
    Truncated = "truncated",
    /// A frame of no bytes.
    FrameEmpty = "frame_empty",
    /// A frame over its bound (1 MiB), or what is no frame but has been read as the length of one; what follows it on the connection can't be told apart from it.
    FrameTooLong = "frame_too_long",
    /// A frame that is no pickle: an unknown opcode, too few values for one, a text or memo entry that isn't there.
    PickleBroken = "pickle_broken",
    /// A pickle whose end (STOP) is missing.
    PickleUnfinished = "pickle_unfinished",
    /// A pickle of a protocol that didn't exist when this was written (over 5).
    PickleProtocol = "pickle_protocol",
    /// A pickle that is an object of a class as a whole. Nothing is ever imported, built or called.
    PickleCall = "pickle_call",
    /// A pickle with containers in containers past any use.
    PickleTooDeep = "pickle_too_deep",
    /// A pickle that would become more than its bounds allow: values, memo entries, datapoints, or bytes of text.
    PickleTooLarge = "pickle_too_large",
    /// A pickle of something that is neither a list nor a tuple.
    PickleNoList = "pickle_no_list",
    /// Bytes behind the end (STOP) of a pickle, within its frame: what stands before them is taken.
    PickleTail = "pickle_tail",
    /// An item of a pickle that isn't `(name, (timestamp, value), ...)`.
    ItemShape = "item_shape",
    /// An item of a pickle whose name is no text.
    ItemName = "item_name",
    /// An item of a pickle whose timestamp or value is no number, or one that no double is near.
    ItemNumber = "item_number",
    /// An item of a pickle in which an object of a class (Decimal, datetime, numpy.float64) stands for a number or a
    /// name: what it is worth only code could tell, and none is run.
    ItemClass = "item_class",
    /// A name longer than Blueflood can store.
    NameTooLong = "name_too_long",
    /// A connection or datagram that is an HTTP request where lines are taken.
    Http = "http",
    /// A connection of an SSH client where lines are taken.
    Ssh = "ssh",
    /// The header of the PROXY protocol before what a sender writes: it is taken off.
    ProxyHeader = "proxy_header",
    /// A connection or datagram of pickles where only lines are taken.
    PickleOnLine = "pickle_on_line",
    /// A connection or datagram that is a pickle without the length before it.
    PickleNoLength = "pickle_no_length",
    /// A connection that is encrypted where it must not be, or is not where it must, or whose handshake failed.
    TlsHandshake = "tls_handshake",
    /// A connection or datagram of a sender outside the endpoint's networks.
    NotAllowed = "not_allowed",
}
