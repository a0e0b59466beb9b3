#include "snapshot/state_file.h"

#include "snapshot/checksum.h"
#include "snapshot/sections.h"
#include "snapshot/small_file.h"
#include "vmm/config/device_names.h"
#include "vmm/config/ipv4_address.h"
#include "vmm/memory/guest_memory.h"

#include <algorithm>
#include <array>

namespace mayfly {
namespace {

struct StateHeader {
  std::array<char, 8> magic = kStateFileMagic;
  std::uint32_t format = kStateFormatVersion;
  std::uint32_t section_count = 0;
};
static_assert(sizeof(StateHeader) == 16);

/// A reader that does not know the section skips it.
constexpr std::uint16_t kOptional = 1;

struct SectionHeader {
  std::array<char, 20> name{};  // padded with zeros
  std::uint16_t version = 0;
  std::uint16_t flags = 0;
  std::uint64_t length = 0;
  std::uint64_t checksum = 0;
};
static_assert(sizeof(SectionHeader) == 40);

template <typename T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const auto* begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof value);
}

/// The next `T` of the input.
template <typename T>
std::optional<T> take(std::span<const std::byte>& input) {
  if (input.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(static_cast<void*>(&value), input.data(), sizeof(T));
  input = input.subspan(sizeof(T));
  return value;
}

std::string_view name_in(const SectionHeader& header) {
  return {header.name.data(), ::strnlen(header.name.data(), header.name.size())};
}

std::unexpected<Error> cut_short() {
  return fail(ErrorKind::InvalidArgument, "the file ends too early: it was not written or copied whole");
}

std::unexpected<Error> no_machine(std::string_view what) {
  return fail(ErrorKind::InvalidArgument, "{}: no machine has that, so the file is damaged", what);
}

// --- What no checksum finds: values that a machine cannot have -------------------------------------------------------

bool is_possible(const PitChannelState& channel) {
  constexpr std::uint32_t kLongestCycle = 65536;
  return channel.cycle <= kLongestCycle && (!channel.counting || channel.cycle > 0) && channel.latched_bytes <= 2;
}

Status check_platform(const PlatformState& platform) {
  if (!std::ranges::all_of(platform.pit.channels, is_possible)) return no_machine("the PIT's channels");
  if (platform.serial.received_count > kSerialFifoSize) return no_machine("the serial port's FIFO");
  for (const I8042Queue& queue : {platform.i8042.answers, platform.i8042.keys})
    if (queue.count > I8042Queue::kCapacity) return no_machine("the keyboard controller's queues");
  for (const PicState& pic : platform.pic.chips)
    if (pic.awaited_word != 0 && (pic.awaited_word < 2 || pic.awaited_word > 4)) return no_machine("the PIC's words");
  return {};
}

Status check_devices(const Snapshot& snapshot) {
  if (snapshot.drives.size() + snapshot.network_interfaces.size() > kMaximumVirtioDevices)
    return no_machine("the number of drives and network interfaces");
  for (const DriveState& drive : snapshot.drives) {
    if (!is_device_id(drive.config.drive_id)) return no_machine("a drive's id");
  }
  for (const NetworkInterfaceState& interface : snapshot.network_interfaces) {
    if (!is_device_id(interface.config.iface_id)) return no_machine("a network interface's id");
    if (interface.device.receive_heads.size() > NetDeviceState::kQueueSize)
      return no_machine("a network interface's buffers");
    if (interface.device.streams.size() > kMostStreamEnds) return no_machine("a network interface's connections");
  }
  if (snapshot.channels.size() > kMostChannels || (!snapshot.channels.empty() && !snapshot.mmds))
    return no_machine("the number of channels");
  for (std::size_t i = 0; i < snapshot.channels.size(); ++i)
    if (!is_channel(snapshot.channels[i]) || (i > 0 && snapshot.channels[i].port <= snapshot.channels[i - 1].port))
      return no_machine("a channel");
  if (!snapshot.mmds) return {};
  const auto is_there = [&](const std::string& id) {
    return std::ranges::any_of(snapshot.network_interfaces,
                               [&](const auto& each) { return each.config.iface_id == id; });
  };
  if (snapshot.mmds->network_interfaces.empty() || !std::ranges::all_of(snapshot.mmds->network_interfaces, is_there))
    return no_machine("the interfaces of the metadata service");
  if (!parse_mmds_address(format_ipv4_address(snapshot.mmds->ipv4_address)))
    return no_machine("the metadata service's address");
  return {};
}

Status check_snapshot(const Snapshot& snapshot) {
  const MachineConfig& machine = snapshot.machine;
  if (machine.vcpu_count < 1 || machine.vcpu_count > kMaximumVcpus || snapshot.vcpus.size() != machine.vcpu_count)
    return no_machine("the number of vCPUs");
  if (auto checked = GuestMemory::check({.size_mib = machine.mem_size_mib, .pages = machine.huge_pages}); !checked)
    return checked;
  if (auto checked = check_platform(snapshot.platform); !checked) return checked;
  return check_devices(snapshot);
}

/// The section that it was; nullptr where it is one that may be skipped.
Result<const Section<StateReader>*> read_section(const SectionHeader& header, std::span<const std::byte> content,
                                                 std::span<const Section<StateReader>> sections, Snapshot& snapshot) {
  const std::string_view name = name_in(header);
  const auto known = std::ranges::find(sections, name, &Section<StateReader>::name);
  if (known == sections.end()) {
    if ((header.flags & kOptional) != 0) return nullptr;
    return fail(ErrorKind::Unsupported,
                "section '{}' is not known to Mayfly {}: a newer one wrote the file; restore it with that", name,
                MAYFLY_VERSION);
  }
  if (header.version > known->version)
    return fail(ErrorKind::Unsupported,
                "section '{}' has version {}, and Mayfly {} knows up to {}: a newer one wrote the file; restore it "
                "with that",
                name, header.version, MAYFLY_VERSION, known->version);
  StateReader reader{content, header.version};
  known->visit_in(reader, snapshot);
  if (reader.failed())
    return fail(ErrorKind::InvalidArgument, "section '{}' is damaged at field '{}'", name, reader.where());
  if (reader.left() != 0)
    return fail(ErrorKind::InvalidArgument, "section '{}' is damaged: {} bytes follow its last field", name,
                reader.left());
  return &*known;
}

/// Every section is there, or may be absent.
Status check_complete(std::span<const Section<StateReader>> sections, std::span<const std::string_view> seen) {
  for (const Section<StateReader>& section : sections)
    if (!section.absent_is_default && std::ranges::find(seen, section.name) == seen.end())
      return fail(ErrorKind::InvalidArgument, "section '{}' is missing", section.name);
  return {};
}

}  // namespace

std::vector<std::byte> encode_sections(const Snapshot& snapshot, std::span<const Section<StateWriter>> sections) {
  std::vector<std::byte> bytes;
  append(bytes, StateHeader{.section_count = static_cast<std::uint32_t>(sections.size())});
  for (const Section<StateWriter>& section : sections) {
    StateWriter writer;
    section.visit_in(writer, const_cast<Snapshot&>(snapshot));  // a writer changes nothing; visit() is one for both
    const std::vector<std::byte> content = std::move(writer).take();
    SectionHeader header{.version = section.version,
                         .flags = section.older_may_skip ? kOptional : std::uint16_t{0},
                         .length = content.size(),
                         .checksum = checksum(content)};
    std::ranges::copy(section.name, header.name.begin());
    append(bytes, header);
    bytes.insert(bytes.end(), content.begin(), content.end());
  }
  append(bytes, checksum(bytes));
  return bytes;
}

std::vector<std::byte> encode_snapshot(const Snapshot& snapshot) {
  return encode_sections(snapshot, kSections<StateWriter>);
}

Result<std::vector<std::byte>> encode_loadable(const Snapshot& snapshot) {
  std::vector<std::byte> bytes = encode_snapshot(snapshot);
  const auto refuse = [](std::string_view why) {
    return fail(ErrorKind::State, "no snapshot is taken, since Mayfly {} could not load it: {}", MAYFLY_VERSION, why);
  };
  if (bytes.size() > kLargestStateFile)
    return refuse(fmt::format("its state has {} bytes, and {} is the most", bytes.size(), kLargestStateFile));
  if (auto decoded = decode_snapshot(bytes); !decoded) return refuse(decoded.error().message);
  return bytes;
}

Result<Snapshot> decode_sections(std::span<const std::byte> bytes, std::span<const Section<StateReader>> sections) {
  std::span<const std::byte> input = bytes;
  const auto header = take<StateHeader>(input);
  if (!header || header->magic != kStateFileMagic)
    return fail(ErrorKind::InvalidArgument, "it is not a state file of Mayfly: give the snapshot_path of a snapshot");
  if (header->format != kStateFormatVersion)
    return fail(ErrorKind::Unsupported,
                "it has format {}, and Mayfly {} reads format {}: a newer one wrote it; restore it with that",
                header->format, MAYFLY_VERSION, kStateFormatVersion);
  if (input.size() < sizeof(std::uint64_t)) return cut_short();
  std::span<const std::byte> end = input.last(sizeof(std::uint64_t));
  input = input.first(input.size() - sizeof(std::uint64_t));
  const bool intact = *take<std::uint64_t>(end) == checksum(bytes.first(bytes.size() - sizeof(std::uint64_t)));

  Snapshot snapshot;
  std::vector<std::string_view> seen;
  for (std::uint32_t i = 0; i < header->section_count; ++i) {
    const auto section = take<SectionHeader>(input);
    if (!section || section->length > input.size()) return cut_short();
    const std::span<const std::byte> content = input.first(section->length);
    input = input.subspan(section->length);
    if (section->checksum != checksum(content))
      return fail(ErrorKind::InvalidArgument, "section '{}' has changed since it was written: its checksum is wrong",
                  name_in(*section));
    if (!intact) continue;  // said below, unless a section can be named
    auto read = read_section(*section, content, sections, snapshot);
    if (!read) return propagate(read);
    if (*read == nullptr) continue;
    if (std::ranges::find(seen, (*read)->name) != seen.end())
      return fail(ErrorKind::InvalidArgument, "section '{}' is there twice", (*read)->name);
    seen.push_back((*read)->name);
  }
  if (!intact)
    return fail(ErrorKind::InvalidArgument, "the file has changed since it was written: its checksum is wrong");
  if (!input.empty()) return fail(ErrorKind::InvalidArgument, "{} bytes follow its last section", input.size());
  if (auto complete = check_complete(sections, seen); !complete) return propagate(complete);
  if (auto checked = check_snapshot(snapshot); !checked) return propagate(checked);
  return snapshot;
}

Result<Snapshot> decode_snapshot(std::span<const std::byte> bytes) {
  return decode_sections(bytes, kSections<StateReader>);
}

Result<Snapshot> read_state_file(const std::string& path) {
  auto bytes = read_small_file(path, {.field = "snapshot_path", .noun = "state file", .limit = kLargestStateFile});
  if (!bytes) return propagate(bytes);
  auto snapshot = decode_snapshot(*bytes);
  if (!snapshot) return propagate(snapshot, "snapshot_path " + path);
  return snapshot;
}

}  // namespace mayfly
