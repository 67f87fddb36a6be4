//! Numbers about the process itself, under the names that dashboards for any program look for.
//!
//! Source: Prometheus, "Writing client libraries", section "Process metrics". They come from `/proc`, so there are none where the
//! system has no such thing.

use prometheus_client::registry::Registry;

/// Registers what can be read just now; the names bear no prefix.
#[cfg(target_os = "linux")]
pub(super) fn register(registry: &mut Registry) {
    if let Some(process) = Process::read() {
        process.register(registry);
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn register(_registry: &mut Registry) {}

#[cfg(target_os = "linux")]
struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    start_time_seconds: f64,
    threads: i64,
    open_fds: Option<usize>,
    max_fds: Option<u64>,
}

#[cfg(target_os = "linux")]
impl Process {
    fn read() -> Option<Self> {
        let myself = procfs::process::Process::myself().ok()?;
        let stat = myself.stat().ok()?;
        let ticks = procfs::ticks_per_second() as f64;
        let max_fds =
            myself.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Value(limit) => Some(limit),
                procfs::process::LimitValue::Unlimited => None,
            });
        Some(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            start_time_seconds: procfs::boot_time_secs().ok()? as f64
                + stat.starttime as f64 / ticks,
            threads: stat.num_threads,
            open_fds: myself.fd_count().ok(),
            max_fds,
        })
    }

    fn register(self, registry: &mut Registry) {
        use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
        use std::sync::atomic::AtomicU64;

        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(self.cpu_seconds);
        registry.register(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            cpu,
        );
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                Some(self.resident_bytes as f64),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                Some(self.virtual_bytes as f64),
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                Some(self.start_time_seconds),
            ),
            ("process_threads", "Number of OS threads in the process", Some(self.threads as f64)),
            (
                "process_open_fds",
                "Number of open file descriptors",
                self.open_fds.map(|fds| fds as f64),
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                self.max_fds.map(|fds| fds as f64),
            ),
        ] {
            let Some(value) = value else { continue };
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
    }
}
