//! Turns YAML syntax errors into readable messages.
//!
//! The library reports what its parser expected, and often where it gave up, which may be lines
//! below the mistake. The messages here name the usual mistake behind each of its errors: a value
//! that must be in quotes, a bracket that is not closed, a line with the wrong indentation.

use std::borrow::Cow;

use super::locate;
use crate::problem::Problem;

/// A syntax error with its position.
pub(in crate::rulefile) struct Malformed {
    /// Line, counted from 1.
    pub(in crate::rulefile) line: usize,
    /// Column in characters, counted from 1.
    pub(in crate::rulefile) column: usize,
    /// How many characters are marked.
    pub(in crate::rulefile) width: usize,
    /// What is wrong, and what to do.
    pub(in crate::rulefile) problem: Problem,
}

/// A position in a text.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    line: usize,
    column: usize,
}

/// The hint for wrong indentation.
const INDENT: &str = "indent it like its sibling fields";

/// Explains why the library could not parse `text`.
pub(super) fn explain(text: &str, error: &serde_yaml::Error) -> Malformed {
    if let Some(broken) = merge_conflict(text) {
        return broken;
    }
    let reported = error.to_string();
    let place = |place| {
        let (line, column) = locate::shown(text, place);
        Cursor { text, line, column }
    };
    let at = place(
        error
            .location()
            .map_or((1, 1), |at| (at.line(), at.column())),
    );
    let start = began(&reported).map_or(at, place);
    let problem = reported.split(" at ").next().unwrap_or_default();
    match problem {
        "found a tab character that violates indentation"
        | "found a tab character where an indentation space is expected" => tab(at),
        "found character that cannot start any token" if at.char() == Some('\t') => tab(at),
        "found character that cannot start any token" => must_be_quoted(at),
        "did not find expected alphabetic or numeric character" => must_be_quoted(start),
        "mapping values are not allowed in this context" => colon(at),
        "did not find expected ',' or '}'" => unfinished(at, start, '}'),
        "did not find expected ',' or ']'" => unfinished(at, start, ']'),
        "did not find expected key" => out_of_place(at),
        "did not find expected '-' indicator" => at.malformed(
            "this is indented neither like the list above nor like a field of its last item",
            format!("{INDENT}; a new item begins with a dash and a space"),
        ),
        "could not find expected ':'" => no_colon(start),
        "found unexpected end of stream" | "found unexpected document indicator" => start.malformed(
            "the quote that begins here is not closed",
            "close it; a quote within \"…\" is written \\\", and one within '…' is written ''",
        ),
        "found unknown escape character"
        | "did not find expected hexadecimal number"
        | "found invalid Unicode character escape code" => escape(at, start),
        "block sequence entries are not allowed in this context" => at.malformed(
            "a list with dashes cannot begin on the line of its field",
            "write it as [a, b], or each `- ` on a line of its own below",
        ),
        "did not find expected comment or line break" => start.malformed(
            "after | or > a text begins on the next line",
            "begin it there, or put the value in quotes",
        ),
        "did not find expected node content" => at.malformed(
            "the value is missing",
            "write one, or remove the characters around it; a value that begins with a comma or a bracket must be in quotes",
        ),
        "unknown anchor" => at.token(
            "there is no anchor of this name above",
            "add the anchor (& and the name); if this is not a reference, put the value in quotes",
        ),
        "recursion limit exceeded" => at.malformed(
            "this contains itself, or is nested too deeply",
            "remove the reference, or write out the values",
        ),
        "repetition limit exceeded" => at.malformed(
            "references to references grow without bounds",
            "write out the values",
        ),
        "control characters are not allowed" => control_character(at),
        _ if problem.contains("more than one document") => second_document(text),
        _ if start.char() == Some('!') => must_be_quoted(start),
        _ if at.source().starts_with('%') => Cursor { column: 1, ..at }.token(
            "a line that begins with % is a YAML directive, and this one is unknown",
            "remove it",
        ),
        _ => at.malformed(
            "this cannot be read as YAML",
            "put the value in quotes, and look for an unfinished value on the lines above",
        ),
    }
}

/// Where the unfinished construct began: `…, while parsing a flow mapping at line 4 column 12`.
fn began(reported: &str) -> Option<(usize, usize)> {
    let (_, context) = reported.split_once(", while ")?;
    let (_, place) = context.split_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

impl<'a> Cursor<'a> {
    fn source(self) -> &'a str {
        let index = self.line.saturating_sub(1);
        self.text.lines().nth(index).unwrap_or_default()
    }

    /// The line before this position, and from it on.
    fn halves(self) -> (&'a str, &'a str) {
        let source = self.source();
        let at = source
            .char_indices()
            .nth(self.column.saturating_sub(1))
            .map_or(source.len(), |(at, _)| at);
        source.split_at(at)
    }

    /// Whether nothing follows.
    fn is_end(self) -> bool {
        self.line >= self.text.lines().count() && self.halves().1.is_empty()
    }

    fn char(self) -> Option<char> {
        self.halves().1.chars().next()
    }

    /// The value that begins here, up to the first space.
    fn word(self) -> &'a str {
        let rest = self.halves().1;
        let end = rest.find([' ', ',', ']', '}']).unwrap_or(rest.len());
        &rest[..end]
    }

    fn malformed(
        self,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Malformed {
        Malformed {
            line: self.line,
            column: self.column,
            width: 1,
            problem: Problem::new(message, hint),
        }
    }

    fn token(
        self,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Malformed {
        Malformed {
            width: self.word().chars().count().max(1),
            ..self.malformed(message, hint)
        }
    }

    /// The position of a byte of this line.
    fn at_byte(self, byte: usize) -> Self {
        Self {
            column: self.source()[..byte].chars().count() + 1,
            ..self
        }
    }

    /// The first character of the last line above that holds more than a comment.
    fn above(self) -> Option<Self> {
        let lines: Vec<&str> = self.text.lines().take(self.line - 1).collect();
        let index = lines
            .iter()
            .rposition(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))?;
        let line = Self {
            line: index + 1,
            ..self
        };
        let indent = lines[index].len() - lines[index].trim_start_matches([' ', '-']).len();
        Some(line.at_byte(indent))
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn tab(at: Cursor<'_>) -> Malformed {
    at.malformed(
        "YAML is indented with spaces, but this is a tab",
        "replace the tab with spaces",
    )
}

/// A value that begins with a character that means something else in YAML.
fn must_be_quoted(at: Cursor<'_>) -> Malformed {
    let word = at.word();
    let first = at.char().unwrap_or(' ');
    at.token(
        format!("a value that begins with {first} must be in quotes"),
        format!("write \"{}\"", word.trim_matches('`').replace('"', "\\\"")),
    )
}

/// A colon where YAML allows none.
fn colon(at: Cursor<'_>) -> Malformed {
    let (before, _) = at.halves();
    if let Some((_, value)) = before.split_once(": ") {
        let whole = at.source();
        let begins = whole.len() - whole.split_once(": ").map_or(0, |(_, value)| value.len());
        let value_at = begins + value.len() - value.trim_start().len();
        let whole = whole[value_at..].trim();
        return Malformed {
            width: whole.chars().count(),
            ..at.at_byte(value_at).malformed(
                "a value that contains a colon and a space must be in quotes",
                format!("write \"{}\"", whole.replace('"', "\\\"")),
            )
        };
    }
    let Some(above) = at.above() else {
        return at.malformed("a colon is not allowed here", INDENT);
    };
    let line = above.halves().1.trim_end();
    if line.contains(": ") || line.ends_with(':') {
        let (name, _) = at.halves();
        return Malformed {
            width: name.trim().chars().count().max(1),
            ..at.at_byte(indent(name)).malformed(
                "this is indented deeper than the field above, which already has a value",
                INDENT,
            )
        };
    }
    no_colon(above)
}

/// A name without a colon and space after it.
fn no_colon(at: Cursor<'_>) -> Malformed {
    let line = at.halves().1.trim_end();
    let hint = if let Some((name, value)) = line.split_once('=') {
        format!("write {}: {}", name.trim(), value.trim())
    } else if let Some((name, value)) = line.split_once(':') {
        format!("put a space after the colon: {name}: {value}")
    } else {
        "write it as `name: value`".to_owned()
    };
    Malformed {
        width: line.chars().count().max(1),
        ..at.malformed("a field name, a colon and a space are missing", hint)
    }
}

/// Braces or brackets with something missing, or that are not closed.
fn unfinished(at: Cursor<'_>, start: Cursor<'_>, closing: char) -> Malformed {
    let opening = if closing == '}' { '{' } else { '[' };
    let goes_on = at.line == start.line || indent(at.source()) > indent(start.source());
    match at.char() {
        _ if !goes_on || at.is_end() => start.malformed(
            format!("this {opening} is not closed"),
            format!("add {closing} where it ends"),
        ),
        Some('{' | '[') => {
            let (before, after) = at.halves();
            let from = before.rfind([' ', ',', '{', '[']).map_or(0, |at| at + 1);
            let to = after.find([' ', ',']).unwrap_or(after.len());
            let value = &at.source()[from..before.len() + to];
            Malformed {
                width: value.chars().count().max(1),
                ..at.at_byte(from).malformed(
                    "a value with { or [ within braces or brackets must be in quotes",
                    format!("write \"{value}\""),
                )
            }
        }
        Some(other @ ('}' | ']')) => at.malformed(
            format!("{other} closes what {opening} began"),
            format!("write {closing}"),
        ),
        _ => at.malformed(
            format!("there is no comma or {closing} before this"),
            "put a comma between two fields or values, and quotes around a value that contains quotes, braces or commas",
        ),
    }
}

/// Something other than a field, where fields are.
fn out_of_place(at: Cursor<'_>) -> Malformed {
    let (before, after) = at.halves();
    match before.trim_end().chars().next_back() {
        Some('}' | ']') if !after.starts_with(['}', ']']) => {
            let value = at.source().split_once(": ").map_or("", |(_, value)| value);
            at.malformed(
                "there is something after the closing bracket",
                format!("if all of it is one text, write \"{}\"", value.trim()),
            )
        }
        Some(_) if after.starts_with(['}', ']']) => at.malformed(
            "this closes a bracket that was not opened",
            "remove it, or put the value in quotes",
        ),
        Some(quote @ ('"' | '\'')) => {
            let odd = |line: &str| line.matches(quote).count() % 2 == 1;
            let lines: Vec<&str> = at.text.lines().take(at.line - 1).collect();
            match lines.iter().rposition(|line| odd(line)) {
                Some(index) if odd(before) => {
                    let line = Cursor {
                        line: index + 1,
                        ..at
                    };
                    let byte = lines[index].rfind(quote).unwrap_or_default();
                    line.at_byte(byte).malformed(
                        "the quote that begins here is not closed on its line",
                        "close it",
                    )
                }
                _ => at.malformed(
                    "there is something after the closing quote",
                    "put all of the value in quotes; a quote within \"…\" is written \\\", and one within '…' is written ''",
                ),
            }
        }
        _ => at.malformed(
            "this is not indented like the lines around it",
            format!("{INDENT}; items of a list are indented alike"),
        ),
    }
}

/// A backslash in double quotes that begins no escape.
fn escape(at: Cursor<'_>, start: Cursor<'_>) -> Malformed {
    // The parser may have gone on into the digits of an \x.
    let at = match at.halves() {
        (before, after) if !after.starts_with('\\') => {
            before.rfind('\\').map_or(at, |byte| at.at_byte(byte))
        }
        _ => at,
    };
    let sign: String = at.halves().1.chars().take(2).collect();
    let value = start.halves().1.strip_prefix('"').unwrap_or_default();
    let hint = match value.find('"') {
        Some(end) if !value[..end].contains('\'') => format!(
            "in single quotes a backslash is literal: '{}'",
            &value[..end]
        ),
        _ => "write two backslashes for one".to_owned(),
    };
    Malformed {
        width: 2,
        ..at.malformed(format!("{sign} has no meaning in double quotes"), hint)
    }
}

fn control_character(at: Cursor<'_>) -> Malformed {
    let is_bad = |c: char| c.is_control() && !matches!(c, '\t' | '\r');
    let found = at
        .text
        .lines()
        .enumerate()
        .find_map(|(index, line)| Some((index + 1, line.find(is_bad)?)));
    let Some((line, byte)) = found else {
        return at.malformed("the file contains a control character", "remove it");
    };
    let at = Cursor { line, ..at }.at_byte(byte);
    let code = u32::from(at.char().unwrap_or_default());
    at.malformed(
        format!("this is a control character (U+{code:04X})"),
        "remove it",
    )
}

fn second_document(text: &str) -> Malformed {
    let (line, column) = locate::shown(text, locate::second_document(text).unwrap_or((1, 1)));
    let at = Cursor { text, line, column };
    if text.lines().any(|line| line.starts_with("---")) {
        at.token(
            "the file has a second document, which begins here",
            "keep one: put all rules into one list under `rules:`, and remove the line with ---",
        )
    } else {
        at.token(
            "this cannot follow the lines above",
            "write fields as `name: value`, and rules as a list under `rules:`",
        )
    }
}

fn merge_conflict(text: &str) -> Option<Malformed> {
    let index = text.lines().position(|line| line.starts_with("<<<<<<< "))?;
    let at = Cursor {
        text,
        line: index + 1,
        column: 1,
    };
    Some(Malformed {
        width: 7,
        ..at.malformed(
            "this is an unresolved conflict between two versions of the file",
            "keep one of the two, and remove the lines with <<<<<<<, ======= and >>>>>>>",
        )
    })
}
