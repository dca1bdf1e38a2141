//! What the process takes of the machine, by the names that the clients of Prometheus share
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). Linux says it;
//! elsewhere there is nothing.

use std::{fs, time::Duration};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

/// How many ticks of `/proc/self/stat` are a second: the same on all architectures (`man 7 time`).
const TICKS: u64 = 100;

/// The figures, to be put before [`Metrics::encode`](super::Metrics::encode).
#[expect(clippy::missing_panics_doc, reason = "the expect below cannot fail")]
pub fn encode() -> String {
    let mut registry = Registry::with_prefix("process");
    if let Some(bytes) = resident() {
        let help = "Memory in use, without what is swapped out";
        registry.register_with_unit("resident_memory", help, Unit::Bytes, ConstGauge::new(bytes));
    }
    if let Some(took) = cpu() {
        let help = "Time of processors, for the process and for the kernel on its behalf";
        let took = ConstCounter::new(took.as_secs_f64());
        registry.register_with_unit("cpu", help, Unit::Seconds, took);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let open = i64::try_from(open.count()).unwrap_or(i64::MAX);
        registry.register("open_fds", "Open files and sockets", ConstGauge::new(open));
    }
    let mut out = String::new();
    encode_registry(&mut out, &registry).expect("writing to a String cannot fail");
    out
}

/// Bytes in memory.
fn resident() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The time of processors so far.
fn cpu() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program stands in brackets, and may have any characters. After it, utime is
    // the twelfth field, and stime the next.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Option<u64> { fields.next()?.parse().ok() };
    Some(Duration::from_millis((ticks()? + ticks()?) * 1_000 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_says_what_it_takes() {
        let text = encode();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {text}"))
                .trim()
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 1e6);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(!text.contains("EOF"));
    }
}
