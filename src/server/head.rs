//! A request head while it is read: its bytes, and whether they are all there.
//!
//! Collected in as much memory as it has bytes. Nothing is judged here: whatever cannot be the
//! beginning of a head counts as complete, and the parser refuses it.

use super::http2::PREFACE;

/// The longest request head: Envoy takes 60 kB of headers by default, and targets of 50 kB get
/// through it.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// What has arrived of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing but empty lines, which may precede a head.
    Nothing,
    /// A part.
    Part,
    /// All of it, or something that the parser refuses.
    Whole,
    /// HTTP/2, which is [not spoken here](super::http2).
    Http2,
}

/// The bytes of a head, and maybe what follows it.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// No end of the head begins before this.
    scanned: usize,
    /// A request was answered already, so this is not the beginning of a connection.
    is_later: bool,
}

impl Head {
    /// What follows the requests that a connection has had already.
    pub(super) fn later(bytes: &[u8]) -> Self {
        let mut head = Self {
            is_later: true,
            ..Self::default()
        };
        head.push(bytes);
        head
    }

    /// Whether nothing has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds bytes. Empty lines before the head are left out (RFC 9112 §2.2).
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let skipped = if self.bytes.is_empty() {
            bytes.iter().take_while(blank).count()
        } else {
            0
        };
        let bytes = &bytes[skipped..];
        if self.bytes.is_empty() {
            self.bytes.reserve_exact(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What has arrived.
    pub(super) fn seen(&mut self) -> Seen {
        let Some(first) = self.bytes.first() else {
            return Seen::Nothing;
        };
        if !self.is_later {
            if self.bytes.starts_with(PREFACE) {
                return Seen::Http2;
            }
            // It has the end of a head in it.
            if PREFACE.starts_with(&self.bytes) {
                return Seen::Part;
            }
        }
        // A method is of visible ASCII characters; TLS, for one, is not.
        if !first.is_ascii_graphic() || self.bytes.len() >= MAX_HEAD || self.has_end() {
            return Seen::Whole;
        }
        Seen::Part
    }

    /// Whether there is an empty line; like the parser it takes a bare LF for a line's end.
    fn has_end(&mut self) -> bool {
        let from = self.scanned;
        let end = memchr::memchr_iter(b'\n', &self.bytes[from..]).any(|at| {
            let rest = &self.bytes[from + at + 1..];
            rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
        });
        // One that is not complete yet.
        self.scanned = self.bytes.len().saturating_sub(2).max(from);
        end
    }

    /// The number of bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The memory that the bytes take.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_however_it_is_cut() {
        for text in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\nhost: x\n\n",
            "GET / HTTP/1.1\r\nhost: x\n\r\n",
            "\r\n\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\nX: y\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\nx",
        ] {
            let bytes = text.as_bytes();
            let ends = text.find("SM").map_or(bytes.len(), |at| at + 5);
            for cut in 0..ends {
                let mut head = Head::default();
                for part in [&bytes[..cut], &bytes[cut..ends - 1]] {
                    head.push(part);
                    let seen = head.seen();
                    assert!(matches!(seen, Seen::Nothing | Seen::Part), "{text:?} {cut}");
                }
                head.push(&bytes[ends - 1..]);
                assert_eq!(head.seen(), Seen::Whole, "{text:?} cut at {cut}");
                assert!(text.ends_with(std::str::from_utf8(&head.into_bytes()).unwrap()));
            }
        }
    }

    #[test]
    fn http2_is_noticed_however_its_preface_is_cut_and_only_at_the_beginning() {
        for cut in 1..PREFACE.len() {
            let mut head = Head::default();
            head.push(&PREFACE[..cut]);
            assert_eq!(head.seen(), Seen::Part, "{cut}");
            head.push(&PREFACE[cut..]);
            head.push(b"and frames");
            assert_eq!(head.seen(), Seen::Http2, "{cut}");
        }
        assert_eq!(Head::later(PREFACE).seen(), Seen::Whole);
    }

    #[test]
    fn what_cannot_become_a_head_is_not_waited_for() {
        for bytes in [b"\x16\x03\x01".as_slice(), b" GET", &vec![b'x'; MAX_HEAD]] {
            assert_eq!(Head::later(bytes).seen(), Seen::Whole);
        }
        assert_eq!(Head::later(&vec![b'x'; MAX_HEAD - 1]).seen(), Seen::Part);
        assert_eq!(Head::later(b"\r\n\r\n").seen(), Seen::Nothing);
    }
}
