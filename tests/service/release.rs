//! What a release consists of: packages, manual pages, completions, the service.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use clap::CommandFactory as _;
use tollgate::cli::Cli;

use crate::support::program;

const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");
const UNIT: &str = "deploy/systemd/tollgate.service";
const INSTALL: &str = "install it with: scripts/install-test-deps.sh";

fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = output(command);
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{command:?}: {status}\n{out}{err}");
    out.into_owned()
}

fn completions(shell: &str) -> String {
    run(Command::new(TOLLGATE).args(["completions", shell]))
}

#[test]
fn completions_know_every_command_and_flag() {
    let cli = Cli::command();
    for shell in ["bash", "zsh", "fish"] {
        let script = completions(shell);
        for command in cli.get_subcommands() {
            let name = command.get_name();
            assert!(script.contains(name), "{shell}: {name}");
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(script.contains(flag), "{shell}: {name} --{flag}");
            }
        }
    }
}

/// bash completes with the script as somebody who types would see it.
#[test]
fn bash_completes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollgate");
    fs::write(&file, completions("bash")).unwrap();
    let ask = |words: &str| {
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _tollgate tollgate \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        run(Command::new("bash").args(["-c", &script]))
    };
    assert_eq!(ask("tollgate val"), "validate\n");
    assert_eq!(ask("tollgate serve --drain"), "--drain-timeout\n");
    assert_eq!(ask("tollgate serve --store m"), "memory\n");
}

/// A copy of the unit that starts the program of this test.
fn unit(dir: &Path) -> String {
    let text = fs::read_to_string(UNIT).unwrap();
    let config = program::Config::new(UNIT, &text).with_all(2, "/usr/bin/tollgate", TOLLGATE);
    let path = dir.join("tollgate.service");
    fs::write(&path, config.text()).unwrap();
    path.display().to_string()
}

#[test]
fn the_service_is_valid_and_may_do_little() {
    let analyze = program::find("systemd-analyze", None, INSTALL);
    let dir = tempfile::tempdir().unwrap();
    let unit = unit(dir.path());
    let Output { status, stderr, .. } =
        output(Command::new(&analyze).args(["verify", "--man=no", &unit]));
    let complaints = String::from_utf8_lossy(&stderr);
    assert!(status.success() && complaints.is_empty(), "{complaints}");
    // In tenths, of ten: "OK" ends at 4. What is left is the network, which it is for.
    let args = ["security", "--offline=yes", "--threshold=15", "--no-pager"];
    run(Command::new(&analyze).args(args).arg(&unit));
}

/// What the unit says of the program is true.
#[test]
fn the_service_knows_the_program() {
    let text = fs::read_to_string(UNIT).unwrap();
    let value = |name: &str| {
        let prefix = format!("{name}=");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap()
    };
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let default = |id: &str| {
        let flag = serve.get_arguments().find(|flag| flag.get_id() == id);
        flag.unwrap().get_default_values()[0]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let seconds = |text: &str| text.strip_suffix('s').unwrap().parse::<u64>().unwrap();
    assert!(seconds(value("TimeoutStopSec")) > seconds(&default("drain_timeout")));
    let files: u64 = value("LimitNOFILE").parse().unwrap();
    assert!(files > default("max_connections").parse().unwrap());
    // The codes after which it is not started again.
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.yaml");
    fs::write(&rules, "version: 1\nrules: 7\n").unwrap();
    let codes: Vec<&str> = value("RestartPreventExitStatus").split(' ').collect();
    for (args, code) in [
        (vec!["serve", "--rules", rules.to_str().unwrap()], 0),
        (vec!["serve", "--no-such-flag"], 1),
    ] {
        let ended = output(Command::new(TOLLGATE).args(args)).status;
        assert_eq!(ended.code().unwrap().to_string(), codes[code]);
    }
}

/// Packs the program of this test, and looks into the packages.
#[test]
fn packages_hold_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Without what debuggers need, packing is done in seconds.
    let small = dir.join("tollgate");
    run(Command::new("strip").arg("-o").arg(&small).arg(TOLLGATE));
    let dist = dir.join("dist");
    let mut release = Command::new("scripts/release.sh");
    // It runs cargo, which would build much again with the variables of this one.
    let kept = [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "XDG_CACHE_HOME",
    ];
    let kept = kept
        .into_iter()
        .filter_map(|name| Some((name, env::var_os(name)?)));
    release.env_clear().envs(kept);
    run(release.arg("--binary").arg(&small).arg("--out").arg(&dist));
    run(Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(&dist));
    let version = env!("CARGO_PKG_VERSION");
    let mut files = fs::read_dir(&dist)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let package = files.find(|file| file.extension().is_some_and(|ending| ending == "deb"));
    let package = package.unwrap();
    let field = |name| run(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name));
    assert_eq!(field("Version").trim(), version);

    let root = dir.join("root");
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root));
    run(Command::new("dpkg-deb")
        .arg("-e")
        .arg(&package)
        .arg(dir.join("control")));
    let conffiles = fs::read_to_string(dir.join("control/conffiles")).unwrap();
    for file in conffiles.lines() {
        assert!(root.join(&file[1..]).is_file(), "{file}");
    }
    // Where the unit looks for them.
    let unit = fs::read_to_string(root.join("lib/systemd/system/tollgate.service")).unwrap();
    for path in [
        "/usr/bin/tollgate",
        "/etc/tollgate/rules.yaml",
        "/etc/default/tollgate",
    ] {
        assert!(unit.contains(path), "{path}");
        assert!(root.join(&path[1..]).is_file(), "{path}");
    }
    // Whatever is named in a file of the package is in it.
    for file in ["etc/tollgate/rules.yaml", "etc/default/tollgate"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for word in text
            .split([' ', '=', '\n'])
            .filter(|word| word.starts_with("/usr/"))
        {
            assert!(root.join(&word[1..]).is_file(), "{file}: {word}");
        }
    }
    check_program(&root);
    let archive = dist.join(format!(
        "tollgate-{version}-linux-{}.tar.gz",
        env::consts::ARCH
    ));
    let listed = run(Command::new("tar").arg("-tzf").arg(archive));
    for file in [
        "tollgate",
        "LICENSE",
        "config/rules.yaml",
        "deploy/kubernetes/base/kustomization.yaml",
    ] {
        assert!(
            listed
                .lines()
                .any(|line| line.ends_with(&format!("/{file}"))),
            "{file}"
        );
    }
}

/// The program of a package, its completions and its manual.
fn check_program(root: &Path) {
    let program = root.join("usr/bin/tollgate");
    let rules = root.join("etc/tollgate/rules.yaml");
    run(Command::new(&program).arg("validate").arg(rules));
    let version = format!("tollgate {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(Command::new(&program).arg("--version")).trim(), version);
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/tollgate"),
        ("zsh", "usr/share/zsh/vendor-completions/_tollgate"),
        ("fish", "usr/share/fish/vendor_completions.d/tollgate.fish"),
    ] {
        assert_eq!(
            fs::read_to_string(root.join(file)).unwrap(),
            completions(shell),
            "{file}"
        );
    }
    // A page for each command, which names its flags.
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let page = root.join(format!("usr/share/man/man1/tollgate-{name}.1.gz"));
        let text = run(Command::new("gzip").arg("-dc").arg(page)).replace('\\', "");
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(text.contains(&format!("--{flag}")), "{name}: {flag}");
        }
    }
}
