#include "snapshot/held_memory.h"

#include "snapshot/pages.h"
#include "vmm/base/memory_holder.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <ctime>
#include <new>
#include <utility>

namespace mayfly {
namespace {

enum Turn : std::uint32_t { kIdle, kAsked, kGiven, kToEnd, kEnding };

/// How often the parent looks whether the child is still there, and whether it shall stop.
constexpr std::chrono::milliseconds kLook{20};
/// For a child that is told to end.
constexpr std::chrono::seconds kEndPatience{2};
constexpr std::uintptr_t kDropUnit = std::uintptr_t{2} << 20;  // part of a huge page cannot be given back

/// Until the word is another one, or for so long. By both sides: so no private futex.
void wait_while(std::atomic<std::uint32_t>& word, std::uint32_t value, const timespec* timeout) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAIT, value, timeout, nullptr, 0);
}

void set_turn(std::atomic<std::uint32_t>& word, Turn turn) noexcept {
  word.store(turn, std::memory_order_release);
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

struct HeldMemory::Shared {
  std::atomic<std::uint32_t> turn{kIdle};
  const std::byte* source = nullptr;
  std::byte* target = nullptr;
  std::size_t length = 0;
};

namespace {

constexpr std::size_t kOrderBytes = 4096;

/// What has been given back: regions before this one, and of this one what lies before an address.
struct Dropped {
  std::size_t region = 0;
  std::uintptr_t to = 0;
};

void drop(std::uintptr_t from, std::uintptr_t to) noexcept {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses are rounded
  if (to > from) ::madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

/// Gives back all that lies before the end of a piece, in whole units where it ends: nobody asks for that any more. The
/// list of regions is this process's own copy.
void drop_copied(const GuestMemory& memory, const std::byte* piece, std::size_t length, Dropped& dropped) noexcept {
  for (; dropped.region < memory.regions().size(); ++dropped.region, dropped.to = 0) {
    const Mapping& mapping = memory.regions()[dropped.region].mapping;
    const auto begin = reinterpret_cast<std::uintptr_t>(mapping.address());
    const std::uintptr_t from = std::max(begin, dropped.to);
    if (!mapping.contains(piece)) {
      drop(from, begin + mapping.length());
      continue;
    }
    dropped.to = std::max(from, (reinterpret_cast<std::uintptr_t>(piece) + length) / kDropUnit * kDropUnit);
    return drop(from, dropped.to);
  }
}

}  // namespace

HeldMemory::HeldMemory(const GuestMemory& memory, Mapping room) noexcept : memory_(memory), room_(std::move(room)) {
  new (room_.address()) Shared;
}

HeldMemory::~HeldMemory() { let_go(); }

HeldMemory::Shared& HeldMemory::shared() const noexcept { return *static_cast<Shared*>(room_.address()); }

std::span<const std::byte> HeldMemory::slot(std::size_t index) const noexcept {
  return room_.bytes().subspan(kOrderBytes + index * kSlotBytes, kSlotBytes);
}

// --- The child: calls and memory of its own alone --------------------------------------------------------------------

namespace {

struct Orders {
  std::atomic<std::uint32_t>& turn;
  const std::byte* const& source;
  std::byte* const& target;
  const std::size_t& length;
};

[[noreturn]] void hold_until_told(const GuestMemory& memory, const Orders& orders, pid_t parent) noexcept {
  ::prctl(PR_SET_NAME, kMemoryHolderName, 0, 0, 0);
  // Nothing that the parent closes may stay open: locks of drives, TAPs, the end of the console's pipe. Mappings of the
  // ring and of vCPUs, which would keep them as well, are not here (MADV_DONTFORK).
  ::syscall(SYS_close_range, 0UL, 0xFFFF'FFFFUL, 0UL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  Dropped dropped;
  // Where the parent was gone before it could be watched, nobody would ever ask.
  while (::getppid() == parent) {
    const auto turn = orders.turn.load(std::memory_order_acquire);
    if (turn == kToEnd) break;
    if (turn != kAsked) {
      wait_while(orders.turn, turn, nullptr);
      continue;
    }
    std::memcpy(orders.target, orders.source, orders.length);
    drop_copied(memory, orders.source, orders.length, dropped);
    set_turn(orders.turn, kGiven);
  }
  set_turn(orders.turn, kEnding);
  for (;;) ::_exit(0);
}

}  // namespace

// --- The parent ------------------------------------------------------------------------------------------------------

Status HeldMemory::check(const GuestMemory& memory) {
  if (memory.pages() == HugePages::Explicit2M)
    return fail(
        ErrorKind::State,
        "memory of huge_pages 2M cannot be held for a live snapshot, as each page that the guest writes to would "
        "take another one of the host's pool: take the snapshot of a paused machine, without live");
  if (memory.is_served())
    return fail(ErrorKind::State,
                "memory whose pages a page server or the recording of a working set gives cannot be held for a live "
                "snapshot: take the snapshot of a paused machine, without live");
  return {};
}

Result<std::shared_ptr<HeldMemory>> HeldMemory::hold(const GuestMemory& memory) {
  if (auto can = check(memory); !can) return propagate(can);
  constexpr std::size_t kRoom = kOrderBytes + kSlots * kSlotBytes;
  Mapping room{::mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
               kRoom};
  if (!room) return fail_errno(ErrorKind::System, "no memory for a live snapshot's pieces");
  // Not make_shared: the constructor is private.
  std::shared_ptr<HeldMemory> held{new HeldMemory{memory, std::move(room)}};
  const pid_t parent = ::getpid();
  Shared& shared = held->shared();
  if (auto shown = memory.show_to_children(true); !shown) {
    (void)memory.show_to_children(false);
    return propagate(shown);
  }
  // Without the C library, whose fork takes the locks of the heap and calls handlers. No signal at its end: nobody may
  // be told but who asks (__WALL).
  const long child = ::syscall(SYS_clone, 0UL, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) hold_until_told(memory, {shared.turn, shared.source, shared.target, shared.length}, parent);
  const int error_number = errno;
  auto kept = memory.show_to_children(false);
  held->child_ = static_cast<pid_t>(child);
  if (!kept) return propagate(kept);
  errno = error_number;
  if (child < 0) return fail_errno(ErrorKind::System, "the host gives no process that holds guest memory");
  return held;
}

bool HeldMemory::has_ended() noexcept {
  if (child_ <= 0) return true;
  if (::wait4(child_, nullptr, WNOHANG | __WALL, nullptr) == 0) return false;
  child_ = -1;
  return true;
}

int HeldMemory::copy(std::size_t index, std::uint64_t offset, std::uint64_t length, const std::stop_token& stop,
                     std::chrono::milliseconds patience) noexcept {
  const auto source = bytes_at(memory_, offset, length);
  ensure(source.size() == length && length <= kSlotBytes, "a piece of held memory lies outside of it");
  Shared& order = shared();
  order.source = source.data();
  order.target = room_.bytes().subspan(kOrderBytes + index * kSlotBytes).data();
  order.length = length;
  if (child_ <= 0) return ECHILD;
  set_turn(order.turn, kAsked);
  constexpr timespec kShort{.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds{kLook}.count()};
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto turn = order.turn.load(std::memory_order_acquire);
    if (turn == kGiven) return 0;
    if (turn == kEnding || has_ended()) return ECHILD;
    if (stop.stop_requested()) return ECANCELED;
    if (std::chrono::steady_clock::now() > deadline) return ETIMEDOUT;
    wait_while(order.turn, turn, &kShort);
  }
}

void HeldMemory::let_go() noexcept {
  if (child_ <= 0) return;
  std::atomic<std::uint32_t>& turn = shared().turn;
  // It may be copying: it looks at the word when it has finished, and then finds another one than it was asked by.
  constexpr timespec kShort{.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds{kLook}.count()};
  const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    const auto now = turn.load(std::memory_order_acquire);
    if (now == kEnding) {
      // On its way out: nothing there waits for a disk.
      (void)::wait4(child_, nullptr, __WALL, nullptr);
      child_ = -1;
      return;
    }
    if (has_ended()) return;
    if (now == kIdle || now == kGiven)
      set_turn(turn, kToEnd);
    else
      wait_while(turn, now, &kShort);
  }
}

}  // namespace mayfly
