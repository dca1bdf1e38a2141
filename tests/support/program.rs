//! Programs that tests run, and the configurations that we ship for them.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Finds a program: where `variable` says, in `PATH`, where Debian keeps servers, or in the cache
/// of our scripts. `install` says how to get it.
pub fn find(name: &str, variable: Option<&str>, install: &str) -> PathBuf {
    let given = variable.and_then(env::var_os);
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return given.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|given| !given.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache"),
    };
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .chain([cache.join("tollgate").join(name)])
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("there is no {name}; {install}"))
}

/// A configuration as shipped, and the changes that a test makes to it.
#[derive(Clone)]
pub struct Config {
    file: &'static str,
    text: String,
}

impl Config {
    pub fn new(file: &'static str, text: &str) -> Self {
        Self {
            file,
            text: text.to_owned(),
        }
    }

    /// Replaces `old`, which must occur exactly once, with `new`: a change that changes nothing
    /// would test nothing.
    pub fn with(self, old: &str, new: &str) -> Self {
        self.with_all(1, old, new)
    }

    /// Replaces `old` in all of its `times` places.
    pub fn with_all(mut self, times: usize, old: &str, new: &str) -> Self {
        let found = self.text.matches(old).count();
        assert_eq!(found, times, "times that {} says {old:?}", self.file);
        self.text = self.text.replace(old, new);
        self
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}
