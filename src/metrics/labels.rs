//! The labels of the metrics: closed sets of words, and rule names.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::words::words;

words! {
    /// The outcome of a rule for one request.
    pub enum DecisionLabel {
        /// Within its limits.
        Allowed => "allowed",
        /// Over a limit.
        Denied => "denied",
        /// Over a limit, and admitted because the rule is in shadow mode.
        ShadowDenied => "shadow_denied",
        /// Admitted without the store.
        FallbackAllowed => "fallback_allowed",
        /// Denied without the store.
        FallbackDenied => "fallback_denied",
        /// Left to the proxy.
        Unavailable => "unavailable",
    }
}

words! {
    /// The contract that a check speaks, which is the endpoint it came to.
    pub enum Contract {
        /// `/v1/check`.
        Check => "check",
        /// `/v1/envoy/...`.
        Envoy => "envoy",
        /// `/v1/auth-request`.
        AuthRequest => "auth_request",
    }
}

words! {
    /// What a rule does while the store does not answer.
    pub enum FallbackMode {
        /// Counts in this process.
        Local => "local",
        /// Admits everything.
        Allow => "allow",
        /// Denies everything.
        Deny => "deny",
        /// Leaves it to the proxy.
        Proxy => "proxy",
    }
}

words! {
    /// Why the store did not decide.
    pub enum StoreFailure {
        /// No answer before the deadline.
        Deadline => "deadline",
        /// No connection.
        Unavailable => "unavailable",
        /// The connection broke.
        Broken => "broken",
        /// The store answered with an error.
        Refused => "refused",
        /// The store answered something that makes no sense.
        Malformed => "malformed",
        /// Not asked: too many checks are waiting already.
        Overloaded => "overloaded",
        /// The store's clock shows another time than was assumed. Such a check is tried once more.
        Clock => "clock",
    }
}

words! {
    /// How a proxy is configured wrongly.
    pub enum ContractFault {
        /// A path that is not a check endpoint.
        UnknownPath => "unknown_path",
        /// `GET /`: a probe, or a proxy that passes the client's path on.
        Probe => "probe",
        /// A CONNECT, which the proxy does not wait for.
        Tunnel => "tunnel",
        /// HTTP/2, which is not spoken on the check port.
        Http2 => "http2",
        /// A header that the proxy has to set is missing.
        MissingHeader => "missing_header",
        /// The proxy sent no client address. The check is answered.
        NoClientIp => "no_client_ip",
    }
}

words! {
    /// Why a client's request was refused before any rule was asked.
    pub enum RefusalReason {
        /// A `#` in the request target.
        Fragment => "fragment",
        /// A backslash in the path.
        Backslash => "backslash",
        /// An encoded slash in the path.
        EncodedSlash => "encoded_slash",
        /// A space or a control character in the request target.
        Control => "control",
        /// A dot segment, which servers resolve differently.
        DotSegment => "dot_segment",
        /// Two slashes at the beginning of the path.
        LeadingSlashes => "leading_slashes",
        /// A path segment of nothing but parameters.
        Parameters => "parameters",
        /// A `%` without two hexadecimal digits in the path.
        Escape => "escape",
        /// A request target that is neither a path nor an `http` URL.
        Form => "form",
        /// An invalid host, or more than one.
        Host => "host",
        /// A method that is not a token.
        Method => "method",
        /// A header that the proxy sets came twice.
        RepeatedHeader => "repeated_header",
    }
}

/// Lets words be label values.
macro_rules! label_values {
    ($($type:ident),+) => {$(
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    )+};
}

label_values!(
    DecisionLabel,
    Contract,
    FallbackMode,
    StoreFailure,
    ContractFault,
    RefusalReason
);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RuleLabel {
    pub(super) rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DecisionLabels {
    pub(super) rule: String,
    pub(super) outcome: DecisionLabel,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusalLabel {
    pub(super) reason: RefusalReason,
}
