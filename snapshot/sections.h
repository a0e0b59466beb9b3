#pragma once

#include "snapshot/visit.h"

#include <array>
#include <cstdint>
#include <string_view>

/// The sections of a state file, in their order. Whoever goes through them sees all of a snapshot.
namespace mayfly {

/// A section: its name, its newest version, and what of the snapshot is in it.
template <typename Archive>
struct Section {
  std::string_view name;
  std::uint16_t version;
  void (*visit_in)(Archive& archive, Snapshot& snapshot);
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
    Section<Archive>{"platform", 1,
                     [](Archive& archive, Snapshot& snapshot) { archive.field("platform", snapshot.platform); }},
    Section<Archive>{"drives", 1,
                     [](Archive& archive, Snapshot& snapshot) { archive.field("drives", snapshot.drives); }},
    Section<Archive>{
        "networks", 1,
        [](Archive& archive, Snapshot& snapshot) { archive.field("network_interfaces", snapshot.network_interfaces); }},
};

}  // namespace mayfly
