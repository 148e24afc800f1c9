//! Generates the bindings from the installed headers and compiles the shim.

use std::env;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use bindgen::callbacks::{IntKind, ParseCallbacks};

const ADVICE: &str = "DPDK 22.11 or later and libclang are needed to build: run `make deps` \
    (apt-get install libdpdk-dev dpdk-dev libclang-dev clang pkg-config)";

/// Functions the safe layer calls; everything else stays out to keep generation short.
const FUNCTIONS: &[&str] = &[
    "dpdk_.*",
    "rte_dev_(probe|remove)",
    "rte_eal_(init|has_hugepages)",
    "rte_eth_call_[rt]x_callbacks",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|callback_register|close|configure)",
    "rte_eth_dev_(get_mtu|get_port_by_name|info_get|is_removed|start|stop)",
    "rte_eth_(macaddr_get|promiscuous_(en|dis)able|[rt]x_queue_setup|stats_get)",
    "rte_get_tsc_hz",
    "rte_log_set_global_level",
    "rte_mempool_avail_count",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_(un)?register",
];

const VARIABLES: &[&str] = &[
    "RTE_ETH_(MQ_RX_RSS|EVENT_INTR_RMV|RSS_.*|[RT]X_OFFLOAD_.*)",
    "RTE_ETH_DEV_INTR_.*",
    "RTE_LOG_[A-Z]+",
    "RTE_MAX_(ETHPORTS|LCORE)",
    "RTE_MBUF_F_(EXTERNAL|INDIRECT)",
    "RTE_PKTMBUF_HEADROOM",
    "rte_eth_fp_ops",
];

/// 64-bit masks whose macros clang would otherwise report as `int`.
#[derive(Debug)]
struct Masks;

impl ParseCallbacks for Masks {
    fn int_macro(&self, name: &str, _value: i64) -> Option<IntKind> {
        let mask = name.starts_with("RTE_MBUF_F_")
            || name.starts_with("RTE_ETH_RSS_")
            || name.contains("_OFFLOAD_");
        mask.then_some(IntKind::U64)
    }
}

/// Words that pkg-config prints. The `pkg-config` crate is no replacement: it drops
/// `-include rte_config.h` and `-march`, without which the layouts differ from the library's.
fn pkg_config(what: &str) -> Result<Vec<String>, String> {
    let output = Command::new("pkg-config")
        .args([what, "libdpdk >= 22.11"])
        .output()
        .map_err(|error| format!("cannot run pkg-config ({error}). {ADVICE}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', " ");
        return Err(format!("libdpdk was not found ({reason}). {ADVICE}"));
    }
    let words = String::from_utf8_lossy(&output.stdout);
    Ok(words.split_whitespace().map(String::from).collect())
}

fn generate(cflags: &[String], out: &PathBuf) -> Result<(), String> {
    let oldest = bindgen::RustTarget::stable(85, 0).map_err(|error| error.to_string())?;
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(out)
        .parse_callbacks(Box::new(Masks))
        .allowlist_type("dpdk_layout")
        .opaque_type("rte_mbuf")
        .opaque_type("rte_flow_.*")
        // C thread-local storage comes out as a plain static: it links, then crashes.
        .blocklist_item("per_lcore_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_debug(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .rust_target(oldest)
        .rust_edition(bindgen::RustEdition::Edition2024);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for variable in VARIABLES {
        builder = builder.allowlist_var(variable);
    }
    // bindgen panics when it finds no libclang.
    let bindings = std::panic::catch_unwind(AssertUnwindSafe(|| builder.generate()))
        .map_err(|_| format!("bindgen did not work. {ADVICE}"))?
        .map_err(|error| format!("bindgen: {error}. {ADVICE}"))?;
    let file = out.join("bindings.rs");
    bindings
        .write_to_file(&file)
        .map_err(|error| format!("{}: {error}", file.display()))
}

fn compile_shim(cflags: &[String]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file("shim.c").opt_level(2).warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    build
        .try_compile("dpdk_shim")
        .map_err(|error| format!("shim.c: {error}"))
}

/// Shared libraries: drivers are plug-ins which EAL loads from the directory of its own build.
fn link() -> Result<(), String> {
    for word in pkg_config("--libs")? {
        if let Some(directory) = word.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={directory}");
        }
        if let Some(library) = word.strip_prefix("-l") {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
    Ok(())
}

fn run() -> Result<(), String> {
    for file in ["build.rs", "shim.c", "shim.h", "wrapper.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    let out = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or("OUT_DIR is not set")?;
    let cflags = pkg_config("--cflags")?;
    generate(&cflags, &out)?;
    compile_shim(&cflags)?;
    link()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}
