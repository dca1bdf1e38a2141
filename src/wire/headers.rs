//! The header fields of a request: its bytes as they came, and where in them each field is.

use std::{fmt, ops::Range, sync::LazyLock};

use foldhash::fast::RandomState;
use http::HeaderName;
use std::hash::{BuildHasher as _, Hasher as _};

/// Header fields, in the order in which they came. Names are compared without regard to case.
#[derive(Clone, Default)]
pub struct Headers {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    /// If there are many: the hash of each name and the place of its field, in order.
    by_name: Vec<(u32, u32)>,
}

/// More fields than these are looked up by the hash of their name. To compare with each would be a
/// way to keep a rule file with many conditions busy.
const FEW: usize = 32;

#[derive(Debug, Clone)]
struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

impl Headers {
    /// Fields in the head of a request, by where their names and values are.
    pub(super) fn within(
        bytes: Vec<u8>,
        fields: impl Iterator<Item = (Range<u32>, Range<u32>)>,
    ) -> Self {
        let mut headers = Self {
            bytes,
            fields: fields.map(|(name, value)| Field { name, value }).collect(),
            by_name: Vec::new(),
        };
        if headers.fields.len() > FEW {
            headers.by_name = sorted_by_name(&headers);
        }
        headers
    }

    /// Adds a field. What cannot be one is for the caller to refuse.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let mut add = |bytes: &[u8]| {
            let start = place(self.bytes.len());
            self.bytes.extend_from_slice(bytes);
            start..place(self.bytes.len())
        };
        let field = Field {
            name: add(name.as_bytes()),
            value: add(value.as_ref()),
        };
        self.fields.push(field);
        if self.fields.len() > FEW {
            self.by_name = sorted_by_name(self);
        }
    }

    /// Removes all fields, and keeps the memory for others.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.by_name.clear();
    }

    /// The value of the first field of a name.
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The values of all fields of a name.
    pub fn get_all<'h>(&'h self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        let name = name.as_str().as_bytes();
        let (few, many) = if self.by_name.is_empty() {
            (&self.fields[..], &[][..])
        } else {
            (&[][..], self.of_hash(hash(name)))
        };
        let many = many.iter().map(|(_, place)| &self.fields[*place as usize]);
        few.iter()
            .chain(many)
            .filter(move |field| self.slice(&field.name).eq_ignore_ascii_case(name))
            .map(|field| self.slice(&field.value))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// All fields, with their names as they came.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields = self.fields.iter();
        fields.map(|field| (self.slice(&field.name), self.slice(&field.value)))
    }

    /// Some of the bytes.
    pub(super) fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// The fields whose names have a hash.
    fn of_hash(&self, hash: u32) -> &[(u32, u32)] {
        let start = self.by_name.partition_point(|(own, _)| *own < hash);
        let length = self.by_name[start..].partition_point(|(own, _)| *own == hash);
        &self.by_name[start..start + length]
    }
}

/// For people who debug tests; values may be secret, so this is not for logs.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        let fields = self.iter().map(|(name, value)| (text(name), text(value)));
        f.debug_map().entries(fields).finish()
    }
}

/// A place among bytes. A head is not that long.
pub(super) fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn sorted_by_name(headers: &Headers) -> Vec<(u32, u32)> {
    let names = headers.fields.iter().enumerate();
    let hashed = names.map(|(at, field)| (hash(headers.slice(&field.name)), place(at)));
    let mut sorted: Vec<_> = hashed.collect();
    sorted.sort_unstable();
    sorted
}

/// The hash of a name, which nobody outside can foresee.
fn hash(name: &[u8]) -> u32 {
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    let mut hasher = STATE.build_hasher();
    for part in name.chunks(64) {
        let mut lower = [0; 64];
        let lower = &mut lower[..part.len()];
        lower.copy_from_slice(part);
        lower.make_ascii_lowercase();
        hasher.write(lower);
    }
    // As good as the whole.
    (hasher.finish() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_found_by_name_in_their_order_however_many_there_are() {
        for others in [0, 3, FEW - 3, FEW - 2, 500] {
            let mut headers = Headers::default();
            headers.append("x-one", "first");
            for n in 0..others {
                headers.append(&format!("X-Other-{n}"), n.to_string());
            }
            headers.append("X-ONE", "second");
            let long = "x".repeat(200);
            headers.append(&long, "");
            assert_eq!(headers.len(), others + 3);
            assert_eq!(headers.get(&name("x-one")), Some(&b"first"[..]));
            let all = |name: &HeaderName| {
                headers
                    .get_all(name)
                    .map(<[u8]>::to_vec)
                    .collect::<Vec<_>>()
            };
            assert_eq!(all(&name("x-one")), [b"first".to_vec(), b"second".to_vec()]);
            let last = headers
                .get_all(&name("x-one"))
                .next_back()
                .map(<[u8]>::to_vec);
            assert_eq!(last.as_deref(), Some(&b"second"[..]));
            assert_eq!(all(&name(&long)), [Vec::<u8>::new()]);
            assert_eq!(headers.get(&name("x-on")), None);
            for n in 0..others {
                let value = n.to_string();
                let name = name(&format!("x-other-{n}"));
                assert_eq!(headers.get(&name), Some(value.as_bytes()));
            }
        }
    }
}
