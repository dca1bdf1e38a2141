//! Several logs as one, in the order of their times.
//!
//! The logs of a day are often several: rotated ones, one after the other, or those of several
//! servers, which overlap. Each is read from its beginning, and the request with the earliest time
//! is next. A log is opened when its first request is next, so a thousand of them take no more
//! memory than those that overlap.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    formats::{self, Format},
    input::Input,
    lines::{Line, Lines},
    record::Record,
    unread::{Broken, Unread, Why},
    wanted::Wanted,
};

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be read: {error}")]
pub struct Unopened {
    /// Its name.
    pub name: String,
    /// Why.
    pub error: io::Error,
}

/// Several logs as one.
pub(super) struct Merged<'w> {
    logs: Vec<Log>,
    /// The logs by the time of their next request.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    /// The log whose request was last handed out.
    last: Option<usize>,
    format: Format,
    wanted: &'w Wanted,
    read: Arc<AtomicU64>,
    pub(super) unread: Unread,
}

struct Log {
    input: Input,
    name: String,
    lines: Option<Lines<Box<dyn Read>>>,
    record: Record,
}

/// How many lines are read to find the first time of a log.
const PEEKED: usize = 1_000;

impl<'w> Merged<'w> {
    /// Takes the logs, and opens each of them to see whether it can be.
    pub(super) fn open(
        inputs: Vec<Input>,
        format: Format,
        wanted: &'w Wanted,
    ) -> Result<Self, Unopened> {
        let mut merged = Self {
            logs: Vec::with_capacity(inputs.len()),
            next: BinaryHeap::new(),
            last: None,
            format,
            wanted,
            read: Arc::default(),
            unread: Unread::default(),
        };
        let is_alone = inputs.len() == 1;
        for (place, input) in inputs.into_iter().enumerate() {
            let first_us = match &input {
                Input::File(_) if !is_alone => merged.peek(&input),
                _ => Ok(0),
            };
            let name = input.name();
            let opened = first_us.and_then(|first_us| {
                if is_alone {
                    Ok((first_us, Some(input.open(&merged.read)?)))
                } else {
                    Ok((first_us, None))
                }
            });
            let (first_us, reader) = opened.map_err(|error| Unopened {
                name: name.clone(),
                error,
            })?;
            merged.next.push(Reverse((first_us, place)));
            merged.logs.push(Log {
                input,
                name,
                lines: reader.map(Lines::new),
                record: Record::default(),
            });
        }
        Ok(merged)
    }

    /// The time of the first request of a log, if one comes soon.
    fn peek(&self, input: &Input) -> io::Result<u64> {
        let mut lines = Lines::new(input.open(&Arc::default())?);
        let mut record = Record::default();
        for _ in 0..PEEKED {
            match lines.next()? {
                None => break,
                Some((_, Line::TooLong(_))) => {}
                Some((_, Line::Text(line))) => {
                    if formats::read(self.format, line, self.wanted, &mut record).is_ok() {
                        return Ok(record.time_us);
                    }
                }
            }
        }
        Ok(0)
    }

    /// How many bytes were read, as they are stored.
    pub(super) fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The next request; `None` at the end.
    pub(super) fn next(&mut self) -> Option<&Record> {
        if let Some(last) = self.last.take() {
            self.advance(last);
        }
        loop {
            let Reverse((_, place)) = self.next.pop()?;
            if self.logs[place].is_begun() {
                self.last = Some(place);
                return Some(&self.logs[place].record);
            }
            self.begin(place);
        }
    }

    /// Opens a log whose first request is next.
    fn begin(&mut self, place: usize) {
        let log = &mut self.logs[place];
        if log.lines.is_none() {
            match log.input.open(&self.read) {
                Ok(reader) => log.lines = Some(Lines::new(reader)),
                Err(error) => {
                    self.unread.broken.push(Broken {
                        log: log.name.clone(),
                        lines: 0,
                        error: error.to_string(),
                    });
                    return;
                }
            }
        }
        self.advance(place);
    }

    /// Reads the next request of a log.
    fn advance(&mut self, place: usize) {
        let Self {
            logs,
            next,
            format,
            wanted,
            unread,
            ..
        } = self;
        let log = &mut logs[place];
        let Some(lines) = &mut log.lines else {
            return;
        };
        loop {
            match lines.next() {
                Ok(Some((number, Line::Text(line)))) => {
                    match formats::read(*format, line, wanted, &mut log.record) {
                        Ok(()) => break,
                        Err(why) => unread.add(why, &log.name, number, line),
                    }
                }
                Ok(Some((number, Line::TooLong(line)))) => {
                    unread.add(Why::TooLong, &log.name, number, line);
                }
                end => {
                    if let Err(error) = end {
                        unread.broken.push(Broken {
                            log: log.name.clone(),
                            lines: lines.number,
                            error: error.to_string(),
                        });
                    }
                    // Its buffers are not needed any more.
                    log.lines = None;
                    return;
                }
            }
        }
        next.push(Reverse((log.record.time_us, place)));
    }
}

impl Log {
    /// Whether its record is one that was read.
    fn is_begun(&self) -> bool {
        self.record.time_us > 0
    }
}
