#pragma once

#include "snapshot/snapshot.h"
#include "snapshot/visit.h"

#include <cstring>
#include <string>

/// A snapshot in which every field that is stored has a value of its own: what comes with a later version is filled by
/// itself, and a test that compares two finds a field that was lost. Always the same one; no machine was ever so.
namespace mayfly::testing {

/// The archive that fills: numbers from a fixed sequence, two elements in each list, every optional value there.
class Filler {
 public:
  [[nodiscard]] static constexpr bool since(unsigned /*version*/) noexcept { return true; }
  template <typename T>
  void field(std::string_view name, T& value) {
    name_ = name;
    fill(value);
  }

 private:
  std::uint64_t next() noexcept { return ++count_ * 0x9E37'79B9'7F4A'7C15; }
  template <Number T>
  void fill(T& value) {
    value = static_cast<T>(next() >> 16);
  }
  void fill(std::byte& value) { value = static_cast<std::byte>(next() >> 16); }
  void fill(bool& value) { value = true; }
  template <BoundedEnum T>
  void fill(T& value) {
    value = EnumRange<T>::kLast;
  }
  template <AbiStruct T>
  void fill(T& value) {
    std::array<std::byte, sizeof(T)> bytes;
    for (std::byte& byte : bytes) fill(byte);
    std::memcpy(static_cast<void*>(&value), bytes.data(), bytes.size());
  }
  void fill(std::string& value) { value = std::string{name_} + '-' + std::to_string(++count_); }
  template <typename T>
  void fill(std::vector<T>& values) {
    values.resize(2);
    for (T& value : values) fill(value);
  }
  template <typename T, std::size_t N>
  void fill(std::array<T, N>& values) {
    for (T& value : values) fill(value);
  }
  template <typename T>
  void fill(std::optional<T>& value) {
    fill(value.emplace());
  }
  template <typename T>
    requires(std::is_class_v<T> && !AbiStruct<T>)
  void fill(T& value) {
    visit(*this, value);
  }

  std::uint64_t count_ = 0;
  std::string_view name_;
};

/// Limits that a machine can have.
inline void make_possible(std::optional<RateLimiterConfig>& limiter) {
  limiter = RateLimiterConfig{.bandwidth = TokenBucketConfig{1 << 20, 1000, 1 << 16},
                              .ops = TokenBucketConfig{2000, 500, 30}};
}

/// A transport whose driver runs, its queues of `size` one after the other from `at` on.
inline void make_possible(MmioTransportState& transport, std::size_t queues, std::uint64_t at) {
  transport.status = 0xF;
  transport.queue_select = 0;
  transport.queues.resize(queues);
  for (QueueState& queue : transport.queues) {
    queue = {.size = 64,
             .ready = true,
             .descriptors = {at},
             .available = {at + 0x1000},
             .used = {at + 0x2000},
             .next_available = 0xFFFE,
             .next_used = 0xFFFD,
             .signalled_used = 0xFFFC,
             .event_index = true};
    at += 0x3000;
  }
}

/// What a machine can have, where any value will not do.
inline void make_possible(PlatformState& platform) {
  std::uint32_t cycle = 1000;
  for (PitChannelState& channel : platform.pit.channels) {
    channel.cycle = cycle;
    channel.latched_bytes = 2;
    cycle += 32'268;
  }
  platform.serial.received_count = kSerialFifoSize;
  platform.i8042.answers.count = 3;
  platform.i8042.keys.count = I8042Queue::kCapacity;
  for (PicState& pic : platform.pic.chips) pic.awaited_word = 3;
}

[[nodiscard]] inline Snapshot filled_snapshot() {
  Snapshot snapshot;
  Filler filler;
  filler.field("id", snapshot.id);
  filler.field("cpu", snapshot.cpu);
  filler.field("boot_source", snapshot.boot_source);
  filler.field("clock", snapshot.clock);
  filler.field("vcpus", snapshot.vcpus);
  filler.field("platform", snapshot.platform);
  filler.field("drives", snapshot.drives);
  filler.field("network_interfaces", snapshot.network_interfaces);
  filler.field("mmds", snapshot.mmds);  // of configuration 2: last, so that the others stay as they were
  snapshot.producer = "0.1.0";
  snapshot.host = {.vendor = "GenuineIntel", .family = 6, .model = 0x8F, .stepping = 8, .kernel = "6.12.1 #1 SMP"};
  snapshot.machine = {
      .vcpu_count = 2, .mem_size_mib = 128, .smt = true, .track_dirty_pages = true, .huge_pages = HugePages::None};
  for (VcpuState& vcpu : snapshot.vcpus) {
    vcpu.xsave.resize(512);
    for (std::size_t i = 0; i < vcpu.xsave.size(); ++i) vcpu.xsave[i] = static_cast<std::byte>(3 * i + 1);
  }
  make_possible(snapshot.platform);
  for (std::size_t i = 0; i < snapshot.drives.size(); ++i) {
    DriveState& drive = snapshot.drives[i];
    drive.config.drive_id = "drive" + std::to_string(i);
    drive.config.path_on_host = "/images/" + drive.config.drive_id;
    make_possible(drive.config.rate_limiter);
    make_possible(drive.transport, 1, 0x1'0000 + 0x1'0000 * i);
    drive.device.features = drive.transport.driver_features = 0x1'3000'0204;  // indirect, event_idx, flush, seg_max
  }
  for (std::size_t i = 0; i < snapshot.network_interfaces.size(); ++i) {
    NetworkInterfaceState& interface = snapshot.network_interfaces[i];
    interface.config.iface_id = "eth" + std::to_string(i);
    interface.config.host_dev_name = "tap" + std::to_string(i);
    interface.config.guest_mac = MacAddress{6, 0, 0xAC, 0x10, 0, static_cast<std::uint8_t>(2 + i)};
    interface.config.mtu = 1500;
    make_possible(interface.config.rx_rate_limiter);
    make_possible(interface.config.tx_rate_limiter);
    make_possible(interface.transport, 2, 0x4'0000 + 0x1'0000 * i);
    interface.device.receive_heads = {3, 5};
  }
  snapshot.mmds->network_interfaces = {"eth0", "eth1"};
  snapshot.mmds->ipv4_address = {169, 254, 170, 2};
  snapshot.channels = {{.port = 1024, .uds_path = "/run/agent.sock"},
                       {.port = 1025, .uds_path = "/run/hosts.sock", .listen = true}};
  snapshot.network_interfaces[1].device.streams = {{.mac = {6, 0, 0xAC, 0x10, 0, 3},
                                                    .address = {172, 16, 0, 2},
                                                    .guest_port = 40'000,
                                                    .channel_port = 1025,
                                                    .sequence = 0xFFFF'FFF0,
                                                    .acknowledgment = 7}};
  return snapshot;
}

}  // namespace mayfly::testing
