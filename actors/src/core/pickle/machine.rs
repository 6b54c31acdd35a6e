//! Owns what each opcode of a pickle does to the stack, the memo and the arenas.
//! Never calls, imports or builds anything, never recurses, and never takes more memory than its bounds allow.

use super::Bounds;
use super::opcode::*;
use super::reader::Reader;
use super::text::{self, Unescaped};
use super::value::{Arenas, Span, Value, reset, resolve};
use crate::core::datapoint::Reason;
use crate::core::number;

/// The memory of the machine, kept from frame to frame.
#[derive(Debug, Default)]
pub struct Memory {
    stack: Vec<Value>,
    /// For each MARK that is open, the height of the stack at which it stands.
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    pub arenas: Arenas,
    /// Texts that had to be unescaped, one after the other; their spans begin where the frame ends.
    pub text: Vec<u8>,
}

impl Memory {
    /// Forgets a frame, and gives back what an unusually large one made it take.
    pub fn reset(&mut self, kept: usize) {
        reset(&mut self.stack, kept);
        reset(&mut self.marks, kept);
        reset(&mut self.memo, kept);
        self.arenas.reset(kept);
        reset(&mut self.text, kept);
    }
}

/// Runs a pickle up to its STOP and hands back the value that it stands for, and the place of what follows STOP, which
/// is not looked at.
///
/// The error is the reason and the place, from which on the frame can't be understood.
pub fn run<'f>(
    frame: &'f [u8],
    bounds: &Bounds,
    memory: &mut Memory,
) -> Result<(Value, Span), (Reason, &'f [u8])> {
    let mut machine = Machine { frame, reader: Reader::new(frame), bounds, memory, encoded_bytes: 0 };
    loop {
        let place = machine.reader.rest();
        match machine.step() {
            Ok(None) => {}
            Ok(Some(value)) => {
                let left = machine.reader.rest().len();
                return Ok((value, Span::new(frame.len().saturating_sub(left), left)));
            }
            Err(reason) => return Err((reason, place)),
        }
    }
}

struct Machine<'f, 'm> {
    frame: &'f [u8],
    reader: Reader<'f>,
    bounds: &'m Bounds,
    memory: &'m mut Memory,
    /// Bytes of text that were encoded, counting each time.
    encoded_bytes: usize,
}

type Step<T> = Result<T, Reason>;

/// How an opcode has a length or an index behind it.
type Number<'f> = fn(&mut Reader<'f>) -> Option<usize>;

/// An argument that the frame must still have.
#[inline]
fn arg<T>(argument: Option<T>) -> Step<T> {
    argument.ok_or(Reason::PickleUnfinished)
}

impl<'f> Machine<'f, '_> {
    /// Obeys one opcode; `Some` is the end.
    #[inline]
    fn step(&mut self) -> Step<Option<Value>> {
        match arg(self.reader.byte())? {
            STOP => return self.top().map(Some),
            PROTO if arg(self.reader.byte())? <= PROTOCOL_MAX => {}
            PROTO => return Err(Reason::PickleProtocol),
            FRAME if arg(self.reader.wide())? <= self.reader.rest().len() => {}
            FRAME => return Err(Reason::PickleUnfinished),

            opcode @ (BINFLOAT | BININT | BININT1 | BININT2) => {
                let number = arg(self.reader.number(opcode))?;
                self.push(Value::Number(number))?;
            }
            LONG1 => self.push_integer(Reader::short)?,
            LONG4 => self.push_integer(Reader::long)?,
            // `I01` and `I00` are protocol 0's True and False: as numbers they are what they look like.
            INT | LONG => self.push_number(number::parse_integer)?,
            FLOAT => self.push_number(number::parse)?,
            NEWTRUE => self.push(Value::Number(1.0))?,
            NEWFALSE => self.push(Value::Number(0.0))?,
            NONE | EMPTY_DICT | EMPTY_SET => self.push(Value::Opaque)?,

            SHORT_BINUNICODE | SHORT_BINSTRING | SHORT_BINBYTES => self.push_text(Reader::short)?,
            BINUNICODE | BINSTRING | BINBYTES => self.push_text(Reader::long)?,
            BINUNICODE8 | BINBYTES8 | BYTEARRAY8 => self.push_text(Reader::wide)?,
            STRING => self.push_unescaped(text::literal)?,
            UNICODE => self.push_unescaped(text::raw_unicode)?,

            MARK => self.push_mark()?,
            EMPTY_TUPLE => self.tuple(Some(self.memory.stack.len()))?,
            TUPLE1 => self.tuple(self.below(1))?,
            TUPLE2 => self.tuple(self.below(2))?,
            TUPLE3 => self.tuple(self.below(3))?,
            TUPLE => {
                let mark = self.unmark();
                self.tuple(mark)?;
            }
            EMPTY_LIST => self.list(Some(self.memory.stack.len()))?,
            LIST => {
                let mark = self.unmark();
                self.list(mark)?;
            }
            APPEND => self.append(self.below(1))?,
            APPENDS => {
                let mark = self.unmark();
                self.append(mark)?;
            }
            // Dicts and sets are no part of a datapoint: what goes into them is forgotten.
            DICT | FROZENSET => {
                let mark = self.unmark();
                self.forget(mark)?;
                self.push(Value::Opaque)?;
            }
            SETITEM => self.forget(self.below(2))?,
            SETITEMS | ADDITEMS | POP_MARK => {
                let mark = self.unmark();
                self.forget(mark)?;
            }
            // As in Python: it takes the mark if nothing stands above it.
            POP if self.memory.marks.last() == Some(&self.memory.stack.len()) => {
                self.memory.marks.pop();
            }
            POP => self.forget(self.below(1))?,
            DUP => self.push(self.top()?)?,

            BINPUT => self.put(Reader::short)?,
            LONG_BINPUT => self.put(Reader::long)?,
            PUT => self.put(Reader::digits)?,
            MEMOIZE => self.memoize(self.memory.memo.len())?,
            BINGET => self.get(Reader::short)?,
            LONG_BINGET => self.get(Reader::long)?,
            GET => self.get(Reader::digits)?,

            GLOBAL => {
                let (module, name) = (arg(self.reader.line())?, arg(self.reader.line())?);
                self.push(match (self.bytes(module), self.bytes(name)) {
                    (b"_codecs", b"encode") => Value::Encode,
                    _ => Value::Object(module.to(name)),
                })?;
            }
            REDUCE => self.reduce()?,
            // Whatever these would import, call or fetch is one value of which nothing is known.
            STACK_GLOBAL | NEWOBJ | BUILD => self.object(self.below(2))?,
            NEWOBJ_EX => self.object(self.below(3))?,
            BINPERSID | READONLY_BUFFER => self.object(self.below(1))?,
            OBJ => {
                let class = self.unmark().filter(|&mark| mark < self.memory.stack.len());
                self.object(class)?;
            }
            INST => {
                let class = arg(self.reader.line())?.to(arg(self.reader.line())?);
                let mark = self.unmark();
                self.forget(mark)?;
                self.push(Value::Object(class))?;
            }
            PERSID => {
                let id = arg(self.reader.line())?;
                self.push(Value::Object(id))?;
            }
            EXT1 => self.push_extension(1)?,
            EXT2 => self.push_extension(2)?,
            EXT4 => self.push_extension(4)?,
            NEXT_BUFFER => self.push_extension(0)?,
            _ => return Err(Reason::PickleBroken),
        }
        Ok(None)
    }

    // === numbers and texts ===

    #[inline]
    fn push(&mut self, value: Value) -> Step<()> {
        if self.memory.stack.len() >= self.bounds.stack_items_max {
            return Err(Reason::PickleTooLarge);
        }
        self.memory.stack.push(value);
        Ok(())
    }

    fn push_number(&mut self, parse: fn(&[u8]) -> Option<f64>) -> Step<()> {
        let line = arg(self.reader.line())?;
        self.push(parse(self.bytes(line)).map_or(Value::Opaque, Value::Number))
    }

    fn push_integer(&mut self, length: Number<'f>) -> Step<()> {
        let length = arg(length(&mut self.reader))?;
        let bytes = arg(self.reader.bytes(length))?;
        self.push(number::integer(bytes).map_or(Value::Opaque, Value::Number))
    }

    #[inline]
    fn push_text(&mut self, length: Number<'f>) -> Step<()> {
        let length = arg(length(&mut self.reader))?;
        let span = arg(self.reader.span(length))?;
        self.push(Value::Text(span))
    }

    fn push_unescaped(&mut self, unescape: fn(&[u8], &mut Vec<u8>) -> Unescaped) -> Step<()> {
        let line = arg(self.reader.line())?;
        let before = self.memory.text.len();
        let value = match unescape(resolve(line, self.frame, &[]), &mut self.memory.text) {
            Unescaped::AsIs { skipped, length } => Value::Text(line.within(skipped, length)),
            Unescaped::Appended => Value::Text(self.appended_since(before)),
            Unescaped::Invalid => Value::Opaque,
        };
        self.push(value)
    }

    /// An object of which the pickle says nothing but a number, of so many bytes.
    fn push_extension(&mut self, length: usize) -> Step<()> {
        let number = arg(self.reader.span(length))?;
        self.push(Value::Object(number))
    }

    /// Puts one object in the place of what stands above `height`, named by the deepest of it that has a name.
    fn object(&mut self, height: Option<usize>) -> Step<()> {
        let parts = height.and_then(|height| self.memory.stack.get(height..)).ok_or(Reason::PickleBroken)?;
        let name = parts.iter().find_map(|part| match part {
            Value::Text(name) | Value::Object(name) => Some(*name),
            _ => None,
        });
        self.forget(height)?;
        self.push(Value::Object(name.unwrap_or(Span::new(0, 0))))
    }

    /// Does what `_codecs.encode(text, 'latin1')` would; any other call is not made.
    fn reduce(&mut self) -> Step<()> {
        let height = self.below(2);
        let call = height.and_then(|height| self.memory.stack.get(height..)).ok_or(Reason::PickleBroken)?;
        let text = match call {
            [Value::Encode, arguments] => self.latin1_text(*arguments),
            _ => None,
        };
        let Some(span) = text else { return self.object(height) };

        // The memo may bring the same long text again and again.
        self.encoded_bytes = self.encoded_bytes.saturating_add(span.length as usize);
        if self.encoded_bytes > self.bounds.names_bytes_max {
            return Err(Reason::PickleTooLarge);
        }
        let text = self.bytes(span);
        let value = if text.is_ascii() {
            Value::Text(span)
        } else if let Some(encoded) = text::latin1(text) {
            let before = self.memory.text.len();
            self.memory.text.extend_from_slice(&encoded);
            Value::Text(self.appended_since(before))
        } else {
            Value::Opaque
        };
        self.forget(height)?;
        self.push(value)
    }

    /// The text of the arguments `(text, 'latin1')`.
    fn latin1_text(&self, arguments: Value) -> Option<Span> {
        let mut arguments = self.memory.arenas.items(arguments)?;
        match (arguments.next(), arguments.next(), arguments.next()) {
            (Some(Value::Text(text)), Some(Value::Text(encoding)), None)
                if self.bytes(encoding) == b"latin1" =>
            {
                Some(text)
            }
            _ => None,
        }
    }

    #[inline]
    fn bytes(&self, span: Span) -> &[u8] {
        resolve(span, self.frame, &self.memory.text)
    }

    fn appended_since(&self, before: usize) -> Span {
        let length = self.memory.text.len().saturating_sub(before);
        Span::new(self.frame.len().saturating_add(before), length)
    }

    // === the stack ===

    fn push_mark(&mut self) -> Step<()> {
        if self.memory.marks.len() >= usize::from(self.bounds.depth_max) {
            return Err(Reason::PickleTooDeep);
        }
        self.memory.marks.push(self.memory.stack.len());
        Ok(())
    }

    /// Takes the innermost mark away, and hands back the height at which it stood.
    #[inline]
    fn unmark(&mut self) -> Option<usize> {
        self.memory.marks.pop()
    }

    /// The height under the topmost `count` values, if there are so many above the innermost mark.
    #[inline]
    fn below(&self, count: usize) -> Option<usize> {
        let floor = self.memory.marks.last().copied().unwrap_or(0);
        self.memory.stack.len().checked_sub(count).filter(|&height| height >= floor)
    }

    #[inline]
    fn top(&self) -> Step<Value> {
        self.below(1).and_then(|height| self.memory.stack.get(height).copied()).ok_or(Reason::PickleBroken)
    }

    #[inline]
    fn forget(&mut self, height: Option<usize>) -> Step<()> {
        self.memory.stack.truncate(height.ok_or(Reason::PickleBroken)?);
        Ok(())
    }

    // === containers ===

    /// Makes a tuple of what stands above `height`.
    #[inline]
    fn tuple(&mut self, height: Option<usize>) -> Step<()> {
        let Memory { stack, arenas, .. } = &mut *self.memory;
        let items = height.and_then(|height| stack.get(height..)).ok_or(Reason::PickleBroken)?;
        let tuple = Value::Tuple(arenas.tuple(items));
        self.forget(height)?;
        self.check_arenas(tuple)?;
        self.push(tuple)
    }

    /// Makes a list of what stands above `height`.
    fn list(&mut self, height: Option<usize>) -> Step<()> {
        let Memory { stack, arenas, .. } = &mut *self.memory;
        let items = height.and_then(|height| stack.get(height..)).ok_or(Reason::PickleBroken)?;
        let list = Value::List(arenas.list(items));
        self.forget(height)?;
        self.check_arenas(list)?;
        self.push(list)
    }

    /// Appends what stands above `height` to the list that stands there.
    fn append(&mut self, height: Option<usize>) -> Step<()> {
        let Memory { stack, arenas, .. } = &mut *self.memory;
        let items = height.and_then(|height| stack.get(height..)).ok_or(Reason::PickleBroken)?;
        let under = items.len().saturating_add(1);
        let list = stack.len().checked_sub(under).and_then(|list| stack.get(list)).copied();
        match list {
            Some(list @ Value::List(number)) => {
                arenas.extend(number, items);
                self.forget(height)?;
                self.check_arenas(list)
            }
            // A deque or another kind of list: what goes into it is forgotten, as with dicts and sets.
            Some(Value::Object(_)) => self.forget(height),
            _ => Err(Reason::PickleBroken),
        }
    }

    /// A step adds at most the stack's items to the arenas, so it is enough to look after it.
    #[inline]
    fn check_arenas(&self, container: Value) -> Step<()> {
        if self.memory.arenas.len() > self.bounds.items_max {
            return Err(Reason::PickleTooLarge);
        }
        if self.memory.arenas.depth(container) > self.bounds.depth_max {
            return Err(Reason::PickleTooDeep);
        }
        Ok(())
    }

    // === memo ===

    #[inline]
    fn put(&mut self, index: Number<'f>) -> Step<()> {
        let index = arg(index(&mut self.reader))?;
        self.memoize(index)
    }

    /// Picklers count their memo up, so an index beyond the frame's own length is none of theirs. Without that check a
    /// frame of ten bytes could ask for the whole memo to be laid out.
    #[inline]
    fn memoize(&mut self, index: usize) -> Step<()> {
        let top = self.top()?;
        if index >= self.bounds.memo_entries_max || index > self.frame.len() {
            return Err(Reason::PickleTooLarge);
        }
        let memo = &mut self.memory.memo;
        match memo.get_mut(index) {
            Some(entry) => *entry = Some(top),
            None => {
                memo.resize(index, None);
                memo.push(Some(top));
            }
        }
        Ok(())
    }

    #[inline]
    fn get(&mut self, index: Number<'f>) -> Step<()> {
        let index = arg(index(&mut self.reader))?;
        let value = self.memory.memo.get(index).copied().flatten().ok_or(Reason::PickleBroken)?;
        self.push(value)
    }
}
