//! The `Date` of responses (RFC 9110 §6.6.1).

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

/// A line with a time of day, which holds for a second.
struct Line {
    second: u64,
    text: String,
}

thread_local! {
    static LINE: RefCell<Line> = const {
        RefCell::new(Line { second: u64::MAX, text: String::new() })
    };
}

/// Appends the line for a time. It is put together once a second.
pub(super) fn push(out: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.unwrap_or_default().as_secs();
    LINE.with_borrow_mut(|line| {
        if line.second != second {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            line.text = format!("date: {}\r\n", httpdate::HttpDate::from(time));
            line.second = second;
        }
        out.extend_from_slice(line.text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_its_second() {
        let mut out = Vec::new();
        for ms in [784_111_777_000, 784_111_777_999, 784_111_778_000] {
            push(&mut out, SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        }
        let first = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let second = "date: Sun, 06 Nov 1994 08:49:38 GMT\r\n";
        assert_eq!(
            String::from_utf8(out).unwrap(),
            [first, first, second].concat()
        );
    }
}
