//! Hugepages for a run, given back afterwards.

use std::fs;
use std::path::Path;

const DIR: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const PAGE_MIB: u64 = 2;

/// Pages of 2 MiB that were reserved; dropping it frees what was added.
pub(crate) struct HugePages {
    before: u64,
}

fn read(file: &str) -> Option<u64> {
    let text = fs::read_to_string(Path::new(DIR).join(file)).ok()?;
    text.trim().parse().ok()
}

/// What programs could still get.
fn available_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn write(pages: u64) -> bool {
    fs::write(Path::new(DIR).join("nr_hugepages"), pages.to_string()).is_ok()
}

impl HugePages {
    /// Has at least this many MiB free; `None` when the machine has not got them, or would have
    /// little left.
    pub(crate) fn reserve(mib: u64) -> Option<Self> {
        let before = read("nr_hugepages")?;
        let missing = mib
            .div_ceil(PAGE_MIB)
            .saturating_sub(read("free_hugepages")?);
        if missing * PAGE_MIB > available_mib()? / 2 {
            return None;
        }
        if missing > 0 {
            write(before + missing);
        }
        let free = read("free_hugepages")? * PAGE_MIB;
        let pages = Self { before };
        (free >= mib).then_some(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if read("nr_hugepages").is_some_and(|now| now > self.before) {
            write(self.before);
        }
    }
}
