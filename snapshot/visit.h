#pragma once

#include "snapshot/archive.h"
#include "snapshot/snapshot.h"

/// Every structure of a snapshot, field by field, in the order in which it is stored. A field that comes later is added
/// at the end of its structure behind `if (archive.since(N))`, with N the new version of its section (sections.h).
namespace mayfly {

template <>
inline constexpr bool kIsAbiStruct<kvm_cpuid_entry2> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_mp_state> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_regs> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_sregs> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_xcrs> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_debugregs> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_lapic_state> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_msr_entry> = true;
template <>
inline constexpr bool kIsAbiStruct<kvm_vcpu_events> = true;

template <typename Enum, Enum kFirstOne, Enum kLastOne>
struct EnumBounds {
  static constexpr Enum kFirst = kFirstOne;
  static constexpr Enum kLast = kLastOne;
};
template <>
struct EnumRange<HugePages> : EnumBounds<HugePages, HugePages::None, HugePages::Explicit2M> {};
template <>
struct EnumRange<CpuidRegister> : EnumBounds<CpuidRegister, CpuidRegister::Eax, CpuidRegister::Edx> {};
template <>
struct EnumRange<CacheType> : EnumBounds<CacheType, CacheType::Unsafe, CacheType::Writeback> {};
template <>
struct EnumRange<Discard> : EnumBounds<Discard, Discard::Ignore, Discard::Unmap> {};
template <>
struct EnumRange<MmdsVersion> : EnumBounds<MmdsVersion, MmdsVersion::V1, MmdsVersion::V2> {};
template <>
struct EnumRange<PitMode> : EnumBounds<PitMode, PitMode::TerminalCount, PitMode::HardwareStrobe> {};
template <>
struct EnumRange<PitAccess> : EnumBounds<PitAccess, PitAccess::Low, PitAccess::LowThenHigh> {};

// --- What was configured ---------------------------------------------------------------------------------------------

template <typename Archive>
void visit(Archive& archive, HostCpu& cpu) {
  archive.field("vendor", cpu.vendor);
  archive.field("family", cpu.family);
  archive.field("model", cpu.model);
  archive.field("stepping", cpu.stepping);
}

template <typename Archive>
void visit(Archive& archive, MachineConfig& machine) {
  archive.field("vcpu_count", machine.vcpu_count);
  archive.field("mem_size_mib", machine.mem_size_mib);
  archive.field("smt", machine.smt);
  archive.field("track_dirty_pages", machine.track_dirty_pages);
  archive.field("huge_pages", machine.huge_pages);
}

template <typename Archive, typename Word>
void visit(Archive& archive, BitEdit<Word>& bits) {
  archive.field("mask", bits.mask);
  archive.field("value", bits.value);
}

template <typename Archive>
void visit(Archive& archive, CpuidEdit& edit) {
  archive.field("leaf", edit.leaf);
  archive.field("subleaf", edit.subleaf);
  archive.field("flags", edit.flags);
  archive.field("register", edit.reg);
  archive.field("bits", edit.bits);
}

template <typename Archive>
void visit(Archive& archive, MsrEdit& edit) {
  archive.field("address", edit.address);
  archive.field("bits", edit.bits);
}

template <typename Archive>
void visit(Archive& archive, KvmCapabilityEdit& edit) {
  archive.field("number", edit.number);
  archive.field("removed", edit.removed);
}

template <typename Archive>
void visit(Archive& archive, CpuConfig& cpu) {
  archive.field("cpuid_modifiers", cpu.cpuid);
  archive.field("msr_modifiers", cpu.msrs);
  archive.field("kvm_capabilities", cpu.capabilities);
}

template <typename Archive>
void visit(Archive& archive, BootSource& source) {
  archive.field("kernel_image_path", source.kernel_image_path);
  archive.field("initrd_path", source.initrd_path);
  archive.field("boot_args", source.boot_args);
}

template <typename Archive>
void visit(Archive& archive, TokenBucketConfig& bucket) {
  archive.field("size", bucket.size);
  archive.field("refill_time", bucket.refill_time_ms);
  archive.field("one_time_burst", bucket.one_time_burst);
}

template <typename Archive>
void visit(Archive& archive, RateLimiterConfig& limiter) {
  archive.field("bandwidth", limiter.bandwidth);
  archive.field("ops", limiter.ops);
}

template <typename Archive>
void visit(Archive& archive, DriveConfig& drive) {
  archive.field("drive_id", drive.drive_id);
  archive.field("path_on_host", drive.path_on_host);
  archive.field("is_root_device", drive.is_root_device);
  archive.field("is_read_only", drive.is_read_only);
  archive.field("partuuid", drive.partuuid);
  archive.field("cache_type", drive.cache_type);
  archive.field("io_engine", drive.io_engine);
  archive.field("direct", drive.direct);
  archive.field("rate_limiter", drive.rate_limiter);
  if (archive.since(2))
    archive.field("discard", drive.discard);
  else if (!drive.is_read_only)
    drive.discard = Discard::Unmap;  // every drive that was writable offered it
  if (archive.since(3)) archive.field("base_paths", drive.base_paths);
}

template <typename Archive>
void visit(Archive& archive, NetworkInterfaceConfig& interface) {
  archive.field("iface_id", interface.iface_id);
  archive.field("host_dev_name", interface.host_dev_name);
  archive.field("guest_mac", interface.guest_mac);
  archive.field("mtu", interface.mtu);
  archive.field("check_source_mac", interface.check_source_mac);
  archive.field("rx_rate_limiter", interface.rx_rate_limiter);
  archive.field("tx_rate_limiter", interface.tx_rate_limiter);
}

template <typename Archive>
void visit(Archive& archive, MmdsConfig& mmds) {
  archive.field("version", mmds.version);
  archive.field("network_interfaces", mmds.network_interfaces);
  archive.field("ipv4_address", mmds.ipv4_address);
  archive.field("imds_compat", mmds.imds_compat);
}

template <typename Archive>
void visit(Archive& archive, ChannelConfig& channel) {
  archive.field("port", channel.port);
  archive.field("uds_path", channel.uds_path);
  archive.field("listen", channel.listen);
}

template <typename Archive>
void visit(Archive& archive, StreamEnd& end) {
  archive.field("mac", end.mac);
  archive.field("address", end.address);
  archive.field("guest_port", end.guest_port);
  archive.field("channel_port", end.channel_port);
  archive.field("sequence", end.sequence);
  archive.field("acknowledgment", end.acknowledgment);
}

// --- vCPUs -----------------------------------------------------------------------------------------------------------

template <typename Archive>
void visit(Archive& archive, VcpuState& vcpu) {
  archive.field("cpuid", vcpu.cpuid);
  archive.field("tsc_khz", vcpu.tsc_khz);
  archive.field("mp_state", vcpu.mp_state);
  archive.field("regs", vcpu.regs);
  archive.field("sregs", vcpu.sregs);
  archive.field("xsave", vcpu.xsave);
  archive.field("xcrs", vcpu.xcrs);
  archive.field("debug_regs", vcpu.debug_regs);
  archive.field("lapic", vcpu.lapic);
  archive.field("msrs", vcpu.msrs);
  archive.field("events", vcpu.events);
}

template <typename Archive>
void visit(Archive& archive, ClockState& clock) {
  archive.field("guest_ns", clock.guest_ns);
  archive.field("realtime_ns", clock.realtime_ns);
}

// --- The platform's devices ------------------------------------------------------------------------------------------

template <typename Archive>
void visit(Archive& archive, IoapicState& ioapic) {
  archive.field("select", ioapic.select);
  archive.field("id", ioapic.id);
  archive.field("redirection", ioapic.redirection);
  archive.field("levels", ioapic.levels);
}

template <typename Archive>
void visit(Archive& archive, PicState& pic) {
  archive.field("mask", pic.mask);
  archive.field("trigger", pic.trigger);
  archive.field("vector_base", pic.vector_base);
  archive.field("cascade", pic.cascade);
  archive.field("mode", pic.mode);
  archive.field("awaited_word", pic.awaited_word);
  archive.field("single", pic.single);
  archive.field("wants_mode", pic.wants_mode);
  if (!archive.since(2)) return;  // such a chip asked for nothing, and does not until it is initialized again
  archive.field("initialized", pic.initialized);
  archive.field("lines", pic.lines);
  archive.field("edges", pic.edges);
  archive.field("in_service", pic.in_service);
  archive.field("lowest", pic.lowest);
  archive.field("reads_in_service", pic.reads_in_service);
  archive.field("polled", pic.polled);
  archive.field("special_mask", pic.special_mask);
  archive.field("rotates", pic.rotates);
}

template <typename Archive>
void visit(Archive& archive, DualPicState& pic) {
  archive.field("chips", pic.chips);
}

template <typename Archive>
void visit(Archive& archive, PitChannelState& channel) {
  archive.field("mode", channel.mode);
  archive.field("access", channel.access);
  archive.field("bcd", channel.bcd);
  archive.field("gate", channel.gate);
  archive.field("count_register", channel.count_register);
  archive.field("count_written", channel.count_written);
  archive.field("null_count", channel.null_count);
  archive.field("cycle", channel.cycle);
  archive.field("counting", channel.counting);
  archive.field("elapsed_ns", channel.elapsed_ns);
  archive.field("reload_tick", channel.reload_tick);
  archive.field("written_low", channel.written_low);
  archive.field("write_high_next", channel.write_high_next);
  archive.field("read_high_next", channel.read_high_next);
  archive.field("latched_bytes", channel.latched_bytes);
  archive.field("latched_count", channel.latched_count);
  archive.field("status_latched", channel.status_latched);
  archive.field("latched_status", channel.latched_status);
}

template <typename Archive>
void visit(Archive& archive, PitState& pit) {
  archive.field("channels", pit.channels);
  archive.field("speaker_control", pit.speaker_control);
  archive.field("interrupt_awaited", pit.interrupt_awaited);
  archive.field("remaining_ns", pit.remaining_ns);
}

template <typename Archive>
void visit(Archive& archive, SerialState& serial) {
  archive.field("interrupt_enable", serial.interrupt_enable);
  archive.field("fifo_control", serial.fifo_control);
  archive.field("line_control", serial.line_control);
  archive.field("modem_control", serial.modem_control);
  archive.field("line_errors", serial.line_errors);
  archive.field("modem_status", serial.modem_status);
  archive.field("scratch", serial.scratch);
  archive.field("divisor_low", serial.divisor_low);
  archive.field("divisor_high", serial.divisor_high);
  archive.field("transmitter_event", serial.transmitter_event);
  archive.field("received_count", serial.received_count);
  archive.field("received", serial.received);
}

template <typename Archive>
void visit(Archive& archive, I8042Queue& queue) {
  archive.field("count", queue.count);
  archive.field("bytes", queue.bytes);
}

template <typename Archive>
void visit(Archive& archive, I8042State& i8042) {
  archive.field("command_byte", i8042.command_byte);
  archive.field("output_port", i8042.output_port);
  archive.field("awaited_command", i8042.awaited_command);
  archive.field("awaited_key_command", i8042.awaited_key_command);
  archive.field("scanning", i8042.scanning);
  archive.field("last_was_command", i8042.last_was_command);
  archive.field("last_read", i8042.last_read);
  archive.field("answers", i8042.answers);
  archive.field("keys", i8042.keys);
}

template <typename Archive>
void visit(Archive& archive, AcpiSleepPortsState& ports) {
  archive.field("sleep_type", ports.sleep_type);
}

template <typename Archive>
void visit(Archive& archive, BootTimerState& timer) {
  archive.field("reported", timer.reported);
}

template <typename Archive>
void visit(Archive& archive, PlatformState& platform) {
  archive.field("ioapic", platform.ioapic);
  archive.field("pic", platform.pic);
  archive.field("pit", platform.pit);
  archive.field("serial", platform.serial);
  archive.field("i8042", platform.i8042);
  archive.field("sleep_ports", platform.sleep_ports);
  archive.field("has_boot_timer", platform.has_boot_timer);
  archive.field("boot_timer", platform.boot_timer);
  if (archive.since(2)) archive.field("undelivered_interrupt", platform.undelivered_interrupt);
}

// --- virtio ----------------------------------------------------------------------------------------------------------

template <typename Archive>
void visit(Archive& archive, GuestAddress& address) {
  archive.field("value", address.value);
}

template <typename Archive>
void visit(Archive& archive, QueueState& queue) {
  archive.field("size", queue.size);
  archive.field("ready", queue.ready);
  archive.field("descriptors", queue.descriptors);
  archive.field("available", queue.available);
  archive.field("used", queue.used);
  archive.field("next_available", queue.next_available);
  archive.field("next_used", queue.next_used);
  archive.field("signalled_used", queue.signalled_used);
  archive.field("event_index", queue.event_index);
}

template <typename Archive>
void visit(Archive& archive, MmioTransportState& transport) {
  archive.field("device_features_select", transport.device_features_select);
  archive.field("driver_features_select", transport.driver_features_select);
  archive.field("driver_features", transport.driver_features);
  archive.field("queue_select", transport.queue_select);
  archive.field("status", transport.status);
  archive.field("interrupt_status", transport.interrupt_status);
  archive.field("config_generation", transport.config_generation);
  archive.field("queues", transport.queues);
}

template <typename Archive>
void visit(Archive& archive, TokenBucketState& bucket) {
  archive.field("budget", bucket.budget);
  archive.field("debt", bucket.debt);
  archive.field("burst", bucket.burst);
  archive.field("remainder", bucket.remainder);
}

template <typename Archive>
void visit(Archive& archive, RateLimiterState& limiter) {
  archive.field("bandwidth", limiter.bandwidth);
  archive.field("ops", limiter.ops);
}

template <typename Archive>
void visit(Archive& archive, ImageIdentity& image) {
  archive.field("device", image.device);
  archive.field("inode", image.inode);
  archive.field("size_bytes", image.size_bytes);
  archive.field("modified_ns", image.modified_ns);
}

template <typename Archive>
void visit(Archive& archive, BlockDeviceState& device) {
  archive.field("features", device.features);
  archive.field("rate_limiter", device.rate_limiter);
  archive.field("image", device.image);
  if (archive.since(2)) archive.field("lost_writes", device.lost_writes);
}

template <typename Archive>
void visit(Archive& archive, DriveState& drive) {
  archive.field("config", drive.config);
  archive.field("transport", drive.transport);
  archive.field("device", drive.device);
}

template <typename Archive>
void visit(Archive& archive, NetDeviceState& device) {
  archive.field("features", device.features);
  archive.field("receive_heads", device.receive_heads);
  archive.field("receive_limiter", device.receive_limiter);
  archive.field("transmit_limiter", device.transmit_limiter);
  if (archive.since(2)) archive.field("link_up", device.link_up);
}

template <typename Archive>
void visit(Archive& archive, NetworkInterfaceState& interface) {
  archive.field("config", interface.config);
  archive.field("transport", interface.transport);
  archive.field("device", interface.device);
}

}  // namespace mayfly
