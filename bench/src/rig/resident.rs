//! Memory that a process has, as the kernel counts it.

use std::fs;
use std::io;

/// Name of the state region's memfd.
const STATE: &str = "memfd:culvert-dataplane";
/// Pages of ordinary size, and huge ones, which are not among them.
const COUNTED: [&str; 3] = ["Rss:", "Shared_Hugetlb:", "Private_Hugetlb:"];
const KIB_PER_MIB: f64 = 1024.0;

/// Resident memory, MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Resident {
    pub(crate) all: f64,
    /// The state region: rows, windows, counters.
    pub(crate) state: f64,
}

impl Resident {
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        Ok(Self {
            all: mib(read("smaps_rollup")?.lines()),
            state: mib(mapping(&read("smaps")?, STATE)),
        })
    }
}

fn mib<'a>(lines: impl Iterator<Item = &'a str>) -> f64 {
    let counted = lines.filter(|line| COUNTED.iter().any(|name| line.starts_with(name)));
    let kib = counted.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.sum::<f64>() / KIB_PER_MIB
}

/// The lines about mappings of a file. Only a mapping's first line begins with a range.
fn mapping<'a>(smaps: &'a str, file: &str) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    smaps.lines().filter(move |line| {
        if line
            .split(' ')
            .next()
            .is_some_and(|word| word.contains('-'))
        {
            inside = line.contains(file);
        }
        inside
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_and_huge_pages_of_the_region_count() {
        let smaps = "7f00-7f01 rw-s 0 00:01 5 /memfd:culvert-dataplane (deleted)\n\
                     Size: 9000 kB\nRss:  2048 kB\nPss: 1024 kB\nPrivate_Hugetlb: 4096 kB\n\
                     VmFlags: rd wr\n\
                     7f01-7f02 rw-p 0 00:00 0\nRss: 512 kB\nShared_Hugetlb: 512 kB\n";
        assert_eq!(mib(mapping(smaps, STATE)), 6.0);
        assert_eq!(mib(smaps.lines()), 7.0);
    }
}
