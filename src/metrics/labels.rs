//! The labels of the metrics: closed sets of words, and rule names.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// How a rule decided on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Within its limits.
    Allowed,
    /// Over a limit.
    Denied,
    /// Over a limit, and let through because the rule is in shadow mode.
    ShadowDenied,
    /// Let through without the store.
    FallbackAllowed,
    /// Denied without the store.
    FallbackDenied,
    /// Not decided: the proxy was told so.
    Unavailable,
}

/// The endpoint a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contract {
    /// `/v1/check`.
    Check,
    /// `/v1/envoy/...`.
    Envoy,
    /// `/v1/auth-request`.
    AuthRequest,
}

/// What a rule does while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FallbackMode {
    /// Counts in this process.
    Local,
    /// Lets all through.
    Allow,
    /// Denies all.
    Deny,
    /// Leaves it to the proxy.
    Proxy,
}

/// Why the store did not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreFailure {
    /// No answer before the deadline.
    Deadline,
    /// No connection.
    Unavailable,
    /// The connection broke.
    Broken,
    /// The store answered with an error.
    Refused,
    /// The store answered something that makes no sense.
    Malformed,
    /// Not asked: too many checks are waiting already.
    Overloaded,
    /// Its clock shows another time than was thought. Such a check is tried once more.
    Clock,
}

/// How a proxy is wrongly set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContractFault {
    /// A path that is no check endpoint.
    UnknownPath,
    /// A header that the proxy has to set is missing.
    MissingHeader,
    /// A header that the proxy has to set came twice: the client's own was let through.
    RepeatedHeader,
    /// A header that the proxy has to set cannot be read.
    UnreadableHeader,
    /// The proxy told no client address. The check is answered.
    NoClientIp,
}

/// Writes an enum's variants as the given label values.
macro_rules! label_values {
    ($type:ident { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as it stands in labels and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label_values!(Outcome {
    Allowed => "allowed",
    Denied => "denied",
    ShadowDenied => "shadow_denied",
    FallbackAllowed => "fallback_allowed",
    FallbackDenied => "fallback_denied",
    Unavailable => "unavailable",
});
label_values!(Contract { Check => "check", Envoy => "envoy", AuthRequest => "auth_request" });
label_values!(FallbackMode { Local => "local", Allow => "allow", Deny => "deny", Proxy => "proxy" });
label_values!(StoreFailure {
    Deadline => "deadline",
    Unavailable => "unavailable",
    Broken => "broken",
    Refused => "refused",
    Malformed => "malformed",
    Overloaded => "overloaded",
    Clock => "clock",
});
label_values!(ContractFault {
    UnknownPath => "unknown_path",
    MissingHeader => "missing_header",
    RepeatedHeader => "repeated_header",
    UnreadableHeader => "unreadable_header",
    NoClientIp => "no_client_ip",
});

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RuleLabel {
    pub(super) rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DecisionLabels {
    pub(super) rule: String,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) rule: String,
    pub(super) limit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FallbackLabels {
    pub(super) rule: String,
    pub(super) mode: FallbackMode,
    pub(super) reason: StoreFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ContractLabel {
    pub(super) contract: Contract,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StoreErrorLabel {
    pub(super) kind: StoreFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FaultLabel {
    pub(super) kind: ContractFault,
}
