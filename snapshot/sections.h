#pragma once

#include "snapshot/visit.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

/// The sections of a state file, in their order. Together they are all of a snapshot.
///
/// To add one (a new kind of device): a row at the end of kSections with `absent_is_default`, since the files of every
/// release before lack it. Add `older_may_skip` if a machine works on without it; otherwise earlier releases refuse the
/// file with a sentence.
namespace mayfly {

/// A section: its name, its newest version, and what of the snapshot is in it.
template <typename Archive>
struct Section {
  std::string_view name;
  std::uint16_t version;
  void (*visit_in)(Archive& archive, Snapshot& snapshot);
  bool absent_is_default = false;  ///< Where a file lacks it, what it fills stays as a Snapshot is made.
  bool older_may_skip = false;     ///< A release that does not know it may go on without (kOptional on disk).
};

template <typename Archive>
inline constexpr std::array kSections = {
    Section<Archive>{"identity", 1,
                     [](Archive& archive, Snapshot& snapshot) {
                       archive.field("id", snapshot.id);
                       archive.field("producer", snapshot.producer);
                       archive.field("host", snapshot.host);
                     }},
    Section<Archive>{"configuration", 2,
                     [](Archive& archive, Snapshot& snapshot) {
                       archive.field("machine", snapshot.machine);
                       archive.field("cpu", snapshot.cpu);
                       archive.field("boot_source", snapshot.boot_source);
                       if (archive.since(2)) archive.field("mmds", snapshot.mmds);
                     }},
    Section<Archive>{"clock", 1, [](Archive& archive, Snapshot& snapshot) { archive.field("clock", snapshot.clock); }},
    Section<Archive>{"vcpus", 1, [](Archive& archive, Snapshot& snapshot) { archive.field("vcpus", snapshot.vcpus); }},
    Section<Archive>{"platform", 2,
                     [](Archive& archive, Snapshot& snapshot) { archive.field("platform", snapshot.platform); }},
    Section<Archive>{"drives", 3,
                     [](Archive& archive, Snapshot& snapshot) { archive.field("drives", snapshot.drives); }},
    Section<Archive>{
        "networks", 2,
        [](Archive& archive, Snapshot& snapshot) { archive.field("network_interfaces", snapshot.network_interfaces); }},
    Section<Archive>{
        .name = "host kernel",
        .version = 1,
        .visit_in = [](Archive& archive, Snapshot& snapshot) { archive.field("host_kernel", snapshot.host.kernel); },
        .absent_is_default = true,
        .older_may_skip = true},
    Section<Archive>{.name = "channels",
                     .version = 1,
                     .visit_in =
                         [](Archive& archive, Snapshot& snapshot) {
                           archive.field("channels", snapshot.channels);
                           // Of each interface, but whole without the section that has those.
                           std::vector<std::vector<StreamEnd>> streams;
                           streams.reserve(snapshot.network_interfaces.size());
                           for (NetworkInterfaceState& interface : snapshot.network_interfaces)
                             streams.push_back(interface.device.streams);
                           archive.field("streams", streams);
                           streams.resize(snapshot.network_interfaces.size());
                           for (std::size_t i = 0; i < streams.size(); ++i)
                             snapshot.network_interfaces[i].device.streams = std::move(streams[i]);
                         },
                     .absent_is_default = true,
                     .older_may_skip = true},
};

/// encode_snapshot() and decode_snapshot() of other sections than kSections: as a later release has them, for tests.
[[nodiscard]] std::vector<std::byte> encode_sections(const Snapshot& snapshot,
                                                     std::span<const Section<StateWriter>> sections);
[[nodiscard]] Result<Snapshot> decode_sections(std::span<const std::byte> bytes,
                                               std::span<const Section<StateReader>> sections);

}  // namespace mayfly
