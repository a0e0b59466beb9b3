#include "vmm/io/event_loop.h"

#include "vmm/base/clock.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <utility>

namespace mayfly {
namespace {

/// Entries of the submission queue: requests of one round, not of the whole loop (the ring grows its completions).
constexpr unsigned kRingEntries = 256;
/// Completions taken in one round before tasks get their turn.
constexpr unsigned kBatch = 64;
/// Room in the table of registered files: every device that a machine can have, and replacements while they are
/// swapped.
constexpr unsigned kFileSlots = 64;
/// How long the loop looks for a next request before it waits: a driver that polls has it ready within a few
/// microseconds, and a kick and its wake-up cost several times that.
constexpr std::uint64_t kPollNs = 20'000;
/// Polling in vain costs at most a thousandth of the idle spells' number times kPollNs.
constexpr unsigned kMostSkippedPolls = 1024;
/// What completes as soon as it is submitted (a frame to a TAP, pages in the host's cache) brings more that does;
/// signals wait for so many rounds of that at most, and for no further one after such a time.
constexpr unsigned kRoundsBeforeSignals = 4;
constexpr std::uint64_t kLongestSettlingNs = 100'000;
/// How long close() waits for the kernel to let go of what was in flight.
constexpr std::uint64_t kCloseDeadlineNs = 1'000'000'000;

std::unexpected<Error> ring_error(int error_number) {
  errno = error_number;
  switch (error_number) {
    case ENOSYS:
      return fail_errno(ErrorKind::Unsupported, "this kernel has no io_uring; Mayfly needs Linux 5.19 or later");
    case EPERM:
      return fail_errno(ErrorKind::Permission,
                        "io_uring is not permitted: set /proc/sys/kernel/io_uring_disabled to 0, or allow "
                        "io_uring_setup in the container's seccomp profile");
    default:
      return fail_errno(ErrorKind::System, "io_uring_setup failed");
  }
}

/// All that this file submits, and registers once the ring is enabled. A system call filter cannot see into the ring;
/// nor can the ring tell advice from advice.
constexpr std::array kOperations = {IORING_OP_READ,    IORING_OP_WRITE,       IORING_OP_READV,   IORING_OP_WRITEV,
                                    IORING_OP_FSYNC,   IORING_OP_FALLOCATE,   IORING_OP_MADVISE, IORING_OP_POLL_ADD,
                                    IORING_OP_TIMEOUT, IORING_OP_ASYNC_CANCEL};
constexpr std::array kRegistrations = {IORING_REGISTER_FILES_UPDATE, IORING_UNREGISTER_FILES};
constexpr unsigned kEntryFlags = IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;

/// Holds a ring that is still disabled to what we use of it.
int restrict_ring(io_uring& ring) {
  std::array<io_uring_restriction, kOperations.size() + kRegistrations.size() + 1> all{};
  auto* next = all.data();
  for (const auto operation : kOperations) {
    next->opcode = IORING_RESTRICTION_SQE_OP;
    (next++)->sqe_op = static_cast<std::uint8_t>(operation);
  }
  for (const auto registration : kRegistrations) {
    next->opcode = IORING_RESTRICTION_REGISTER_OP;
    (next++)->register_op = static_cast<std::uint8_t>(registration);
  }
  next->opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  next->sqe_flags = kEntryFlags;
  return ::io_uring_register_restrictions(&ring, all.data(), static_cast<unsigned>(all.size()));
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  OwnedFd wake_fd{::eventfd(0, EFD_CLOEXEC)};
  if (!wake_fd) return fail_errno(ErrorKind::System, "cannot make an event descriptor");
  std::unique_ptr<EventLoop> loop{new EventLoop{std::move(wake_fd)}};
  // Newest first: DEFER_TASKRUN is in Linux 6.1, SINGLE_ISSUER in 6.0; a kernel refuses what it does not know. The one
  // issuer is who enables the ring.
  constexpr std::array kFlagSets = {
      IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
      IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER, +IORING_SETUP_R_DISABLED};
  int result = 0;
  for (const unsigned flags : kFlagSets) {
    io_uring_params params{};
    params.flags = flags;
    result = ::io_uring_queue_init_params(kRingEntries, &loop->ring_, &params);
    if (result != -EINVAL) break;
  }
  if (result < 0) {
    loop->ring_.ring_fd = -1;
    return ring_error(-result);
  }
  // Now, since nothing may make another table when the ring is enabled.
  if (result = ::io_uring_register_files_sparse(&loop->ring_, kFileSlots); result == -EMFILE)
    return fail(ErrorKind::System,
                "the limit of open files is below {}; raise it (ulimit -n, --resource-limit no-file=)", kFileSlots);
  if (result == 0) result = restrict_ring(loop->ring_);
  if (result == 0) result = ::io_uring_enable_rings(&loop->ring_);
  if (result < 0) return ring_error(-result);
  for (unsigned slot = kFileSlots; slot > 0; --slot) loop->free_file_slots_.push_back(slot - 1);
  loop->watch_wake_fd();
  return loop;
}

EventLoop::~EventLoop() {
  if (ring_.ring_fd >= 0) ::io_uring_queue_exit(&ring_);
}

void EventLoop::post(Task task) {
  bool first = false;
  {
    const std::scoped_lock lock{mutex_};
    if (closed_) return;
    first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (first) wake();  // which serves all that follow, too
}

void EventLoop::wake() {
  const std::uint64_t one = 1;
  ensure(::write(wake_fd_.get(), &one, sizeof one) == sizeof one, "the loop's event descriptor refused a write");
}

void EventLoop::close() {
  std::vector<Task> dropped;
  {
    const std::scoped_lock lock{mutex_};
    if (std::exchange(closed_, true)) return;
    dropped.swap(tasks_);
  }
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_cancel64(&sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
  submit_for(sqe, nullptr);
  const std::uint64_t deadline = monotonic_ns() + kCloseDeadlineNs;
  while (in_flight_ > 0 && monotonic_ns() < deadline) {
    __kernel_timespec wait{.tv_sec = 0, .tv_nsec = 10'000'000};
    io_uring_cqe* first = nullptr;
    (void)::io_uring_submit_and_wait_timeout(&ring_, &first, 1, &wait, nullptr);
    reap(false);
  }
  // The kernel takes a ring apart at leisure, after its process has ended: until then, images would be locked and TAPs
  // busy. It would wait for what is in flight here.
  if (in_flight_ == 0) (void)::io_uring_unregister_files(&ring_);
}

void EventLoop::stop() {
  post([this] { stopping_ = true; });
}

Status EventLoop::run() {
  while (!stopping_)
    if (auto served = run_once(); !served) return served;
  stopping_ = false;
  return {};
}

Status EventLoop::run_once() {
  ensure(!std::exchange(serving_, true), "a round of the event loop within another");
  serve_prompt_completions();
  poll_closely();
  file_operations_queued_ = false;
  // serve_prompt_completions() may have taken the wake-up for tasks that wait.
  const int submitted = ::io_uring_submit_and_wait(&ring_, has_tasks() ? 0 : 1);
  if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN && submitted != -EBUSY) {
    serving_ = false;
    errno = -submitted;
    return fail_errno(ErrorKind::System, "io_uring_enter failed");
  }
  reap(true);
  end_round();
  run_tasks();
  end_round();
  serving_ = false;
  return {};
}

bool EventLoop::has_news() const noexcept {
  // Completions that the kernel holds back until we enter it are announced by a flag (DEFER_TASKRUN).
  return ::io_uring_cq_ready(&ring_) > 0 ||
         (std::atomic_ref{*ring_.sq.kflags}.load(std::memory_order_relaxed) & IORING_SQ_TASKRUN) != 0;
}

void EventLoop::watch_closely(Poller& poller) {
  if (!std::exchange(poller.watched_, true)) pollers_.push_back(&poller);
}

void EventLoop::poll_closely() {
  if (pollers_.empty()) return;
  bool paid = false;
  bool plenty = false;
  const bool tried = polls_to_skip_ == 0;
  if (tried) {
    if (::io_uring_sq_ready(&ring_) > 0) (void)::io_uring_submit(&ring_);
    for (std::uint64_t until = monotonic_ns() + kPollNs; !plenty && !has_news();) {
      bool found = false;
      for (Poller* poller : pollers_) {
        const Poller::Found result = poller->poll();
        found |= result != Poller::Found::Nothing;
        plenty |= result == Poller::Found::Plenty;
      }
      if (found) {
        paid = true;
        end_round();
        send_signals();
        if (::io_uring_sq_ready(&ring_) > 0) (void)::io_uring_submit(&ring_);
        until = monotonic_ns() + kPollNs;
      } else if (monotonic_ns() >= until) {
        break;
      }
      __builtin_ia32_pause();
    }
  }
  for (Poller* poller : pollers_) {
    poller->watched_ = false;
    poller->stop_polling();
  }
  pollers_.clear();
  end_round();
  send_signals();
  if (!tried) {
    --polls_to_skip_;
  } else if (paid) {
    next_skip_ = 1;
  } else {
    polls_to_skip_ = next_skip_;
    next_skip_ = std::min(next_skip_ * 2, kMostSkippedPolls);
  }
}

void EventLoop::at_round_end(RoundTask& task) {
  if (!std::exchange(task.due_, true)) round_tasks_.push_back(&task);
}

void EventLoop::end_round() {
  ending_tasks_.swap(round_tasks_);
  for (RoundTask* task : ending_tasks_) {
    task->due_ = false;
    task->on_round_end();
  }
  ending_tasks_.clear();
}

void EventLoop::serve_prompt_completions() {
  if (signals_.empty() || !file_operations_queued_) return send_signals();
  const std::uint64_t until = monotonic_ns() + kLongestSettlingNs;
  for (unsigned round = 0; round < kRoundsBeforeSignals && file_operations_queued_; ++round) {
    file_operations_queued_ = false;
    (void)::io_uring_submit_and_get_events(&ring_);
    if (::io_uring_cq_ready(&ring_) == 0) break;
    reap(true);
    end_round();
    if (monotonic_ns() >= until) break;
  }
  send_signals();
}

bool EventLoop::signal(int event_fd) {
  if (std::ranges::find(signals_, event_fd) != signals_.end()) return false;
  signals_.push_back(event_fd);
  return true;
}

void EventLoop::send_signals() {
  static constexpr std::uint64_t one = 1;
  for (const int event_fd : signals_) {
    io_uring_sqe& sqe = next_sqe();
    ::io_uring_prep_write(&sqe, event_fd, &one, sizeof one, kNoOffset);
    sqe.flags |= IOSQE_CQE_SKIP_SUCCESS;
    ::io_uring_sqe_set_data(&sqe, &unwatched_);
  }
  signals_.clear();
}

void EventLoop::reap(bool tell) {
  struct Completion {
    Operation* operation;
    int result;
    bool more;
  };
  std::array<io_uring_cqe*, kBatch> entries{};
  std::array<Completion, kBatch> batch;
  const unsigned count = ::io_uring_peek_batch_cqe(&ring_, entries.data(), kBatch);
  // Taken off the ring before anybody is told: what they submit may need its room.
  for (unsigned i = 0; i < count; ++i)
    batch[i] = {.operation = static_cast<Operation*>(::io_uring_cqe_get_data(entries[i])),
                .result = entries[i]->res,
                .more = (entries[i]->flags & IORING_CQE_F_MORE) != 0};
  ::io_uring_cq_advance(&ring_, count);
  for (const auto& [operation, result, more] : std::span{batch}.first(count)) {
    if (operation == &unwatched_) continue;  // it failed, which nobody wanted to know
    if (!more) --in_flight_;
    if (tell && operation != nullptr) operation->on_complete(result, more);
  }
}

bool EventLoop::has_tasks() {
  const std::scoped_lock lock{mutex_};
  return !tasks_.empty();
}

void EventLoop::run_tasks() {
  {
    const std::scoped_lock lock{mutex_};
    running_.swap(tasks_);
  }
  for (Task& task : running_) task();
  running_.clear();
}

io_uring_sqe& EventLoop::next_sqe() {
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {  // full: hand over what is queued; the kernel takes it all or says why not
    const int submitted = ::io_uring_submit(&ring_);
    ensure(submitted >= 0 || submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY,
           "io_uring refused to take its queue");
    sqe = ::io_uring_get_sqe(&ring_);
  }
  return *sqe;
}

void EventLoop::submit_for(io_uring_sqe& sqe, Operation* operation) {
  ::io_uring_sqe_set_data(&sqe, operation);
  ++in_flight_;
}

void EventLoop::read(int fd, std::span<std::byte> buffer, std::uint64_t offset, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_read(&sqe, fd, buffer.data(), static_cast<unsigned>(buffer.size()), offset);
  submit_for(sqe, &operation);
}

void EventLoop::write(int fd, std::span<const std::byte> buffer, std::uint64_t offset, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_write(&sqe, fd, buffer.data(), static_cast<unsigned>(buffer.size()), offset);
  submit_for(sqe, &operation);
}

void EventLoop::submit_on(io_uring_sqe& sqe, Operation& operation) {
  sqe.flags |= IOSQE_FIXED_FILE;
  file_operations_queued_ = true;
  submit_for(sqe, &operation);
}

void EventLoop::readv(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                      Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_readv(&sqe, file.slot(), buffers.data(), static_cast<unsigned>(buffers.size()), offset);
  submit_on(sqe, operation);
}

void EventLoop::readv_now(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                          Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_readv2(&sqe, file.slot(), buffers.data(), static_cast<unsigned>(buffers.size()), offset, RWF_NOWAIT);
  submit_on(sqe, operation);
}

void EventLoop::writev(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                       Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_writev(&sqe, file.slot(), buffers.data(), static_cast<unsigned>(buffers.size()), offset);
  submit_on(sqe, operation);
}

void EventLoop::sync_data(const RegisteredFile& file, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_fsync(&sqe, file.slot(), IORING_FSYNC_DATASYNC);
  submit_on(sqe, operation);
}

void EventLoop::fallocate(const RegisteredFile& file, int mode, std::uint64_t offset, std::uint64_t length,
                          Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_fallocate(&sqe, file.slot(), mode, static_cast<off_t>(offset), static_cast<off_t>(length));
  submit_on(sqe, operation);
}

void EventLoop::advise(std::span<std::byte> range, int advice, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_madvise(&sqe, range.data(), static_cast<std::uint32_t>(range.size()), advice);
  submit_for(sqe, &operation);
}

void EventLoop::advise_unwatched(std::span<std::byte> range, int advice) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_madvise(&sqe, range.data(), static_cast<std::uint32_t>(range.size()), advice);
  sqe.flags |= IOSQE_CQE_SKIP_SUCCESS;
  ::io_uring_sqe_set_data(&sqe, &unwatched_);
}

Result<RegisteredFile> EventLoop::register_file(int fd) {
  if (free_file_slots_.empty()) return fail(ErrorKind::TooLarge, "over {} files are in use", kFileSlots);
  const unsigned slot = free_file_slots_.back();
  if (const int result = ::io_uring_register_files_update(&ring_, slot, &fd, 1); result < 0) {
    errno = -result;
    return fail_errno(ErrorKind::System, "io_uring refused a file");
  }
  free_file_slots_.pop_back();
  return RegisteredFile{*this, slot};
}

void EventLoop::unregister_file(unsigned slot) noexcept {
  const int none = -1;
  (void)::io_uring_register_files_update(&ring_, slot, const_cast<int*>(&none), 1);
  free_file_slots_.push_back(slot);  // room for all was made with the table
}

RegisteredFile& RegisteredFile::operator=(RegisteredFile&& other) noexcept {
  std::swap(loop_, other.loop_);
  std::swap(slot_, other.slot_);
  return *this;
}

RegisteredFile::~RegisteredFile() {
  if (loop_ != nullptr) loop_->unregister_file(slot_);
}

void EventLoop::poll(int fd, unsigned events, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_poll_multishot(&sqe, fd, events);
  submit_for(sqe, &operation);
}

void EventLoop::poll_once(int fd, unsigned events, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_poll_add(&sqe, fd, events);
  submit_for(sqe, &operation);
}

void EventLoop::sleep(const __kernel_timespec& time, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_timeout(&sqe, const_cast<__kernel_timespec*>(&time), 0, 0);
  submit_for(sqe, &operation);
}

void EventLoop::cancel(Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_cancel(&sqe, &operation, 0);
  submit_for(sqe, nullptr);
}

void EventLoop::watch_wake_fd() {
  read(wake_fd_.get(), std::as_writable_bytes(std::span{&wake_count_, 1}), kNoOffset, wake_);
}

void EventLoop::WakeOperation::on_complete(int /*result*/, bool /*more*/) noexcept { loop_.watch_wake_fd(); }

LoopTimer::LoopTimer(EventLoop& loop, OwnedFd fd, std::move_only_function<void()> fire) noexcept
    : loop_(loop),
      fd_(std::move(fd)),
      fire_(std::move(fire)),
      operation_([this](int result, bool more) { on_ready(result, more); }) {}

void LoopTimer::on_ready(int result, bool more) noexcept {
  if (result < 0) return;
  if (!more) loop_.poll(fd_.get(), POLLIN, operation_);  // the kernel may end a multishot poll at any time
  std::uint64_t expirations = 0;
  // Nothing to read: cancelled or armed anew between the expiry and now.
  if (::read(fd_.get(), &expirations, sizeof expirations) == sizeof expirations) fire_();
}

Result<std::unique_ptr<LoopTimer>> LoopTimer::create(EventLoop& loop, std::move_only_function<void()> fire) {
  OwnedFd fd{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
  if (!fd) return fail_errno(ErrorKind::System, "cannot make a timer descriptor");
  return std::unique_ptr<LoopTimer>{new LoopTimer{loop, std::move(fd), std::move(fire)}};
}

void LoopTimer::listen() {
  if (!std::exchange(listening_, true)) loop_.poll(fd_.get(), POLLIN, operation_);
}

void LoopTimer::arm(std::uint64_t deadline_ns) noexcept {
  const std::uint64_t at = deadline_ns == 0 ? 1 : deadline_ns;  // 0 would disarm
  itimerspec when{};
  when.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000);
  when.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000);
  ensure(::timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &when, nullptr) == 0, "timerfd_settime refused a deadline");
}

void LoopTimer::cancel() noexcept {
  const itimerspec never{};
  ensure(::timerfd_settime(fd_.get(), 0, &never, nullptr) == 0, "timerfd_settime refused to disarm");
}

}  // namespace mayfly
