//! Which node of a Redis Cluster has which keys.
//!
//! See the [Redis Cluster specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model).

use redis::Value;

use super::super::address::Address;

/// The number of slots.
const SLOTS: usize = 16_384;

/// The primary of each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slots {
    /// A place in `primaries`, or [`NOBODY`].
    owners: Box<[u16]>,
    primaries: Vec<Address>,
}

/// The owner of a slot that no node serves.
const NOBODY: u16 = u16::MAX;

impl Slots {
    /// The primary that has a slot; `None` if none has.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        self.primaries.get(self.place_of(slot)?)
    }

    /// The place of that primary among [`primaries`](Self::primaries).
    pub(super) fn place_of(&self, slot: u16) -> Option<usize> {
        let place = *self.owners.get(usize::from(slot))?;
        (place != NOBODY).then_some(usize::from(place))
    }

    /// The primaries that have slots.
    pub(super) fn primaries(&self) -> &[Address] {
        &self.primaries
    }

    /// How many slots no node serves.
    pub(super) fn unserved(&self) -> usize {
        self.owners.iter().filter(|&&owner| owner == NOBODY).count()
    }

    /// These slots, with one that has moved.
    pub(super) fn with_moved(&self, slot: u16, to: &Address) -> Self {
        let mut slots = self.clone();
        let place = slots.place(to);
        if let Some(owner) = slots.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
        slots
    }

    fn place(&mut self, primary: &Address) -> u16 {
        let known = self.primaries.iter().position(|known| known == primary);
        let place = known.unwrap_or_else(|| {
            self.primaries.push(primary.clone());
            self.primaries.len() - 1
        });
        u16::try_from(place).unwrap_or(NOBODY)
    }

    /// Reads the reply to `CLUSTER SLOTS` from a server at `asked_host`; `None` if it is not one.
    pub(super) fn parse(reply: &Value, asked_host: &str) -> Option<Self> {
        let mut slots = Self {
            owners: vec![NOBODY; SLOTS].into(),
            primaries: Vec::new(),
        };
        for range in items(reply)? {
            let [first, last, primary, ..] = items(range)? else {
                return None;
            };
            let [host, port, ..] = items(primary)? else {
                return None;
            };
            let host = match host {
                Value::Nil => "",
                host => text(host)?,
            };
            // "?" is a node that prefers a host name and has not announced one.
            if host == "?" {
                continue;
            }
            let host = if host.is_empty() { asked_host } else { host };
            let port = u16::try_from(number(port)?).ok()?;
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None; // To a slice, the range would only be empty.
            }
            let place = slots.place(&Address::new(host, port));
            slots.owners.get_mut(first..=last)?.fill(place);
        }
        Some(slots)
    }
}

fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

/// The slot of a key: that of its hash tag, the text within its first braces, if it has one.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key).as_bytes()) % 16_384
}

/// CRC-16 as XMODEM has it, which the specification asks for.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (crc << 8) ^ CRC16[usize::from((crc >> 8) ^ u16::from(byte))]
    })
}

/// What each byte adds.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u16;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ (if crc & 0x8000 == 0 { 0 } else { 0x1021 });
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_slots_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [
            ("123456789", 12739),
            ("foo", 12182),
            ("", 0),
            ("{user1000}.following", slot_of("user1000")),
            ("foo{}{bar}", crc16(b"foo{}{bar}") % 16_384),
            ("foo{{bar}}zap", slot_of("{bar")),
            ("foo{bar}{zap}", slot_of("bar")),
        ] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
    }

    fn read(reply: &str) -> Option<Slots> {
        let value = redis::parse_redis_value(reply.replace(' ', "\r\n").as_bytes()).unwrap();
        Slots::parse(&value, "asked")
    }

    #[test]
    fn the_map_of_a_cluster_is_read() {
        let reply = "*3 *4 :0 :100 *3 $1 a :1 $2 id *3 $1 r :9 $2 id \
                     *3 :101 :16000 *2 $0  :2 *3 :16001 :16001 *2 $-1 :2 ";
        let slots = read(reply).unwrap();
        assert_eq!(slots.owner(0), Some(&Address::new("a", 1)));
        assert_eq!(slots.owner(100), Some(&Address::new("a", 1)));
        assert_eq!(slots.owner(101), Some(&Address::new("asked", 2)));
        assert_eq!(slots.owner(16_001), Some(&Address::new("asked", 2)));
        assert_eq!(slots.owner(16_002), None);
        assert_eq!(slots.unserved(), 16_384 - 16_002);
        assert_eq!(slots.primaries().len(), 2);

        let moved = slots.with_moved(16_002, &Address::new("b", 3));
        assert_eq!(moved.owner(16_002), Some(&Address::new("b", 3)));
        assert_eq!(moved.owner(16_001), slots.owner(16_001));
    }

    #[test]
    fn a_reply_that_is_no_map_is_none() {
        for reply in [
            ":1 ",
            "*1 :1 ",
            "*1 *2 :0 :1 ",
            "*1 *3 :0 :16384 *2 $1 a :1 ",
            "*1 *3 :0 :1 *2 $1 a :70000 ",
            "*1 *3 :-1 :1 *2 $1 a :1 ",
        ] {
            assert!(read(reply).is_none(), "{reply}");
        }
    }
}
