//! Every way to change a rule file, on a real file system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tollgate::watch::{Digest, Options, Other, Source, force_on_sighup, names, watch};

/// Only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// So slow that only an event can lead to a reload.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

struct Watched {
    dir: TempDir,
    applied: mpsc::UnboundedReceiver<String>,
    force: Arc<Notify>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watched {
    /// Watches `rules.yaml` in a directory that `prepare` has filled, and waits for `first` to be
    /// applied.
    async fn start(poll: Duration, first: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let mut watched = Self::watch(dir, "rules.yaml", poll);
        watched.expect(first).await;
        watched
    }

    fn watch(dir: TempDir, file: &str, poll: Duration) -> Self {
        let (sender, applied) = mpsc::unbounded_channel();
        let (force, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let options = Options {
            debounce: Duration::from_millis(20),
            poll,
            loaded: None,
            force: force.clone(),
        };
        let path = dir.path().join(file);
        let read_from = path.clone();
        // A file names the other files in its lines that begin with `+`, and all files of a folder
        // in those that begin with `*`.
        let apply = move |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let source = |line: &str| match line.split_at_checked(1)? {
                ("+", path) => Some(Source::File(path.into())),
                ("*", dir) => Some(Source::Names(dir.into(), "*.yaml".to_owned())),
                _ => None,
            };
            let others = text.lines().filter_map(source).map(|source| Other {
                content: source.read(&read_from).ok().as_deref().map(Digest::of),
                source,
            });
            // A file that begins with a question mark does not name them.
            let others = (!text.starts_with('?')).then(|| others.collect());
            sender.send(text).unwrap();
            others
        };
        let told = stop.clone();
        let shutdown = async move { told.notified().await };
        let task = tokio::spawn(watch(path, options, apply, shutdown));
        Self {
            dir,
            applied,
            force,
            stop,
            task,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits for this content to be applied next. Half a save may be applied first when the machine
    /// is slow.
    async fn expect(&mut self, content: &str) {
        let wait = async { while self.applied.recv().await.unwrap() != content {} };
        assert!(
            tokio::time::timeout(DEADLINE, wait).await.is_ok(),
            "{content:?} was never applied"
        );
    }

    /// Nothing is applied for ten times the time that a change takes to be noticed.
    async fn expect_nothing(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(200), self.applied.recv()).await;
        assert!(quiet.is_err(), "{quiet:?} was applied");
    }

    /// Like a deployment: never half a file.
    fn replace(&self, name: &str, content: &str) {
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    async fn stop(self) {
        self.stop.notify_one();
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("does not stop")
            .unwrap();
    }
}

fn plain(dir: &Path) {
    fs::write(dir.join("rules.yaml"), "one").unwrap();
}

#[tokio::test]
async fn saved_in_place() {
    let mut watched = Watched::start(NEVER, "one", plain).await;
    for content in ["two", "three"] {
        fs::write(watched.path("rules.yaml"), content).unwrap();
        watched.expect(content).await;
    }
    watched.stop().await;
}

#[tokio::test]
async fn renamed_into_place() {
    let mut watched = Watched::start(NEVER, "one", plain).await;
    for content in ["two", "three"] {
        fs::write(watched.path("rules.yaml.tmp"), content).unwrap();
        fs::rename(watched.path("rules.yaml.tmp"), watched.path("rules.yaml")).unwrap();
        watched.expect(content).await;
    }
    watched.stop().await;
}

#[tokio::test]
async fn deleted_and_created_as_editors_do() {
    let mut watched = Watched::start(NEVER, "one", plain).await;
    for content in ["two", "three"] {
        fs::rename(watched.path("rules.yaml"), watched.path("rules.yaml~")).unwrap();
        fs::write(watched.path("rules.yaml"), content).unwrap();
        fs::remove_file(watched.path("rules.yaml~")).unwrap();
        watched.expect(content).await;
    }
    watched.stop().await;
}

#[tokio::test]
async fn missing_for_a_moment() {
    let mut watched = Watched::start(NEVER, "one", plain).await;
    fs::remove_file(watched.path("rules.yaml")).unwrap();
    // A second file's event makes sure that the file is looked for while it is missing, as far as
    // that can be made sure.
    fs::write(watched.path("other"), "").unwrap();
    tokio::task::yield_now().await;
    fs::write(watched.path("rules.yaml"), "two").unwrap();
    watched.expect("two").await;
    watched.stop().await;
}

/// What the kubelet does: a directory per version, `..data` pointing at the current one, swapped by
/// rename.
#[tokio::test]
async fn swapped_by_kubernetes() {
    fn version(dir: &Path, name: &str, content: &str) {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("rules.yaml"), content).unwrap();
    }
    let mut watched = Watched::start(NEVER, "one", |dir| {
        version(dir, "..1", "one");
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/rules.yaml", dir.join("rules.yaml")).unwrap();
    })
    .await;
    for (old, new, content) in [("..1", "..2", "two"), ("..2", "..3", "three")] {
        version(watched.dir.path(), new, content);
        symlink(new, watched.path("..data_tmp")).unwrap();
        fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
        fs::remove_dir_all(watched.path(old)).unwrap();
        watched.expect(content).await;
    }
    watched.stop().await;
}

#[tokio::test]
async fn changed_behind_a_link() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target.yaml");
    fs::write(&target, "one").unwrap();
    let mut watched = Watched::start(NEVER, "one", |dir| {
        symlink(&target, dir.join("rules.yaml")).unwrap();
    })
    .await;
    fs::write(&target, "two").unwrap();
    watched.expect("two").await;
    watched.stop().await;
}

#[tokio::test]
async fn directory_removed_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("config")).unwrap();
    fs::write(dir.path().join("config/rules.yaml"), "one").unwrap();
    let mut watched = Watched::watch(dir, "config/rules.yaml", NEVER);
    watched.expect("one").await;
    for content in ["two", "three", "four"] {
        fs::remove_dir_all(watched.path("config")).unwrap();
        fs::create_dir(watched.path("config")).unwrap();
        fs::write(watched.path("config/rules.yaml"), content).unwrap();
        watched.expect(content).await;
        // And the new directory is watched.
        let again = format!("{content} again");
        fs::write(watched.path("config/rules.yaml"), &again).unwrap();
        watched.expect(&again).await;
    }
    watched.stop().await;
}

#[tokio::test]
async fn created_after_the_start_in_a_directory_that_was_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut watched = Watched::watch(dir, "a/b/rules.yaml", NEVER);
    fs::create_dir_all(watched.path("a/b")).unwrap();
    fs::write(watched.path("a/b/rules.yaml"), "one").unwrap();
    watched.expect("one").await;
    watched.stop().await;
}

/// A link above the watched directories, which causes no event.
#[tokio::test]
async fn polling_finds_changes_without_events() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("v1", "one"), ("v2", "two")] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("rules.yaml"), content).unwrap();
    }
    symlink("v1", dir.path().join("current")).unwrap();
    let mut watched = Watched::watch(dir, "current/rules.yaml", Duration::from_millis(20));
    watched.expect("one").await;
    symlink("v2", watched.path("new")).unwrap();
    fs::rename(watched.path("new"), watched.path("current")).unwrap();
    watched.expect("two").await;
    watched.stop().await;
}

#[tokio::test]
async fn the_same_content_is_applied_again_only_when_forced() {
    let mut watched = Watched::start(Duration::from_millis(5), "one", plain).await;
    for _ in 0..20 {
        // By renaming, because a save in place empties the file for a moment.
        fs::write(watched.path("tmp"), "one").unwrap();
        fs::rename(watched.path("tmp"), watched.path("rules.yaml")).unwrap();
        tokio::task::yield_now().await;
    }
    fs::write(watched.path("tmp"), "two").unwrap();
    fs::rename(watched.path("tmp"), watched.path("rules.yaml")).unwrap();
    let next = tokio::time::timeout(DEADLINE, watched.applied.recv()).await;
    assert_eq!(next.unwrap().unwrap(), "two");

    watched.force.notify_one();
    let next = tokio::time::timeout(DEADLINE, watched.applied.recv()).await;
    assert_eq!(next.unwrap().unwrap(), "two");
    watched.stop().await;
}

#[tokio::test]
async fn sighup_forces() {
    let mut watched = Watched::start(NEVER, "one", plain).await;
    force_on_sighup(watched.force.clone()).unwrap();
    let status = tokio::process::Command::new("sh")
        .args(["-c", r#"kill -HUP "$0""#, &std::process::id().to_string()])
        .status()
        .await
        .unwrap();
    assert!(status.success());
    watched.expect("one").await;
    watched.stop().await;
}

#[tokio::test]
async fn a_change_of_a_file_that_belongs_to_it_applies_it_again() {
    let mut watched = Watched::start(NEVER, "+plans/partners.yaml", |dir| {
        fs::write(dir.join("rules.yaml"), "+plans/partners.yaml").unwrap();
    })
    .await;
    fs::create_dir(watched.path("plans")).unwrap();
    fs::write(watched.path("plans/partners.yaml"), "a").unwrap();
    watched.expect("+plans/partners.yaml").await;
    // The first events of a new directory can cause two looks.
    while watched.applied.try_recv().is_ok() {}
    fs::write(watched.path("plans/partners.yaml"), "b").unwrap();
    watched.expect("+plans/partners.yaml").await;
    fs::write(watched.path("rules.yaml"), "alone").unwrap();
    watched.expect("alone").await;
    watched.stop().await;
}

/// Of long files only a digest is kept; a change of one byte is noticed all the same.
#[tokio::test]
async fn a_change_within_a_long_list_applies_it_again() {
    let mut list = "192.0.2.1\n".repeat(200_000);
    let mut watched = Watched::start(NEVER, "+bots.txt", |dir| {
        fs::write(dir.join("bots.txt"), &list).unwrap();
        fs::write(dir.join("rules.yaml"), "+bots.txt").unwrap();
    })
    .await;
    watched.expect_nothing().await;
    watched.replace("bots.txt", &list);
    watched.expect_nothing().await;
    list.replace_range(1_000_008..1_000_009, "2");
    watched.replace("bots.txt", &list);
    watched.expect("+bots.txt").await;
    watched.expect_nothing().await;
    watched.stop().await;
}

/// A file that appears or goes is a change if its name matches; the content of those files is not
/// looked at here, because each of them is named as a file too.
#[tokio::test]
async fn a_file_that_appears_or_goes_applies_it_again() {
    let mut watched = Watched::start(NEVER, "*teams", |dir| {
        fs::write(dir.join("rules.yaml"), "*teams").unwrap();
    })
    .await;
    fs::create_dir(watched.path("teams")).unwrap();
    watched.expect("*teams").await;
    while watched.applied.try_recv().is_ok() {}
    watched.replace("teams/a.yaml", "a");
    watched.expect("*teams").await;
    for (name, content) in [("a.yaml", "b"), ("notes.txt", "a"), (".b.yaml", "a")] {
        watched.replace(&format!("teams/{name}"), content);
    }
    watched.expect_nothing().await;
    fs::rename(watched.path("teams/a.yaml"), watched.path("teams/b.yaml")).unwrap();
    watched.expect("*teams").await;
    while watched.applied.try_recv().is_ok() {}
    fs::remove_file(watched.path("teams/b.yaml")).unwrap();
    watched.expect("*teams").await;
    watched.stop().await;
}

/// A folder of a ConfigMap: each file is a link through `..data`.
#[tokio::test]
async fn a_folder_swapped_by_kubernetes() {
    fn version(dir: &Path, name: &str, files: &[&str]) {
        fs::create_dir_all(dir.join(name)).unwrap();
        for file in files {
            fs::write(dir.join(name).join(file), name).unwrap();
        }
    }
    let mut watched = Watched::start(NEVER, "*teams\n+teams/a.yaml", |dir| {
        let teams = dir.join("teams");
        version(&teams, "..1", &["a.yaml"]);
        symlink("..1", teams.join("..data")).unwrap();
        symlink("..data/a.yaml", teams.join("a.yaml")).unwrap();
        fs::write(dir.join("rules.yaml"), "*teams\n+teams/a.yaml").unwrap();
    })
    .await;
    let teams = watched.path("teams");
    assert_eq!(names(&teams, "*.yaml").unwrap(), ["a.yaml"]);
    // What the kubelet does: first the directory, then the links.
    version(&teams, "..2", &["a.yaml", "b.yaml"]);
    symlink("..2", teams.join("..data_tmp")).unwrap();
    fs::rename(teams.join("..data_tmp"), teams.join("..data")).unwrap();
    watched.expect("*teams\n+teams/a.yaml").await;
    while watched.applied.try_recv().is_ok() {}
    symlink("..data/b.yaml", teams.join("b.yaml")).unwrap();
    fs::remove_dir_all(teams.join("..1")).unwrap();
    watched.expect("*teams\n+teams/a.yaml").await;
    assert_eq!(names(&teams, "*").unwrap(), ["a.yaml", "b.yaml"]);
    watched.stop().await;
}

#[test]
fn names_are_sorted_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b", "a", "C", ".d"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::create_dir(dir.path().join("folder")).unwrap();
    // A link that leads nowhere is a mistake, and not left out.
    symlink("nowhere", dir.path().join("link")).unwrap();
    assert_eq!(names(dir.path(), "*").unwrap(), ["C", "a", "b", "link"]);
    for number in 0..10_000 {
        fs::write(dir.path().join(number.to_string()), "").unwrap();
    }
    let error = names(dir.path(), "a").unwrap_err().to_string();
    assert_eq!(error, "it holds more than 10000 files");
}

/// A file that cannot be read as YAML does not name its other files, so the previous ones stay; and
/// nothing is applied twice, refused or not.
#[tokio::test]
async fn the_same_content_is_applied_once() {
    let mut watched = Watched::start(NEVER, "+other", |dir| {
        fs::write(dir.join("rules.yaml"), "+other").unwrap();
        fs::write(dir.join("other"), "a").unwrap();
    })
    .await;
    watched.expect_nothing().await;
    for content in ["? broken", "alone", "+other", "+missing", "? again"] {
        watched.replace("rules.yaml", content);
        watched.expect(content).await;
        watched.expect_nothing().await;
    }
    watched.replace("missing", "b");
    watched.expect("? again").await;
    watched.expect_nothing().await;
    watched.stop().await;
}
