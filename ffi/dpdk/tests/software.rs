//! The safe layer on software devices. Only one EAL fits in a process, so each test runs itself
//! again as a process of its own; that makes it indifferent to the test runner.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // as in `#[test]` functions

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use dpdk::{
    BATCH_SIZE, Batch, Eal, EalError, EalOptions, EalWarning, HugePages, LogLevel, Mempool,
    MempoolConfig, Port, PortConfig, PortFault, Queues, Registration, RegistrationError,
};

const INSIDE: &str = "DPDK_TEST_INSIDE";

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs `body` in a process of its own; `name` is that of the test.
fn alone(name: &str, body: impl FnOnce()) {
    if inside() {
        body()
    } else {
        again(name, Command::new(std::env::current_exe().unwrap()))
    }
}

/// As [`alone`], in a network namespace that ends with the process.
fn alone_in_namespace(name: &str, body: impl FnOnce()) {
    if inside() {
        return body();
    }
    let mut command = Command::new("unshare");
    command.arg("--net").arg(std::env::current_exe().unwrap());
    again(name, command);
}

fn again(name: &str, mut command: Command) {
    let output = command
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{name} did not run"
    );
}

/// Runs a command that must succeed.
fn run<const N: usize>(words: [&str; N]) {
    let status = Command::new(words[0])
        .args(words[1..].iter().map(OsStr::new))
        .status()
        .unwrap();
    assert!(status.success(), "{words:?}");
}

fn quiet(_: LogLevel, _: &str) {}

fn eal() -> Eal {
    let options = EalOptions {
        memory_mib: 64,
        huge_pages: HugePages::Never,
        log: quiet,
        ..EalOptions::default()
    };
    Eal::init(&options).unwrap()
}

fn pool(eal: &Eal, mbufs: u32) -> Mempool {
    let cache = mbufs.min(512) / 2;
    Mempool::new(
        eal,
        "test",
        MempoolConfig {
            mbufs,
            cache,
            frame_bytes: 2048,
        },
    )
    .unwrap()
}

fn start(port: &mut Port, pool: Mempool) -> Queues {
    port.start(&PortConfig::default(), &[pool]).unwrap()
}

#[test]
fn without_hugepages_the_cost_is_named() {
    alone("without_hugepages_the_cost_is_named", || {
        // More than any machine that runs this has free.
        let options = EalOptions {
            memory_mib: u32::MAX,
            log: quiet,
            ..EalOptions::default()
        };
        let required = EalOptions {
            huge_pages: HugePages::Required,
            ..options
        };
        let error = Eal::init(&required).unwrap_err();
        assert!(matches!(error, EalError::NoHugePages { .. }), "{error}");
        assert!(error.to_string().contains("vm.nr_hugepages="), "{error}");

        let free_mib = 0;
        let text = EalWarning::NoHugePages {
            needed_mib: 100,
            free_mib,
        }
        .to_string();
        assert!(
            text.contains("The cost:") && text.contains("vm.nr_hugepages=50"),
            "{text}"
        );
    });
}

#[test]
fn eal_falls_back_to_small_pages_and_starts_once() {
    alone("eal_falls_back_to_small_pages_and_starts_once", || {
        let affinity = rustix::thread::sched_getaffinity(None).unwrap();
        let free: u32 = read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let options = EalOptions {
            memory_mib: 64 + free * 2,
            log: quiet,
            ..Default::default()
        };
        let eal = Eal::init(&options).unwrap();
        assert!(eal.warning().is_some() && !eal.has_huge_pages());
        assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), affinity);
        assert!(matches!(
            Eal::init(&options),
            Err(EalError::AlreadyInitialised)
        ));
        assert!(dpdk::tsc_hz() > 1_000_000 && dpdk::tsc() > 0);
        assert!(pool(&eal, 511).alloc().is_some());
    });
}

/// Hugepages reserved on top of what was there, given back on drop.
struct Reserved(u32);

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

fn read(path: &str) -> u32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = fs::write(PAGES, self.0.to_string());
    }
}

/// None where the machine does not give any.
fn reserve(pages: u32) -> Option<Reserved> {
    let before = read(PAGES);
    let reserved = Reserved(before);
    fs::write(PAGES, (before + pages).to_string()).ok()?;
    (read(PAGES) >= before + pages).then_some(reserved)
}

#[test]
fn with_hugepages() {
    // Few, so that no other process finds enough of them for itself.
    const MEMORY_MIB: u32 = 16;
    let reserved = if inside() {
        None
    } else {
        reserve(MEMORY_MIB / 2)
    };
    if reserved.is_none() && !inside() {
        eprintln!("skipped: hugepages cannot be reserved here");
        return;
    }
    alone("with_hugepages", || {
        let options = EalOptions {
            memory_mib: MEMORY_MIB,
            huge_pages: HugePages::Required,
            log: quiet,
            ..EalOptions::default()
        };
        let eal = Eal::init(&options).unwrap();
        assert!(eal.warning().is_none() && eal.has_huge_pages());
        let pool = pool(&eal, 511);
        let mut port = Port::attach(&eal, "net_ring0").unwrap();
        let Queues { mut rx, mut tx } = start(&mut port, pool);
        let mut batch = Batch::new();
        batch.push(pool.alloc_copy(b"huge").unwrap()).unwrap();
        assert_eq!(tx[0].tx_burst(&mut batch), 1);
        assert_eq!(rx[0].rx_burst(&mut batch), 1);
        assert_eq!(batch[0].data(), b"huge");
    });
}

#[test]
fn frames_loop_through_a_ring() {
    alone("frames_loop_through_a_ring", || {
        let eal = eal();
        let pool = pool(&eal, 1023);
        let full = pool.available();
        let mut port = Port::attach(&eal, "net_ring0").unwrap();
        let Queues { mut rx, mut tx } = start(&mut port, pool);
        let (rx, tx) = (&mut rx[0], &mut tx[0]);

        let mut batch = Batch::new();
        for byte in 0..BATCH_SIZE as u8 {
            batch.push(pool.alloc_copy(&[byte; 60]).unwrap()).unwrap();
        }
        assert!(batch.is_full() && batch.push(pool.alloc().unwrap()).is_err());
        assert_eq!(tx.tx_burst(&mut batch), BATCH_SIZE);
        assert!(batch.is_empty());
        assert_eq!(pool.available(), full - BATCH_SIZE as u32);

        assert_eq!(rx.rx_burst(&mut batch), BATCH_SIZE);
        for (byte, mbuf) in batch.iter().enumerate() {
            assert_eq!(mbuf.data(), [byte as u8; 60]);
            assert!(mbuf.is_linear() && mbuf.packet_len() == 60);
        }
        drop(batch);
        assert_eq!(pool.available(), full);
        assert_eq!(port.stats().unwrap().tx_packets, BATCH_SIZE as u64);
    });
}

#[test]
fn what_a_full_device_refuses_stays_in_the_batch() {
    alone("what_a_full_device_refuses_stays_in_the_batch", || {
        let eal = eal();
        let pool = pool(&eal, 4095);
        let mut port = Port::attach(&eal, "net_ring0").unwrap();
        let Queues { mut rx, mut tx } = start(&mut port, pool);
        let mut sent = 0_u32;
        let left = loop {
            let mut batch = Batch::new();
            for n in 0..60_u32 {
                batch
                    .push(pool.alloc_copy(&(sent + n).to_be_bytes()).unwrap())
                    .unwrap();
            }
            let taken = tx[0].tx_burst(&mut batch) as u32;
            sent += taken;
            if taken < 60 {
                break batch;
            }
        };
        let first = u32::from_be_bytes(left[0].data().try_into().unwrap());
        assert_eq!(first, sent, "the refused ones are the last, in order");
        let mut received = Batch::new();
        let mut expected = 0_u32;
        while rx[0].rx_burst(&mut received) > 0 {
            for mbuf in received.drain() {
                assert_eq!(mbuf.data(), expected.to_be_bytes());
                expected += 1;
            }
        }
        assert_eq!(expected, sent);
    });
}

#[test]
fn null_device_receives_and_sends() {
    alone("null_device_receives_and_sends", || {
        let eal = eal();
        let pool = pool(&eal, 1023);
        let full = pool.available();
        let mut port = Port::attach(&eal, "net_null0,size=128").unwrap();
        let able = port.capabilities().unwrap();
        assert_eq!(able.driver, "net_null");
        assert!(!able.rss_esp && !able.inline_security && !port.steers_spi());

        let config = PortConfig {
            rx_queues: 2,
            tx_queues: 1,
            ..PortConfig::default()
        };
        let Queues { rx, tx } = port.start(&config, &[pool]).unwrap();
        assert_eq!((rx.len(), tx.len()), (2, 1));
        let mut batch = Batch::new();
        let mut tx = tx;
        for mut queue in rx {
            assert_eq!(queue.rx_burst(&mut batch), BATCH_SIZE);
            assert!(
                batch
                    .iter()
                    .all(|mbuf| mbuf.len() == 128 && mbuf.port() == port.id())
            );
            assert_eq!(tx[0].tx_burst(&mut batch), BATCH_SIZE);
        }
        assert_eq!(pool.available(), full);

        let error = port.start(&config, &[pool]).unwrap_err();
        assert_eq!(error.fault, PortFault::QueuesInUse);
        drop(tx);
        port.stop().unwrap();
        let Queues { mut rx, .. } = port.start(&config, &[pool]).unwrap();
        assert_eq!(rx[1].rx_burst(&mut batch), BATCH_SIZE);
        assert!(!port.is_removed());
    });
}

/// A capture file with these frames.
fn write_pcap(path: &Path, frames: &[&[u8]]) {
    const HEADER: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1];
    let mut file: Vec<u8> = HEADER.iter().flat_map(|word| word.to_ne_bytes()).collect();
    for frame in frames {
        let len = frame.len() as u32;
        file.extend(
            [0, 0, len, len]
                .iter()
                .flat_map(|word: &u32| word.to_ne_bytes()),
        );
        file.extend_from_slice(frame);
    }
    fs::write(path, file).unwrap();
}

#[test]
fn captures_are_read_and_long_frames_are_chained() {
    alone("captures_are_read_and_long_frames_are_chained", || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.pcap");
        write_pcap(&path, &[&[1; 60], &[2; 1514], &[3; 4000]]);
        let eal = eal();
        let pool = pool(&eal, 1023);
        let full = pool.available();
        let out = directory.path().join("out.pcap");
        let device = format!(
            "net_pcap0,rx_pcap={},tx_pcap={}",
            path.display(),
            out.display()
        );
        let mut port = Port::attach(&eal, &device).unwrap();
        let Queues { mut rx, mut tx } = start(&mut port, pool);
        let mut batch = Batch::new();
        while rx[0].rx_burst(&mut batch) > 0 {}
        let linear: Vec<bool> = batch.iter().map(|mbuf| mbuf.is_linear()).collect();
        assert_eq!(linear, [true, true, false]);
        assert_eq!(batch[0].data(), [1; 60]);
        assert_eq!(batch[1].data(), [2; 1514]);
        assert_eq!(batch[2].packet_len(), 4000);
        assert!(batch[2].len() < 4000 && batch[2].data().iter().all(|&byte| byte == 3));
        assert!(batch[2].append(1).is_none() && batch[2].trim(1).is_none());

        batch.retain(|mbuf| mbuf.is_linear());
        assert_eq!(pool.available(), full - 2, "all segments were freed");
        assert_eq!(tx[0].tx_burst(&mut batch), 2);
        assert_eq!(pool.available(), full);
        drop((port, rx, tx));
        let (read, written) = (fs::read(&path).unwrap(), fs::read(&out).unwrap());
        assert!(written.len() == 24 + 2 * 16 + 60 + 1514 && read.len() > written.len());
        assert_eq!(written[written.len() - 1514..], [2; 1514]);
    });
}

#[test]
fn bad_device_strings_are_named() {
    alone("bad_device_strings_are_named", || {
        let eal = eal();
        for device in [
            "net_nosuch0",
            "",
            "net_null\0",
            "eth0",
            "net_pcap0,rx_pcap=/nonexistent/in.pcap",
            "net_af_packet0,iface=nosuchdev0",
            "net_null0,nonsense=1",
            "0000:ff:1f.7",
        ] {
            let error = Port::attach(&eal, device).unwrap_err();
            assert!(matches!(error.fault, PortFault::Attach { .. }), "{error:?}");
            assert_eq!(error.device, device);
            assert!(
                error.to_string().contains(&format!("{device:?}")),
                "{error}"
            );
        }
        let cause = |device| Port::attach(&eal, device).unwrap_err().to_string();
        assert!(cause("net_pcap0,rx_pcap=/nonexistent/a").contains("No such file"));
        let port = Port::attach(&eal, "net_null0").unwrap();
        let twice = Port::attach(&eal, "net_null0").unwrap_err().to_string();
        assert!(twice.contains("File exists"), "{twice}");
        drop(port);
        Port::attach(&eal, "net_null0").unwrap();
    });
}

#[test]
fn a_port_refuses_what_its_device_cannot() {
    alone("a_port_refuses_what_its_device_cannot", || {
        let eal = eal();
        let pool = pool(&eal, 255);
        let mut port = Port::attach(&eal, "net_ring0").unwrap();
        let most = port.capabilities().unwrap().max_rx_queues;
        let config = PortConfig {
            rx_queues: most + 1,
            ..PortConfig::default()
        };
        let fault = port.start(&config, &[pool]).unwrap_err().fault;
        let wanted = most + 1;
        assert_eq!(
            fault,
            PortFault::TooManyQueues {
                direction: "receive",
                wanted,
                most
            }
        );
        assert_eq!(
            port.start(&PortConfig::default(), &[]).unwrap_err().fault,
            PortFault::NoQueues
        );
    });
}

#[test]
fn an_exhausted_pool_says_so_and_recovers() {
    alone("an_exhausted_pool_says_so_and_recovers", || {
        let eal = eal();
        let pool = pool(&eal, 127);
        let mut held = Vec::new();
        while let Some(mbuf) = pool.alloc() {
            held.push(mbuf);
        }
        assert_eq!((held.len(), pool.available()), (127, 0));
        let mut port = Port::attach(&eal, "net_null0").unwrap();
        let mut queues = start(&mut port, pool);
        let mut batch = Batch::new();
        assert_eq!(queues.rx[0].rx_burst(&mut batch), 0);
        held.truncate(40);
        assert_eq!(pool.available(), 87);
        assert_eq!(queues.rx[0].rx_burst(&mut batch), BATCH_SIZE);

        let huge = MempoolConfig {
            mbufs: 1 << 20,
            cache: 0,
            frame_bytes: 9216,
        };
        let error = Mempool::new(&eal, "huge", huge).unwrap_err();
        assert!(error.to_string().contains("pool huge"), "{error}");
        assert!(Mempool::new(&eal, "test", huge).is_err());
    });
}

#[test]
fn mbufs_grow_and_shrink_within_their_buffer() {
    alone("mbufs_grow_and_shrink_within_their_buffer", || {
        let eal = eal();
        let config = MempoolConfig {
            mbufs: 63,
            cache: 0,
            frame_bytes: 9216,
        };
        let pool = Mempool::new(&eal, "jumbo", config).unwrap();
        let mut mbuf = pool.alloc_copy(&[7; 9216]).unwrap();
        assert_eq!((mbuf.headroom(), mbuf.tailroom()), (128, 64));
        // IPv6, UDP, ESP and IV in front; padding, trailer and ICV behind.
        mbuf.prepend(40 + 8 + 8 + 8).unwrap().fill(1);
        mbuf.append(3 + 2 + 16).unwrap().fill(9);
        assert_eq!(
            (mbuf.len(), mbuf.packet_len()),
            (9216 + 64 + 21, 9216 + 64 + 21)
        );
        assert_eq!((mbuf[63], mbuf[64], mbuf[9279], mbuf[9280]), (1, 7, 7, 9));

        assert!(mbuf.prepend(65).is_none() && mbuf.append(44).is_none());
        assert!(mbuf.adj(9302).is_none() && mbuf.trim(9302).is_none());
        assert!(mbuf.prepend(usize::MAX).is_none() && mbuf.append(usize::MAX).is_none());
        assert_eq!(mbuf.len(), 9301, "a refusal changes nothing");
        assert!(mbuf.prepend(64).is_some() && mbuf.append(43).is_some());
        assert_eq!((mbuf.headroom(), mbuf.tailroom()), (0, 0));
        mbuf.adj(128).unwrap();
        mbuf.trim(64).unwrap();
        assert_eq!(mbuf.data(), [7; 9216]);
        mbuf.trim(9216).unwrap();
        assert!(mbuf.is_empty() && mbuf.data_mut().is_empty());
        assert!(pool.alloc_copy(&[0; 9216 + 65]).is_none());
    });
}

#[test]
fn a_batch_frees_what_is_left_in_it() {
    alone("a_batch_frees_what_is_left_in_it", || {
        let eal = eal();
        let pool = pool(&eal, 255);
        let full = pool.available();
        let filled = || {
            let mut batch = Batch::new();
            for byte in 0..10_u8 {
                batch.push(pool.alloc_copy(&[byte]).unwrap()).unwrap();
            }
            batch
        };
        drop(filled());
        assert_eq!(pool.available(), full);

        let mut batch = filled();
        batch.retain(|mbuf| mbuf[0] % 2 == 0);
        assert_eq!(
            batch.iter().map(|mbuf| mbuf[0]).collect::<Vec<_>>(),
            [0, 2, 4, 6, 8]
        );
        assert_eq!(batch.swap_take(0).unwrap()[0], 0);
        assert_eq!(
            batch.iter().map(|mbuf| mbuf[0]).collect::<Vec<_>>(),
            [8, 2, 4, 6]
        );
        assert_eq!(
            batch.drain_front(2).map(|mbuf| mbuf[0]).collect::<Vec<_>>(),
            [8, 2]
        );
        assert_eq!(batch.pop().unwrap()[0], 6);
        for mbuf in batch.iter_mut() {
            mbuf[0] += 1;
        }
        assert_eq!(pool.available(), full - 1);
        let mut drain = batch.drain();
        assert_eq!(drain.next().unwrap()[0], 5);
        drop(drain);
        assert_eq!(pool.available(), full);

        let mut half = filled();
        half.drain().nth(3);
        assert!(half.is_empty() && half.pop().is_none() && half.swap_take(0).is_none());
        assert_eq!(
            pool.available(),
            full,
            "a drain dropped early frees the rest"
        );
    });
}

#[test]
fn threads_register_and_mbufs_cross_them() {
    alone("threads_register_and_mbufs_cross_them", || {
        let early = std::thread::spawn(|| Registration::new().unwrap_err())
            .join()
            .unwrap();
        assert_eq!(early, RegistrationError::NoEal);
        let eal = eal();
        assert_eq!(Registration::new().unwrap_err(), RegistrationError::Already);
        let pool = pool(&eal, 1023);
        let full = pool.available();
        // More threads than there are ids: each gives its own back.
        for _ in 0..300 {
            let mbuf = pool.alloc().unwrap();
            let worker = std::thread::spawn(move || {
                let registration = Registration::new().unwrap();
                assert_eq!(Registration::new().unwrap_err(), RegistrationError::Already);
                drop(mbuf);
                let more: Vec<_> = std::iter::from_fn(|| pool.alloc()).take(200).collect();
                drop(registration);
                more
            });
            assert_eq!(worker.join().unwrap().len(), 200);
        }
        assert_eq!(pool.available(), full);
    });
}

#[test]
fn a_vanished_network_device_is_noticed() {
    alone_in_namespace("a_vanished_network_device_is_noticed", || {
        run([
            "ip", "link", "add", "dpdk-a", "type", "veth", "peer", "name", "dpdk-b",
        ]);
        run(["ip", "link", "set", "dpdk-a", "up"]);
        run([
            "ip",
            "link",
            "set",
            "dpdk-b",
            "address",
            "02:00:00:00:00:0b",
            "up",
        ]);
        let eal = eal();
        let pool = pool(&eal, 1023);
        let attach = |n: u8, interface: &str| {
            let device = format!(
                "net_af_packet{n},iface={interface},qpairs=1,blocksz=65536,framesz=2048,\
                 framecnt=512,qdisc_bypass=1"
            );
            Port::attach(&eal, &device).unwrap()
        };
        let (mut a, mut b) = (attach(0, "dpdk-a"), attach(1, "dpdk-b"));
        let mut from_a = start(&mut a, pool);
        let mut from_b = start(&mut b, pool);
        assert_eq!(b.mac().unwrap(), [2, 0, 0, 0, 0, 0x0b]);
        assert_eq!(b.kernel_interface(), Some("dpdk-b"));
        assert!(b.link().unwrap().up);

        // An experimental EtherType, so that nothing of the kernel's own is taken for it.
        let mut frame = [0x88_u8; 60];
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let mut batch = Batch::new();
        batch.push(pool.alloc_copy(&frame).unwrap()).unwrap();
        assert_eq!(from_a.tx[0].tx_burst(&mut batch), 1);
        let found = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            batch.clear();
            from_b.rx[0].rx_burst(&mut batch);
            batch.iter().any(|mbuf| mbuf.data() == frame)
        });
        assert!(found && !a.is_removed() && !b.is_removed());

        run(["ip", "link", "del", "dpdk-a"]);
        assert!(a.is_removed() && b.is_removed());
        for queues in [&mut from_a, &mut from_b] {
            batch.clear();
            queues.rx[0].rx_burst(&mut batch);
            batch.clear();
            batch.push(pool.alloc_copy(&frame).unwrap()).unwrap();
            queues.tx[0].tx_burst(&mut batch);
        }
        // The same name, but another device.
        run([
            "ip", "link", "add", "dpdk-a", "type", "veth", "peer", "name", "dpdk-c",
        ]);
        assert!(a.is_removed());
    });
}

#[test]
fn the_estimate_of_memory_suffices() {
    alone("the_estimate_of_memory_suffices", || {
        let usual = MempoolConfig::default();
        let jumbo = MempoolConfig {
            mbufs: 2047,
            cache: 128,
            frame_bytes: 9216,
        };
        let bytes = usual.memory_bytes() + jumbo.memory_bytes();
        let memory_mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap();
        let huge_pages = HugePages::Never;
        let options = EalOptions {
            memory_mib,
            huge_pages,
            log: quiet,
            ..EalOptions::default()
        };
        let eal = Eal::init(&options).unwrap();
        for (name, config) in [("usual", usual), ("jumbo", jumbo)] {
            let pool = Mempool::new(&eal, name, config).unwrap();
            assert_eq!(pool.available(), config.mbufs);
        }
    });
}

#[test]
fn queues_move_to_registered_workers() {
    alone("queues_move_to_registered_workers", || {
        let eal = eal();
        let pool = pool(&eal, 1023);
        let full = pool.available();
        let mut port = Port::attach(&eal, "net_null0").unwrap();
        let config = PortConfig {
            rx_queues: 2,
            tx_queues: 2,
            ..PortConfig::default()
        };
        let Queues { rx, tx } = port.start(&config, &[pool]).unwrap();
        let workers = rx.into_iter().zip(tx).map(|(mut rx, mut tx)| {
            std::thread::spawn(move || {
                let _registration = Registration::new().unwrap();
                let mut batch = Batch::new();
                (0..1000)
                    .map(|_| {
                        rx.rx_burst(&mut batch);
                        drop(batch.swap_take(7));
                        tx.tx_burst(&mut batch)
                    })
                    .sum::<usize>()
            })
        });
        let workers: Vec<_> = workers.collect();
        for worker in workers {
            assert_eq!(worker.join().unwrap(), 1000 * (BATCH_SIZE - 1));
        }
        port.stop().unwrap();
        assert_eq!(pool.available(), full);
    });
}
