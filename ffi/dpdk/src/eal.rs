//! The environment abstraction layer: memory and buses, once per process.

use std::ffi::{CString, c_char};
use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys::{RTE_MAX_LCORE, rte_eal_init};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::log::{self, LogSink};
use crate::{Errno, device, thread};

static STARTED: AtomicBool = AtomicBool::new(false);
static READY: AtomicBool = AtomicBool::new(false);

/// Whether packet memory lies in hugepages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// If enough are free; otherwise 4 KiB pages and [`Eal::warning`].
    #[default]
    Auto,
    /// Or [`EalError::NoHugePages`].
    Required,
    /// 4 KiB pages.
    Never,
}

/// What the EAL is given.
#[derive(Debug, Clone)]
pub struct EalOptions {
    /// Memory for pools and queues, MiB: the sum of [`crate::MempoolConfig::memory_bytes`] and
    /// 16 MiB or more for queues. Fixed without hugepages, the initial size with them.
    pub memory_mib: u32,
    pub huge_pages: HugePages,
    /// Device strings of the PCI devices that ports will be attached to. No other PCI device is
    /// touched; without any the bus is off.
    pub pci: Vec<String>,
    /// Shared objects with drivers that DPDK does not have itself.
    pub plugins: Vec<PathBuf>,
    /// Takes DPDK's messages of level warning and above.
    pub log: LogSink,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            memory_mib: 128,
            huge_pages: HugePages::Auto,
            pci: Vec::new(),
            plugins: Vec::new(),
            log: log::to_stderr,
        }
    }
}

impl EalOptions {
    /// Names the PCI devices among all the device strings of a configuration.
    #[must_use]
    pub fn with_devices<'a>(mut self, devices: impl IntoIterator<Item = &'a str>) -> Self {
        let pci = devices.into_iter().filter(|device| device::is_pci(device));
        self.pci.extend(pci.map(str::to_owned));
        self
    }
}

/// Something an operator should know, though the EAL runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EalWarning {
    /// Packet memory lies in 4 KiB pages.
    NoHugePages { needed_mib: u64, free_mib: u64 },
}

impl fmt::Display for EalWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NoHugePages {
            needed_mib,
            free_mib,
        } = self;
        let pages = needed_mib.div_ceil(2);
        write!(
            f,
            "{needed_mib} MiB of hugepages are needed and {free_mib} MiB are free: running on \
             4 KiB pages. The cost: about twice the memory, a TLB miss for nearly every packet, \
             and no NIC without an IOMMU. Reserve some: sysctl vm.nr_hugepages={pages}"
        )
    }
}

/// The EAL cannot start. A second try needs a new process, except for the first three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EalError {
    /// Hugepages are required and not free.
    NoHugePages { needed_mib: u64, free_mib: u64 },
    /// An option with a NUL byte.
    Argument(String),
    /// CPU affinity or log could not be set up.
    Process(Errno),
    /// It was started before in this process.
    AlreadyInitialised,
    /// DPDK refused, with what it logged.
    Init { errno: Errno, log: Option<String> },
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHugePages {
                needed_mib,
                free_mib,
            } => write!(
                f,
                "{needed_mib} MiB of hugepages are required and {free_mib} MiB are free: \
                 sysctl vm.nr_hugepages={}",
                needed_mib.div_ceil(2)
            ),
            Self::Argument(text) => write!(f, "EAL option {text:?} contains a NUL byte"),
            Self::Process(errno) => write!(f, "EAL: affinity or log: {errno}"),
            Self::AlreadyInitialised => f.write_str("the EAL can be initialised only once"),
            Self::Init { errno, log: None } => write!(f, "EAL: {errno}"),
            Self::Init {
                errno,
                log: Some(log),
            } => write!(f, "EAL: {errno} ({log})"),
        }
    }
}

impl std::error::Error for EalError {}

/// Proof that the EAL is up. It can move to another thread; there is only one.
#[derive(Debug)]
pub struct Eal {
    warning: Option<EalWarning>,
    /// DPDK's device functions are called by one thread at a time.
    not_sync: PhantomData<std::cell::Cell<()>>,
}

impl Eal {
    /// Starts the EAL with the calling thread as its main one. The affinity of the thread is left
    /// as it was, no telemetry socket, signal handler or hugepage file is made.
    ///
    /// # Errors
    /// See [`EalError`].
    pub fn init(options: &EalOptions) -> Result<Self, EalError> {
        let (huge, warning) = choose_pages(options)?;
        let affinity = sched_getaffinity(None).map_err(process)?;
        let arguments = arguments(options, huge, &affinity);
        let arguments: Vec<CString> = arguments
            .into_iter()
            .map(c_string)
            .collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyInitialised);
        }
        log::install(options.log).map_err(EalError::Process)?;
        start(arguments)?;
        // The main thread was pinned to the CPUs that DPDK can name, and threads inherit that.
        sched_setaffinity(None, &affinity).map_err(process)?;
        thread::adopt_lcore();
        READY.store(true, Ordering::Release);
        Ok(Self {
            warning,
            not_sync: PhantomData,
        })
    }

    /// What the operator should be told.
    #[must_use]
    pub fn warning(&self) -> Option<EalWarning> {
        self.warning
    }

    /// Whether packet memory lies in hugepages.
    #[must_use]
    pub fn has_huge_pages(&self) -> bool {
        // SAFETY: reads the configuration; the EAL is up.
        unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
    }
}

/// Whether [`Eal::init`] has succeeded.
pub(crate) fn is_initialised() -> bool {
    READY.load(Ordering::Acquire)
}

fn process(error: rustix::io::Errno) -> EalError {
    EalError::Process(Errno(error.raw_os_error()))
}

fn c_string(text: String) -> Result<CString, EalError> {
    CString::new(text).map_err(|error| {
        EalError::Argument(String::from_utf8_lossy(&error.into_vec()).into_owned())
    })
}

fn start(arguments: Vec<CString>) -> Result<(), EalError> {
    let mut argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let argc = i32::try_from(argv.len()).map_err(|_| EalError::Process(Errno(7)))?;
    argv.push(core::ptr::null_mut());
    // DPDK keeps pointers to its arguments and moves them about: they are never freed.
    let argv = argv.leak();
    // SAFETY: `argc` strings and a null; called once per process.
    if unsafe { rte_eal_init(argc, argv.as_mut_ptr()) } < 0 {
        return Err(EalError::Init {
            errno: Errno::last(),
            log: log::take_recent(),
        });
    }
    Ok(())
}

fn choose_pages(options: &EalOptions) -> Result<(bool, Option<EalWarning>), EalError> {
    let needed_mib = u64::from(options.memory_mib);
    let free_mib = free_huge_mib();
    let enough = free_mib >= needed_mib;
    match options.huge_pages {
        HugePages::Never => Ok((false, None)),
        HugePages::Required if !enough => Err(EalError::NoHugePages {
            needed_mib,
            free_mib,
        }),
        HugePages::Auto if !enough => Ok((
            false,
            Some(EalWarning::NoHugePages {
                needed_mib,
                free_mib,
            }),
        )),
        HugePages::Required | HugePages::Auto => Ok((true, None)),
    }
}

/// Free and not reserved hugepages of all sizes, MiB.
fn free_huge_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return 0;
    };
    let free_kib = sizes.flatten().filter_map(|size| {
        let name = size.file_name();
        let kib: u64 = name
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let read = |file| -> Option<u64> {
            fs::read_to_string(size.path().join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let pages = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
        Some(pages * kib)
    });
    free_kib.sum::<u64>() / 1024
}

fn arguments(options: &EalOptions, huge: bool, affinity: &CpuSet) -> Vec<String> {
    let mut words = vec!["dpdk".to_owned(), "--no-telemetry".to_owned()];
    let mut add = |word: &str, value: String| words.extend([word.to_owned(), value]);
    add("-m", options.memory_mib.to_string());
    add("--log-level", "warning".to_owned());
    // One lcore on all CPUs: workers pin themselves.
    add("--lcores", format!("0@({})", cpus(affinity)));
    // Nothing is kept in files, so processes may share the prefix: an empty directory.
    add("--file-prefix", "culvert".to_owned());
    if options.pci.is_empty() {
        add("--iova-mode", "va".to_owned());
    }
    for plugin in &options.plugins {
        add("-d", plugin.to_string_lossy().into_owned());
    }
    for device in &options.pci {
        add("-a", device.clone());
    }
    if options.pci.is_empty() {
        words.push("--no-pci".to_owned());
    }
    let memory: &[&str] = if huge {
        &["--in-memory"]
    } else {
        &["--no-huge", "--no-shconf"]
    };
    words.extend(memory.iter().map(|word| (*word).to_owned()));
    words
}

/// The CPUs of the process that DPDK has numbers for, `0` if there are none of them.
fn cpus(affinity: &CpuSet) -> String {
    let known = (0..RTE_MAX_LCORE).filter(|cpu| affinity.is_set(*cpu as usize));
    let known: Vec<String> = known.map(|cpu| cpu.to_string()).collect();
    if known.is_empty() {
        "0".to_owned()
    } else {
        known.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &EalOptions, huge: bool) -> String {
        let mut affinity = CpuSet::new();
        affinity.set(1);
        affinity.set(3);
        arguments(options, huge, &affinity).join(" ")
    }

    #[test]
    fn without_pci_devices_the_bus_is_off() {
        let devices = ["net_null0", "net_ring0"];
        let options = EalOptions::default().with_devices(devices);
        let line = line(&options, true);
        assert!(
            line.contains("--no-pci") && line.contains("--iova-mode va"),
            "{line}"
        );
        assert!(
            line.contains("--in-memory") && !line.contains("--no-huge"),
            "{line}"
        );
        assert!(line.contains("--lcores 0@(1,3)"), "{line}");
    }

    #[test]
    fn every_plugin_is_loaded() {
        let options = EalOptions {
            plugins: vec![PathBuf::from("/a/b.so"), PathBuf::from("/c.so")],
            ..EalOptions::default()
        };
        assert!(line(&options, true).contains("-d /a/b.so -d /c.so"));
        assert!(!line(&EalOptions::default(), true).contains("-d "));
    }

    #[test]
    fn only_the_named_pci_devices_are_touched() {
        let devices = ["0000:00:04.0", "net_null0", "03:00.1,queues=2"];
        let options = EalOptions::default().with_devices(devices);
        let line = line(&options, false);
        assert!(
            line.contains("-a 0000:00:04.0 -a 03:00.1,queues=2"),
            "{line}"
        );
        assert!(
            !line.contains("--no-pci") && !line.contains("--iova-mode"),
            "{line}"
        );
        assert!(
            line.contains("--no-huge --no-shconf") && !line.contains("memory"),
            "{line}"
        );
    }

    #[test]
    fn cpus_that_dpdk_cannot_name_are_left_out() {
        let mut affinity = CpuSet::new();
        affinity.set(500);
        assert_eq!(cpus(&affinity), "0");
        affinity.set(7);
        assert_eq!(cpus(&affinity), "7");
    }

    #[test]
    fn arguments_with_a_nul_are_refused() {
        let error = c_string("a\0b".to_owned()).unwrap_err();
        assert_eq!(error, EalError::Argument("a\0b".to_owned()));
    }
}
