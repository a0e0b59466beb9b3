// A model of power cuts and kills: a guest's writes, discards and flushes go through an overlay's map as a drive has them
// go, onto a disk that keeps a log of writes and syncs. At each point of the log the host loses its power, with any part
// of what was not synced lost or torn, or the monitor is killed; then the overlay is opened and every sector is compared.

#include "tests/unit/virtio/block/overlay_fixture.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t kBlockBytes = kOverlayBlockSize;
/// Over one sector of the durable map, so that several are written in one flush.
constexpr std::uint64_t kDriveBlocks = MapSector::kBlocks + 40;
constexpr std::uint64_t kDriveBytes = kDriveBlocks * kBlockBytes;
/// The blocks that the guest uses: around the border of the map's sectors, and at both ends.
constexpr std::array<std::uint64_t, 8> kUsed = {
    0, 1, 2, 9, MapSector::kBlocks - 1, MapSector::kBlocks, MapSector::kBlocks + 8, kDriveBlocks - 1};
constexpr std::uint64_t kUnit = 512;  // what a disk writes whole
using Unit = std::array<std::byte, kUnit>;

/// The content of a file, by sectors; absent ones are holes.
using Content = std::map<std::uint64_t, Unit>;

void apply(Content& content, std::uint64_t unit, const Unit& bytes) { content[unit] = bytes; }

/// A disk's log: writes of one sector each, and syncs.
struct Event {
  std::optional<std::uint64_t> unit{};  // absent: a sync
  Unit bytes{};
};

class LoggedDisk {
 public:
  void write(std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::uint64_t unit = offset / kUnit;
      const std::uint64_t begin = offset % kUnit;
      const std::uint64_t count = std::min<std::uint64_t>(kUnit - begin, bytes.size());
      Unit merged = now_.contains(unit) ? now_[unit] : Unit{};
      std::memcpy(&merged[begin], bytes.data(), count);
      apply(now_, unit, merged);
      log_.push_back({.unit = unit, .bytes = merged});
      bytes = bytes.subspan(count);
      offset += count;
    }
  }
  void punch(std::uint64_t offset, std::uint64_t length) { write(offset, Bytes(length)); }
  void sync() { log_.push_back({}); }
  [[nodiscard]] const std::vector<Event>& log() const { return log_; }

  /// What a kill at event `end` leaves: all of it.
  [[nodiscard]] Content after_kill(std::size_t end) const {
    Content content = start_;
    for (const Event& event : std::span{log_}.first(end))
      if (event.unit) apply(content, *event.unit, event.bytes);
    return content;
  }
  /// What a power cut leaves: all that a sync covers and, of the rest, what `random` says; some of it torn.
  [[nodiscard]] Content after_power_cut(std::size_t end, std::mt19937& random) const {
    std::size_t synced = 0;
    for (std::size_t i = 0; i < end; ++i)
      if (!log_[i].unit) synced = i;
    Content content = after_kill(synced);
    const auto mode = random() % 3;  // nothing of it, some, or all but a little
    for (const Event& event : std::span{log_}.subspan(synced, end - synced)) {
      if (!event.unit || mode == 0 || random() % 4 < (mode == 1 ? 2 : 1)) continue;
      Unit bytes = event.bytes;
      if (random() % 8 == 0) {  // torn: the rest is as it was
        const Unit before = content.contains(*event.unit) ? content[*event.unit] : Unit{};
        std::copy(before.begin() + 256, before.end(), bytes.begin() + 256);
      }
      apply(content, *event.unit, bytes);
    }
    return content;
  }
  void start_from(Content content) { start_ = now_ = std::move(content); }

 private:
  Content start_;
  Content now_;
  std::vector<Event> log_;
};

/// What a sector of the drive may hold. 0: the base's, -1: zeros, others: of the write of that number.
using Tag = int;

Unit filled_with(Tag tag) {
  Unit bytes{};
  const Tag word = tag == 0 ? 0xBA5E : tag;  // never what a hole reads as
  for (std::size_t i = 0; i < bytes.size(); i += sizeof word) std::memcpy(&bytes[i], &word, sizeof word);
  return bytes;
}

/// A guest and its drive, on a logged disk.
class Machine {
 public:
  Machine() {
    // An empty overlay, as it is made, is where the disk begins.
    overlay_.emplace(file_.open(overlay_order(kDriveBytes)));
    layout_ = overlay_->map().layout();
    Bytes head(2 * kOverlayHeaderRoom);
    EXPECT_EQ(::pread(file_.fd(), head.data(), head.size(), 0), static_cast<ssize_t>(head.size()));
    Content content;
    for (std::uint64_t unit = 0; unit < head.size() / kUnit; ++unit)
      std::memcpy(content[unit].data(), &head[unit * kUnit], kUnit);
    disk_.start_from(std::move(content));
  }

  /// Sectors of the drive: each is written with a tag of its own.
  void write(std::uint64_t first, std::uint64_t count) {
    bring_up(first, count);
    for (std::uint64_t sector = first; sector < first + count; ++sector) {
      const Tag tag = ++last_tag_;
      begin(sector, tag);
      disk_.write(overlay_->place_of(sector * kUnit), filled_with(tag));
    }
    finish(first, count);
  }
  void write_zeroes(std::uint64_t first, std::uint64_t count) {
    bring_up(first, count);
    for (std::uint64_t sector = first; sector < first + count; ++sector) begin(sector, -1);
    disk_.punch(overlay_->place_of(first * kUnit), count * kUnit);
    finish(first, count);
  }
  /// `fails`: the disk fails a write of the map, which may be torn, and a second attempt follows.
  void flush(bool fails) {
    overlay_->map().capture();
    disk_.sync();
    if (fails) {
      if (const auto piece = overlay_->map().next_piece(0))
        disk_.write(piece->write.offset, piece->write.bytes.first(piece->write.bytes.size() / 2));
      overlay_->map().capture();
      disk_.sync();
    }
    const auto flushed = answered_;  // what came before the flush
    for (auto piece = overlay_->map().next_piece(0); piece; piece = overlay_->map().next_piece(piece->next))
      disk_.write(piece->write.offset, piece->write.bytes);
    disk_.sync();
    overlay_->map().captured();
    note([&](Moment& moment) {
      moment.flushed = flushed;
      moment.since.clear();
      for (const auto& [sector, tag] : answered_)
        if (tag != tag_in(flushed, sector)) moment.since[sector].insert(tag);
    });
  }

  /// Opens the overlay as it is after a crash at each event, and compares all sectors that the guest used.
  void crash(std::mt19937& random) {
    for (std::size_t end = 0; end <= disk_.log().size(); ++end) {
      const Moment& moment = *std::prev(moments_.upper_bound(end))->second;
      compare(disk_.after_kill(end), 1, [&](std::uint64_t sector) {
        std::set<Tag> allowed = under_way(moment, end, sector);
        allowed.insert(tag_in(moment.answered, sector));
        return allowed;
      });
      compare(disk_.after_power_cut(end, random), 2, [&](std::uint64_t sector) {
        std::set<Tag> allowed = under_way(moment, end, sector);
        allowed.insert(tag_in(moment.flushed, sector));
        if (const auto since = moment.since.find(sector); since != moment.since.end())
          allowed.insert(since->second.begin(), since->second.end());
        return allowed;
      });
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "at event " << end << " of " << disk_.log().size();
        return;
      }
    }
  }

 private:
  using Tags = std::map<std::uint64_t, Tag>;
  /// What the guest knows from some event on.
  struct Moment {
    Tags answered;                                 // as a kill may not lose
    Tags flushed;                                  // as a power cut may not lose
    std::map<std::uint64_t, std::set<Tag>> since;  // answered after that flush
  };

  static Tag tag_in(const Tags& tags, std::uint64_t sector) {
    const auto found = tags.find(sector);
    return found == tags.end() ? 0 : found->second;
  }
  std::set<Tag> under_way(const Moment&, std::size_t end, std::uint64_t sector) const {
    std::set<Tag> tags;
    for (const auto& [from, to, where, tag] : begun_)
      if (where == sector && from <= end && end < to) tags.insert(tag);
    return tags;
  }
  void note(const std::function<void(Moment&)>& change) {
    auto next = std::make_shared<Moment>(*std::prev(moments_.end())->second);
    change(*next);
    moments_[disk_.log().size()] = std::move(next);
  }
  void begin(std::uint64_t sector, Tag tag) {
    begun_.push_back({disk_.log().size(), ~std::size_t{0}, sector, tag});
    unanswered_.emplace_back(sector, tag);
  }
  /// The rest of the first and the last block, from the base.
  void bring_up(std::uint64_t first, std::uint64_t count) {
    for (const std::uint64_t block : std::set{first * kUnit / kBlockBytes, (first + count - 1) * kUnit / kBlockBytes}) {
      const std::uint64_t begin = block * kBlockBytes / kUnit;
      const bool whole = first <= begin && begin + kBlockBytes / kUnit <= first + count;
      if (whole || overlay_->map().is_present(block)) continue;
      for (std::uint64_t sector = begin; sector < begin + kBlockBytes / kUnit; ++sector)
        disk_.write(overlay_->place_of(sector * kUnit), filled_with(0));
    }
  }
  void finish(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t block = first * kUnit / kBlockBytes;
    const std::uint64_t blocks = (first + count - 1) * kUnit / kBlockBytes + 1 - block;
    const Overlay::Run run = overlay_->run(first * kUnit, count * kUnit);
    if (!run.is_present || run.length < count * kUnit) {
      const auto map = overlay_->map().record(block, blocks);
      disk_.write(map.offset, map.bytes);
      overlay_->map().publish(block, blocks);
    }
    for (auto& [from, to, where, tag] : begun_)
      if (to == ~std::size_t{0}) to = disk_.log().size() + 1;
    for (const auto& [sector, tag] : unanswered_) answered_[sector] = tag;
    note([&](Moment& moment) {
      moment.answered = answered_;
      for (const auto& [sector, tag] : unanswered_) moment.since[sector].insert(tag);
    });
    unanswered_.clear();
  }
  void compare(const Content& content, unsigned boot,
               const std::function<std::set<Tag>(std::uint64_t)>& allowed) const {
    const OverlayFile& crashed = crashed_;
    ASSERT_EQ(::ftruncate(crashed.fd(), 0), 0);
    ASSERT_EQ(::ftruncate(crashed.fd(), static_cast<off_t>(layout_.file_size)), 0);
    Bytes run;  // sectors that lie side by side
    for (auto at = content.begin(); at != content.end();) {
      const std::uint64_t first = at->first;
      run.clear();
      for (; at != content.end() && at->first == first + run.size() / kUnit; ++at)
        run.insert(run.end(), at->second.begin(), at->second.end());
      crashed.put(first * kUnit, run);
    }
    auto opened = Overlay::open(crashed.fd(), overlay_order(kDriveBytes, boot));
    ASSERT_TRUE(opened) << opened.error().message;
    for (const std::uint64_t block : kUsed)
      for (std::uint64_t sector = block * 8; sector < block * 8 + 8; ++sector) {
        Unit found = filled_with(0);
        if (opened->map().is_present(block)) {
          ASSERT_EQ(::pread(crashed.fd(), found.data(), kUnit, static_cast<off_t>(opened->place_of(sector * kUnit))),
                    static_cast<ssize_t>(kUnit));
        }
        const auto tags = allowed(sector);
        // A sector that was being written, or was not flushed, may be torn: halves of what it may hold.
        const auto half_is = [&](std::size_t from, Tag tag) {
          const Unit wanted = tag == -1 ? Unit{} : filled_with(tag);
          return std::equal(found.begin() + static_cast<std::ptrdiff_t>(from),
                            found.begin() + static_cast<std::ptrdiff_t>(from + 256),
                            wanted.begin() + static_cast<std::ptrdiff_t>(from));
        };
        const bool good = std::ranges::any_of(tags, [&](Tag tag) { return half_is(0, tag); }) &&
                          std::ranges::any_of(tags, [&](Tag tag) { return half_is(256, tag); });
        Tag seen = 0;
        std::memcpy(&seen, found.data(), sizeof seen);
        ASSERT_TRUE(good) << "sector " << sector << " has " << seen << ", boot " << boot;
      }
  }

  OverlayFile file_;
  OverlayFile crashed_;
  std::optional<Overlay> overlay_;
  OverlayLayout layout_;
  LoggedDisk disk_;
  Tag last_tag_ = 0;
  Tags answered_;
  std::vector<std::pair<std::uint64_t, Tag>> unanswered_;
  struct Begun {
    std::size_t from;
    std::size_t to;
    std::uint64_t sector;
    Tag tag;
  };
  std::vector<Begun> begun_;
  std::map<std::size_t, std::shared_ptr<Moment>> moments_{{0, std::make_shared<Moment>()}};
};

TEST(OverlayCrash, APowerCutAtAnyWriteLosesNothingThatWasFlushedAndAKillNothingThatWasAnswered) {
  std::mt19937 random{7};
  for (int round = 0; round < 10 && !HasFailure(); ++round) {
    Machine machine;
    for (int step = 0; step < 14; ++step) {
      const std::uint64_t block = kUsed[random() % kUsed.size()];
      const std::uint64_t from = random() % 8;
      const std::uint64_t count = random() % 3 == 0 ? 8 - from : 1 + random() % (8 - from);
      switch (random() % 6) {
        case 0:
        case 1:
          machine.flush(random() % 4 == 0);
          break;
        case 2:
          machine.write_zeroes(block * 8 + from, count);
          break;
        case 3:
          machine.write((random() % 2) * 8, 16);  // over two blocks
          break;
        default:
          machine.write(block * 8 + from, count);
      }
    }
    machine.crash(random);
  }
}

}  // namespace
}  // namespace mayfly
