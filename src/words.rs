//! Enums whose values are words: of the rule file, of metric labels, of paths.

/// Defines an enum with a word for each value.
///
/// One definition yields the list of all values, the word in each direction (`as_str`, serde) and
/// the description that the JSON Schema shows, so a new value cannot be missing from one of them.
/// A value's doc comment is that description: write it for readers of both.
///
/// `enum Mode default Enforce { … }` also implements [`Default`].
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        $vis:vis enum $name:ident $(default $default:ident)? {
            $($(#[doc = $doc:literal])+ $variant:ident => $word:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $variant,)+
        }

        #[allow(
            dead_code,
            unreachable_pub,
            reason = "each enum needs a part of it, and some are private"
        )]
        impl $name {
            /// Every value, in the order of the definition.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The description of the whole enum.
            pub const ABOUT: &str = concat!($($about),+);

            /// The value's word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The description of the value.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }

        $(impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        })?

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;
