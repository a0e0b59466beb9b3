//! Calls of the crate firecracker-rs-sdk: its `Instance` starts the monitor and drives it.
//!
//!     rust_calls MONITOR KERNEL DIRECTORY
//!
//! The guest is a bare-metal one that listens to its keyboard. Says "call NAME passed|refused" for each call.

use std::path::{Path, PathBuf};

use firecracker_rs_sdk::firecracker::FirecrackerOption;
use firecracker_rs_sdk::instance::Instance;
use firecracker_rs_sdk::models::*;
use firecracker_rs_sdk::Result;

fn passed<T>(name: &str, answer: Result<T>) -> T {
    match answer {
        Ok(value) => {
            println!("call {name} passed");
            value
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// What Mayfly does not have.
fn refused<T>(name: &str, answer: Result<T>) {
    assert!(answer.is_err(), "{name} is to be refused");
    println!("call {name} refused");
}

fn start(monitor: &str, directory: &Path, name: &str) -> Instance {
    let mut option = FirecrackerOption::new(monitor);
    option.api_sock(directory.join(format!("{name}.socket"))).id(name);
    option.stdin("/dev/null").stdout(directory.join(format!("{name}.console")));
    let mut instance = option.build().expect("the SDK builds an instance");
    passed("start_vmm", instance.start_vmm());
    instance
}

fn configure(instance: &mut Instance, kernel: &str, image: PathBuf, directory: &Path) {
    let version = passed("get_firecracker_version", instance.get_firecracker_version());
    assert!(version.firecracker_version.starts_with("1."));
    let logger = Logger { level: Some(logger::LogLevel::Debug), log_path: directory.join("log"), show_level: Some(true),
                          show_log_origin: Some(true), module: None };
    passed("put_logger", instance.put_logger(&logger));
    passed("put_metrics", instance.put_metrics(&Metrics { metrics_path: directory.join("metrics") }));
    let mut machine = MachineConfiguration { cpu_template: None, smt: Some(false), mem_size_mib: 64,
                                             track_dirty_pages: Some(true), vcpu_count: 1, huge_pages: None };
    passed("put_machine_configuration", instance.put_machine_configuration(&machine));
    machine.mem_size_mib = 32;
    passed("patch_machine_configuration", instance.patch_machine_configuration(&machine));
    assert_eq!(passed("get_machine_configuration", instance.get_machine_configuration()).mem_size_mib, 32);
    let source = BootSource { boot_args: Some("console=ttyS0".into()), initrd_path: None, kernel_image_path: kernel.into() };
    passed("put_guest_boot_source", instance.put_guest_boot_source(&source));
    let drive = Drive { drive_id: "data".into(), partuuid: None, is_root_device: false, cache_type: None, is_read_only: true,
                        path_on_host: image, rate_limiter: None, io_engine: Some(drive::IoEngine::Async), socket: None };
    passed("put_guest_drive_by_id", instance.put_guest_drive_by_id(&drive));
    let mut vhost = drive.clone();
    vhost.socket = Some("/run/no".into());
    refused("put_guest_drive_by_id", instance.put_guest_drive_by_id(&vhost));
    let balloon = Balloon { amount_mib: 1, deflate_on_oom: true, stats_polling_interval_s: None };
    refused("put_balloon", instance.put_balloon(&balloon));
    refused("describe_balloon_config", instance.describe_balloon_config());
    let vsock = Vsock { guest_cid: 3, uds_path: "/run/no".into(), vsock_id: None };
    refused("put_guest_vsock", instance.put_guest_vsock(&vsock));
    refused("put_entropy_device", instance.put_entropy_device(&EntropyDevice { rate_limiter: None }));
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let (monitor, kernel, directory) = (&words[1], &words[2], Path::new(&words[3]));
    let image = directory.join("image");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let (state, memory) = (directory.join("state"), directory.join("memory"));

    let mut first = start(monitor, directory, "first");
    configure(&mut first, kernel, image.clone(), directory);
    passed("start", first.start());
    assert_eq!(passed("describe_instance", first.describe_instance()).state, instance_info::State::Running);
    let patch = PartialDrive { drive_id: "data".into(), path_on_host: Some(image), rate_limiter: None };
    passed("patch_guest_drive_by_id", first.patch_guest_drive_by_id(&patch));
    passed("pause", first.pause());
    let create = SnapshotCreateParams { mem_file_path: memory.clone(), snapshot_path: state.clone(),
                                        snapshot_type: Some(SnapshotType::Full), version: None };
    passed("create_snapshot", first.create_snapshot(&create));
    passed("resume", first.resume());
    let config = passed("get_export_vm_config", first.get_export_vm_config());
    assert_eq!(config.machine_config.expect("a machine has one").mem_size_mib, 32);
    drop(first);

    let mut clone = start(monitor, directory, "clone");
    let backend = MemoryBackend { backend_type: memory_backend::BackendType::File, backend_path: memory };
    let load = SnapshotLoadParams { enable_diff_snapshots: Some(true), mem_file_path: None, mem_backend: Some(backend),
                                    resume_vm: Some(false), snapshot_path: state };
    passed("load_snapshot", clone.load_snapshot(&load));
    assert_eq!(passed("describe_instance", clone.describe_instance()).state, instance_info::State::Paused);
    passed("resume", clone.resume());
}
