// What can stand behind the RAM of a memory file: any footer and any table, whose checksums are made right. They are
// found, read, verified, merged, and mapped over a base; whatever it is, nothing crashes, and a chain shows what its
// files merge to.
//
// An input is a byte of plan, then what follows the RAM of a file of 1 MiB. The base of the merging is always the same.

#include "snapshot/checksum.h"
#include "snapshot/memory_chain.h"
#include "tests/fuzz/must.h"
#include "tests/support/on_worker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

namespace mayfly {
namespace {

constexpr std::uint64_t kSize = kMiB;

/// How an input begins: bits.
constexpr std::uint8_t kRepairFooter = 1;
constexpr std::uint8_t kRepairTable = 2;
constexpr std::uint8_t kRepairStretches = 4;
constexpr std::uint8_t kMerge = 8;
constexpr std::uint8_t kChain = 16;
constexpr std::uint8_t kChainOfThree = 32;

class World {
 public:
  World() {
    auto memory = must(GuestMemory::create({.size_mib = 1}));
    for (std::uint64_t page = 0; page < 256; page += 40)
      must(memory.store(GuestAddress{page * kGuestPageSize}, page + 1));
    const auto loop = must(EventLoop::create());
    // All of one id, so that whatever the input says, it may lie over each of them.
    for (const auto& [path, kind] :
         {std::pair{base_, MemoryFileKind::Full}, std::pair{middle_, MemoryFileKind::Diff}}) {
      const OwnedFd file = open(path);
      must(testing::on_worker(*loop, [&] {
             return write_memory_file({.loop = *loop, .memory = memory}, file, path,
                                      {.kind = kind, .id = {}, .pages = must(touched_pages(memory))});
           }).has_value());
      must(memory.store(GuestAddress{20 * kGuestPageSize}, 7));
      must(memory.store(GuestAddress{41 * kGuestPageSize}, 8));
    }
    loop->close();
  }
  ~World() { std::filesystem::remove_all(directory_); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void play(std::span<const std::uint8_t> input) {
    if (input.empty()) return;
    const std::uint8_t plan = input.front();
    std::vector<std::byte> end{std::as_bytes(input.subspan(1)).begin(), std::as_bytes(input.subspan(1)).end()};
    repair(end, plan);
    const OwnedFd file = open(diff_);
    must(::ftruncate(file.get(), kSize) == 0);
    must(::pwrite(file.get(), end.data(), end.size(), kSize) == static_cast<ssize_t>(end.size()));
    if (auto footer = find_footer(file.get(), diff_)) look_at(file.get(), *footer);
    if (auto footer = read_footer(file.get(), diff_, kSize)) look_at(file.get(), *footer);
    if ((plan & kMerge) != 0) merge({&diff_, 1});
    if ((plan & kChain) != 0) chain({base_, diff_});
    if ((plan & kChainOfThree) != 0) chain({base_, middle_, diff_});
  }

 private:
  static OwnedFd open(const std::string& path) {
    OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    must(static_cast<bool>(file));
    return file;
  }
  /// Makes checksums right, of what is there.
  static void repair(std::span<std::byte> end, std::uint8_t plan) {
    if (end.size() < sizeof(MemoryFileFooter)) return;
    MemoryFileFooter footer;
    std::memcpy(static_cast<void*>(&footer), end.data(), sizeof footer);
    if (end.size() > kFooterRoom) {
      const auto table = end.subspan(kFooterRoom);
      const std::size_t count = std::min<std::uint64_t>(footer.stretch_count, table.size() / sizeof(MemoryStretch));
      // The file that is looked at is all zeros.
      static const std::vector<std::byte> zeros(kLongestStretch);
      for (std::size_t i = 0; i < count && (plan & kRepairStretches) != 0; ++i) {
        MemoryStretch stretch;
        std::memcpy(&stretch, &table[i * sizeof stretch], sizeof stretch);
        stretch.checksum = checksum(std::span{zeros}.first(std::min(stretch.range.length, kLongestStretch)));
        std::memcpy(&table[i * sizeof stretch], &stretch, sizeof stretch);
      }
      if ((plan & kRepairTable) != 0) footer.table_checksum = checksum(table.first(count * sizeof(MemoryStretch)));
    }
    if ((plan & kRepairFooter) != 0)
      footer.checksum = checksum(std::as_bytes(std::span{&footer, 1}).first(offsetof(MemoryFileFooter, checksum)));
    std::memcpy(end.data(), &footer, sizeof footer);
  }
  void look_at(int file, const MemoryFileFooter& footer) const {
    must(footer.memory_size == kSize);
    const auto stretches = read_stretches(file, diff_, footer);
    if (!stretches) return;
    must(stretches->size() <= kSize / kGuestPageSize);
    static_cast<void>(verify_stretches(file, diff_, *stretches));
  }
  bool merge(std::span<const std::string> diffs) const {
    if (!merge_memory_files(base_, diffs, output_)) return false;
    const OwnedFd file{::open(output_.c_str(), O_RDONLY | O_CLOEXEC)};
    const auto footer = must(find_footer(file.get(), output_));
    must(verify_stretches(file.get(), output_, must(read_stretches(file.get(), output_, footer))).has_value());
    return true;
  }
  /// Loads the files in layers; where they merge, both are the same.
  void chain(const std::vector<std::string>& paths) const {
    auto layers = open_memory_chain(paths, {.top = std::nullopt, .memory_size = kSize});
    if (!layers) return;
    const auto top = layers->back().footer.id;
    const MemoryLayers shown = layers_of(std::move(*layers));
    std::uint64_t end = 0;
    for (const MemoryLayers::Part& part : shown.parts) {
      must(part.offset >= end && part.length > 0 && part.end() <= kSize && part.file > 0 && part.file < paths.size());
      end = part.end();
    }
    const auto mapped = must(GuestMemory::map({.size_mib = 1}, shown));
    const auto copied = must(GuestMemory::map({.size_mib = 1}, shown, shown.parts.size() / 2));
    const auto bytes = *mapped.bytes(GuestAddress{0}, kSize);
    must(std::ranges::equal(bytes, *copied.bytes(GuestAddress{0}, kSize)));
    if (!merge(std::span{paths}.subspan(1))) return;
    const auto merged = must(GuestMemory::map({.size_mib = 1}, must(open_memory_file(output_, top, kSize))));
    must(std::ranges::equal(bytes, *merged.bytes(GuestAddress{0}, kSize)));
  }

  static std::string make_directory() {
    std::string name = "/dev/shm/memory_file_fuzz.XXXXXX";  // where syncing costs nothing
    must(::mkdtemp(name.data()) != nullptr);
    return name;
  }

  std::string directory_ = make_directory();
  std::string base_ = directory_ + "/base";
  std::string middle_ = directory_ + "/middle";
  std::string diff_ = directory_ + "/diff";
  std::string output_ = directory_ + "/output";
};

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static mayfly::World world;
  world.play({data, size});
  return 0;
}
