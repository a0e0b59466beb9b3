#include "snapshot/state_file.h"

#include "snapshot/sections.h"
#include "snapshot/visit.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/snapshot/filled_snapshot.h"
#include "tests/unit/snapshot/state_file_parts.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::filled_snapshot;
using testing::StateSection;

using Bytes = std::vector<std::byte>;

/// What is said of a file; empty where it is taken.
std::string refusal_of(std::span<const std::byte> file) {
  const auto decoded = decode_snapshot(file);
  return decoded ? "" : decoded.error().message;
}

/// The sections of the filled snapshot.
std::vector<StateSection> good_sections() { return testing::sections_of(encode_snapshot(filled_snapshot())); }

StateSection& section(std::vector<StateSection>& sections, std::string_view name) {
  return *std::ranges::find(sections, name, &StateSection::name);
}

/// What is said of a snapshot that `change` was made to.
template <typename Change>
std::string refusal_with(Change change) {
  Snapshot snapshot = filled_snapshot();
  change(snapshot);
  return refusal_of(encode_snapshot(snapshot));
}

// --- Good files ------------------------------------------------------------------------------------------------------

TEST(StateFile, GivesBackEveryFieldOfASnapshot) {
  const Snapshot saved = filled_snapshot();
  const Bytes file = encode_snapshot(saved);
  const auto read = decode_snapshot(file);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(encode_snapshot(*read), file);
  EXPECT_EQ(read->id, saved.id);
  EXPECT_EQ(read->producer, "0.1.0");
  EXPECT_EQ(read->host, saved.host);
  EXPECT_EQ(read->machine.vcpu_count, 2U);
  EXPECT_EQ(read->boot_source->boot_args, saved.boot_source->boot_args);
  EXPECT_EQ(read->mmds, saved.mmds);
  EXPECT_EQ(read->clock.guest_ns, saved.clock.guest_ns);
  ASSERT_EQ(read->vcpus.size(), 2U);
  EXPECT_EQ(read->vcpus[1].xsave, saved.vcpus[1].xsave);
  EXPECT_EQ(read->vcpus[1].regs.rip, saved.vcpus[1].regs.rip);
  EXPECT_EQ(read->vcpus[1].msrs.back().data, saved.vcpus[1].msrs.back().data);
  EXPECT_EQ(read->platform.ioapic, saved.platform.ioapic);
  EXPECT_EQ(read->platform.pic, saved.platform.pic);
  EXPECT_EQ(read->platform.pit, saved.platform.pit);
  EXPECT_EQ(read->platform.serial, saved.platform.serial);
  EXPECT_EQ(read->platform.i8042, saved.platform.i8042);
  ASSERT_EQ(read->drives.size(), 2U);
  EXPECT_EQ(read->drives[1].transport, saved.drives[1].transport);
  EXPECT_EQ(read->drives[1].device, saved.drives[1].device);
  ASSERT_EQ(read->network_interfaces.size(), 2U);
  EXPECT_EQ(read->network_interfaces[1].config.guest_mac, saved.network_interfaces[1].config.guest_mac);
  EXPECT_EQ(read->network_interfaces[1].transport, saved.network_interfaces[1].transport);
  EXPECT_EQ(read->network_interfaces[1].device, saved.network_interfaces[1].device);
}

TEST(StateFile, ASmallestMachineComesBackAsItWas) {
  Snapshot least;
  least.vcpus.resize(1);
  const Bytes file = encode_snapshot(least);
  const auto read = decode_snapshot(file);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(encode_snapshot(*read), file);
  EXPECT_FALSE(read->cpu);
  EXPECT_FALSE(read->boot_source);
  EXPECT_FALSE(read->mmds);
}

TEST(StateFile, IsWhatItsDescriptionSays) {
  EXPECT_EQ(testing::state_file_of(good_sections()), encode_snapshot(filled_snapshot()));
}

// --- Damage ----------------------------------------------------------------------------------------------------------

TEST(StateFile, EveryTruncationIsRefused) {
  const Bytes file = encode_snapshot(filled_snapshot());
  for (std::size_t length = 0; length < file.size(); ++length)
    ASSERT_NE(refusal_of(std::span{file}.first(length)), "") << length << " of " << file.size();
  EXPECT_EQ(refusal_of({}), "it is not a state file of Mayfly: give the snapshot_path of a snapshot");
  EXPECT_EQ(refusal_of(std::span{file}.first(16)), "the file ends too early: it was not written or copied whole");
}

TEST(StateFile, EveryFlippedBitIsRefused) {
  Bytes file = encode_snapshot(filled_snapshot());
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1U << bit % 8);
    file[bit / 8] ^= mask;
    ASSERT_NE(refusal_of(file), "") << "bit " << bit;
    file[bit / 8] ^= mask;
  }
}

TEST(StateFile, DamageIsToldWithItsSection) {
  Bytes file = encode_snapshot(filled_snapshot());
  const std::size_t first_section = 16 + 40;
  file[first_section] ^= std::byte{1};
  EXPECT_EQ(refusal_of(file), "section 'identity' has changed since it was written: its checksum is wrong");
  file[first_section] ^= std::byte{1};
  file.back() ^= std::byte{1};
  EXPECT_EQ(refusal_of(file), "the file has changed since it was written: its checksum is wrong");
}

TEST(StateFile, WhatFollowsTheLastSectionIsRefused) {
  auto sections = good_sections();
  Bytes file = testing::state_file_of(sections);
  file.resize(file.size() + 3);
  EXPECT_EQ(refusal_of(file), "the file has changed since it was written: its checksum is wrong");
  testing::repair_state_file(file);
  EXPECT_EQ(refusal_of(file), "3 bytes follow its last section");
}

TEST(StateFile, ASectionThatIsMissingTwiceThereOrTooLongIsNamed) {
  auto sections = good_sections();
  const StateSection clock = section(sections, "clock");
  sections.push_back(clock);
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "section 'clock' is there twice");
  std::erase_if(sections, [](const StateSection& each) { return each.name == "clock"; });
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "section 'clock' is missing");
  sections.push_back(clock);
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "") << "their order does not matter";
  sections.back().content.resize(clock.content.size() + 5);
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "section 'clock' is damaged: 5 bytes follow its last field");
  sections.back().content.resize(clock.content.size() - 1);
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "section 'clock' is damaged at field 'realtime_ns'");
}

TEST(StateFile, CountsThatLieAreRefusedAndCostNoMemory) {
  // The first of each section's lists: a count of 32 bits at its beginning.
  for (const auto& [name, field] :
       {std::pair{"vcpus", ""}, std::pair{"drives", ""}, std::pair{"networks", ""}, std::pair{"identity", "producer"}})
    for (const std::uint32_t count : {3U, 0xFFFFU, 1U << 24, ~0U}) {
      auto sections = good_sections();
      auto& content = section(sections, name).content;
      testing::put_number(content, field == std::string_view{"producer"} ? 16 : 0, count);
      const std::string refused = refusal_of(testing::state_file_of(sections));
      EXPECT_TRUE(refused.starts_with(fmt::format("section '{}' is damaged", name))) << refused;
    }
}

TEST(StateFile, EverySectionCutAnywhereIsRefusedThoughItsChecksumsAreRight) {
  const auto sections = good_sections();
  for (std::size_t i = 0; i < sections.size(); ++i)
    for (std::size_t length = 0; length < sections[i].content.size(); length += 1 + length / 64) {
      auto cut = sections;
      cut[i].content.resize(length);
      const std::string refused = refusal_of(testing::state_file_of(cut));
      ASSERT_TRUE(refused.starts_with(fmt::format("section '{}' is damaged at field '", cut[i].name)))
          << cut[i].name << ' ' << length << ": " << refused;
    }
}

// --- Other versions --------------------------------------------------------------------------------------------------

TEST(StateFile, ASectionThatIsNotKnownIsSkippedWhereItMayBe) {
  auto sections = good_sections();
  sections.insert(sections.begin() + 2,
                  {.name = "dreams", .version = 7, .flags = 1, .content = Bytes(100, std::byte{5})});
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "");
  sections[2].flags = 0;
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "section 'dreams' is not known to Mayfly " MAYFLY_VERSION
                                                          ": a newer one wrote the file; restore it with that");
}

TEST(StateFile, ANameOfAllItsRoomIsNoOverrun) {
  auto sections = good_sections();
  sections.push_back({.name = std::string(20, 'x'), .version = 1, .flags = 1, .content = {}});
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)), "");
}

TEST(StateFile, ANewerVersionIsRefusedAsSuch) {
  auto sections = good_sections();
  section(sections, "vcpus").version = 2;
  EXPECT_EQ(refusal_of(testing::state_file_of(sections)),
            "section 'vcpus' has version 2, and Mayfly " MAYFLY_VERSION
            " knows up to 1: a newer one wrote the file; restore it with that");
  EXPECT_EQ(refusal_of(testing::state_file_of(good_sections(), 2)),
            "it has format 2, and Mayfly " MAYFLY_VERSION
            " reads format 1: a newer one wrote it; restore it with that");
}

/// A section that a later release might add.
template <typename Archive>
Section<Archive> later_section(std::string_view name) {
  return {.name = name,
          .version = 1,
          .visit_in = [](Archive& archive, Snapshot& snapshot) { archive.field("guest_ns", snapshot.clock.guest_ns); },
          .absent_is_default = true};
}

/// This release's sections and one more.
template <typename Archive>
std::vector<Section<Archive>> later_sections() {
  std::vector<Section<Archive>> sections{kSections<Archive>.begin(), kSections<Archive>.end()};
  sections.push_back(later_section<Archive>("dreams"));
  return sections;
}

TEST(StateFile, ALaterReleaseReadsAFileThatLacksASectionOfItsOwn) {
  const auto sections = later_sections<StateReader>();
  const auto read = decode_sections(encode_snapshot(filled_snapshot()), sections);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(encode_snapshot(*read), encode_snapshot(filled_snapshot()));
}

TEST(StateFile, WhatAnAbsentSectionFillsKeepsItsDefault) {
  auto sections = std::vector(kSections<StateReader>.begin(), kSections<StateReader>.end());
  auto& networks = *std::ranges::find(sections, "networks", &Section<StateReader>::name);
  networks.absent_is_default = true;
  Snapshot without = filled_snapshot();
  without.mmds.reset();  // it names interfaces
  without.channels.clear();
  auto parts = testing::sections_of(encode_snapshot(without));
  std::erase_if(parts, [](const StateSection& each) { return each.name == "networks"; });
  const auto read = decode_sections(testing::state_file_of(parts), sections);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(read->network_interfaces.empty());
  EXPECT_EQ(read->drives.size(), without.drives.size());
  std::erase_if(parts, [](const StateSection& each) { return each.name == "drives"; });
  const auto refused = decode_sections(testing::state_file_of(parts), sections);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "section 'drives' is missing");
}

TEST(StateFile, WhatAnEarlierReleaseMaySkipIsWrittenAsSuch) {
  auto sections = later_sections<StateWriter>();
  EXPECT_EQ(refusal_of(encode_sections(filled_snapshot(), sections)),
            "section 'dreams' is not known to Mayfly " MAYFLY_VERSION
            ": a newer one wrote the file; restore it with that");
  sections.back().older_may_skip = true;
  EXPECT_EQ(refusal_of(encode_sections(filled_snapshot(), sections)), "");
}

TEST(StateFile, WhichSectionsMayBeAbsentIsWhatTheTableSays) {
  for (const Section<StateReader>& each : kSections<StateReader>) {
    auto parts = good_sections();
    std::erase_if(parts, [&](const StateSection& part) { return part.name == each.name; });
    const std::string refused = refusal_of(testing::state_file_of(parts));
    EXPECT_EQ(refused, each.absent_is_default ? "" : fmt::format("section '{}' is missing", each.name));
  }
}

// --- Values that no machine has --------------------------------------------------------------------------------------

TEST(StateFile, AMachineThatCannotBeIsRefused) {
  const auto impossible = [](std::string_view what) {
    return fmt::format("{}: no machine has that, so the file is damaged", what);
  };
  EXPECT_EQ(refusal_with([](Snapshot& s) { s.machine.vcpu_count = 0; }), impossible("the number of vCPUs"));
  EXPECT_EQ(refusal_with([](Snapshot& s) { s.machine.vcpu_count = 1; }), impossible("the number of vCPUs"));
  EXPECT_EQ(refusal_with([](Snapshot& s) {
              s.vcpus.resize(33);
              s.machine.vcpu_count = 33;
            }),
            impossible("the number of vCPUs"));
  EXPECT_NE(refusal_with([](Snapshot& s) { s.machine.mem_size_mib = 0; }).find("mem_size_mib is 0"), std::string::npos);
  EXPECT_NE(refusal_with([](Snapshot& s) { s.machine.mem_size_mib = ~0ULL; }).find("mem_size_mib is "),
            std::string::npos);
}

TEST(StateFile, APlatformThatCannotBeIsRefused) {
  const auto refused = [](auto change) { return refusal_with([&](Snapshot& snapshot) { change(snapshot.platform); }); };
  EXPECT_NE(refused([](PlatformState& p) { p.pit.channels[1].cycle = 65'537; }), "");
  EXPECT_NE(refused([](PlatformState& p) { p.pit.channels[2].cycle = 0; }), "") << "counting";
  EXPECT_NE(refused([](PlatformState& p) { p.pit.channels[0].latched_bytes = 3; }), "");
  EXPECT_NE(refused([](PlatformState& p) { p.serial.received_count = kSerialFifoSize + 1; }), "");
  EXPECT_NE(refused([](PlatformState& p) { p.i8042.answers.count = I8042Queue::kCapacity + 1; }), "");
  EXPECT_NE(refused([](PlatformState& p) { p.i8042.keys.count = 255; }), "");
  EXPECT_NE(refused([](PlatformState& p) { p.pic.chips[1].awaited_word = 1; }), "");
  EXPECT_NE(refused([](PlatformState& p) { p.pic.chips[0].awaited_word = 5; }), "");
}

TEST(StateFile, DevicesThatCannotBeAreRefused) {
  EXPECT_NE(refusal_with([](Snapshot& s) { s.drives.resize(kMaximumVirtioDevices, s.drives.front()); }), "");
  EXPECT_NE(refusal_with([](Snapshot& s) { s.drives[0].config.drive_id = "../x"; }), "");
  EXPECT_NE(refusal_with([](Snapshot& s) { s.network_interfaces[1].config.iface_id = ""; }), "");
  EXPECT_NE(refusal_with([](Snapshot& s) { s.network_interfaces[0].device.receive_heads.resize(257); }), "");
  EXPECT_NE(refusal_with([](Snapshot& s) { s.mmds->network_interfaces.clear(); }), "");
  EXPECT_NE(refusal_with([](Snapshot& s) { s.mmds->network_interfaces[1] = "eth2"; }), "");
  EXPECT_NE(refusal_with([](Snapshot& s) { s.mmds->ipv4_address = {10, 0, 0, 1}; }), "");
}

// --- Values that a machine has
// -----------------------------------------------------------------------------------------

TEST(StateFile, WhatCouldNotBeLoadedIsNotEncoded) {
  const auto good = encode_loadable(filled_snapshot());
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_EQ(*good, encode_snapshot(filled_snapshot()));
  Snapshot impossible = filled_snapshot();
  impossible.platform.pit.channels[0].latched_bytes = 3;
  const auto refused = encode_loadable(impossible);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "no snapshot is taken, since Mayfly " MAYFLY_VERSION
                                     " could not load it: the PIT's channels: no machine has that, so the file is "
                                     "damaged");
  Snapshot large = filled_snapshot();
  large.vcpus[0].xsave.resize(kLargestStateFile);
  const auto too_large = encode_loadable(large);
  ASSERT_FALSE(too_large);
  EXPECT_NE(too_large.error().message.find("16777216 is the most"), std::string::npos) << too_large.error().message;
}

TEST(StateFile, AnyLimitThatAUserMaySetIsRead) {
  const auto limits = [](std::uint64_t number) {
    const TokenBucketConfig bucket{.size = number, .refill_time_ms = number, .one_time_burst = number};
    return RateLimiterConfig{.bandwidth = bucket, .ops = bucket};
  };
  for (const std::uint64_t number :
       {std::uint64_t{0}, std::uint64_t{1} << 41, std::uint64_t{INT64_MAX}, ~std::uint64_t{0}}) {
    EXPECT_EQ(refusal_with([&](Snapshot& s) {
                s.drives[0].config.rate_limiter = limits(number);
                s.network_interfaces[0].config.rx_rate_limiter = limits(number);
                s.network_interfaces[1].config.tx_rate_limiter = limits(number);
              }),
              "")
        << number;
  }
}

// --- Files -----------------------------------------------------------------------------------------------------------

std::string refusal_of_file(const std::string& path) {
  const auto read = read_state_file(path);
  return read ? "" : read.error().message;
}

std::string_view text_of(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

TEST(StateFile, IsReadFromAFile) {
  const testing::ScratchDirectory scratch;
  const std::string path =
      testing::make_file(scratch.file("state"), std::string{text_of(encode_snapshot(filled_snapshot()))});
  const auto read = read_state_file(path);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->id, filled_snapshot().id);
  testing::make_file(path, "not a snapshot, but long enough to be looked at");
  EXPECT_EQ(refusal_of_file(path),
            "snapshot_path " + path + ": it is not a state file of Mayfly: give the snapshot_path of a snapshot");
}

TEST(StateFile, WhatIsNoReadableFileIsRefusedWithoutWaiting) {
  const testing::ScratchDirectory scratch;
  const std::string missing = scratch.file("missing");
  EXPECT_EQ(refusal_of_file(missing),
            "snapshot_path " + missing + " cannot be opened: No such file or directory (ENOENT)");
  const std::string directory = missing.substr(0, missing.rfind('/'));
  EXPECT_EQ(refusal_of_file(directory),
            "snapshot_path " + directory + " is not a regular file; give a snapshot's state file");
  const std::string fifo = scratch.file("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(refusal_of_file(fifo), "snapshot_path " + fifo + " is not a regular file; give a snapshot's state file");
  EXPECT_EQ(refusal_of_file(testing::make_file(scratch.file("empty"), "")),
            "snapshot_path " + scratch.file("empty") +
                ": it is not a state file of Mayfly: give the snapshot_path of a snapshot");
}

TEST(StateFile, AFileThatIsTooLargeIsRefusedUnread) {
  const testing::ScratchDirectory scratch;
  const std::string path = testing::make_file(scratch.file("memory"), "");
  ASSERT_EQ(::truncate(path.c_str(), off_t{1} << 40), 0);
  EXPECT_EQ(refusal_of_file(path),
            "snapshot_path " + path + " has 1099511627776 bytes, more than any state file; is it the memory file?");
}

TEST(StateFile, NoDescriptorStaysOpen) {
  const testing::ScratchDirectory scratch;
  const std::string path = testing::make_file(scratch.file("state"), "x");
  const std::size_t before = testing::open_descriptors();
  EXPECT_FALSE(read_state_file(path));
  EXPECT_FALSE(read_state_file(scratch.file("")));
  EXPECT_EQ(testing::open_descriptors(), before);
}

/// A drive's configuration as version 1 of its section had it.
Bytes drive_of_version_1(DriveConfig drive) {
  StateWriter writer;
  writer.field("drive_id", drive.drive_id);
  writer.field("path_on_host", drive.path_on_host);
  writer.field("is_root_device", drive.is_root_device);
  writer.field("is_read_only", drive.is_read_only);
  writer.field("partuuid", drive.partuuid);
  writer.field("cache_type", drive.cache_type);
  writer.field("io_engine", drive.io_engine);
  writer.field("direct", drive.direct);
  writer.field("rate_limiter", drive.rate_limiter);
  return std::move(writer).take();
}

TEST(StateFile, ADriveOfVersion1OffersDiscardAsItDidThen) {
  for (const bool read_only : {false, true}) {
    const Bytes bytes = drive_of_version_1({.drive_id = "data", .path_on_host = "/d", .is_read_only = read_only});
    StateReader reader{bytes, 1};
    DriveConfig drive;
    visit(reader, drive);
    EXPECT_FALSE(reader.failed());
    EXPECT_EQ(reader.left(), 0U);
    EXPECT_EQ(drive.path_on_host, "/d");
    EXPECT_EQ(drive.discard, read_only ? Discard::Ignore : Discard::Unmap);
  }
}

TEST(StateFile, KeepsWhatADriveOffersAndWhatItLost) {
  Snapshot snapshot = filled_snapshot();
  for (const auto discard : {Discard::Ignore, Discard::Unmap})
    for (const bool lost : {false, true}) {
      snapshot.drives[0].config.discard = discard;
      snapshot.drives[0].device.lost_writes = lost;
      const auto read = decode_snapshot(encode_snapshot(snapshot));
      ASSERT_TRUE(read) << read.error().message;
      EXPECT_EQ(read->drives[0].config.discard, discard);
      EXPECT_EQ(read->drives[0].device.lost_writes, lost);
    }
}

}  // namespace
}  // namespace mayfly
