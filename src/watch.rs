//! Notices that the rule file has changed, and hands on its new content.
//!
//! Directories are watched, not the file: an editor replaces the file, a deployment renames another
//! over it, and Kubernetes swaps a symlink (`..data`) two steps away from it. An event means no
//! more than "look again", and only the content counts: equal bytes are not a change. A slow poll
//! backs up the events, for file systems that send none.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use crate::glob;

/// The longest rule file read, in MiB. It has kilobytes; the cap is for `/dev/zero` and its like.
const MAX_FILE: u64 = 16;
/// The longest file read that a rule file names, in MiB: a list of addresses.
const MAX_OTHER: u64 = 32;
/// The most entries of a directory whose names are read.
const MAX_ENTRIES: usize = 10_000;

/// Options of [`watch`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How long it must be quiet before the file is read: a save is several events, and half a file
    /// is not wanted.
    pub debounce: Duration,
    /// How often the file is read without an event.
    pub poll: Duration,
    /// The content that is in force already, so that it is not applied again; `None` applies what
    /// the file holds at first.
    pub loaded: Option<Vec<u8>>,
    /// Notified to apply the file even if it has not changed. See [`force_on_sighup`].
    pub force: Arc<Notify>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(100),
            poll: Duration::from_secs(5),
            loaded: None,
            force: Arc::default(),
        }
    }
}

/// Makes SIGHUP notify `force`, until the runtime ends. Without it SIGHUP ends the process.
pub fn force_on_sighup(force: Arc<Notify>) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the rule file again");
            force.notify_one();
        }
    });
    Ok(())
}

/// What belongs to the rule file. Paths are relative to its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The names in a directory that match a pattern.
    Names(PathBuf, String),
}

/// Something that belongs to the rule file, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// What it is.
    pub source: Source,
    /// Its content, as [`Source::read`] gives it; `None` if it could not be read.
    pub content: Option<Digest>,
}

/// A number that two contents share by chance only, once in 2^64: a list can be long, and is not
/// worth keeping for comparison. Digests of different processes cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The digest of this content.
    pub fn of(content: &[u8]) -> Self {
        // With a fixed key, whoever writes a list could choose a content that is not noticed.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEY.hash_one(content))
    }
}

impl Source {
    /// Reads it, for the rule file at `path`. Names are separated by a slash, which no name has.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => read(&beside(path, file), MAX_OTHER),
            Self::Names(dir, pattern) => {
                let names = names(&beside(path, dir), pattern)?;
                Ok(names.join("/").into_bytes())
            }
        }
    }

    /// The directories whose events concern it.
    fn directories(&self, path: &Path) -> Directories {
        match self {
            Self::File(file) => directories(&beside(path, file)),
            Self::Names(dir, pattern) => {
                let dir = beside(path, dir);
                let mut wanted = directories(&dir.join(pattern));
                // Another directory may be put in its place.
                wanted.extend(directories(&dir));
                wanted
            }
        }
    }
}

/// Calls `apply` with each new content of `path`, until `shutdown` completes.
///
/// `apply` answers with the other files that belong to this one, and is called again when one of
/// them changes, appears or goes. If it answers `None`, the files of the last answer still count.
///
/// A file that is missing or unreadable changes nothing: that is logged once, and the file applied
/// when it is back and different. The same content is not applied twice in a row, refused or not,
/// unless forced.
pub async fn watch(
    path: PathBuf,
    options: Options,
    apply: impl FnMut(Vec<u8>) -> Option<Vec<Other>> + Send + 'static,
    shutdown: impl Future<Output = ()>,
) {
    tokio::select! {
        () = shutdown => {}
        () = watch_forever(path, options, apply) => {}
    }
}

async fn watch_forever(
    path: PathBuf,
    options: Options,
    mut apply: impl FnMut(Vec<u8>) -> Option<Vec<Other>> + Send + 'static,
) {
    let events = Arc::new(Notify::new());
    let mut files = Files::new(path, events.clone());
    let mut seen = Seen::new(options.loaded);
    let mut poll = interval_at(Instant::now() + options.poll, options.poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forced = false;
    loop {
        // Looking first covers what has changed between the load at the start and now.
        let looked;
        let Some(done) = blocking(files, Files::look).await else {
            return;
        };
        (files, looked) = done;
        if let Some(content) = seen.news(looked, forced, &files.path) {
            // Compiling a long file takes a processor for some hundred milliseconds.
            let rules = content.rules.clone();
            let others;
            let Some(done) = blocking(apply, move |apply| apply(rules)).await else {
                return;
            };
            (apply, others) = done;
            seen.applied(content, others, &mut files);
        }
        forced = tokio::select! {
            () = options.force.notified() => true,
            () = settled(&events, options.debounce) => false,
            _ = poll.tick() => false,
        };
    }
}

/// Runs `work` on the threads for blocking calls, and hands `value` back; `None` when the runtime
/// is shutting down.
///
/// A network file system may hang, and a check must not wait for it.
async fn blocking<T: Send + 'static, R: Send + 'static>(
    mut value: T,
    work: impl FnOnce(&mut T) -> R + Send + 'static,
) -> Option<(T, R)> {
    let task = tokio::task::spawn_blocking(move || {
        let result = work(&mut value);
        (value, result)
    });
    match task.await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// What the watcher has seen of the files so far.
struct Seen {
    applied: Option<Content>,
    readable: bool,
    /// Whether the rule file was empty at the last look.
    empty: bool,
}

impl Seen {
    fn new(loaded: Option<Vec<u8>>) -> Self {
        Self {
            applied: loaded.map(|rules| Content {
                rules,
                others: Vec::new(),
            }),
            readable: true,
            empty: false,
        }
    }

    /// The content to apply, if there is any.
    fn news(&mut self, looked: io::Result<Content>, forced: bool, path: &Path) -> Option<Content> {
        let path = path.display();
        let content = match looked {
            Ok(content) => content,
            Err(error) => {
                if self.readable || forced {
                    tracing::warn!(%path, %error, "cannot read the rule file, the rules in force stay");
                }
                self.readable = false;
                return None;
            }
        };
        let is_empty = content.rules.is_empty();
        let was_empty = std::mem::replace(&mut self.empty, is_empty);
        // A save in place begins by emptying the file. An empty file counts only at the second
        // look.
        if is_empty && !was_empty && !forced {
            return None;
        }
        if !self.readable {
            tracing::info!(%path, "the rule file can be read again");
        }
        self.readable = true;
        (forced || self.applied.as_ref() != Some(&content)).then_some(content)
    }

    /// Notes that `content` was applied, and which files belong to it.
    fn applied(&mut self, mut content: Content, others: Option<Vec<Other>>, files: &mut Files) {
        if let Some(others) = others {
            let others = others
                .into_iter()
                .map(|other| (other.source, other.content));
            let (sources, contents) = others.unzip();
            content.others = contents;
            files.watch_also(sources);
        }
        self.applied = Some(content);
    }
}

/// Waits for an event, then until there has been none for `quiet`, but at most ten times that:
/// constant writes to something else in the directory must not hold up a change.
async fn settled(events: &Notify, quiet: Duration) {
    events.notified().await;
    let latest = Instant::now() + quiet * 10;
    loop {
        tokio::select! {
            () = events.notified() => {}
            () = sleep(quiet) => return,
            () = sleep_until(latest) => return,
        }
    }
}

/// The content of the files.
#[derive(PartialEq, Eq)]
struct Content {
    rules: Vec<u8>,
    /// What belongs to the rule file; `None` for what cannot be read.
    others: Vec<Option<Digest>>,
}

/// The rule file, the files that belong to it, and the directories watched for them.
struct Files {
    path: PathBuf,
    /// What belongs to it.
    others: Vec<Source>,
    events: Arc<Notify>,
    /// The directories to watch, as they were when `watcher` was made.
    watched: Directories,
    /// Set when a directory itself has changed, not only something in it.
    stale: Arc<AtomicBool>,
    /// `None` if the system offers no watcher; polling goes on.
    watcher: Option<RecommendedWatcher>,
}

/// Directories by device and inode. A directory that was removed and made again has its old name
/// but needs a new watch.
type Directories = BTreeMap<PathBuf, (u64, u64)>;

impl Files {
    /// How many times the watches are set up again because directories changed meanwhile.
    const ATTEMPTS: usize = 5;

    fn new(path: PathBuf, events: Arc<Notify>) -> Self {
        Self {
            path,
            others: Vec::new(),
            events,
            watched: Directories::new(),
            stale: Arc::default(),
            watcher: None,
        }
    }

    /// Watches these files from now on, and looks at them at once: they may have changed since they
    /// were read.
    fn watch_also(&mut self, others: Vec<Source>) {
        if self.others != others {
            self.others = others;
            self.events.notify_one();
        }
    }

    /// Sets up the watches, then reads the files. In this order, a change after reading is an
    /// event.
    fn look(&mut self) -> io::Result<Content> {
        for _ in 0..Self::ATTEMPTS {
            let mut wanted = directories(&self.path);
            let others = self.others.iter();
            wanted.extend(others.flat_map(|other| other.directories(&self.path)));
            if !self.stale.swap(false, Ordering::AcqRel) && wanted == self.watched {
                break;
            }
            self.watch(wanted);
        }
        let others = self.others.iter();
        Ok(Content {
            rules: read(&self.path, MAX_FILE)?,
            others: others
                .map(|other| Some(Digest::of(&other.read(&self.path).ok()?)))
                .collect(),
        })
    }

    /// Watches these directories and no others, with a new watcher. The old watcher knows
    /// directories by name, and a late event about a removed directory would take away the watch on
    /// its successor (inodes are reused, too).
    fn watch(&mut self, wanted: Directories) {
        let (events, stale) = (self.events.clone(), self.stale.clone());
        let dirs: Vec<_> = wanted.keys().cloned().collect();
        self.watched = wanted;
        let on_event = move |event: notify::Result<notify::Event>| {
            match event {
                // Reading is an event too. Reacting to it would never end.
                Ok(event) if is_reading(event.kind) => return,
                Ok(event) => {
                    if event.paths.iter().any(|path| dirs.contains(path)) {
                        stale.store(true, Ordering::Release);
                    }
                }
                // Events may have been lost.
                Err(_) => stale.store(true, Ordering::Release),
            }
            events.notify_one();
        };
        self.watcher = None;
        let result = notify::recommended_watcher(on_event).and_then(|watcher| {
            let watcher = self.watcher.insert(watcher);
            self.watched
                .keys()
                .try_for_each(|dir| watcher.watch(dir, RecursiveMode::NonRecursive))
        });
        if let Err(error) = result {
            tracing::warn!(path = %self.path.display(), %error, "cannot watch for changes of the rule file, so it is only polled; if there are too many watches or open files, raise fs.inotify.max_user_watches or max_user_instances");
        }
    }
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

/// The directories whose events concern `path`: its own and that of its target, or the nearest
/// existing directory above them, where the missing ones will appear.
fn directories(path: &Path) -> Directories {
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| named.clone());
    [named, target]
        .iter()
        .filter_map(|file| {
            file.ancestors().skip(1).find_map(|dir| {
                let meta = std::fs::metadata(dir).ok()?;
                Some((dir.to_owned(), (meta.dev(), meta.ino())))
            })
        })
        .collect()
}

/// The path of a file that the file at `path` names: relative to its directory unless absolute.
pub fn beside(path: &Path, other: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(other)
}

/// Reads a regular file of at most `max` MiB.
fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    read_at_most(path, max)
}

/// Reads a rule file of at most 16 MiB, from a pipe too.
pub fn read_any(path: &Path) -> io::Result<Vec<u8>> {
    read_at_most(path, MAX_FILE)
}

fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    let bound = max * 1024 * 1024;
    let length = file.take(bound + 1).read_to_end(&mut bytes)?;
    if length as u64 > bound {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {max} MiB"),
        ));
    }
    Ok(bytes)
}

/// The names in a directory that match a pattern, sorted. Directories are left out.
pub fn names(dir: &Path, pattern: &str) -> io::Result<Vec<String>> {
    // The path of the current directory is empty.
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let mut names = Vec::new();
    for (index, entry) in std::fs::read_dir(dir)?.enumerate() {
        if index == MAX_ENTRIES {
            let reason = format!("it holds more than {MAX_ENTRIES} files");
            return Err(io::Error::other(reason));
        }
        let name = entry?.file_name();
        if !glob::matches(pattern, &name.to_string_lossy()) {
            continue;
        }
        if std::fs::metadata(dir.join(&name)).is_ok_and(|meta| meta.is_dir()) {
            continue;
        }
        let name = name.into_string().map_err(|name| {
            let name = name.display();
            io::Error::other(format!("the name {name} is not UTF-8 text"))
        })?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_awaited_above() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let watched = directories(&root.join("a/b/rules.yaml"));
        assert_eq!(watched.keys().collect::<Vec<_>>(), [&root]);
    }

    #[test]
    fn the_link_and_its_target_are_both_watched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/rules.yaml"), "").unwrap();
        std::os::unix::fs::symlink("real/rules.yaml", root.join("rules.yaml")).unwrap();
        let watched = directories(&root.join("rules.yaml"));
        assert_eq!(
            watched.into_keys().collect::<Vec<_>>(),
            [root.clone(), root.join("real")]
        );
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            read(dir.path(), 1).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            read(Path::new("/dev/zero"), 1).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn what_a_rule_file_names_may_be_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        let list = Source::File("list.txt".into());
        for (mib, rules, other) in [(16, true, true), (17, false, true), (33, false, false)] {
            for file in [&path, &dir.path().join("list.txt")] {
                let file = std::fs::File::create(file).unwrap();
                file.set_len(mib * 1024 * 1024).unwrap();
            }
            assert_eq!(read(&path, MAX_FILE).is_ok(), rules);
            assert_eq!(list.read(&path).is_ok(), other);
        }
        let error = list.read(&path).unwrap_err().to_string();
        assert_eq!(error, "it is longer than 32 MiB");
    }
}
