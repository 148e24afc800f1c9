//! What is built once and kept: Debian's DPDK source, the generator, the peer.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SOURCES: [(&str, &str); 5] = [
    ("gen.h", include_str!("../../generator/gen.h")),
    ("source.c", include_str!("../../generator/source.c")),
    ("meter.c", include_str!("../../generator/meter.c")),
    ("latency.c", include_str!("../../generator/latency.c")),
    ("device.c", include_str!("../../generator/device.c")),
];
const PORT: (&str, &str) = ("port.c", include_str!("../../generator/port.c"));
const MEMORY: (&str, &str) = ("memory.c", include_str!("../../generator/memory.c"));
const DEBIAN_SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// The directory that everything built is kept in.
pub(crate) fn dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = base
        .or_else(home)
        .ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    let dir = base.join("culvert-bench");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Runs a program to its end and gives what it printed; what it said goes into the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}: make deps installs it"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<_> = said.lines().rev().take(20).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        return Err(format!("{name}: {}\n{}", output.status, tail.join("\n")).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Version of the package that DPDK's headers are from.
pub(crate) fn dpdk_version() -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Version}", "libdpdk-dev"]);
    run(&mut query).map_err(|error| format!("libdpdk-dev is needed: make deps: {error}").into())
}

/// Debian's source of the DPDK that is installed: a driver's headers are in no binary package.
///
/// The package lists of the sources are kept apart, so the machine's own stay as they are.
pub(crate) fn dpdk_source() -> Result<PathBuf> {
    let version = dpdk_version()?;
    let dir = dir()?.join(format!("dpdk-{version}"));
    let done = |dir: &Path| -> Option<PathBuf> {
        let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
        entries
            .filter(|path| path.join("lib/ethdev").is_dir())
            .find(|path| path.join("examples/ipsec-secgw").is_dir())
    };
    if let Some(source) = done(&dir) {
        return Ok(source);
    }
    eprintln!("culvert-bench: fetching the source of dpdk {version}");
    let (parts, lists) = (dir.join("parts"), dir.join("lists"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(&parts)?;
    let binary = fs::read_to_string(DEBIAN_SOURCES)
        .map_err(|error| format!("{DEBIAN_SOURCES}: {error}: a Debian 12 is needed"))?;
    fs::write(
        parts.join("src.sources"),
        binary.replace("Types: deb\n", "Types: deb-src\n"),
    )?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.current_dir(&dir)
            .args(["-q", "-o", "Dir::Etc::SourceList=/dev/null"])
            .arg("-o")
            .arg(format!("Dir::Etc::SourceParts={}", parts.display()))
            .arg("-o")
            .arg(format!("Dir::State::Lists={}", lists.display()));
        apt
    };
    run(apt().arg("update"))?;
    run(apt().args(["source", "--download-only", &format!("dpdk={version}")]))?;
    let archive = fs::read_dir(&dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".orig.tar.xz"))
        .ok_or("apt-get source left no archive")?;
    run(Command::new("tar").current_dir(&dir).arg("xf").arg(archive))?;
    done(&dir).ok_or_else(|| format!("{}: no DPDK in the archive", dir.display()).into())
}

/// Flags of pkg-config for DPDK without its `-march`, which would win over ours.
fn dpdk_flags(which: &str) -> Result<Vec<String>> {
    let words = run(Command::new("pkg-config").args([which, "libdpdk"]))?;
    let words = words.split_whitespace().map(str::to_owned);
    Ok(words.filter(|word| !word.starts_with("-march")).collect())
}

/// A directory named after everything that the build depends on; `None`: it was built before.
fn place(name: &str, inputs: &[&str]) -> Result<(PathBuf, bool)> {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    dpdk_version()?.hash(&mut hasher);
    let dir = dir()?.join(format!("{name}-{:016x}", hasher.finish()));
    let fresh = !dir.join("done").exists();
    if fresh {
        fs::create_dir_all(&dir)?;
    }
    Ok((dir, fresh))
}

/// The generator, as a plug-in for DPDK.
pub(crate) fn generator() -> Result<PathBuf> {
    let sources: Vec<(&str, &str)> = SOURCES.into_iter().chain([PORT]).collect();
    let texts: Vec<&str> = sources.iter().map(|(_, text)| *text).collect();
    let (dir, fresh) = place("generator", &texts)?;
    let library = dir.join("librte_net_gen.so");
    if !fresh {
        return Ok(library);
    }
    let dpdk = dpdk_source()?;
    eprintln!("culvert-bench: building the generator");
    for (name, text) in &sources {
        fs::write(dir.join(name), text)?;
    }
    let mut cc = Command::new("cc");
    cc.current_dir(&dir)
        .args([
            "-O3",
            "-g",
            "-march=native",
            "-std=gnu11",
            "-fPIC",
            "-shared",
        ])
        .args(["-Wall", "-Wextra", "-Wno-zero-length-bounds"])
        .arg("-DALLOW_INTERNAL_API")
        .args(dpdk_flags("--cflags")?);
    for include in ["lib/ethdev", "drivers/bus/vdev", "lib/eal/include"] {
        cc.arg("-I").arg(dpdk.join(include));
    }
    cc.arg("-o").arg(&library);
    cc.args(
        sources
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| is_c(name)),
    );
    cc.args(dpdk_flags("--libs")?)
        .args(["-lrte_bus_vdev", "-lIPSec_MB"]);
    run(&mut cc)?;
    fs::write(dir.join("done"), "")?;
    Ok(library)
}

fn is_c(name: &str) -> bool {
    Path::new(name).extension() == Some(OsStr::new("c"))
}

/// The program that asks how long a load takes.
pub(crate) fn memory_probe() -> Result<PathBuf> {
    let (name, text) = MEMORY;
    let (dir, fresh) = place("memory", &[text])?;
    let program = dir.join("memory");
    if fresh {
        fs::write(dir.join(name), text)?;
        let mut cc = Command::new("cc");
        cc.current_dir(&dir)
            .args(["-O2", "-march=native", "-Wall", "-Wextra", "-o"]);
        run(cc.arg(&program).arg(name))?;
        fs::write(dir.join("done"), "")?;
    }
    Ok(program)
}

/// DPDK's ipsec-secgw, built for this CPU.
pub(crate) fn secgw() -> Result<PathBuf> {
    let (dir, fresh) = place("secgw", &["-march=native"])?;
    let program = dir.join("secgw/build/ipsec-secgw");
    if !fresh {
        return Ok(program);
    }
    let examples = dpdk_source()?.join("examples");
    eprintln!("culvert-bench: building ipsec-secgw");
    let _ = fs::remove_dir_all(dir.join("secgw"));
    let copy = |from: &str, to: &str| {
        let mut cp = Command::new("cp");
        run(cp.arg("-r").arg(examples.join(from)).arg(dir.join(to)))
    };
    copy("ipsec-secgw", "secgw")?;
    copy("common", ".")?;
    // The Makefile appends DPDK's own -march; one at the end wins.
    let mut make = Command::new("make");
    make.current_dir(dir.join("secgw"))
        .args(["-s", "shared", "LDFLAGS=-march=native"]);
    run(&mut make)?;
    fs::write(dir.join("done"), "")?;
    Ok(program)
}
