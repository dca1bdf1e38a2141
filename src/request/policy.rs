//! How paths are read, where applications differ.

use crate::words::words;

words! {
    /// What happens to a path with an encoded slash (`%2F`) or backslash (`%5C`).
    pub enum EncodedSlash default Refuse {
        /// Its request is refused.
        Refuse => "refuse",
        /// It is a character like any other, and separates nothing.
        Keep => "keep",
    }
}

words! {
    /// What happens to a path with a dot segment (`/x/../data`).
    pub enum DotSegments default Refuse {
        /// Its request is refused.
        Refuse => "refuse",
        /// It is resolved, as the application does.
        Resolve => "resolve",
    }
}

words! {
    /// What happens to a path that begins with two slashes (`//data`).
    pub enum LeadingSlashes default Refuse {
        /// Its request is refused.
        Refuse => "refuse",
        /// They are one slash, as to the application.
        Merge => "merge",
    }
}

words! {
    /// What parameters at the end of a path segment (`/data;v=2`) are.
    pub enum Parameters default Ignore {
        /// Nothing: the path is `/data`, as it is to servers like Tomcat and Jetty.
        Ignore => "ignore",
        /// Part of the path, as they are to most other servers.
        Keep => "keep",
    }
}

/// How paths are read, where applications differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathPolicy {
    /// Whether a path may have an encoded slash.
    pub encoded_slash: EncodedSlash,
    /// Whether a path may have dot segments.
    pub dot_segments: DotSegments,
    /// Whether a path may begin with two slashes.
    pub leading_slashes: LeadingSlashes,
    /// Whether parameters are part of a path.
    pub parameters: Parameters,
}
