#include "virtio/net/net_receive_buffers.h"

#include <algorithm>
#include <utility>

namespace mayfly {

/// Lines chains up, and closes a window wherever one is complete.
class NetReceiveBuffers::Builder {
 public:
  Builder(NetReceiveBuffers& owner, std::size_t wanted, bool mergeable, std::uint64_t room) noexcept
      : owner_(owner), wanted_(std::min(wanted, kMaximumWindows)), mergeable_(mergeable), room_(room) {
    ensure(room == kFullWindow || wanted == 1, "several narrow windows would share a spill");
  }

  [[nodiscard]] bool satisfied() const noexcept { return closed_ == wanted_; }
  void add(std::size_t position) noexcept {
    const Chain& chain = *owner_.record(position).chain;
    if (used_ == begin_) open_.first = position;
    used_ = static_cast<std::size_t>(std::ranges::copy(chain.writable(), &owner_.vectors_[used_]).out -
                                     owner_.vectors_.get());
    open_.capacity += chain.writable_length();
    if (!mergeable_ || open_.capacity >= kFullWindow) return close({&owner_.overflow_, 1});
    if (open_.capacity >= room_) close_narrow();
  }
  [[nodiscard]] std::span<const ReceiveWindow> finish() noexcept {
    if (closed_ == 0 && used_ > 0) close_narrow();
    return std::span{owner_.windows_}.first(closed_);
  }

 private:
  void close(std::span<std::byte> behind) noexcept {
    owner_.vectors_[used_++] = {.iov_base = behind.data(), .iov_len = behind.size()};
    open_.vectors = {&owner_.vectors_[begin_], used_ - begin_};
    owner_.windows_[closed_++] = std::exchange(open_, {});
    begin_ = used_;
  }
  void close_narrow() noexcept {
    open_.narrow = true;
    close({owner_.spill_.get(), kFullWindow});
  }

  NetReceiveBuffers& owner_;
  std::size_t wanted_;
  bool mergeable_;
  std::uint64_t room_;
  std::size_t closed_ = 0;
  std::size_t begin_ = 0;  // of the open window, in the owner's vectors
  std::size_t used_ = 0;   // of those
  ReceiveWindow open_;
};

void NetReceiveBuffers::forget_used() noexcept {
  while (begin_ != end_ && !record(begin_).chain) ++begin_;
  if (begin_ == end_) segments_end_ = 0;
}

std::span<iovec> NetReceiveBuffers::storage() noexcept {
  constexpr std::size_t kLongest = VirtQueue::kMaximumSegments;
  const std::span all{segments_.get(), kSegments};
  if (begin_ == end_) return all.first(kLongest);
  if (end_ - begin_ == kRecords) return {};
  const std::size_t oldest = record(begin_).segments;
  if (oldest < segments_end_) {
    if (segments_end_ + kLongest <= kSegments) return all.subspan(segments_end_, kLongest);
    segments_end_ = 0;
  }
  // Never up to the oldest: a full ring would look empty.
  return segments_end_ + kLongest < oldest ? all.subspan(segments_end_, kLongest) : std::span<iovec>{};
}

std::expected<std::span<const ReceiveWindow>, QueueFault> NetReceiveBuffers::arrange(VirtQueue& queue,
                                                                                     std::size_t wanted, bool mergeable,
                                                                                     std::uint64_t room) noexcept {
  forget_used();
  Builder builder{*this, wanted, mergeable, room};
  for (std::size_t position = begin_; position != end_ && !builder.satisfied(); ++position)
    if (record(position).chain) builder.add(position);
  while (!builder.satisfied()) {
    const auto taken = take_one(queue);
    if (!taken) return std::unexpected(taken.error());
    if (!*taken) break;
    builder.add(end_ - 1);
  }
  return builder.finish();
}

std::expected<bool, QueueFault> NetReceiveBuffers::take_one(VirtQueue& queue) noexcept {
  const std::span<iovec> segments = storage();
  if (segments.empty()) return false;
  std::optional<Chain> chain;
  if (!restored_.empty()) {
    auto again = queue.retake(restored_.front(), segments);
    if (!again) return std::unexpected(again.error());
    restored_.erase(restored_.begin());
    chain.emplace(std::move(*again));
  } else {
    auto taken = queue.take(segments);
    if (!taken) return std::unexpected(taken.error());
    if (!*taken) return false;
    chain.emplace(std::move(**taken));
  }
  if (const std::string_view fault = fault_of(*chain, queue); !fault.empty()) {
    std::move(*chain).abandon();  // the device stops until the reset
    return std::unexpected(QueueFault{fault});
  }
  ChainRecord& last = record(end_++);
  last.chain.emplace(std::move(*chain));
  last.segments = static_cast<std::size_t>(segments.data() - segments_.get());
  segments_end_ = last.segments + last.chain->writable().size();
  ++held_;
  return true;
}

/// Why no driver may offer this chain; empty: it may.
std::string_view NetReceiveBuffers::fault_of(const Chain& chain, const VirtQueue& queue) const noexcept {
  // A driver has as many heads as the queue has entries, and a snapshot room for so many.
  if (held_ >= queue.state().size) return "more receive buffers than the queue holds";
  // 5.1.6.3.1: a buffer holds at least the header; the device reads nothing here.
  if (chain.readable_length() != 0) return "a receive buffer that the device is to read";
  return chain.writable_length() < sizeof(NetHeader) ? "a receive buffer without room for a header" : "";
}

std::size_t NetReceiveBuffers::chains_for(const ReceiveWindow& window, std::uint64_t length) const noexcept {
  std::size_t count = 0;
  std::uint64_t held = 0;
  for (std::size_t position = window.first; held < std::min(length, window.capacity); ++position) {
    const std::optional<Chain>& chain = record(position).chain;
    if (!chain) continue;
    held += chain->writable_length();
    ++count;
  }
  return count;
}

void NetReceiveBuffers::use(const ReceiveWindow& window, VirtQueue& queue, std::uint64_t length) noexcept {
  ensure(length <= window.capacity, "a frame was longer than its window");
  for (std::size_t position = window.first; length > 0; ++position) {
    std::optional<Chain>& chain = record(position).chain;
    if (!chain) continue;
    const std::uint64_t part = std::min(length, chain->writable_length());
    queue.put(std::move(*chain), static_cast<std::uint32_t>(part));
    chain.reset();
    --held_;
    length -= part;
  }
}

std::vector<std::uint16_t> NetReceiveBuffers::heads() const {
  std::vector<std::uint16_t> heads;
  for (std::size_t position = begin_; position != end_; ++position)
    if (const std::optional<Chain>& chain = record(position).chain) heads.push_back(chain->head());
  heads.insert(heads.end(), restored_.begin(), restored_.end());
  return heads;
}

void NetReceiveBuffers::restore(std::vector<std::uint16_t> heads) {
  abandon();
  restored_ = std::move(heads);
}

void NetReceiveBuffers::abandon() noexcept {
  for (; begin_ != end_; ++begin_) {
    std::optional<Chain>& chain = record(begin_).chain;
    if (chain) std::move(*chain).abandon();
    chain.reset();
  }
  segments_end_ = held_ = 0;
  restored_.clear();
}

}  // namespace mayfly
