#pragma once

#include "vmm/base/json_value.h"
#include "vmm/base/log.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// What a user configures, as plain values. The API, the configuration file and the command line all make these; only
/// the controller (vmm/machine/controller.h) judges and keeps them. Field names are those of the API's JSON.
namespace mayfly {

/// Limits of the machine. See api/openapi.yaml.
inline constexpr unsigned kMaximumVcpus = 32;
inline constexpr std::size_t kMaximumCommandLine = 2047;  ///< Bytes without the NUL: Linux keeps no more.
/// Drives and network interfaces together: one window and one interrupt line each.
inline constexpr std::size_t kMaximumVirtioDevices = 16;
inline constexpr const char* kDefaultBootArgs =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// What backs guest memory: 4 KiB pages, transparent huge pages where the host has any (madvise; regions then begin at a
/// multiple of 2 MiB, so that KVM can map as much at once), or 2 MiB pages from the host's pool, all of them reserved
/// (huge_page_pool.h).
enum class HugePages { None, Transparent, Explicit2M };

/// PUT /boot-source
struct BootSource {
  std::string kernel_image_path{};
  std::optional<std::string> initrd_path{};
  std::optional<std::string> boot_args{};
};

/// What the CPU is cut down to: see vmm/kvm/cpu_template.h.
enum class CpuTemplate { None, T2, T2S, T2CL, T2A, C3 };

/// PUT /machine-config
struct MachineConfig {
  unsigned vcpu_count = 1;           ///< 1 to kMaximumVcpus.
  std::uint64_t mem_size_mib = 128;  ///< At least 1; even with 2M pages.
  bool smt = false;                  ///< Show pairs of vCPUs as threads of one core.
  bool track_dirty_pages = false;
  HugePages huge_pages = HugePages::Transparent;
  CpuTemplate cpu_template = CpuTemplate::None;  ///< Not in snapshots, which keep CPUID itself.
};

/// PATCH /machine-config: only what is present changes.
struct MachineConfigPatch {
  std::optional<unsigned> vcpu_count{};
  std::optional<std::uint64_t> mem_size_mib{};
  std::optional<bool> smt{};
  std::optional<bool> track_dirty_pages{};
  std::optional<HugePages> huge_pages{};
  std::optional<CpuTemplate> cpu_template{};
};

/// Which bits of a register a template changes, and to what: bits outside `mask` stay as the host has them.
template <typename Word>
struct BitEdit {
  Word mask = 0;   ///< 1: this bit is set to the bit of `value`.
  Word value = 0;  ///< Only bits of `mask` are ever 1.
  [[nodiscard]] constexpr Word apply(Word original) const noexcept {
    return static_cast<Word>((original & ~mask) | value);
  }
};

enum class CpuidRegister { Eax, Ebx, Ecx, Edx };

/// One register of one CPUID leaf.
struct CpuidEdit {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::uint32_t flags = 0;  ///< KVM_CPUID_FLAG_*; bit 0: the subleaf matters.
  CpuidRegister reg = CpuidRegister::Eax;
  BitEdit<std::uint32_t> bits{};
};

struct MsrEdit {
  std::uint32_t address = 0;
  BitEdit<std::uint64_t> bits{};
};

/// A KVM capability that must be there (or, with `removed`, is left out of the check).
struct KvmCapabilityEdit {
  std::uint32_t number = 0;
  bool removed = false;
};

/// PUT /cpu-config
struct CpuConfig {
  std::vector<CpuidEdit> cpuid{};
  std::vector<MsrEdit> msrs{};
  std::vector<KvmCapabilityEdit> capabilities{};
};

/// A token bucket: `size` tokens that refill evenly over `refill_time_ms`, and a burst that is spent once.
struct TokenBucketConfig {
  std::uint64_t size = 0;
  std::uint64_t refill_time_ms = 0;
  std::uint64_t one_time_burst = 0;
};

/// Limits of one direction: an absent bucket is no limit.
struct RateLimiterConfig {
  std::optional<TokenBucketConfig> bandwidth{};  ///< Bytes.
  std::optional<TokenBucketConfig> ops{};        ///< Requests, or frames.
};

/// What a flush of the guest's does: nothing, or data on stable storage before it is answered. Unsafe drives do not
/// offer flushing, as in the dialect.
enum class CacheType { Unsafe, Writeback };

/// What a discard of the guest's (fstrim) does: it is not offered, or punches a hole into the image. Space that was
/// reserved for an image stays reserved with Ignore: later writes cannot fail because the disk is full.
enum class Discard { Ignore, Unmap };

/// PUT /drives/{drive_id}
struct DriveConfig {
  std::string drive_id{};
  std::string path_on_host{};
  /// Layers below, each only read: a raw image, then overlays. Where there are any, path_on_host is an overlay over
  /// them, and made if absent.
  std::vector<std::string> base_paths{};
  bool is_root_device = false;
  bool is_read_only = false;
  std::optional<std::string> partuuid{};  ///< Of the root device's root partition.
  CacheType cache_type = CacheType::Unsafe;
  std::optional<std::string> io_engine{};  ///< "Sync" or "Async": kept for GET; both are io_uring here.
  bool direct = false;                     ///< O_DIRECT: past the host's page cache.
  Discard discard = Discard::Ignore;       ///< Without effect on a read-only drive.
  std::optional<RateLimiterConfig> rate_limiter{};
};

/// PATCH /drives/{drive_id}: only what is present changes.
struct DrivePatch {
  std::string drive_id{};
  std::optional<std::string> path_on_host{};
  std::optional<RateLimiterConfig> rate_limiter{};
};

using MacAddress = std::array<std::uint8_t, 6>;

/// PUT /network-interfaces/{iface_id}
struct NetworkInterfaceConfig {
  std::string iface_id{};
  std::string host_dev_name{};            ///< The TAP. Empty: none; the guest reaches the metadata service alone.
  std::optional<MacAddress> guest_mac{};  ///< Absent: made from iface_id, locally administered.
  std::optional<std::uint16_t> mtu{};     ///< 68 to 65535; absent: the guest is not told.
  bool check_source_mac = false;          ///< Drop frames of the guest that bear another's address.
  std::optional<RateLimiterConfig> rx_rate_limiter{};
  std::optional<RateLimiterConfig> tx_rate_limiter{};
};

/// PATCH /network-interfaces/{iface_id}: only what is present changes.
struct NetworkInterfacePatch {
  std::string iface_id{};
  std::optional<RateLimiterConfig> rx_rate_limiter{};
  std::optional<RateLimiterConfig> tx_rate_limiter{};
};

using Ipv4Address = std::array<std::uint8_t, 4>;

enum class MmdsVersion : std::uint8_t {
  V1,  ///< Metadata without a token; one that is given is not looked at.
  V2,  ///< Metadata only with a token.
};

/// PUT /mmds/config. This is all of the metadata service that a snapshot keeps: metadata and tokens are a machine's
/// own, and a clone gets other ones from its host.
struct MmdsConfig {
  MmdsVersion version = MmdsVersion::V1;
  std::vector<std::string> network_interfaces{};  ///< Ids of those that serve it.
  Ipv4Address ipv4_address = {169, 254, 169, 254};
  bool imds_compat = false;  ///< Answers are plain text, whatever the guest accepts.
  friend bool operator==(const MmdsConfig&, const MmdsConfig&) = default;
};

/// PUT /channels/{port}: a connection of the guest to the metadata service's address at that port ends at a socket of
/// the host.
struct ChannelConfig {
  std::uint16_t port = 0;  ///< 1 to 65535, and not that of the metadata service, 80.
  std::string uds_path{};  ///< Of a Unix stream socket that listens; connected to when the guest is.
  bool listen = false;     ///< The other way: the monitor listens there, and each host's process gets a connection.
  friend bool operator==(const ChannelConfig&, const ChannelConfig&) = default;
};
/// Another socket for a channel of a snapshot, or of a machine's child.
struct ChannelOverride {
  std::uint16_t port = 0;
  std::string uds_path{};
  friend bool operator==(const ChannelOverride&, const ChannelOverride&) = default;
};
inline constexpr std::uint16_t kMetadataPort = 80;
/// Of one machine.
inline constexpr std::size_t kMostChannels = 64;

/// PUT /serial
struct SerialConfig {
  std::optional<std::string> serial_out_path{};     ///< Absent: standard output.
  std::optional<TokenBucketConfig> rate_limiter{};  ///< Bytes of output; what exceeds it is dropped and counted.
  std::optional<std::uint64_t> max_bytes{};         ///< That the file takes: the newest. kLeastBound or more.
};

/// PUT /metrics
struct MetricsConfig {
  std::string metrics_path{};
  bool emit_id = false;
  std::map<std::string, std::string> properties{};
};

/// A drive whose image a snapshot keeps under a name of its own, while the machine goes on: see DriveFreeze.
struct FrozenDrive {
  std::string drive_id{};
  std::string path_on_host{};  ///< Where nothing is yet.
};

/// PUT /snapshot/create
struct SnapshotCreateParams {
  std::string snapshot_path{};  ///< The state file.
  std::string mem_file_path{};  ///< Empty: memory is not written, and whoever wants it reads it (GET /memory/mappings).
  bool diff = false;            ///< Only what has changed since the last snapshot, to be merged onto it.
  std::vector<FrozenDrive> frozen_drives{};
  bool live = false;  ///< The machine goes on while memory is written.
  /// Of a live one: how much memory the machine's writes may cost meanwhile, before it is held back.
  std::optional<std::uint64_t> max_copied_mib{};
};

/// Where a restored guest's memory comes from.
enum class MemoryBackend {
  File,  ///< Memory files, mapped.
  Uffd,  ///< A page server that listens on a Unix socket.
};

/// Which of the paths and TAPs that a state file names a load opens: see vmm/machine/snapshot_paths.h.
enum class StatePaths {
  Trusted,  ///< All of them.
  Named,    ///< Those that an override names, and regular files beside the state file.
};

/// A network interface that gets another TAP than it had.
struct NetworkOverride {
  std::string iface_id{};
  std::string host_dev_name{};
  std::optional<MacAddress> guest_mac{};  ///< Absent: the address that it had.
};

/// A drive that gets another image than it had: a copy, or an overlay.
struct DriveOverride {
  std::string drive_id{};
  std::string path_on_host{};
  /// As in DriveConfig. Empty: the layers that the drive had; where path_on_host is not there yet, and is to be made over
  /// them, its overlay is the topmost of them.
  std::vector<std::string> base_paths{};
};

/// The `working_set` of PUT /snapshot/load.
struct WorkingSetParams {
  bool record = false;  ///< Else it is replayed.
  std::string path{};
  // When a recording ends, if not by the action FinishWorkingSet or with the machine: whichever comes first.
  bool until_boot_timer = false;          ///< The guest's first write to the boot timer after the load.
  std::optional<std::uint64_t> for_ms{};  ///< So long after the load.
};

/// PUT /snapshot/load
struct SnapshotLoadParams {
  std::string snapshot_path{};
  MemoryBackend backend = MemoryBackend::File;
  /// Memory files, the base first and then diffs, each of the one before; or the page server's socket alone.
  std::vector<std::string> backend_paths{};
  bool track_dirty_pages = false;
  bool resume_vm = false;
  bool clock_realtime = true;  ///< The guest's clock goes ahead by the time since the snapshot.
  bool allow_changed_drives = false;
  StatePaths paths = StatePaths::Trusted;
  std::optional<HugePages> huge_pages{};  ///< Absent: as in the snapshot.
  std::vector<NetworkOverride> network_overrides{};
  std::vector<DriveOverride> drive_overrides{};
  std::vector<ChannelOverride> channel_overrides{};
  std::optional<WorkingSetParams> working_set{};
  bool revertible = false;  ///< The machine may go back to the snapshot (PUT /snapshot/revert).
};

/// PUT /snapshot/revert
struct SnapshotRevertParams {
  bool resume_vm = false;
  bool clock_realtime = true;  ///< The guest's clock goes ahead by the time since the snapshot.
};

/// A machine that goes on beside the one that it was.
struct BranchChild {
  std::string id{};
  std::string api_socket{};
  std::optional<std::string> serial_out_path{};  ///< Absent: what its console says is dropped.
  std::optional<JsonValue> metadata{};           ///< Absent: none.
  std::vector<NetworkOverride> network_overrides{};
  std::vector<DriveOverride> drive_overrides{};  ///< Without base_paths.
  std::vector<ChannelOverride> channel_overrides{};
};

/// PUT /vm/branch
struct BranchParams {
  std::vector<BranchChild> children{};       ///< 1 to kMostBranchChildren.
  std::vector<FrozenDrive> frozen_drives{};  ///< The drives that the guest writes to.
};
inline constexpr std::size_t kMostBranchChildren = 128;

/// Everything that is configured: GET /vm/config, and --config-file.
struct VmConfig {
  std::optional<BootSource> boot_source{};
  MachineConfig machine{};
  std::optional<CpuConfig> cpu{};
  std::optional<SerialConfig> serial{};
  std::vector<DriveConfig> drives{};  ///< The root device first, then in the order in which they came.
  std::vector<NetworkInterfaceConfig> network_interfaces{};
  std::optional<MmdsConfig> mmds{};       ///< Absent: no interface serves metadata.
  std::vector<ChannelConfig> channels{};  ///< By their ports.
  std::optional<LoggerConfig> logger{};
  std::optional<MetricsConfig> metrics{};
};

}  // namespace mayfly
