//! Owns what a pickle's values are while a frame is decoded, and the arenas that hold the contents of containers.
//! Never follows one container into another: whoever reads them does, as deep as a datapoint needs.
//!
//! A value is a small copy, whatever it stands for: a number, a place in the frame, a place in an arena. So a hundred
//! references to a megabyte cost a hundred small copies, and freeing a nest of any depth is freeing three vectors.

/// A place in the frame or, from the frame's length on, in the text that had to be unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub length: u32,
}

impl Span {
    /// A span of what the decoder's bounds keep far below 4 GiB.
    #[inline]
    pub fn new(start: usize, length: usize) -> Self {
        Span { start: start as u32, length: length as u32 }
    }

    /// From the beginning of this span to the end of one behind it.
    pub fn to(self, last: Span) -> Self {
        let end = last.start.saturating_add(last.length);
        Span { start: self.start, length: end.saturating_sub(self.start) }
    }

    /// A part of this span.
    pub fn within(self, skipped: usize, length: usize) -> Self {
        Span { start: self.start.saturating_add(skipped as u32), length: length as u32 }
    }
}

/// Finds the bytes of a span; a span is only ever made of bytes that are there.
#[inline]
pub fn resolve<'a>(span: Span, frame: &'a [u8], text: &'a [u8]) -> &'a [u8] {
    let (start, length) = (span.start as usize, span.length as usize);
    let (bytes, start) = match start.checked_sub(frame.len()) {
        None => (frame, start),
        Some(start) => (text, start),
    };
    bytes.get(start..).and_then(|bytes| bytes.get(..length)).unwrap_or_default()
}

/// What the machine's stack, its memo and its containers hold.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// Any int, long, float or bool: only its nearest double matters to a datapoint.
    Number(f64),
    /// Any str, bytes, unicode or bytearray.
    Text(Span),
    Tuple(Tuple),
    /// The number of a list in [`Arenas`], as lists may still grow and may be met again through the memo.
    List(u32),
    /// `_codecs.encode`, by which Python 3 writes `bytes` at protocols 0 to 2. It is a word here, not a function.
    Encode,
    /// What can be no part of a datapoint: None, a dict, a set, a text or number that makes no sense.
    Opaque,
    /// A class, what one would make, or anything else that only running code could tell. The span is where its name
    /// stands, for an operator to see; nothing looks it up.
    Object(Span),
}

#[derive(Debug, Clone, Copy)]
pub struct Tuple {
    start: u32,
    length: u32,
    /// Containers in containers, itself included.
    depth: u8,
}

/// A list is a chain of segments: it may grow after other containers have taken the place behind it.
#[derive(Debug, Clone, Copy)]
struct List {
    first: Option<u32>,
    last: Option<u32>,
    depth: u8,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u32,
    end: u32,
    next: Option<u32>,
}

/// The contents of every tuple and list of a frame.
#[derive(Debug, Default)]
pub struct Arenas {
    items: Vec<Value>,
    lists: Vec<List>,
    segments: Vec<Segment>,
}

impl Arenas {
    /// Empties them, and gives back what an unusually large frame made them take.
    pub fn reset(&mut self, kept: usize) {
        reset(&mut self.items, kept);
        reset(&mut self.lists, kept);
        reset(&mut self.segments, kept);
    }

    /// How many values and lists they hold.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len().saturating_add(self.lists.len())
    }

    #[inline]
    pub fn tuple(&mut self, items: &[Value]) -> Tuple {
        let tuple = Tuple {
            start: self.items.len() as u32,
            length: items.len() as u32,
            depth: self.depth_around(items),
        };
        self.items.extend_from_slice(items);
        tuple
    }

    pub fn list(&mut self, items: &[Value]) -> u32 {
        let list = self.lists.len() as u32;
        self.lists.push(List { first: None, last: None, depth: 1 });
        self.extend(list, items);
        list
    }

    /// Appends to a list.
    pub fn extend(&mut self, list: u32, items: &[Value]) {
        let depth = self.depth_around(items);
        let Some(list) = self.lists.get_mut(list as usize) else { return };
        list.depth = list.depth.max(depth);
        if items.is_empty() {
            return;
        }

        let start = self.items.len() as u32;
        self.items.extend_from_slice(items);
        let end = self.items.len() as u32;
        let segment = self.segments.len() as u32;
        match list.last.and_then(|last| self.segments.get_mut(last as usize)) {
            Some(last) if last.end == start => return last.end = end,
            Some(last) => last.next = Some(segment),
            None => list.first = Some(segment),
        }
        list.last = Some(segment);
        self.segments.push(Segment { start, end, next: None });
    }

    /// Containers in containers, itself included; 0 for what is no container.
    ///
    /// A list that grew deeper after it was put into another container leaves the other's figure as it was. Nothing
    /// depends on the figure: it turns senseless nests away early, and no code here recurses.
    #[inline]
    pub fn depth(&self, value: Value) -> u8 {
        match value {
            Value::Tuple(tuple) => tuple.depth,
            Value::List(list) => self.lists.get(list as usize).map_or(0, |list| list.depth),
            Value::Number(_) | Value::Text(_) | Value::Encode | Value::Opaque | Value::Object(_) => 0,
        }
    }

    #[inline]
    fn depth_around(&self, items: &[Value]) -> u8 {
        items.iter().map(|&item| self.depth(item)).max().unwrap_or(0).saturating_add(1)
    }

    /// The items of a tuple or list; `None` for any other value.
    #[inline]
    pub fn items(&self, container: Value) -> Option<Items<'_>> {
        let segment = match container {
            Value::Tuple(Tuple { start, length, .. }) => {
                Segment { start, end: start.saturating_add(length), next: None }
            }
            Value::List(list) => Segment { start: 0, end: 0, next: self.lists.get(list as usize)?.first },
            Value::Number(_) | Value::Text(_) | Value::Encode | Value::Opaque | Value::Object(_) => {
                return None;
            }
        };
        Some(Items { arenas: self, items: self.slice(segment), next: segment.next })
    }

    #[inline]
    fn slice(&self, segment: Segment) -> std::slice::Iter<'_, Value> {
        self.items.get(segment.start as usize..segment.end as usize).unwrap_or_default().iter()
    }
}

/// Clears a vector, and gives back its memory if it has taken more than `kept` items' worth.
pub fn reset<T>(vector: &mut Vec<T>, kept: usize) {
    vector.clear();
    vector.shrink_to(kept);
}

/// Iterates over the items of one container.
pub struct Items<'a> {
    arenas: &'a Arenas,
    items: std::slice::Iter<'a, Value>,
    next: Option<u32>,
}

impl Iterator for Items<'_> {
    type Item = Value;

    #[inline]
    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(&item) = self.items.next() {
                return Some(item);
            }
            let segment = *self.arenas.segments.get(self.next? as usize)?;
            self.items = self.arenas.slice(segment);
            self.next = segment.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_grow_after_others() {
        let mut arenas = Arenas::default();
        let first = arenas.list(&[Value::Number(1.0)]);
        arenas.extend(first, &[Value::Number(2.0)]);
        let second = arenas.list(&[Value::Number(3.0)]);
        arenas.extend(first, &[Value::Number(4.0)]);
        let numbers = |list| {
            arenas.items(Value::List(list)).unwrap().map(|value| match value {
                Value::Number(number) => number,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(numbers(first).collect::<Vec<_>>(), [1.0, 2.0, 4.0]);
        assert_eq!(numbers(second).collect::<Vec<_>>(), [3.0]);
        assert_eq!(arenas.segments.len(), 3, "neighbours share a segment");
    }

    #[test]
    fn a_value_is_sixteen_bytes() {
        assert_eq!(size_of::<Option<Value>>(), 16);
    }
}
