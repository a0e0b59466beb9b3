#include "vmm/io/ring.h"

#include "vmm/base/clock.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

namespace mayfly {
namespace {

/// Entries of the submission queue: requests of one round, not of the whole loop (the ring grows its completions).
constexpr unsigned kRingEntries = 256;
/// Completions taken in one round before tasks get their turn.
constexpr unsigned kBatch = 64;
/// Room in the table of registered files: 16 layers of each of 16 drives, and replacements while they are swapped. The
/// limit of open files must be as high.
constexpr unsigned kFileSlots = 256 + 64;
/// How long close_ring() waits for the kernel to complete what was in flight.
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
constexpr unsigned kEntryFlags = IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS | IOSQE_ASYNC;

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

// --- Its life --------------------------------------------------------------------------------------------------------

Status Ring::set_up() {
  // Newest first: DEFER_TASKRUN is in Linux 6.1, SINGLE_ISSUER in 6.0; a kernel refuses what it does not know. The one
  // issuer is who enables the ring.
  constexpr std::array kFlagSets = {
      IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
      IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER, +IORING_SETUP_R_DISABLED};
  int result = 0;
  for (const unsigned flags : kFlagSets) {
    io_uring_params params{};
    params.flags = flags;
    result = ::io_uring_queue_init_params(kRingEntries, &ring_, &params);
    if (result != -EINVAL) break;
  }
  if (result < 0) {
    ring_.ring_fd = -1;
    return ring_error(-result);
  }
  // A child that holds guest memory must not hold the ring, and the files that are registered with it.
  if (result = ::io_uring_ring_dontfork(&ring_); result < 0) return ring_error(-result);
  // Now, since nothing may make another table when the ring is enabled.
  if (result = ::io_uring_register_files_sparse(&ring_, kFileSlots); result == -EMFILE)
    return fail(ErrorKind::System,
                "the limit of open files is below {}; raise it (ulimit -n, --resource-limit no-file=)", kFileSlots);
  if (result == 0) result = restrict_ring(ring_);
  if (result == 0) result = ::io_uring_enable_rings(&ring_);
  if (result < 0) return ring_error(-result);
  for (unsigned slot = kFileSlots; slot > 0; --slot) free_file_slots_.push_back(slot - 1);
  return {};
}

Ring::~Ring() {
  if (ring_.ring_fd >= 0) ::io_uring_queue_exit(&ring_);
}

void Ring::close_ring() {
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

// --- What has completed ----------------------------------------------------------------------------------------------

Status Ring::wait(unsigned count) {
  file_operations_queued_ = false;
  const int submitted = ::io_uring_submit_and_wait(&ring_, count);
  if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN && submitted != -EBUSY) {
    errno = -submitted;
    return fail_errno(ErrorKind::System, "io_uring_enter failed");
  }
  reap(true);
  return {};
}

void Ring::submit() {
  if (::io_uring_sq_ready(&ring_) > 0) (void)::io_uring_submit(&ring_);
}

bool Ring::serve_what_completes_at_once() {
  file_operations_queued_ = false;
  (void)::io_uring_submit_and_get_events(&ring_);
  if (::io_uring_cq_ready(&ring_) == 0) return false;
  reap(true);
  return true;
}

bool Ring::has_completions() const noexcept {
  // Completions that the kernel holds back until we enter it are announced by a flag (DEFER_TASKRUN).
  return ::io_uring_cq_ready(&ring_) > 0 ||
         (std::atomic_ref{*ring_.sq.kflags}.load(std::memory_order_relaxed) & IORING_SQ_TASKRUN) != 0;
}

void Ring::reap(bool tell) {
  for (unsigned count = 0; count < kBatch; ++count) {
    io_uring_cqe* entry = nullptr;
    // Only the first look may enter the kernel for what it holds back.
    if (count > 0 && ::io_uring_cq_ready(&ring_) == 0) return;
    if (::io_uring_peek_batch_cqe(&ring_, &entry, 1) == 0) return;
    auto* const operation = static_cast<Operation*>(::io_uring_cqe_get_data(entry));
    const int result = entry->res;
    const bool more = (entry->flags & IORING_CQE_F_MORE) != 0;
    ::io_uring_cq_advance(&ring_, 1);        // before the callback: what it submits may need the room
    if (operation == &unwatched_) continue;  // it failed, which nobody wanted to know
    if (!more) --in_flight_;
    if (tell && operation != nullptr) operation->on_complete(result, more);
  }
}

// --- What is submitted -----------------------------------------------------------------------------------------------

io_uring_sqe& Ring::next_sqe() {
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {  // full: hand over what is queued; the kernel takes it all or says why not
    const int submitted = ::io_uring_submit(&ring_);
    ensure(submitted >= 0 || submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY,
           "io_uring refused to take its queue");
    sqe = ::io_uring_get_sqe(&ring_);
  }
  return *sqe;
}

void Ring::submit_for(io_uring_sqe& sqe, Operation* operation) {
  ::io_uring_sqe_set_data(&sqe, operation);
  ++in_flight_;
}

void Ring::submit_unwatched(io_uring_sqe& sqe) {
  sqe.flags |= IOSQE_CQE_SKIP_SUCCESS;
  ::io_uring_sqe_set_data(&sqe, &unwatched_);
}

void Ring::read(int fd, std::span<std::byte> buffer, std::uint64_t offset, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_read(&sqe, fd, buffer.data(), static_cast<unsigned>(buffer.size()), offset);
  submit_for(sqe, &operation);
}

void Ring::write(int fd, std::span<const std::byte> buffer, std::uint64_t offset, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_write(&sqe, fd, buffer.data(), static_cast<unsigned>(buffer.size()), offset);
  submit_for(sqe, &operation);
}

void Ring::write_by_worker(int fd, std::span<const std::byte> buffer, std::uint64_t offset, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_write(&sqe, fd, buffer.data(), static_cast<unsigned>(buffer.size()), offset);
  sqe.flags |= IOSQE_ASYNC;
  submit_for(sqe, &operation);
}

void Ring::submit_on_file(io_uring_sqe& sqe, Operation& operation) {
  sqe.flags |= IOSQE_FIXED_FILE;
  file_operations_queued_ = true;
  submit_for(sqe, &operation);
}

void Ring::readv(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                 Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_readv(&sqe, file.slot(), buffers.data(), static_cast<unsigned>(buffers.size()), offset);
  submit_on_file(sqe, operation);
}

void Ring::readv_now(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                     Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_readv2(&sqe, file.slot(), buffers.data(), static_cast<unsigned>(buffers.size()), offset, RWF_NOWAIT);
  submit_on_file(sqe, operation);
}

void Ring::writev(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                  Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_writev(&sqe, file.slot(), buffers.data(), static_cast<unsigned>(buffers.size()), offset);
  submit_on_file(sqe, operation);
}

void Ring::sync_data(const RegisteredFile& file, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_fsync(&sqe, file.slot(), IORING_FSYNC_DATASYNC);
  submit_on_file(sqe, operation);
}

void Ring::fallocate(const RegisteredFile& file, int mode, std::uint64_t offset, std::uint64_t length,
                     Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_fallocate(&sqe, file.slot(), mode, static_cast<off_t>(offset), static_cast<off_t>(length));
  submit_on_file(sqe, operation);
}

void Ring::fallocate(int fd, int mode, std::uint64_t offset, std::uint64_t length, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_fallocate(&sqe, fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
  submit_for(sqe, &operation);
}

void Ring::advise(std::span<std::byte> range, int advice, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_madvise(&sqe, range.data(), static_cast<std::uint32_t>(range.size()), advice);
  submit_for(sqe, &operation);
}

void Ring::advise_unwatched(std::span<std::byte> range, int advice) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_madvise(&sqe, range.data(), static_cast<std::uint32_t>(range.size()), advice);
  submit_unwatched(sqe);
}

void Ring::write_event(int event_fd) {
  static constexpr std::uint64_t kOne = 1;
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_write(&sqe, event_fd, &kOne, sizeof kOne, kNoOffset);
  submit_unwatched(sqe);
}

Result<RegisteredFile> Ring::register_file(int fd) {
  if (free_file_slots_.empty())
    return fail(ErrorKind::TooLarge,
                "over {} files are in use: try again when images that were replaced are on stable storage, or have "
                "drives with fewer layers (mayfly drive commit)",
                kFileSlots);
  const unsigned slot = free_file_slots_.back();
  if (const int result = ::io_uring_register_files_update(&ring_, slot, &fd, 1); result < 0) {
    errno = -result;
    return fail_errno(ErrorKind::System, "io_uring refused a file");
  }
  free_file_slots_.pop_back();
  return RegisteredFile{*this, slot};
}

void Ring::unregister_file(unsigned slot) noexcept {
  const int none = -1;
  (void)::io_uring_register_files_update(&ring_, slot, const_cast<int*>(&none), 1);
  free_file_slots_.push_back(slot);  // room for all was made with the table
}

RegisteredFile& RegisteredFile::operator=(RegisteredFile&& other) noexcept {
  std::swap(ring_, other.ring_);
  std::swap(slot_, other.slot_);
  return *this;
}

RegisteredFile::~RegisteredFile() {
  if (ring_ != nullptr) ring_->unregister_file(slot_);
}

void Ring::poll(int fd, unsigned events, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_poll_multishot(&sqe, fd, events);
  submit_for(sqe, &operation);
}

void Ring::poll_once(int fd, unsigned events, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_poll_add(&sqe, fd, events);
  submit_for(sqe, &operation);
}

void Ring::sleep(const __kernel_timespec& time, Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_timeout(&sqe, const_cast<__kernel_timespec*>(&time), 0, 0);
  submit_for(sqe, &operation);
}

void Ring::cancel(Operation& operation) {
  io_uring_sqe& sqe = next_sqe();
  ::io_uring_prep_cancel(&sqe, &operation, 0);
  submit_for(sqe, nullptr);
}

}  // namespace mayfly
