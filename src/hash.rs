//! Values from clients as they appear in keys, logs and responses: encoded, or hashed if they are
//! long or secret.
//!
//! The hash is HMAC-SHA-256 (RFC 2104), cut to 128 bits. It is cryptographic, because a client that
//! could find two values with one hash could spend another client's quota; and keyed, because an
//! API key with few possible values could be found by hashing them all. Replicas that share
//! counters must share the key.

use std::fmt::{self, Write as _};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The longest value that appears in a key as it is, in bytes after encoding.
pub const MAX_VALUE: usize = 64;

/// How many hexadecimal digits follow the `#` of a hash.
const DIGITS: usize = 32;

/// The key of the hash.
#[derive(Clone)]
pub struct HashKey {
    mac: Hmac<Sha256>,
    /// The hash of the empty string: compares keys without showing them.
    print: [u8; 16],
    given: bool,
}

impl HashKey {
    /// Creates a key from a secret of any length. It is as strong as the secret: use 16 random
    /// bytes or more.
    pub fn new(secret: &[u8]) -> Self {
        Self::keyed(secret, true)
    }

    /// Whether a secret was given. Without one, every tollgate has the same key, and a hash can be
    /// matched against guessed values.
    pub fn is_secret(&self) -> bool {
        self.given
    }

    fn keyed(secret: &[u8], given: bool) -> Self {
        // HMAC takes keys of any length: the error cannot happen, and the default key would do no
        // harm.
        let mac = Hmac::<Sha256>::new_from_slice(secret)
            .unwrap_or_else(|_| Hmac::<Sha256>::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        let print = digest(&mac, b"");
        Self { mac, print, given }
    }

    /// Appends `value` so that no two values look alike, whatever bytes they hold.
    ///
    /// Bytes that are not plain are percent-encoded, and a value longer than [`MAX_VALUE`] bytes is
    /// replaced by its hash. `#` never occurs otherwise.
    ///
    /// `:`, `/`, `@` and `+` stay, so that addresses and e-mail addresses are readable.
    pub fn push_value(&self, out: &mut String, value: &[u8]) {
        let start = out.len();
        for &byte in value {
            push_byte(out, byte);
            if out.len() - start > MAX_VALUE {
                out.truncate(start);
                self.push_hash(out, value);
                return;
            }
        }
    }

    /// Appends `#` and the hash of `value` in hexadecimal, for a secret.
    pub fn push_hash(&self, out: &mut String, value: &[u8]) {
        out.push('#');
        for byte in digest(&self.mac, value) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
    }
}

/// Whether `text` is a hash as [`HashKey::push_hash`] writes it.
pub fn is_hash(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|digits| {
        digits.len() == DIGITS
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Appends `name`, of any length, encoded as values are: for names from the rule file.
pub fn push_name(out: &mut String, name: &str) {
    for &byte in name.as_bytes() {
        push_byte(out, byte);
    }
}

fn push_byte(out: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() || b"-._~:/@+".contains(&byte) {
        out.push(char::from(byte));
    } else {
        let _ = write!(out, "%{byte:02X}");
    }
}

fn digest(mac: &Hmac<Sha256>, value: &[u8]) -> [u8; 16] {
    let mut mac = mac.clone();
    mac.update(value);
    let full = mac.finalize().into_bytes();
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    short
}

/// The key of a tollgate without a secret.
impl Default for HashKey {
    fn default() -> Self {
        Self::keyed(b"tollgate", false)
    }
}

impl PartialEq for HashKey {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for HashKey {}

/// Never shows the key.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> String {
        let mut out = String::from("k=");
        HashKey::default().push_value(&mut out, bytes);
        out.split_off(2)
    }

    fn hash(key: &HashKey, value: &[u8]) -> String {
        let mut out = String::new();
        key.push_hash(&mut out, value);
        out
    }

    #[test]
    fn plain_values_are_readable() {
        assert_eq!(value(b"203.0.113.7"), "203.0.113.7");
        assert_eq!(value(b"2001:db8::/64"), "2001:db8::/64");
    }

    #[test]
    fn separators_globs_and_control_bytes_are_encoded() {
        assert_eq!(value(b"{}*,=%#\n?"), "%7B%7D%2A%2C%3D%25%23%0A%3F");
        assert_eq!(value(&[0xff, 0x00]), "%FF%00");
    }

    #[test]
    fn long_values_become_a_short_stable_hash() {
        let hashed = value(&[b'a'; 10_000]);
        assert!(is_hash(&hashed), "{hashed}");
        assert_eq!(hashed, value(&[b'a'; 10_000]));
        assert_ne!(hashed, value(&[b'a'; 10_001]));
        assert_eq!(value(&[b'a'; 64]), "a".repeat(64));
        assert!(value(&[b'a'; 65]).starts_with('#'));
        assert!(
            value(&[b'*'; 22]).starts_with('#'),
            "the encoded length counts"
        );
    }

    /// RFC 4231, test case 2.
    #[test]
    fn it_is_hmac_sha_256() {
        let key = HashKey::new(b"Jefe");
        assert_eq!(
            hash(&key, b"what do ya want for nothing?"),
            "#5bdcc146bf60754e6a042426089575c7"
        );
    }

    #[test]
    fn another_key_is_another_hash_and_neither_is_shown() {
        let (a, b) = (HashKey::new(b"secret-a"), HashKey::new(b"secret-b"));
        assert_ne!(hash(&a, b"value"), hash(&b, b"value"));
        assert_ne!(a, b);
        assert_eq!(a, HashKey::new(b"secret-a"));
        assert!(a.is_secret() && !HashKey::default().is_secret());
        assert!(!format!("{a:?}").contains("secret-a"));
    }
}
