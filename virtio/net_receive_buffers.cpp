#include "virtio/net_receive_buffers.h"

#include <algorithm>
#include <utility>

namespace mayfly {

NetReceiveBuffers::Layout::Layout()
    : vectors(std::make_unique_for_overwrite<iovec[]>(kMaximumVectors + kMaximumWindows)) {
  chains.reserve(kMaximumChains);
}

/// Fills a layout with chains, and closes a window wherever one is complete.
class NetReceiveBuffers::Builder {
 public:
  Builder(NetReceiveBuffers& owner, Layout& layout, std::size_t wanted, bool mergeable) noexcept
      : owner_(owner), layout_(layout), wanted_(std::min(wanted, kMaximumWindows)), mergeable_(mergeable) {}

  [[nodiscard]] bool satisfied() const noexcept { return closed_ == wanted_; }
  /// Whether another chain of any length can be added.
  [[nodiscard]] bool has_room() const noexcept {
    return layout_.chains.size() < kMaximumChains &&
           layout_.vectors_used + VirtQueue::kMaximumSegments <= kMaximumVectors;
  }
  [[nodiscard]] std::span<iovec> storage() noexcept {
    constexpr std::size_t kAll = kMaximumVectors + kMaximumWindows;
    return vectors(layout_.vectors_used, std::min(kAll - layout_.vectors_used, VirtQueue::kMaximumSegments));
  }
  /// `chain` lies at the beginning of storage().
  void add(Chain chain) noexcept {
    layout_.vectors_used += chain.writable().size();
    open_.capacity += chain.writable_length();
    ++open_.count;
    layout_.chains.emplace_back(std::move(chain));
    if (!satisfied() && (!mergeable_ || open_.capacity >= kFullWindow)) close({&owner_.overflow_, 1});
  }
  [[nodiscard]] std::span<const ReceiveWindow> finish() noexcept {
    if (closed_ == 0 && open_.count > 0) {
      open_.narrow = true;
      close({owner_.spill_.get(), kFullWindow});
    }
    return std::span{owner_.windows_}.first(closed_);
  }

 private:
  void close(std::span<std::byte> behind) noexcept {
    layout_.vectors[layout_.vectors_used++] = {.iov_base = behind.data(), .iov_len = behind.size()};
    open_.vectors = vectors(begin_, layout_.vectors_used - begin_);
    owner_.windows_[closed_++] = open_;
    open_ = {.first = layout_.chains.size()};
    begin_ = layout_.vectors_used;
  }

  [[nodiscard]] std::span<iovec> vectors(std::size_t begin, std::size_t count) noexcept {
    return {&layout_.vectors[begin], count};
  }

  NetReceiveBuffers& owner_;
  Layout& layout_;
  std::size_t wanted_;
  bool mergeable_;
  std::size_t closed_ = 0;
  std::size_t begin_ = 0;  // of the open window, in the layout's vectors
  ReceiveWindow open_;
};

std::expected<std::span<const ReceiveWindow>, QueueFault> NetReceiveBuffers::arrange(VirtQueue& queue,
                                                                                     std::size_t wanted,
                                                                                     bool mergeable) noexcept {
  Layout& before = layouts_[present_];
  present_ = 1 - present_;
  Layout& after = layouts_[present_];
  after.vectors_used = 0;
  Builder builder{*this, after, wanted, mergeable};
  // What was held fits, in however many windows: each has its vector besides those of the segments.
  for (std::optional<Chain>& chain : before.chains) {
    if (!chain) continue;
    chain->relocate(builder.storage());
    builder.add(std::move(*chain));
  }
  before.chains.clear();
  while (!builder.satisfied() && builder.has_room()) {
    const auto taken = take_one(queue, builder);
    if (!taken) return std::unexpected(taken.error());
    if (!*taken) break;
  }
  return builder.finish();
}

std::expected<bool, QueueFault> NetReceiveBuffers::take_one(VirtQueue& queue, Builder& builder) noexcept {
  std::optional<Chain> chain;
  if (!restored_.empty()) {
    auto again = queue.retake(restored_.front(), builder.storage());
    if (!again) return std::unexpected(again.error());
    restored_.erase(restored_.begin());
    chain.emplace(std::move(*again));
  } else {
    auto taken = queue.take(builder.storage());
    if (!taken) return std::unexpected(taken.error());
    if (!*taken) return false;
    chain.emplace(std::move(**taken));
  }
  // 5.1.6.3.1: a buffer holds at least the header; the device reads nothing here.
  if (chain->readable_length() == 0 && chain->writable_length() >= sizeof(NetHeader)) {
    builder.add(std::move(*chain));
    return true;
  }
  const bool readable = chain->readable_length() != 0;
  std::move(*chain).abandon();  // the device stops until the reset
  return std::unexpected(QueueFault{readable ? "a receive buffer that the device is to read"
                                             : "a receive buffer without room for a header"});
}

std::size_t NetReceiveBuffers::chains_for(const ReceiveWindow& window, std::uint64_t length) const noexcept {
  std::size_t count = 0;
  for (std::uint64_t held = 0; held < length && count < window.count; ++count)
    held += layouts_[present_].chains[window.first + count]->writable_length();
  return count;
}

void NetReceiveBuffers::use(const ReceiveWindow& window, VirtQueue& queue, std::uint64_t length) noexcept {
  ensure(length <= window.capacity, "a frame was longer than its window");
  for (std::size_t i = window.first; length > 0; ++i) {
    std::optional<Chain>& chain = layouts_[present_].chains[i];
    const std::uint64_t part = std::min(length, chain->writable_length());
    queue.put(std::move(*chain), static_cast<std::uint32_t>(part));
    chain.reset();
    length -= part;
  }
}

std::vector<std::uint16_t> NetReceiveBuffers::heads() const {
  std::vector<std::uint16_t> heads;
  for (const std::optional<Chain>& chain : layouts_[present_].chains)
    if (chain) heads.push_back(chain->head());
  heads.insert(heads.end(), restored_.begin(), restored_.end());
  return heads;
}

void NetReceiveBuffers::restore(std::vector<std::uint16_t> heads) {
  abandon();
  restored_ = std::move(heads);
}

void NetReceiveBuffers::abandon() noexcept {
  for (Layout& layout : layouts_) {
    for (std::optional<Chain>& chain : layout.chains)
      if (chain) std::move(*chain).abandon();
    layout.chains.clear();
  }
  restored_.clear();
}

}  // namespace mayfly
