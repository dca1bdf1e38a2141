//! Lines of a log, in constant memory however long they are.

use std::io::{self, ErrorKind, Read};

use memchr::memchr;

/// The longest line that is read, in bytes. What a proxy logs is bounded by the head of a request,
/// which is rarely more than 32 KiB.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes, without what ends it.
    Text(&'a [u8]),
    /// The beginning of a line that is longer than [`MAX_LINE`].
    TooLong(&'a [u8]),
}

/// Reads lines.
pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// What of the buffer is not read yet.
    start: usize,
    end: usize,
    /// Whether the rest of a line is to be skipped.
    skips: bool,
    is_over: bool,
    /// How many lines were read.
    pub(super) number: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: vec![0; 2 * MAX_LINE],
            start: 0,
            end: 0,
            skips: false,
            is_over: false,
            number: 0,
        }
    }

    /// The next line that is not empty, with its number from 1; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        // Where a line break can be; before it there is none.
        let mut from = self.start;
        loop {
            if let Some(at) = memchr(b'\n', &self.buffer[from..self.end]) {
                let line = self.start..from + at;
                self.start = line.end + 1;
                from = self.start;
                if std::mem::take(&mut self.skips) {
                    continue;
                }
                self.number += 1;
                if !trimmed(&self.buffer[line.clone()]).is_empty() {
                    let line = &self.buffer[line];
                    let line = if line.len() > MAX_LINE {
                        Line::TooLong(line)
                    } else {
                        Line::Text(trimmed(line))
                    };
                    return Ok(Some((self.number, line)));
                }
                continue;
            }
            if self.is_over {
                let line = self.start..self.end;
                self.start = self.end;
                if line.is_empty() || std::mem::take(&mut self.skips) {
                    return Ok(None);
                }
                self.number += 1;
                let line = trimmed(&self.buffer[line]);
                return Ok((!line.is_empty()).then_some((self.number, Line::Text(line))));
            }
            if self.skips {
                self.start = self.end;
            } else if self.end - self.start > MAX_LINE {
                let line = self.start..self.end;
                self.start = self.end;
                self.skips = true;
                self.number += 1;
                return Ok(Some((self.number, Line::TooLong(&self.buffer[line]))));
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            from = self.end;
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.is_over = true,
                Ok(length) => self.end += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
        }
    }
}

/// Without the carriage return of files that were written on Windows.
fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    fn all(text: &[u8], step: usize) -> Vec<(u64, Result<Vec<u8>, usize>)> {
        let mut lines = Lines::new(Slowly(text, step));
        let mut out = Vec::new();
        loop {
            match lines.next().unwrap() {
                None => return out,
                Some((number, Line::Text(line))) => out.push((number, Ok(line.to_vec()))),
                Some((number, Line::TooLong(line))) => out.push((number, Err(line.len()))),
            }
        }
    }

    #[test]
    fn lines_are_found_however_the_bytes_come() {
        for step in [1, 2, 3, 1_000] {
            let lines = all(b"one\r\n\ntwo\nthree", step);
            let expected = [(1, "one"), (3, "two"), (4, "three")];
            let expected = expected.map(|(number, line)| (number, Ok(line.as_bytes().to_vec())));
            assert_eq!(lines, expected, "{step}");
        }
        assert_eq!(all(b"", 1), []);
        assert_eq!(all(b"\n\r\n", 1), []);
    }

    #[test]
    fn long_lines_are_skipped_and_the_ones_after_are_read() {
        let longest = vec![b'x'; MAX_LINE];
        let endless = vec![b'x'; 10 * MAX_LINE];
        for step in [4_096, 70_000, usize::MAX] {
            let text = [
                &longest[..],
                b"\nlast line\n",
                &endless,
                b"\nnext\n",
                &endless,
            ]
            .concat();
            let lines = all(&text, step);
            assert_eq!(lines[0], (1, Ok(longest.clone())), "{step}");
            assert_eq!(lines[1], (2, Ok(b"last line".to_vec())));
            assert!(matches!(lines[2], (3, Err(_))));
            assert_eq!(lines[3], (4, Ok(b"next".to_vec())));
            assert!(matches!(lines[4], (5, Err(_))));
            assert_eq!(lines.len(), 5);
        }
    }
}
