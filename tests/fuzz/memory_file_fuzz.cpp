// What can stand in the label of a memory file, or behind its RAM: any footers and any table, whose checksums are made
// right. They are found, read, verified, merged, and mapped over a base; whatever it is, nothing crashes, and a chain
// shows what its files merge to.
//
// An input is a byte of plan, then what follows the RAM of a file of 1 MiB; or, with kInLabel, a byte that says which of
// the label's footers there are, these, and the label's table. The base of the merging is always the same.

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
constexpr std::uint8_t kInLabel = 64;
constexpr std::uint8_t kLabelIsOneDiff = 128;  // with kInLabel: the diff's footer is where its id wants it

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
    const auto rest = std::as_bytes(input.subspan(1));
    const OwnedFd file = open(diff_);
    must(::ftruncate(file.get(), kSize) == 0);
    if ((plan & kInLabel) != 0)
      put_label(file.get(), rest, plan);
    else
      put_end(file.get(), rest, plan);
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
  static void put(int file, std::span<const std::byte> bytes, std::uint64_t at) {
    must(::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(bytes.size()));
  }
  /// Makes the checksums of stretches right, of what is there: the file that is looked at is all zeros. `Stretch` is one
  /// in a table; the number of those whole.
  template <typename Stretch, typename LengthOf>
  static std::size_t repair_table(std::span<std::byte> table, std::uint64_t count, std::uint8_t plan, LengthOf length) {
    static const std::vector<std::byte> zeros(kWrittenAtOnce);
    const std::size_t whole = std::min<std::uint64_t>(count, table.size() / sizeof(Stretch));
    for (std::size_t i = 0; i < whole && (plan & kRepairStretches) != 0; ++i) {
      Stretch stretch;
      std::memcpy(&stretch, &table[i * sizeof stretch], sizeof stretch);
      stretch.checksum = checksum(std::span{zeros}.first(std::min<std::uint64_t>(length(stretch), kWrittenAtOnce)));
      std::memcpy(&table[i * sizeof stretch], &stretch, sizeof stretch);
    }
    return whole;
  }
  static void repair_footer(MemoryFileFooter& footer, std::span<const std::byte> table, std::uint8_t plan) {
    if ((plan & kRepairTable) != 0) footer.table_checksum = checksum(table);
    if ((plan & kRepairFooter) != 0)
      footer.checksum = checksum(std::as_bytes(std::span{&footer, 1}).first(offsetof(MemoryFileFooter, checksum)));
  }
  /// As releases before the label wrote it, and as tables are that have no room in it.
  static void put_end(int file, std::span<const std::byte> input, std::uint8_t plan) {
    std::vector<std::byte> end{input.begin(), input.end()};
    if (end.size() >= sizeof(MemoryFileFooter)) {
      MemoryFileFooter footer;
      std::memcpy(static_cast<void*>(&footer), end.data(), sizeof footer);
      const auto table = std::span{end}.subspan(std::min<std::size_t>(end.size(), kFooterRoom));
      const auto length = [](const MemoryStretch& stretch) { return stretch.range.length; };
      const auto count = repair_table<MemoryStretch>(table, footer.stretch_count, plan, length);
      repair_footer(footer, table.first(count * sizeof(MemoryStretch)), plan);
      std::memcpy(end.data(), &footer, sizeof footer);
    }
    put(file, end, kSize);
  }
  static void put_label(int file, std::span<const std::byte> input, std::uint8_t plan) {
    struct Stretch {
      std::uint32_t first_page;
      std::uint32_t page_count;
      std::uint64_t checksum;
    };
    if (input.empty()) return;
    const auto which = static_cast<std::uint8_t>(input.front());
    input = input.subspan(1);
    std::vector<std::pair<MemoryFileFooter, std::uint64_t>> footers;
    for (std::uint64_t i = 0; i < 3 && input.size() >= sizeof(MemoryFileFooter); ++i) {
      if ((which >> i & 1) == 0) continue;
      MemoryFileFooter footer;
      std::memcpy(static_cast<void*>(&footer), input.data(), sizeof footer);
      input = input.subspan(sizeof footer);
      if ((plan & kLabelIsOneDiff) != 0) i = 1 + (footer.id.back() & 1U);
      footers.emplace_back(footer, kLabel.offset + i * kGuestPageSize);
    }
    constexpr std::uint64_t kTable = kLabel.offset + 3 * kGuestPageSize;
    std::vector<std::byte> table{input.begin(), input.end()};
    table.resize(std::min<std::size_t>(table.size(), kSize - kTable));
    for (auto& [footer, at] : footers) {
      const auto length = [](const Stretch& stretch) { return stretch.page_count * kGuestPageSize; };
      const auto count = repair_table<Stretch>(table, footer.stretch_count, plan, length);
      repair_footer(footer, std::span{table}.first(count * sizeof(Stretch)), plan);
      put(file, std::as_bytes(std::span{&footer, 1}), at);
    }
    put(file, table, kTable);
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
    must(ram_of(mapped) == ram_of(copied));
    if (!merge(std::span{paths}.subspan(1))) return;
    const auto merged = must(GuestMemory::map({.size_mib = 1}, must(open_memory_file(output_, top, kSize))));
    must(ram_of(mapped) == ram_of(merged));
  }
  /// All that guests use: each file has a label of its own.
  static std::vector<std::byte> ram_of(const GuestMemory& memory) {
    const auto bytes = *memory.bytes(GuestAddress{0}, kSize);
    std::vector<std::byte> ram{bytes.begin(), bytes.end()};
    std::fill_n(ram.begin() + static_cast<std::ptrdiff_t>(kLabel.offset), kLabel.length, std::byte{0});
    return ram;
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
