//! Lists of addresses: text files with one address or block a line.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    diagnostic::{Diagnostic, Location, Severity},
    document::MAX_REPORTED,
    model::{FromText as _, Network},
};
use crate::{problem::Problem, rules::matcher::NetworkList};

/// The most bytes of a list.
const MAX_LENGTH: usize = 32 * 1024 * 1024;
/// The most lines of a list.
const MAX_LINES: usize = 1_000_000;
/// The most lists.
const MAX_LISTS: usize = 1_000;
/// The most bytes of all lists together: they are read again whenever something may have changed.
const MAX_TOTAL_LENGTH: usize = 64 * 1024 * 1024;
/// The most lines of all lists together, which bounds the memory for what was read from them.
const MAX_TOTAL_LINES: usize = 2_000_000;

/// The lists that conditions name: each is read once, however many name it.
///
/// Their texts are not kept.
pub(super) struct Lists<'a> {
    read: &'a dyn Fn(&Path) -> io::Result<String>,
    known: RefCell<HashMap<PathBuf, Result<Arc<NetworkList>, Unusable>>>,
    sum: Cell<Sum>,
}

/// How much was read so far.
#[derive(Clone, Copy, Default)]
struct Sum {
    length: usize,
    lines: usize,
    /// Whether a bound is reached, which is reported once.
    is_full: bool,
}

/// Why there is no list.
#[derive(Clone)]
pub(super) enum Unusable {
    /// The file cannot be read.
    Unreadable(Arc<io::Error>),
    /// There are too many lists, or they are too long together.
    TooMuch(Problem),
    /// This is wrong in it; nothing when it is asked for again.
    Bad(Vec<Diagnostic>),
}

impl<'a> Lists<'a> {
    /// No lists yet. `read` reads a file.
    pub(super) fn new(read: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self {
            read,
            known: RefCell::default(),
            sum: Cell::default(),
        }
    }

    /// The list at `path`, which messages call `shown`.
    pub(super) fn get(&self, path: &Path, shown: &str) -> Result<Arc<NetworkList>, Unusable> {
        if let Some(known) = self.known.borrow().get(path) {
            return known.clone();
        }
        if self.sum.get().is_full {
            return Err(Unusable::Bad(Vec::new()));
        }
        let found = self.read(path, shown);
        let later = match &found {
            Err(Unusable::Bad(_) | Unusable::TooMuch(_)) => Err(Unusable::Bad(Vec::new())),
            other => other.clone(),
        };
        self.known.borrow_mut().insert(path.to_owned(), later);
        found
    }

    fn read(&self, path: &Path, shown: &str) -> Result<Arc<NetworkList>, Unusable> {
        if self.known.borrow().len() >= MAX_LISTS {
            let lists = format!("there are more than {MAX_LISTS} lists of addresses");
            return Err(self.full(lists, "put several of them into one"));
        }
        let bounded = |text: String| match text.len() {
            0..=MAX_LENGTH => Ok(text),
            _ => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is longer than 32 MiB",
            )),
        };
        let text = (self.read)(path).and_then(bounded);
        let text = text.map_err(|error| Unusable::Unreadable(Arc::new(error)))?;
        let mut sum = self.sum.get();
        sum.length += text.len();
        // A list with more lines is refused on its own account.
        sum.lines += text.lines().take(MAX_LINES).count();
        self.sum.set(sum);
        let excess = if sum.length > MAX_TOTAL_LENGTH {
            format!("{} MiB", MAX_TOTAL_LENGTH / 1024 / 1024)
        } else if sum.lines > MAX_TOTAL_LINES {
            format!("{MAX_TOTAL_LINES} lines")
        } else {
            return parse(path, shown, &text);
        };
        Err(self.full(
            format!("with {shown}, the lists of addresses are longer than {excess} together"),
            "remove what no rule needs, or write blocks like 192.0.2.0/24 for single addresses",
        ))
    }

    /// Why nothing more is read.
    fn full(&self, message: String, hint: &'static str) -> Unusable {
        self.sum.set(Sum {
            is_full: true,
            ..self.sum.get()
        });
        Unusable::TooMuch(Problem::new(message, hint))
    }

    /// How many lists there are, and how many blocks in all of them.
    pub(super) fn counts(&self) -> (usize, usize) {
        let known = self.known.borrow();
        let lists = known.values().flatten();
        (known.len(), lists.map(|list| list.len()).sum())
    }
}

/// Reads the text of a list.
fn parse(path: &Path, shown: &str, text: &str) -> Result<Arc<NetworkList>, Unusable> {
    // Some editors begin files with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut bad, mut more) = (Vec::new(), 0);
    let mut report = |number: usize, line: &str, value: &str, problem: Problem| {
        if bad.len() < MAX_REPORTED {
            bad.push(diagnostic(shown, number, line, value, &problem));
        } else {
            more += 1;
        }
    };
    let lines = (1..).zip(text.lines()).take(MAX_LINES);
    let blocks = lines.filter_map(|(number, line)| {
        let value = line.split('#').next().unwrap_or_default().trim();
        if value.is_empty() {
            return None;
        }
        match Network::from_text(value) {
            Ok(Network(block)) => Some(block),
            Err(problem) => {
                report(number, line, value, of_a_line(value).unwrap_or(problem));
                None
            }
        }
    });
    let list = NetworkList::new(path.display().to_string(), blocks);
    if let Some(line) = text.lines().nth(MAX_LINES) {
        let problem = Problem::new(
            format!("the list has more than {MAX_LINES} lines"),
            "split it into several files, and name each of them",
        );
        report(MAX_LINES + 1, line, line, problem);
    }
    if more > 0 {
        bad.push(Diagnostic::omitted(shown, Severity::Error, more));
    }
    if bad.is_empty() {
        Ok(Arc::new(list))
    } else {
        Err(Unusable::Bad(bad))
    }
}

/// What is wrong with a value that is more than one.
fn of_a_line(value: &str) -> Option<Problem> {
    let is_more = value.contains(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
    is_more.then(|| {
        Problem::new(
            format!("{value:?} is more than one address or block"),
            "write one a line; a comment begins with #",
        )
    })
}

/// An error at `value`, which is a part of `line`.
fn diagnostic(file: &str, number: usize, line: &str, value: &str, problem: &Problem) -> Diagnostic {
    let before = line.find(value).unwrap_or(0);
    // A file that is no text should not write to a terminal as it likes.
    let is_odd = |c: char| c.is_control() && c != '\t';
    let source = if line.contains(is_odd) {
        Cow::Owned(line.replace(is_odd, "\u{fffd}"))
    } else {
        Cow::Borrowed(line)
    };
    let place = Location {
        line: number,
        column: line[..before].chars().count() + 1,
        width: value.chars().count(),
        source: &source,
    };
    Diagnostic::new(file, place, Severity::Error, "", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Arc<NetworkList>, String> {
        parse(Path::new("b.txt"), "dir/b.txt", text).map_err(|unusable| match unusable {
            Unusable::Bad(list) => {
                let file = String::new();
                crate::rulefile::Diagnostics { file, list }.to_string()
            }
            Unusable::Unreadable(error) => error.to_string(),
            Unusable::TooMuch(problem) => problem.to_string(),
        })
    }

    #[test]
    fn a_list_has_one_block_a_line_with_comments() {
        let text = "\u{feff}# Known bots\r\n\r\n10.0.0.0/8\r\n  192.0.2.1 # one\r\n2001:db8::/32#x\n\
                    \t::ffff:172.16.0.0/108\t\n#10.0.0.0/8\n10.0.0.0/8\n[2001:db9::1]\nfe80::1%eth0\n";
        let blocks = [
            "2001:db9::1/128",
            "fe80::1/128",
            "10.0.0.0/8",
            "192.0.2.1/32",
            "2001:db8::/32",
            "172.16.0.0/12",
            "10.1.0.0/16",
        ];
        let blocks = blocks.map(|block| block.parse().unwrap());
        assert_eq!(
            list(text).unwrap(),
            Arc::new(NetworkList::new("b.txt", blocks))
        );
        assert_eq!(list(text).unwrap().to_string(), "b.txt (7 blocks)");
        for empty in ["", "\u{feff}", "\n\n", "# none", "#", " \r\n # \r\n"] {
            assert_eq!(list(empty).unwrap().len(), 0, "{empty:?}");
        }
    }

    #[test]
    fn bad_lines_are_reported_with_place_and_remedy() {
        let told = list("\u{feff}10.0.0.0/33\r\n10.0.0.1\n \t é ü # x\n1.1.1.1,\u{1b}2.2.2.2\n")
            .unwrap_err();
        insta::assert_snapshot!(told, @r#"
        dir/b.txt:1:1: "10.0.0.0/33" is not a network
             1 | 10.0.0.0/33
               | ^^^^^^^^^^^
          hint: write a CIDR block like 10.0.0.0/8 or 2001:db8::/32, or one address
        dir/b.txt:3:4: "é ü" is more than one address or block
             3 |  	 é ü # x
               |    ^^^
          hint: write one a line; a comment begins with #
        dir/b.txt:4:1: "1.1.1.1,\u{1b}2.2.2.2" is more than one address or block
             4 | 1.1.1.1,�2.2.2.2
               | ^^^^^^^^^^^^^^^^
          hint: write one a line; a comment begins with #
        "#);
    }

    #[test]
    fn problems_lines_and_bytes_are_bounded() {
        let told = list(&"bad\n".repeat(1_000)).unwrap_err();
        assert_eq!(told.matches("is not a network").count(), 100);
        assert!(
            told.contains("dir/b.txt: 900 more problems not shown"),
            "{told}"
        );

        assert_eq!(list(&"\n".repeat(1_000_000)).unwrap().len(), 0);
        let told = list(&"\n".repeat(1_000_001)).unwrap_err();
        let expected = "dir/b.txt:1000001:1: the list has more than 1000000 lines";
        assert!(told.starts_with(expected), "{told}");

        let length = |length: usize| {
            let read = move |_: &Path| Ok(" ".repeat(length));
            Lists::new(&read).get(Path::new("b.txt"), "b.txt")
        };
        assert!(length(MAX_LENGTH).is_ok());
        let Err(Unusable::Unreadable(error)) = length(MAX_LENGTH + 1) else {
            panic!("a long list was taken");
        };
        assert_eq!(error.to_string(), "it is longer than 32 MiB");
    }

    /// Reading ends at the first list that is too much, and this is reported once.
    #[test]
    fn all_lists_together_are_bounded() {
        let outcome = |count: usize, text: &str| {
            let reads = Cell::new(0);
            let read = |_: &Path| {
                reads.set(reads.get() + 1);
                Ok(text.to_owned())
            };
            let lists = Lists::new(&read);
            let mut told = Vec::new();
            for number in 0..count {
                let name = format!("{number}.txt");
                match lists.get(Path::new(&name), &name) {
                    Err(Unusable::TooMuch(problem)) => told.push(problem.message.into_owned()),
                    Err(Unusable::Bad(found)) => assert!(found.is_empty() && told.len() == 1),
                    Err(Unusable::Unreadable(error)) => panic!("{error}"),
                    Ok(_) => assert!(told.is_empty()),
                }
            }
            (reads.get(), told)
        };
        let (reads, told) = outcome(1_003, "192.0.2.1\n");
        assert_eq!(reads, 1_000);
        assert_eq!(told, ["there are more than 1000 lists of addresses"]);

        let (reads, told) = outcome(5, &format!("#{}\n", " ".repeat(30 * 1024 * 1024)));
        assert_eq!(reads, 3);
        let expected = "with 2.txt, the lists of addresses are longer than 64 MiB together";
        assert_eq!(told, [expected]);

        let (reads, told) = outcome(5, &"\n".repeat(800_000));
        assert_eq!(reads, 3);
        let expected = "with 2.txt, the lists of addresses are longer than 2000000 lines together";
        assert_eq!(told, [expected]);
    }
}
