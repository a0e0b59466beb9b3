#include "snapshot/memory_chain.h"

#include "snapshot/file_pair.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/on_worker.h"
#include "tests/support/repeats.h"
#include "tests/unit/snapshot/page_ranges.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kChainMib = 3;
constexpr std::uint64_t kChainSize = kChainMib * kMiB;
constexpr std::uint64_t kChainPages = kChainSize / kPage;

SnapshotId numbered(std::size_t number) {
  SnapshotId id{};
  id.fill(static_cast<std::uint8_t>(number));
  return id;
}

/// As messages have it.
std::string name_of(std::size_t number) { return format_snapshot_id(numbered(number)); }

/// A guest whose memory is written to a chain of files, and what it had at the last one.
class MemoryChainTest : public ::testing::Test {
 protected:
  MemoryChainTest() {
    auto memory = GuestMemory::create({.size_mib = kChainMib});
    auto loop = EventLoop::create();
    if (!memory || !loop) throw std::runtime_error("no memory or no ring");
    memory_.emplace(std::move(*memory));
    loop_ = std::move(*loop);
  }
  ~MemoryChainTest() override { loop_->close(); }

  void write(const std::string& path, MemoryFileKind kind, std::size_t id, std::size_t base, PageRanges pages) {
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    const auto written = testing::on_worker(*loop_, [&] {
      return write_memory_file(
          {.loop = *loop_, .memory = *memory_}, file, path,
          {.kind = kind, .id = numbered(id), .base_id = numbered(base), .pages = std::move(pages)});
    });
    ASSERT_TRUE(written) << written.error().message;
  }
  void fill(const PageRange& range, std::uint8_t value) {
    std::ranges::fill(*memory_->bytes(GuestAddress{range.offset}, range.length), std::byte{value});
  }
  /// The next layer of the chain, with these pages full of its number.
  void add_layer(const PageRanges& pages) {
    const std::size_t number = paths_.size() + 1;
    for (const PageRange& range : pages) fill(range, static_cast<std::uint8_t>(number));
    paths_.push_back(scratch_.file("layer-" + std::to_string(number)));
    write(paths_.back(), number == 1 ? MemoryFileKind::Full : MemoryFileKind::Diff, number, number - 1, pages);
  }
  void add_layers(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) add_layer({{i * kPage, 2 * kPage}});
  }
  [[nodiscard]] ChainOrder whole() const { return {.top = numbered(paths_.size()), .memory_size = kChainSize}; }
  [[nodiscard]] std::vector<std::byte> ram() const {
    const auto bytes = *memory_->bytes(GuestAddress{0}, kChainSize);
    return without_label(std::vector<std::byte>{bytes.begin(), bytes.end()});
  }
  [[nodiscard]] std::string refusal(std::span<const std::string> paths) const {
    const auto chain = open_memory_chain(paths, whole());
    return chain ? "" : chain.error().message;
  }
  [[nodiscard]] std::string refusal() const { return refusal(paths_); }

  testing::ScratchDirectory scratch_;
  std::optional<GuestMemory> memory_;
  std::unique_ptr<EventLoop> loop_;
  std::vector<std::string> paths_;
};

PageRanges random_ranges(std::mt19937& random, std::size_t most) {
  std::vector<PageRange> ranges;
  for (std::size_t left = random() % most; left > 0; --left) {
    const std::uint64_t first = random() % kChainPages;
    const std::uint64_t longest = random() % 8 == 0 ? 300 : 4;
    ranges.push_back({first * kPage, std::min<std::uint64_t>(random() % longest + 1, kChainPages - first) * kPage});
  }
  return merged(std::move(ranges));
}

// --- The model: what the guest had -----------------------------------------------------------------------------------

class RandomChain : public MemoryChainTest, public ::testing::WithParamInterface<unsigned> {
 protected:
  void expect_shown(const MemoryLayers& layers, std::size_t most_mapped) const {
    const auto shown = GuestMemory::map({.size_mib = kChainMib}, layers, most_mapped);
    ASSERT_TRUE(shown) << shown.error().message;
    const auto bytes = *shown->bytes(GuestAddress{0}, kChainSize);
    EXPECT_TRUE(without_label(std::vector<std::byte>{bytes.begin(), bytes.end()}) == ram())
        << most_mapped << " parts mapped";
    const auto own = private_pages(*shown);
    ASSERT_TRUE(own);
    std::uint64_t copied = 0;
    MappedParts mapped{layers.parts, most_mapped};
    std::size_t count = 0;
    for (const MemoryLayers::Part& part : layers.parts) {
      const bool is_mapped = mapped.includes_next(part);
      count += is_mapped ? 1 : 0;
      copied += is_mapped ? 0 : part.length;
    }
    EXPECT_EQ(count, std::min(layers.parts.size(), most_mapped));
    EXPECT_EQ(bytes_in(*own), copied) << "what is mapped is shared with other clones";
    expect_touched(*shown);
  }
  /// A full snapshot of it would be whole.
  void expect_touched(const GuestMemory& shown) const {
    const auto touched = touched_pages(shown);
    ASSERT_TRUE(touched);
    std::vector<std::byte> kept(kChainSize);
    const std::vector<std::byte> all = ram();
    for (const PageRange& range : *touched)
      std::ranges::copy(std::span{all}.subspan(range.offset, range.length),
                        kept.begin() + static_cast<std::ptrdiff_t>(range.offset));
    EXPECT_TRUE(kept == all);
  }
  void expect_each_page_from_its_file(const MemoryLayers& layers) const {
    const std::vector<std::byte> all = ram();
    for (std::uint64_t at = 0; at < kChainSize; at += kPage) {
      std::byte byte{};
      if (at == kLabel.offset) at = kLabel.end();
      ASSERT_EQ(::pread(layers.file_at(at).get(), &byte, 1, static_cast<off_t>(at)), 1);
      ASSERT_EQ(byte, all[at]) << at;
    }
  }
  void expect_merged(const std::string& output) const {
    const auto chain =
        open_memory_chain(std::span{&output, 1}, {.top = whole().top, .memory_size = kChainSize, .all_tables = true});
    ASSERT_TRUE(chain) << chain.error().message;
    EXPECT_TRUE(verify_stretches(chain->front().file.get(), output, chain->front().stretches));
    std::vector<std::byte> content(kChainSize);
    ASSERT_EQ(::pread(chain->front().file.get(), content.data(), kChainSize, 0), static_cast<ssize_t>(kChainSize));
    EXPECT_TRUE(without_label(std::move(content)) == ram());
  }
};

TEST_P(RandomChain, ShowsWhatTheGuestHadAndMergesToIt) {
  std::mt19937 random{GetParam()};
  const std::size_t layers = random() % 9 + 1;
  for (std::size_t i = 0; i < layers; ++i) add_layer(random_ranges(random, i == 0 ? 40 : 80));
  auto chain = open_memory_chain(paths_, whole());
  ASSERT_TRUE(chain) << chain.error().message;
  const MemoryLayers shown = layers_of(std::move(*chain));
  for (const std::size_t most : {kMostMappedParts, std::size_t{5}, std::size_t{0}}) expect_shown(shown, most);
  expect_each_page_from_its_file(shown);
  if (layers == 1) return;
  const std::string output = scratch_.file("output");
  const auto merged = merge_memory_files(paths_.front(), std::span{paths_}.subspan(1), output);
  ASSERT_TRUE(merged) << merged.error().message;
  expect_merged(output);
  // Diffs alone make a diff.
  if (layers == 2) return;
  const std::string diffs = scratch_.file("diffs");
  ASSERT_TRUE(merge_memory_files(paths_[1], std::span{paths_}.subspan(2), diffs));
  const std::vector<std::string> two = {paths_.front(), diffs};
  auto shorter = open_memory_chain(two, whole());
  ASSERT_TRUE(shorter) << shorter.error().message;
  expect_shown(layers_of(std::move(*shorter)), kMostMappedParts);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomChain, ::testing::Range(0U, testing::repeats(40U, 15U)));

TEST(ShownRanges, AreThoseOfTheHighestTableThatHasThem) {
  constexpr std::uint64_t kFew = 64;  // pages: so that ranges meet
  std::mt19937 random{7};
  for (int round = 0; round < 500; ++round) {
    std::vector<std::vector<MemoryStretch>> tables(random() % 7 + 1);
    std::vector<std::size_t> highest(kFew, 0);  // 0: none
    for (std::size_t layer = 1; layer <= tables.size(); ++layer)
      for (std::uint64_t page = random() % 8; page < kFew; page += random() % 8) {
        const std::uint64_t count = std::min<std::uint64_t>(random() % 8 + 1, kFew - page);
        tables[layer - 1].push_back({.range = {page * kPage, count * kPage}});
        std::fill_n(highest.begin() + static_cast<std::ptrdiff_t>(page), count, layer);
        page += count;
      }
    std::vector<ShownRange> expected;
    for (std::uint64_t page = 0; page < kFew; ++page) {
      if (highest[page] == 0) continue;
      if (page > 0 && highest[page - 1] == highest[page])
        expected.back().range.length += kPage;
      else
        expected.push_back({{page * kPage, kPage}, highest[page]});
    }
    const std::vector<std::span<const MemoryStretch>> spans{tables.begin(), tables.end()};
    ASSERT_EQ(shown_ranges(spans, 1), expected) << round;
  }
}

// --- Chains of many --------------------------------------------------------------------------------------------------

TEST_F(MemoryChainTest, MayHaveAsManyLayersAsAreAllowed) {
  for (const std::size_t count : {1U, 2U, 8U, 32U, 64U}) {
    paths_.clear();
    add_layers(count);
    auto chain = open_memory_chain(paths_, whole());
    ASSERT_TRUE(chain) << chain.error().message;
    const auto shown = GuestMemory::map({.size_mib = kChainMib}, layers_of(std::move(*chain)));
    ASSERT_TRUE(shown);
    EXPECT_EQ(std::to_integer<std::size_t>((*shown->bytes(GuestAddress{count * kPage}, 1))[0]), count);
    EXPECT_EQ(std::to_integer<std::size_t>((*shown->bytes(GuestAddress{0}, 1))[0]), 1U);
  }
  add_layers(1);
  EXPECT_EQ(refusal(), "65 memory files are named, and 64 is the most: merge some first (mayfly snapshot merge)");
  EXPECT_EQ(refusal({}), "no memory file is named; name the base first");
}

TEST_F(MemoryChainTest, TellsWhatEachLayerHasAndShows) {
  add_layer({{0, 10 * kPage}});
  add_layer({{2 * kPage, 3 * kPage}, {20 * kPage, kPage}});
  add_layer({{4 * kPage, kPage}});
  ChainOrder order = whole();
  order.all_tables = true;
  const auto chain = open_memory_chain(paths_, order);
  ASSERT_TRUE(chain);
  const auto layers = summarize(*chain);
  ASSERT_EQ(layers.size(), 3U);
  EXPECT_EQ(layers[0].data_bytes, 10 * kPage);
  EXPECT_EQ(layers[0].shown_bytes, 7 * kPage);
  EXPECT_EQ(layers[1].data_bytes, 4 * kPage);
  EXPECT_EQ(layers[1].shown_bytes, 3 * kPage);
  EXPECT_EQ(layers[2].shown_bytes, kPage);
  EXPECT_EQ(layers[2].path, paths_[2]);
}

// --- What is refused -------------------------------------------------------------------------------------------------

TEST_F(MemoryChainTest, AWrongOrderIsRefused) {
  add_layers(4);
  std::swap(paths_[1], paths_[2]);
  EXPECT_EQ(refusal(), "layer 3 of 4: memory file " + paths_[2] + " belongs to snapshot " + name_of(2) +
                           ", and layer 4, " + paths_[3] + ", is a diff of snapshot " + name_of(3) +
                           "; layer 2 is that one's: give the layers in their order, the base first");
  std::swap(paths_[1], paths_[2]);
  std::swap(paths_[0], paths_[3]);
  EXPECT_EQ(refusal(), "layer 4 of 4: memory file " + paths_[3] + " belongs to snapshot " + name_of(1) +
                           ", and the state file to snapshot " + name_of(4) +
                           "; layer 1 is that one's: give the layers in their order, the base first");
}

TEST_F(MemoryChainTest, AMissingLayerIsRefused) {
  add_layers(4);
  const std::string second = paths_[1];
  const ChainOrder order = whole();
  const auto refused = [&](std::vector<std::string> paths) {
    const auto chain = open_memory_chain(paths, order);
    return chain ? "" : chain.error().message;
  };
  EXPECT_EQ(refused({paths_[0], paths_[2], paths_[3]}),
            "layer 1 of 3: memory file " + paths_[0] + " belongs to snapshot " + name_of(1) + ", and layer 2, " +
                paths_[2] + ", is a diff of snapshot " + name_of(2) + "; put that one's memory file before layer 2");
  EXPECT_EQ(refused({paths_[1], paths_[2], paths_[3]}), "layer 1 of 3: memory file " + paths_[1] +
                                                            " is a diff of snapshot " + name_of(1) +
                                                            "; put that one's memory file before it");
  EXPECT_EQ(refused({paths_[0], paths_[1], paths_[2]}),
            "layer 3 of 3: memory file " + paths_[2] + " belongs to snapshot " + name_of(3) +
                ", and the state file to snapshot " + name_of(4) +
                "; end the list with the memory file that was written together with the state file");
  EXPECT_EQ(refused({paths_[3]}), "memory file " + paths_[3] + " is a diff of snapshot " + name_of(3) +
                                      "; put that one's memory file before it, or merge them (mayfly snapshot merge)");
  fs::remove(paths_[1]);
  EXPECT_EQ(refusal(), "layer 2 of 4: memory file " + second + " cannot be opened: No such file or directory (ENOENT)");
}

TEST_F(MemoryChainTest, AForeignOrDoubledLayerIsRefused) {
  add_layers(3);
  write(paths_[1], MemoryFileKind::Diff, 77, 1, {{0, kPage}});
  EXPECT_EQ(refusal(), "layer 2 of 3: memory file " + paths_[1] + " belongs to snapshot " + name_of(77) +
                           ", and layer 3, " + paths_[2] + ", is a diff of snapshot " + name_of(2) +
                           "; put that one's memory file before layer 3");
  write(paths_[1], MemoryFileKind::Full, 2, 0, {{0, kPage}});
  EXPECT_EQ(refusal(), "layer 2 of 3: memory file " + paths_[1] +
                           " is whole, and hides what is before it; leave out the files before it");
  write(paths_[1], MemoryFileKind::Diff, 2, 1, {{0, kPage}});
  EXPECT_EQ(refusal(), "");
  const std::vector<std::string> doubled = {paths_[0], paths_[1], paths_[2], paths_[2]};
  EXPECT_EQ(refusal(doubled), "layer 3 of 4: memory file " + paths_[2] + " belongs to snapshot " + name_of(3) +
                                  ", and layer 4, " + paths_[2] + ", is a diff of snapshot " + name_of(2) +
                                  "; layer 2 is that one's: give the layers in their order, the base first");
}

TEST_F(MemoryChainTest, ADamagedLayerIsRefused) {
  add_layers(3);
  const std::string remedy = "; give a whole copy of the snapshot's memory file";
  const auto overwrite = [this](std::uint64_t at) {
    const OwnedFd file{::open(paths_[1].c_str(), O_RDWR | O_CLOEXEC)};
    ASSERT_EQ(::pwrite(file.get(), "x", 1, static_cast<off_t>(at)), 1);
  };
  overwrite(kLabel.offset + kPage + 20);
  EXPECT_EQ(refusal(), "layer 2 of 3: memory file " + paths_[1] + " is damaged: its footer has changed" + remedy);
  fs::resize_file(paths_[1], kChainSize - 1);
  EXPECT_EQ(refusal(), "layer 2 of 3: memory file " + paths_[1] +
                           " has 3145727 bytes, and 3 MiB of memory are 3145728: it was not written or copied whole, "
                           "or is another machine's" +
                           remedy);
  write(paths_[1], MemoryFileKind::Diff, 2, 1, {{0, kPage}});
  overwrite(kLabel.offset + 3 * kPage + 8);
  EXPECT_EQ(refusal(),
            "layer 2 of 3: memory file " + paths_[1] + " is damaged: its table of data has changed" + remedy);
}

TEST_F(MemoryChainTest, ALayerOfAnotherSizeIsRefused) {
  add_layers(2);
  memory_.emplace(*GuestMemory::create({.size_mib = kChainMib + 1}));
  write(paths_[0], MemoryFileKind::Full, 1, 0, {{0, kPage}});
  EXPECT_NE(refusal().find("layer 1 of 2: memory file " + paths_[0] + " is not that of a Mayfly machine with 3 MiB"),
            std::string::npos)
      << refusal();
}

// --- What a killed monitor left --------------------------------------------------------------------------------------

TEST_F(MemoryChainTest, LayersAreFoundUnderTheNamesThatAKilledMonitorLeft) {
  add_layers(4);
  for (const std::string& path : paths_) {
    fs::rename(path, new_name(path));
    testing::make_file(path, "what was there before");
    EXPECT_EQ(refusal(), "") << path;
  }
  auto chain = open_memory_chain(paths_, whole());
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->at(1).path, new_name(paths_[1]));
  const auto shown = GuestMemory::map({.size_mib = kChainMib}, layers_of(std::move(*chain)));
  ASSERT_TRUE(shown);
  const auto bytes = *shown->bytes(GuestAddress{0}, kChainSize);
  EXPECT_TRUE(without_label(std::vector<std::byte>{bytes.begin(), bytes.end()}) == ram());
  fs::remove(paths_[2]);
  EXPECT_EQ(refusal(), "") << "also where nothing has the name";
}

TEST_F(MemoryChainTest, ALeftoverThatIsNotWantedIsNotLookedAt) {
  add_layers(2);
  write(new_name(paths_[0]), MemoryFileKind::Full, 9, 0, {{0, kPage}});
  auto chain = open_memory_chain(paths_, whole());
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->front().path, paths_[0]);
}

}  // namespace
}  // namespace mayfly
