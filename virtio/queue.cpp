#include "virtio/queue.h"

#include "virtio/ring_abi.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>

namespace mayfly {
namespace {

// The three parts (virtio 1.2, 2.7): sizes, and where their words are. Little-endian, as this host is.
static_assert(std::endian::native == std::endian::little);
constexpr std::uint64_t kDescriptorSize = sizeof(ring_abi::Descriptor);
constexpr std::uint64_t kAvailableFlags = 0;
constexpr std::uint64_t kAvailableIndex = 2;
constexpr std::uint64_t kAvailableRing = 4;
constexpr std::uint64_t kUsedIndex = 2;
constexpr std::uint64_t kUsedRing = 4;
constexpr std::uint64_t kUsedElementSize = sizeof(ring_abi::UsedElement);
constexpr std::uint64_t kDescriptorAlignment = 16;
constexpr std::uint64_t kAvailableAlignment = 2;
constexpr std::uint64_t kUsedAlignment = 4;

/// 2.7.5.2: a chain's bytes are at most 2^32; used.length could not say more either.
constexpr std::uint64_t kMaximumChainBytes = std::numeric_limits<std::uint32_t>::max();

std::uint64_t available_bytes(std::uint16_t size) { return kAvailableRing + 2ULL * size + 2; }    // + used_event
std::uint64_t used_bytes(std::uint16_t size) { return kUsedRing + kUsedElementSize * size + 2; }  // + avail_event

/// Words that the guest writes while we read, or reads while we write.
std::uint16_t load_word(const std::byte* at) noexcept {
  return std::atomic_ref{*reinterpret_cast<std::uint16_t*>(const_cast<std::byte*>(at))}.load(std::memory_order_relaxed);
}
void store_word(std::byte* at, std::uint16_t value) noexcept {
  std::atomic_ref{*reinterpret_cast<std::uint16_t*>(at)}.store(value, std::memory_order_relaxed);
}

/// One copy of a descriptor: the compiler must not read the guest's again.
ring_abi::Descriptor load_descriptor(const std::byte* at) noexcept {
  ring_abi::Descriptor copy;
  std::memcpy(&copy, at, sizeof copy);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  asm volatile("" : "+m"(copy));
  return copy;
}

}  // namespace

/// A chain while it is being read.
struct VirtQueue::Walk {
  std::span<iovec> storage;
  std::size_t count = 0;
  std::size_t readable_count = 0;
  std::uint64_t readable_length = 0;
  std::uint64_t writable_length = 0;
};

// --- Set-up ----------------------------------------------------------------------------------------------------------

VirtQueue::VirtQueue(const GuestMemory& memory, std::uint16_t maximum_size) noexcept
    : memory_(memory), maximum_size_(maximum_size) {
  ensure(std::has_single_bit(maximum_size) && maximum_size <= 32768, "a queue's size is a power of two");
  reset();
}

std::unexpected<QueueFault> VirtQueue::fault(std::string_view what) noexcept {
  faulty_ = true;
  return std::unexpected(QueueFault{what});
}

std::expected<void, QueueFault> VirtQueue::map() noexcept {
  if (!std::has_single_bit(state_.size) || state_.size > maximum_size_)
    return fault("the queue's size is no power of two, or over its maximum");
  if (state_.descriptors.value % kDescriptorAlignment != 0 || state_.available.value % kAvailableAlignment != 0 ||
      state_.used.value % kUsedAlignment != 0)
    return fault("a part of the queue is not aligned");
  const auto descriptors = memory_.bytes(state_.descriptors, kDescriptorSize * state_.size);
  const auto available = memory_.bytes(state_.available, available_bytes(state_.size));
  const auto used = memory_.bytes(state_.used, used_bytes(state_.size));
  if (!descriptors || !available || !used) return fault("a part of the queue lies outside memory");
  descriptors_ = descriptors->data();
  available_ = available->data();
  used_ = used->data();
  return {};
}

std::expected<void, QueueFault> VirtQueue::enable(bool event_index) noexcept {
  faulty_ = false;
  if (auto mapped = map(); !mapped) return mapped;
  state_.ready = true;
  state_.event_index = event_index;
  state_.next_available = state_.next_used = state_.signalled_used = 0;
  request_notification();
  return {};
}

void VirtQueue::reset() noexcept {
  state_ = QueueState{.size = maximum_size_};
  faulty_ = polled_ = notifications_off_ = false;
  descriptors_ = available_ = used_ = nullptr;
}

std::expected<void, QueueFault> VirtQueue::restore(const QueueState& state) noexcept {
  reset();
  state_ = state;
  if (!state.ready) return {};
  if (auto mapped = map(); !mapped) {
    state_.ready = false;
    return mapped;
  }
  return {};
}

// --- What the driver offers ------------------------------------------------------------------------------------------

std::uint16_t VirtQueue::available_index() const noexcept { return load_word(available_ + kAvailableIndex); }

bool VirtQueue::has_more() const noexcept {
  return state_.ready && !faulty_ && available_index() != state_.next_available;
}

void VirtQueue::set_polled(bool polled) noexcept {
  if (std::exchange(polled_, polled) && !polled && !notifications_off_ && state_.ready && !faulty_)
    request_notification();
}

void VirtQueue::set_notifications_off(bool notifications_off) noexcept {
  if (std::exchange(notifications_off_, notifications_off) && !notifications_off && !polled_ && state_.ready &&
      !faulty_)
    request_notification();
}

void VirtQueue::request_notification() noexcept {
  if (state_.event_index) {
    std::byte* const event = used_ + kUsedRing + kUsedElementSize * state_.size;
    store_word(event, state_.next_available);
    memory_.note_write(event, sizeof(std::uint16_t));
  }
  // The driver must see the request before we look for what it offered meanwhile.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

std::expected<std::optional<Chain>, QueueFault> VirtQueue::take(std::span<iovec> storage) noexcept {
  if (!state_.ready || faulty_) return std::nullopt;
  std::uint16_t offered = available_index();
  if (offered == state_.next_available) {
    if (polled_ || notifications_off_) return std::nullopt;
    request_notification();
    offered = available_index();
    if (offered == state_.next_available) return std::nullopt;
  }
  if (static_cast<std::uint16_t>(offered - state_.next_available) > state_.size)
    return fault("the available index jumped by more than the queue's size");
  std::atomic_thread_fence(std::memory_order_acquire);  // the ring's entries are as old as the index, or newer

  const std::uint16_t slot = state_.next_available & static_cast<std::uint16_t>(state_.size - 1);
  const std::uint16_t head = load_word(available_ + kAvailableRing + 2ULL * slot);
  auto chain = chain_at(head, storage);
  if (!chain) return std::unexpected(chain.error());
  ++state_.next_available;
  return std::move(*chain);
}

std::expected<Chain, QueueFault> VirtQueue::retake(std::uint16_t head, std::span<iovec> storage) noexcept {
  if (!state_.ready || faulty_) return fault("a chain of a queue that is not ready");
  return chain_at(head, storage);
}

std::expected<Chain, QueueFault> VirtQueue::chain_at(std::uint16_t head, std::span<iovec> storage) noexcept {
  if (head >= state_.size) return fault("a head index is not below the queue's size");
  Walk found{.storage = storage};
  if (const std::string_view wrong = walk(head, found); !wrong.empty()) return fault(wrong);
  Chain chain{head, storage.first(found.count), found.readable_count, found.readable_length, found.writable_length};
  note_writable(chain);
  return chain;
}

void VirtQueue::put_back(Chain chain) noexcept {
  chain.owned_ = false;
  --state_.next_available;
}

/// Reads the chain at `head`; empty, or what is wrong with it.
std::string_view VirtQueue::walk(std::uint16_t head, Walk& found) const noexcept {
  return walk_table({descriptors_, kDescriptorSize * state_.size}, head, found, false);
}

std::string_view VirtQueue::walk_table(std::span<std::byte> table, std::uint16_t first, Walk& found,
                                       bool indirect) const noexcept {
  const std::uint64_t entries = table.size() / kDescriptorSize;
  std::uint64_t index = first;
  // A chain longer than its table goes round in a circle (2.7.5: drivers must not make loops).
  for (std::uint64_t steps = 0; steps < entries; ++steps) {
    const ring_abi::Descriptor descriptor = load_descriptor(table.data() + index * kDescriptorSize);
    if ((descriptor.flags & ring_abi::kIndirect) != 0) {
      // 2.7.5.3.1: no table within a table, and nothing after one.
      if (indirect) return "an indirect descriptor within an indirect table";
      if ((descriptor.flags & ring_abi::kNext) != 0) return "an indirect descriptor with a next one";
      const std::uint64_t count = descriptor.length / kDescriptorSize;
      // 2.7.5.3.1 wants no chain longer than the queue. But Linux shrinks a queue that it finds no memory for, and goes
      // on with tables as long as the device's limit of segments lets them be; so that bounds the walk.
      if (descriptor.length % kDescriptorSize != 0 || count == 0 || count > kMaximumSegments)
        return "an indirect table of a size that is none";
      const auto inner = memory_.bytes(GuestAddress{descriptor.address}, descriptor.length);
      if (!inner) return "an indirect table outside memory";
      return walk_table(*inner, 0, found, true);
    }
    const std::string_view wrong =
        add(found, GuestAddress{descriptor.address}, descriptor.length, (descriptor.flags & ring_abi::kWrite) != 0);
    if (!wrong.empty()) return wrong;
    if ((descriptor.flags & ring_abi::kNext) == 0) return {};
    index = descriptor.next;
    if (index >= entries) return "a next index outside its table";
  }
  return "a chain longer than its table";
}

std::string_view VirtQueue::add(Walk& found, GuestAddress at, std::uint32_t length, bool writable) const noexcept {
  const auto bytes = memory_.bytes(at, length);
  if (!bytes) return "a buffer outside memory";
  if (!writable && found.count > found.readable_count) return "a readable buffer after a writable one";
  if (length == 0) return {};  // nothing to read or write there
  if (found.count == found.storage.size()) return "a chain of more buffers than the device said it takes";
  found.storage[found.count++] = {.iov_base = bytes->data(), .iov_len = length};
  if (!writable) ++found.readable_count;
  (writable ? found.writable_length : found.readable_length) += length;
  if (found.readable_length + found.writable_length > kMaximumChainBytes) return "a chain of more than 4 GiB";
  return {};
}

// --- What the device returns -----------------------------------------------------------------------------------------

void VirtQueue::put(Chain chain, std::uint32_t written) noexcept {
  chain.owned_ = false;
  const std::uint16_t slot = state_.next_used & static_cast<std::uint16_t>(state_.size - 1);
  const ring_abi::UsedElement element{.id = chain.head_, .length = written};
  std::memcpy(used_ + kUsedRing + kUsedElementSize * slot, &element, sizeof element);
  memory_.note_write(used_ + kUsedRing + kUsedElementSize * slot, sizeof element);
  note_writable(chain);
  ++state_.next_used;
}

void VirtQueue::note_writable(const Chain& chain) const noexcept {
  for (const iovec& buffer : chain.writable())
    memory_.note_write(static_cast<const std::byte*>(buffer.iov_base), buffer.iov_len);
}

bool VirtQueue::publish() noexcept {
  if (state_.next_used == state_.signalled_used) return false;
  std::atomic_ref{*reinterpret_cast<std::uint16_t*>(used_ + kUsedIndex)}.store(state_.next_used,
                                                                               std::memory_order_release);
  memory_.note_write(used_ + kUsedIndex, sizeof(std::uint16_t));
  // The driver must see the index before we look whether it wants to be told.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint16_t before = std::exchange(state_.signalled_used, state_.next_used);
  if (!state_.event_index) return (load_word(available_ + kAvailableFlags) & ring_abi::kNoInterrupt) == 0;
  const std::uint16_t event = load_word(available_ + kAvailableRing + 2ULL * state_.size);
  return ring_abi::passes(event, state_.next_used, before);
}

}  // namespace mayfly
