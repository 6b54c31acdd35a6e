//! What a test or a user has the stand-in do instead of answering as Blueflood would.
//! It never acts: it says what the next ingest request meets, and, in a script of its own, what the next one that
//! reads back meets.
//!
//! As text (`--answers`, [`Script::parse`]) a script is a list of steps, taken in order, then all is normal again:
//!
//! ```text
//! 503x5,timeout,ok             five times 503, then no answer at all, then one normal answer
//! 429?Retry-After=2            a status with a header
//! 500/stored                   the rows are stored, and the answer says they were not
//! lie                          200, and nothing was stored
//! if(poison)400                every request with "poison" in its body is refused whole, for ever
//! refuse(bad.)                 every row with "bad." in its name is refused by itself (207)
//! ```
//!
//! Words beside a status: `ok`, `lie`, `timeout` (no answer, the connection lives), `late:MS`, `half`, `garbage`,
//! `close` (without an answer), `reset`, `reset-unread` and `early:STATUS` (both before the body is read),
//! `endless` (a body without an end), `stall` (a head whose body never comes). `xN` repeats, `x*` does so for ever.
//!
//! Words for a store that fails behind a Blueflood that answers, as was measured on the real one:
//!
//! ```text
//! away         all of the store is away. Rows of names that Blueflood knows: 200, and lost. A name that is new to it: 500,
//!              once, for then it is known. A late datapoint whose slot was not used for 30 s: 500, each time.
//!              Reading back: a known name is 200 and empty, an unknown one and POST .../views are 500
//! part:50      one node of many is away: 200, and only the rows of 50 % of all names are stored, always the same
//! miss:3       200, and three rows of the payload are not stored
//! empty        (reading back) 200, and nothing is there
//! short:70     (reading back) 200, and 70 % of the names have what is stored under them: seen as a store came back
//! ```

use super::response::Answer;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Steps taken one by one, by each ingest request that comes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    steps: VecDeque<Step>,
}

/// One thing to do, once or more often.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    act: Act,
    /// Whether the rows are stored first, where the act itself would not.
    stored: bool,
    /// Only for requests whose body contains this.
    body_has: Option<String>,
    /// Only for requests whose body is longer, in bytes after inflation.
    body_over: Option<usize>,
    /// How often it is still taken; none for ever.
    times: Option<u32>,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// What Blueflood would do.
    Normal,
    /// This status with header lines, and what Blueflood says with it.
    Status(u16, Vec<String>),
    /// These bytes of an answer.
    Answer(Answer),
    /// This status before the body is read, then a close.
    Early(u16),
    /// No answer; the connection can be used again.
    Silence,
    /// What Blueflood would do, but so much later.
    Late(Duration),
    /// The first bytes of an answer, then a close.
    Half,
    /// Bytes that are no HTTP, then a close.
    Garbage,
    /// A close without an answer.
    Close,
    /// A reset once the request has been read.
    Reset,
    /// A reset before the body is read.
    ResetUnread,
    /// A 200 whose body never ends.
    Endless,
    /// The head of a 200, and nothing after it.
    Stall,
    /// Every row whose name contains this is refused by itself.
    Refuse(String),
    /// What Blueflood does while its store is away.
    Away,
    /// A 200, and only rows of so many percent of all names are stored.
    Part(u8),
    /// A 200, and so many rows are not stored.
    Miss(usize),
    /// What is read back is empty.
    Empty,
    /// What is read back is there for so many percent of the names only.
    Short(u8),
}

/// What the request at hand meets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub act: Act,
    pub stored: bool,
}

impl Script {
    /// No step is due: Blueflood's own answer.
    pub fn new() -> Self {
        Script::default()
    }

    /// The script with one more step at its end.
    pub fn then(mut self, step: impl Into<Step>) -> Self {
        self.steps.push_back(step.into());
        self
    }

    /// Reads a script as text; see the module.
    ///
    /// # Errors
    /// Names the step that is not understood.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        text.split(',').map(str::trim).filter(|step| !step.is_empty()).map(Step::from_str).collect()
    }

    /// What is to be done before the body is read, if that is what comes next.
    pub(super) fn take_early(&mut self) -> Option<Plan> {
        let next = self.steps.iter().position(Step::is_unconditional)?;
        let early = matches!(self.steps.get(next)?.act, Act::Early(_) | Act::ResetUnread);
        early.then(|| self.take_at(next))?
    }

    /// What is to be done with a request that has been read. A condition that holds goes before what is next.
    pub(super) fn take(&mut self, body: &str) -> Plan {
        let held = |step: &Step| !step.is_unconditional() && step.holds(body);
        let chosen = self.steps.iter().position(held);
        let chosen = chosen.or_else(|| self.steps.iter().position(Step::is_unconditional));
        chosen.and_then(|at| self.take_at(at)).unwrap_or(Plan { act: Act::Normal, stored: false })
    }

    fn take_at(&mut self, at: usize) -> Option<Plan> {
        let step = self.steps.get_mut(at)?;
        let plan = Plan { act: step.act.clone(), stored: step.stored };
        if let Some(times) = &mut step.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.steps.remove(at);
            }
        }
        Some(plan)
    }
}

impl FromIterator<Step> for Script {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Script { steps: steps.into_iter().filter(|step| step.times != Some(0)).collect() }
    }
}

impl Step {
    /// This status, with what Blueflood says with it, and nothing stored.
    pub fn status(status: u16) -> Self {
        let location = (300..400).contains(&status).then(|| "Location: /login".to_owned());
        Act::Status(status, location.into_iter().collect()).into()
    }

    /// With a header, where it is an answer of its own.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let line = format!("{name}: {value}");
        match &mut self.act {
            Act::Status(_, headers) => headers.push(line),
            Act::Answer(answer) => answer.headers.push(line),
            _ => {}
        }
        self
    }

    /// The rows are stored, whatever the answer says.
    pub fn stored(self) -> Self {
        Step { stored: true, ..self }
    }

    /// The step is taken so many times, one after the other.
    pub fn times(self, times: u32) -> Self {
        Step { times: Some(times), ..self }
    }

    /// Until there is another script.
    pub fn for_ever(self) -> Self {
        Step { times: None, ..self }
    }

    /// Only for requests with `part` in the body, and before any step without a condition. For ever, unless
    /// [`Step::times`] comes after it.
    pub fn if_body_has(self, part: &str) -> Self {
        Step { body_has: Some(part.to_owned()), times: None, ..self }
    }

    /// Only for requests whose body has more bytes than that, and before any step without a condition. For ever,
    /// unless [`Step::times`] comes after it.
    pub fn if_body_over(self, bytes: usize) -> Self {
        Step { body_over: Some(bytes), times: None, ..self }
    }

    fn is_unconditional(&self) -> bool {
        self.body_has.is_none() && self.body_over.is_none()
    }

    fn holds(&self, body: &str) -> bool {
        self.body_has.as_ref().is_none_or(|part| body.contains(part.as_str()))
            && self.body_over.is_none_or(|bytes| body.len() > bytes)
    }

    /// Every row with `part` in its name is refused by itself, for ever.
    pub fn refuse(part: &str) -> Self {
        Step::from(Act::Refuse(part.to_owned())).if_body_has(part)
    }
}

impl From<Act> for Step {
    fn from(act: Act) -> Self {
        Step { act, stored: false, body_has: None, body_over: None, times: Some(1) }
    }
}

/// A step that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    step: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no step of a script: write a status (503), ok, lie, timeout, late:MS, half, garbage, close, \
             reset, reset-unread, early:STATUS, endless, stall, refuse(NAME), away, part:PERCENT, miss:ROWS, empty or \
             short:PERCENT, with /stored, ?Header=Value, xN or x* behind it and if(NAME) before it as needed",
            self.step
        )
    }
}

impl std::error::Error for ScriptError {}

impl FromStr for Step {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        parse_step(text).ok_or_else(|| ScriptError { step: text.to_owned() })
    }
}

fn parse_step(text: &str) -> Option<Step> {
    let (body_has, rest) = match text.strip_prefix("if(") {
        Some(rest) => rest.split_once(')').map(|(part, rest)| (Some(part), rest))?,
        None => (None, text),
    };
    let (rest, times) = match rest.rsplit_once('x') {
        Some((rest, "*")) => (rest, Some(None)),
        Some((before, count)) => match count.parse::<u32>() {
            Ok(count) => (before, Some(Some(count))),
            Err(_) => (rest, None),
        },
        None => (rest, None),
    };
    let (rest, headers) = match rest.split_once('?') {
        Some((rest, headers)) => (rest, Some(headers)),
        None => (rest, None),
    };
    let (word, stored) = match rest.strip_suffix("/stored") {
        Some(word) => (word, true),
        None => (rest, false),
    };
    let mut step = parse_word(word)?;
    for pair in headers.into_iter().flat_map(|headers| headers.split('&')) {
        let (name, value) = pair.split_once('=')?;
        step = step.header(name, value);
    }
    if let Some(part) = body_has {
        step = step.if_body_has(part);
    }
    step.times = times.unwrap_or(step.times);
    Some(Step { stored, ..step })
}

fn parse_word(word: &str) -> Option<Step> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| (200..600).contains(status));
    let percent = |text: &str| text.parse::<u8>().ok().filter(|percent| *percent <= 100);
    if let Some(part) = word.strip_prefix("refuse(").and_then(|rest| rest.strip_suffix(')')) {
        return Some(Step::refuse(part));
    }
    let act = match word.split_once(':') {
        Some(("late", ms)) => Act::Late(Duration::from_millis(ms.parse().ok()?)),
        Some(("early", text)) => Act::Early(status(text)?),
        Some(("part", text)) => Act::Part(percent(text)?),
        Some(("miss", rows)) => Act::Miss(rows.parse().ok()?),
        Some(("short", text)) => Act::Short(percent(text)?),
        Some(_) => return None,
        None => match word {
            "ok" | "200" => Act::Normal,
            "lie" => Act::Status(200, Vec::new()),
            "timeout" => Act::Silence,
            "half" => Act::Half,
            "garbage" => Act::Garbage,
            "close" => Act::Close,
            "reset" => Act::Reset,
            "reset-unread" => Act::ResetUnread,
            "endless" => Act::Endless,
            "stall" => Act::Stall,
            "away" => Act::Away,
            "empty" => Act::Empty,
            _ => return status(word).map(Step::status),
        },
    };
    Some(act.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_steps() {
        let script =
            Script::parse("503x5, timeout,429?Retry-After=2,500/storedx*,if(poison)400,late:20x3").unwrap();
        let expected = Script::new()
            .then(Step::status(503).times(5))
            .then(Act::Silence)
            .then(Step::status(429).header("Retry-After", "2"))
            .then(Step::status(500).stored().for_ever())
            .then(Step::status(400).if_body_has("poison"))
            .then(Step::from(Act::Late(Duration::from_millis(20))).times(3));
        assert_eq!(script, expected);
        for wrong in ["50", "sometimes", "late:x", "if(a", "503?x", "early:1", "part:101", "miss:x", "short:"]
        {
            let error = Script::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn conditions_go_first_and_counts_run_out() {
        let mut script = Script::parse("503x2,if(poison)400x1").unwrap();
        let mut status = |body| match script.take(body).act {
            Act::Status(status, _) => status,
            _ => 0,
        };
        assert_eq!([status("a"), status("poison"), status("poison"), status("a")], [503, 400, 503, 0]);
    }
}
