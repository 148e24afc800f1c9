//! Two gateways in network namespaces, by `deploy/lab.sh`, with numbered traffic through them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Repetitions and sizes: short ones with every change, the full ones with `CULVERT_E2E=full`.
pub(crate) fn scaled<T>(quick: T, full: T) -> T {
    if std::env::var("CULVERT_E2E").as_deref() == Ok("full") {
        full
    } else {
        quick
    }
}

/// What `culvert-bench numbered` reports.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
    pub(crate) longest_gap_ms: u64,
}

/// The laboratory. Dropping it ends its processes and removes its namespaces.
pub(crate) struct Lab {
    name: String,
    dir: PathBuf,
    extra: Vec<(&'static str, String)>,
}

/// Numbered datagrams both ways, and the file that ends them.
pub(crate) struct Traffic {
    ends: Vec<Child>,
    stop: PathBuf,
}

/// A capture of one device.
pub(crate) struct Capture {
    process: Child,
    file: PathBuf,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Where cargo puts the binaries: beside the directory of this test.
fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().to_owned()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Runs a command to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

impl Lab {
    /// Makes the namespaces; `extra` are the variables of `lab.sh` that add configuration.
    pub(crate) fn up(name: &str, extra: &[(&'static str, &str)]) -> Self {
        let name = format!("cv{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).unwrap();
        let extra = extra.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let lab = Self { name, dir, extra };
        lab.script("up", &[]);
        lab
    }

    /// The same, with all four processes and the tunnel up.
    pub(crate) fn with_tunnel(name: &str, extra: &[(&'static str, &str)]) -> Self {
        let lab = Self::up(name, extra);
        lab.start("all");
        lab.culvert("a", &["initiate", "--child", "net", "--timeout", "20"]);
        lab
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn script(&self, action: &str, arguments: &[&str]) {
        let mut command = Command::new(repository().join("deploy/lab.sh"));
        command
            .arg(action)
            .arg(&self.name)
            .arg(&self.dir)
            .args(arguments);
        command
            .env("BIN", binaries())
            .envs(self.extra.iter().map(|(k, v)| (k, v)));
        // Output goes to a file: the daemons that the script starts must not hold a pipe of ours.
        let log = self.dir.join("lab.log");
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let status = command.status().unwrap();
        assert!(
            status.success(),
            "lab.sh {action}: {}",
            fs::read_to_string(log).unwrap()
        );
    }

    pub(crate) fn start(&self, what: &str) {
        self.script("start", &[what]);
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, what: &str) {
        self.script("kill", &[what]);
    }

    fn pid(&self, what: &str) -> String {
        let file = self.dir.join(format!("{what}.pid"));
        fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// Whether a process still runs.
    pub(crate) fn is_alive(&self, what: &str) -> bool {
        run("kill", &["-0", &self.pid(what)]).status.success()
    }

    /// Sends a signal to a process.
    pub(crate) fn signal(&self, what: &str, signal: &str) {
        assert!(run("kill", &[signal, &self.pid(what)]).status.success());
    }

    /// A namespace: `ha`, `ga`, `wire`, `gb` or `hb`.
    pub(crate) fn namespace(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// Runs a command in a namespace.
    pub(crate) fn inside(&self, part: &str, command: &[&str]) -> Output {
        let mut all = vec!["netns", "exec"];
        let namespace = self.namespace(part);
        all.push(&namespace);
        all.extend(command);
        run("ip", &all)
    }

    fn try_culvert(&self, gateway: &str, arguments: &[&str]) -> Output {
        let culvert = binaries().join("culvert");
        let run_dir = self.dir.join(gateway);
        let mut command = vec![
            culvert.to_str().unwrap(),
            "--run-dir",
            run_dir.to_str().unwrap(),
        ];
        command.extend(arguments);
        self.inside(&format!("g{gateway}"), &command)
    }

    /// The command `culvert` of a gateway; it must succeed.
    pub(crate) fn culvert(&self, gateway: &str, arguments: &[&str]) -> String {
        let output = self.try_culvert(gateway, arguments);
        assert!(
            output.status.success(),
            "culvert {arguments:?} on {gateway}: {}\n{}",
            text(&output),
            self.logs()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its JSON.
    pub(crate) fn json(&self, gateway: &str, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.culvert(gateway, &all)).unwrap()
    }

    /// IKE SAs of a gateway, as `culvert sas` lists them.
    pub(crate) fn ike_sas(&self, gateway: &str) -> Vec<Value> {
        let sas = self.json(gateway, &["sas"]);
        sas["ike_sas"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| panic!("no ike_sas in {sas}"))
    }

    /// Inbound SPIs of all children of a gateway.
    pub(crate) fn inbound_spis(&self, gateway: &str) -> Vec<String> {
        let children = |ike: &Value| ike["children"].as_array().cloned().unwrap_or_default();
        let all = self
            .ike_sas(gateway)
            .iter()
            .flat_map(children)
            .collect::<Vec<_>>();
        all.iter()
            .map(|child| child["spi_in"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Everything a dataplane took in has gone somewhere: rx + injected = tx + punted + held + drops.
    pub(crate) fn assert_sums(&self, gateway: &str) {
        let mut last = String::new();
        // At rest; a frame may be on its way for a moment.
        for _ in 0..50 {
            let counters = self.json(gateway, &["counters"]);
            let all = counters["counters"].as_array().unwrap();
            let value = |name: &str| {
                all.iter()
                    .find(|c| c["name"] == name)
                    .map_or(0, |c| c["value"].as_u64().unwrap())
            };
            let drops: u64 = all
                .iter()
                .filter(|c| c["drop"] == true)
                .map(|c| c["value"].as_u64().unwrap())
                .sum();
            let came = value("rx") + value("injected") + value("generated");
            let went = value("tx") + value("punted") + value("held") + drops;
            if came == went && came > 0 {
                return;
            }
            last = format!("came {came}, went {went}: {counters}");
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("gateway {gateway}: {last}");
    }

    /// No ring, queue or tap between the parts of a gateway was ever full.
    pub(crate) fn assert_nothing_overflowed(&self) {
        for gateway in ["a", "b"] {
            let counters = self.json(gateway, &["counters"]);
            let full = counters["counters"]
                .as_array()
                .unwrap()
                .iter()
                .find(|counter| {
                    counter["name"].as_str().unwrap().ends_with("_full") && counter["value"] != 0
                });
            assert_eq!(full, None, "gateway {gateway}");
        }
        assert!(
            !self.logs().contains("found the ring full"),
            "{}",
            self.logs()
        );
    }

    /// Waits until `ready` says so.
    pub(crate) fn wait_for(&self, what: &str, seconds: u64, mut ready: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !ready() {
            assert!(
                Instant::now() < end,
                "waited {seconds} s for {what}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of every process.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for what in ["dataplane-a", "ike-a", "dataplane-b", "ike-b"] {
            let log = fs::read_to_string(self.dir.join(format!("{what}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            all.push_str(&format!("--- {what}\n{tail}\n"));
        }
        all
    }

    /// Numbered UDP between the hosts, at `rate` packets a second each way.
    pub(crate) fn traffic(&self, rate: u32) -> Traffic {
        let stop = self.dir.join("stop-traffic");
        let _ = fs::remove_file(&stop);
        let bench = binaries().join("culvert-bench");
        let (rate, stop_text) = (rate.to_string(), stop.to_str().unwrap().to_owned());
        let end = |host: &str, local: &str, remote: &str| {
            Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &self.namespace(host),
                    bench.to_str().unwrap(),
                ])
                .args([
                    "numbered", "--local", local, "--remote", remote, "--rate", &rate,
                ])
                .args(["--seconds", "3600", "--until", &stop_text])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let ends = vec![
            end("ha", "10.1.0.10:7000", "10.2.0.10:7000"),
            end("hb", "10.2.0.10:7000", "10.1.0.10:7000"),
        ];
        std::thread::sleep(Duration::from_millis(500));
        Traffic { ends, stop }
    }

    /// Captures all that crosses a device of a namespace.
    pub(crate) fn capture(&self, part: &str, device: &str) -> Capture {
        let file = self.dir.join(format!("{part}-{device}.pcap"));
        let log = self.dir.join(format!("{part}-{device}.tcpdump"));
        let process = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.namespace(part),
                "tcpdump",
                "-Z",
                "root",
                "-n",
                "-U",
            ])
            .args(["-s", "96", "-i", device, "-w", file.to_str().unwrap()])
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.wait_for("tcpdump", 10, || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
        });
        Capture { process, file }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let mut command = Command::new(repository().join("deploy/lab.sh"));
        let _ = command.arg("down").arg(&self.name).arg(&self.dir).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Traffic {
    /// Stops sending, waits for what is under way, returns what host a and host b saw.
    pub(crate) fn finish(mut self) -> (Report, Report) {
        fs::write(&self.stop, "").unwrap();
        let mut reports = self.ends.drain(..).map(|end| {
            let output = end.wait_with_output().unwrap();
            serde_json::from_slice::<Report>(&output.stdout).unwrap()
        });
        let both = (reports.next().unwrap(), reports.next().unwrap());
        drop(reports);
        both
    }

    /// The same; nothing may be lost, doubled or late.
    pub(crate) fn assert_all_arrived(self) -> (Report, Report) {
        let (a, b) = self.finish();
        for (host, seen) in [("a", &a), ("b", &b)] {
            println!(
                "host {host}: sent {}, received {}, {} out of order, longest gap {} ms",
                seen.sent, seen.received, seen.out_of_order, seen.longest_gap_ms
            );
        }
        assert!(a.sent > 0 && b.sent > 0, "{a:?} {b:?}");
        assert_eq!(
            (a.sent, b.duplicates),
            (b.received, 0),
            "a to b: {a:?} {b:?}"
        );
        assert_eq!(
            (b.sent, a.duplicates),
            (a.received, 0),
            "b to a: {a:?} {b:?}"
        );
        (a, b)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for end in &mut self.ends {
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

impl Capture {
    /// Ends the capture; counts the frames that `filter` (of tcpdump) picks.
    pub(crate) fn count(mut self, filter: &str) -> usize {
        std::thread::sleep(Duration::from_millis(300));
        let pid = self.process.id().to_string();
        run("kill", &["-INT", &pid]);
        let _ = self.process.wait();
        let output = run(
            "tcpdump",
            &["-n", "-r", self.file.to_str().unwrap(), filter],
        );
        String::from_utf8_lossy(&output.stdout).lines().count()
    }
}
