#include "snapshot/working_set_recorder.h"

#include "snapshot/userfault.h"
#include "vmm/base/files.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>

namespace mayfly {
namespace {

/// Messages read at once: more vCPUs than most guests have.
constexpr std::size_t kFaultsAtOnce = 16;

bool read_page(int file, std::span<std::byte> page, std::uint64_t offset) {
  if (read_all_at(file, page, offset) == page.size()) return true;
  if (errno == 0) errno = ENODATA;
  return false;
}

}  // namespace

Result<std::unique_ptr<WorkingSetRecorder>> WorkingSetRecorder::start(const GuestMemory& memory, MemoryLayers layers,
                                                                      Log& log, const ThreadEntry& enter_thread) {
  auto userfault = watch_for_faults(memory, "working_set");
  if (!userfault) return propagate(userfault);
  OwnedFd stop_event{::eventfd(0, EFD_CLOEXEC)};
  if (!stop_event) return fail_errno(ErrorKind::System, "cannot make an event descriptor");
  std::unique_ptr<WorkingSetRecorder> recorder{
      new WorkingSetRecorder{memory, std::move(*userfault), std::move(stop_event), std::move(layers), log}};
  try {
    recorder->thread_ = std::thread{[raw = recorder.get(), enter_thread] { raw->serve(enter_thread); }};
  } catch (const std::system_error& error) {
    return fail(ErrorKind::System, "cannot start the recorder's thread: {}", error.code().message());
  }
  return recorder;
}

WorkingSetRecorder::WorkingSetRecorder(const GuestMemory& memory, OwnedFd userfault, OwnedFd stop_event,
                                       MemoryLayers layers, Log& log)
    : userfault_(std::move(userfault)), stop_event_(std::move(stop_event)), layers_(std::move(layers)), log_(log) {
  std::uint64_t offset = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    stretches_.push_back({region.mapping.bytes().data(), region.size(), offset});
    offset += region.size();
  }
}

WorkingSetRecorder::~WorkingSetRecorder() {
  if (!thread_.joinable()) return;
  ::eventfd_write(stop_event_.get(), 1);
  thread_.join();
}

std::vector<std::uint64_t> WorkingSetRecorder::touched() const {
  const MutexLock lock{mutex_};
  return touched_;
}

void WorkingSetRecorder::ignore(bool all) {
  const MutexLock lock{mutex_};
  ignoring_ = all;
}

void WorkingSetRecorder::stop() {
  const MutexLock lock{mutex_};
  stopped_ = true;
  touched_ = {};
}

void WorkingSetRecorder::serve(const ThreadEntry& enter_thread) {
  // Signals are the main thread's to handle.
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  ::pthread_setname_np(::pthread_self(), "recorder");
  if (enter_thread) enter_thread(ThreadKind::Recorder);
  std::array waits = {pollfd{.fd = userfault_.get(), .events = POLLIN, .revents = 0},
                      pollfd{.fd = stop_event_.get(), .events = POLLIN, .revents = 0}};
  while (waits[1].revents == 0) {
    if (::poll(waits.data(), waits.size(), -1) > 0 && waits[0].revents != 0) answer();
  }
}

void WorkingSetRecorder::answer() {
  std::array<uffd_msg, kFaultsAtOnce> messages{};
  const ssize_t length = ::read(userfault_.get(), messages.data(), sizeof messages);
  if (length <= 0) return;  // somebody's thread has ended meanwhile
  for (const uffd_msg& message : std::span{messages}.first(static_cast<std::size_t>(length) / sizeof(uffd_msg)))
    if (message.event == UFFD_EVENT_PAGEFAULT) give_page(message.arg.pagefault.address);
}

void WorkingSetRecorder::give_page(std::uint64_t address) {
  // How far into a stretch the address is; far beyond its end where it is before it.
  const auto into = [address](const Stretch& each) { return address - reinterpret_cast<std::uintptr_t>(each.begin); };
  const auto stretch = std::ranges::find_if(stretches_, [&](const Stretch& each) { return into(each) < each.length; });
  if (stretch == stretches_.end()) return;
  const std::uint64_t place = into(*stretch) / kGuestPageSize * kGuestPageSize;
  std::byte* const page = stretch->begin + place;
  const std::uint64_t offset = stretch->offset + place;
  alignas(kGuestPageSize) std::array<std::byte, kGuestPageSize> content;  // NOLINT: filled or not used
  if (!read_page(layers_.file_at(offset).get(), content, offset)) return deny_page(page, offset);
  uffdio_copy copy{};
  copy.dst = reinterpret_cast<std::uintptr_t>(page);
  copy.src = reinterpret_cast<std::uintptr_t>(content.data());
  copy.len = kGuestPageSize;
  // Before the faulting thread runs on: a touch that is done is recorded.
  const MutexLock lock{mutex_};
  while (::ioctl(userfault_.get(), UFFDIO_COPY, &copy) != 0) {
    if (errno == EAGAIN) continue;           // the address space is changing
    if (errno == EEXIST) return wake(page);  // another vCPU has asked for it before
    return deny_page(page, offset);
  }
  if (!ignoring_ && !stopped_) touched_.push_back(offset);
}

void WorkingSetRecorder::deny_page(std::byte* page, std::uint64_t offset) {
  log_.error("the page at offset {} of the memory file cannot be given: {}", offset, errno_text(errno));
  ::mprotect(page, kGuestPageSize, PROT_NONE);
  wake(page);
}

void WorkingSetRecorder::wake(std::byte* page) {
  uffdio_range range{.start = reinterpret_cast<std::uintptr_t>(page), .len = kGuestPageSize};
  ::ioctl(userfault_.get(), UFFDIO_WAKE, &range);
}

}  // namespace mayfly
