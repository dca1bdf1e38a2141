//! A program that a test runs, with its output in a file.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// A running program, ended when it is dropped.
pub struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
    /// How to end it: SIGKILL at once, or a signal after which it ends its own children too.
    last_signal: Signal,
}

impl Process {
    /// Starts it with its output in `{name}.log` of `dir`; its standard output in `{name}.out`.
    /// `advice` says how to install it.
    pub fn spawn(name: &'static str, command: &mut Command, dir: &Path, advice: &str) -> Self {
        let log = dir.join(format!("{name}.log"));
        let create = |path: &Path| File::create(path).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&dir.join(format!("{name}.out"))))
            .stderr(create(&log))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started ({error}); {advice}"));
        Self {
            child,
            name,
            log,
            last_signal: Signal::KILL,
        }
    }

    /// For a program with children, which would outlive a SIGKILL of their parent.
    pub fn ended_by(mut self, signal: Signal) -> Self {
        self.last_signal = signal;
        self
    }

    /// What it holds now.
    pub fn holds(&self) -> Holdings {
        Holdings::of(self.child.id())
    }

    /// Its standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Its standard output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.with_extension("out")).unwrap()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Polls until it is ready; fails at once if the program has ended.
    pub async fn until_ready(&mut self, mut is_ready: impl AsyncFnMut() -> bool) {
        let (child, name, log) = (&mut self.child, self.name, &self.log);
        eventually(&format!("{name} is ready"), async || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(log).unwrap_or_default();
                panic!("{name} ended ({status}) before it was ready:\n{log}");
            }
            is_ready().await
        })
        .await;
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let child = &mut self.child;
        eventually(&format!("{} ends", self.name), async || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        if self.last_signal != Signal::KILL && matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), self.last_signal);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        // It may have ended long ago; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
    }
}

/// What a process holds of the system, as Linux tells.
#[derive(Debug, Clone, Copy)]
pub struct Holdings {
    pub resident_kb: u64,
    pub threads: u64,
    pub files: u64,
}

impl Holdings {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            value.and_then(|value| value.parse().ok()).unwrap()
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self {
            resident_kb: number("VmRSS:"),
            threads: number("Threads:"),
            files: files as u64,
        }
    }
}

/// Raises the limit on open files of this process and its children to the maximum: a thousand
/// clients at once need more than the usual 1024.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limits.maximum,
            maximum: limits.maximum,
        },
    )
    .unwrap();
    let wanted = 8_192;
    assert!(
        limits.maximum.is_none_or(|most| most >= wanted),
        "this test needs {wanted} open files, and the system allows {:?}; raise it with: ulimit -Hn {wanted}",
        limits.maximum
    );
}
