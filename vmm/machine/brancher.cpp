#include "vmm/machine/brancher.h"

#include "vmm/base/branch_mark.h"
#include "vmm/base/process_fd.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr char kUp = 'u';
constexpr char kFailed = 'f';
/// What an error's sentence may have; a pipe takes it at once.
constexpr std::size_t kLongestReport = 4096;
/// Guest memory whose pages are counted while nothing else is looked at: a millisecond's work.
constexpr std::size_t kCountedAtOnce = std::size_t{64} << 20;

}  // namespace

Status check_can_branch(const GuestMemory& memory) {
  if (memory.pages() == HugePages::Explicit2M)
    return fail(ErrorKind::State,
                "memory of huge_pages 2M cannot be shared with a child, as each page that one of them writes to would "
                "take another one of the host's pool: give the machine huge_pages None or Transparent");
  if (memory.is_served())
    return fail(ErrorKind::State,
                "memory whose pages a page server or the recording of a working set gives cannot be shared with a "
                "child: load the snapshot from its files, without recording");
  return {};
}

void BranchReport::tell(std::string_view why) noexcept {
  if (!to_) return;
  std::array<char, kLongestReport> text;
  text[0] = why.empty() ? kUp : kFailed;
  const std::size_t length = why.copy(text.data() + 1, text.size() - 1);
  (void)!::write(to_.get(), text.data(), length + 1);
  to_.reset();
}

bool BranchReport::await_go() noexcept {
  char go = 0;
  ssize_t count = 0;
  do {
    count = ::read(go_.get(), &go, 1);
  } while (count < 0 && errno == EINTR);
  go_.reset();
  return count == 1;
}

// --- The loop's side -------------------------------------------------------------------------------------------------

Result<std::unique_ptr<ForkBrancher>> ForkBrancher::start(Options options) {
  OwnedFd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!wake) return fail_errno(ErrorKind::System, "cannot make an event descriptor");
  std::unique_ptr<ForkBrancher> brancher{new ForkBrancher{std::move(options), std::move(wake)}};
  try {
    brancher->thread_ = std::thread{[&brancher = *brancher] { brancher.serve(); }};
  } catch (const std::system_error& error) {
    return fail(ErrorKind::System, "the host gives no more threads: {}", error.code().message());
  }
  return brancher;
}

ForkBrancher::~ForkBrancher() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  (void)::eventfd_write(wake_.get(), 1);
  thread_.join();
}

Status ForkBrancher::begin(BranchOrder order, Done done) {
  order_.emplace(std::move(order));
  asked_done_ = std::move(done);
  asked_ = true;
  (void)::eventfd_write(wake_.get(), 1);
  // The loop stands still: a child's copy of what it owns is whole.
  made_.acquire();
  order_.reset();
  return std::exchange(begun_, {});
}

void ForkBrancher::let_go() noexcept {
  static constexpr std::array<char, kMostBranchChildren> kOneEach{};
  (void)!::write(go_.get(), kOneEach.data(), kOneEach.size());
  go_.reset();
}

void ForkBrancher::count_pages(const GuestMemory& memory, Counted done) {
  {
    const MutexLock lock{mutex_};
    count_.emplace(Count{ram_from(memory), std::move(done)});
  }
  (void)::eventfd_write(wake_.get(), 1);
}

// --- The thread ------------------------------------------------------------------------------------------------------

void ForkBrancher::serve() {
  ::pthread_setname_np(::pthread_self(), kBrancherName);
  if (options_.enter_thread) options_.enter_thread(ThreadKind::Brancher);
  while (!stopping_) {
    wait_for_news();
    if (asked_.exchange(false)) {
      make_children();
      made_.release();
    }
    count_some_pages();
    for (Child& child : children_)
      if (child.report) read_report(child);
    look_at_ends();
    give_up_late_ones();
    answer_if_complete();
  }
}

/// A part at a time, since a branch has the loop wait for this thread, and memory may be large.
void ForkBrancher::count_some_pages() {
  if (!counting_) {
    const MutexLock lock{mutex_};
    counting_.swap(count_);
  }
  if (!counting_) return;
  std::vector<std::span<std::byte>>& left = counting_->memory;
  const std::span<std::byte> part = left.back().first(std::min(left.back().size(), kCountedAtOnce));
  auto pagemap = open_pagemap();
  const auto counted = pagemap ? sharing_of(*pagemap, std::span{&part, 1}) : propagate(pagemap);
  if (counted) {
    counting_->sharing.own += counted->own;
    counting_->sharing.shared += counted->shared;
    left.back() = left.back().subspan(part.size());
    if (left.back().empty()) left.pop_back();
    if (!left.empty()) return;
  }
  options_.loop.post([done = std::move(counting_->done),
                      sharing = counted ? counting_->sharing : PageSharing{}]() mutable { done(sharing); });
  counting_.reset();
}

void ForkBrancher::wait_for_news() {
  std::vector<pollfd> watched{{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
  for (Child& child : children_) {
    // Nobody else waits for it, so its number stays its own.
    if (!child.process) child.process = open_process(child.pid);
    watched.push_back({.fd = child.process.get(), .events = POLLIN, .revents = 0});
    if (child.report) watched.push_back({.fd = child.report.get(), .events = POLLIN, .revents = 0});
  }
  int patience = counting_ ? 0 : -1;
  if (silent_ > 0 && !counting_) {
    const auto left = deadline_ - std::chrono::steady_clock::now();
    patience = static_cast<int>(std::max<std::int64_t>(0, std::chrono::ceil<std::chrono::milliseconds>(left).count()));
  }
  (void)::poll(watched.data(), watched.size(), patience);
  eventfd_t times = 0;
  (void)::eventfd_read(wake_.get(), &times);
}

void ForkBrancher::make_children() {
  BranchOrder& order = *order_;
  done_ = std::move(asked_done_);
  outcome_.clear();
  for (const BranchChild& child : order.children) outcome_.push_back({.id = child.id, .api_socket = child.api_socket});
  silent_ = 0;
  std::array<int, 2> go{-1, -1};
  begun_ = ::pipe2(go.data(), O_CLOEXEC) == 0 ? order.memory.show_to_children(true)
                                              : fail_errno(ErrorKind::System, "cannot make a pipe");
  const OwnedFd waits{go[0]};
  go_ = OwnedFd{go[1]};
  for (std::size_t i = 0; begun_ && i < order.children.size(); ++i) {
    auto made = make_child(i, waits.get());
    if (made) continue;
    if (silent_ == 0 && i + 1 == order.children.size()) begun_ = propagate(made);
    note(i, made.error().message);
  }
  (void)order.memory.show_to_children(false);
  deadline_ = std::chrono::steady_clock::now() + options_.patience;
  options_.children.set(children_.size());
  // None is silent then, so nobody would answer.
  if (!begun_) done_ = nullptr, go_.reset();
}

Status ForkBrancher::make_child(std::size_t index, int go) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno(ErrorKind::System, "cannot make a pipe");
  OwnedFd report{ends[0]};
  OwnedFd tell{ends[1]};
  children_.reserve(children_.size() + 1);
  // The C library's: other threads may be in the heap, whose locks it takes care of.
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno(ErrorKind::System, "the host gives no process for the child");
  if (pid == 0) {
    report.reset();
    (void)order_->memory.show_to_children(false);
    go_.reset();
    options_.live(*order_, index, BranchReport{OwnedFd{go}, std::move(tell)});
    ::_exit(1);
  }
  tell.reset();  // whose place is enough for this one
  ++silent_;
  outcome_[index].pid = pid;
  children_.push_back({.index = index, .pid = pid, .process = open_process(pid), .report = std::move(report)});
  return {};
}

void ForkBrancher::note(std::size_t index, std::string error) { outcome_[index].error = std::move(error); }

void ForkBrancher::read_report(Child& child) {
  std::array<char, kLongestReport> piece;
  // One write, so one read: a child whose guest has taken it over could write for ever.
  const ssize_t count = ::read(child.report.get(), piece.data(), piece.size());
  if (count < 0 && errno == EAGAIN) return;
  if (count > 0) child.told.assign(piece.data(), static_cast<std::size_t>(count));
  child.report.reset();
  if (child.told.empty()) return;  // who has closed its end without a word is about to end
  --silent_;
  if (child.told.starts_with(kUp))
    child.is_up = true;
  else
    note(child.index, child.told.starts_with(kFailed) ? child.told.substr(1) : "the child told nonsense of its start");
}

void ForkBrancher::look_at_ends() {
  std::erase_if(children_, [this](Child& child) {
    if (!child.process) return false;
    siginfo_t info{};
    const int waited = ::waitid(P_PIDFD, static_cast<id_t>(child.process.get()), &info, WEXITED | WNOHANG);
    if (waited == 0 ? info.si_pid == 0 : errno != ECHILD) return false;
    if (child.report) read_report(child);  // what it has said since
    if (!child.report && child.told.empty() && silent_ > 0) {
      note(child.index, info.si_code == CLD_EXITED
                            ? fmt::format("the child ended while it was made (exit code {})", info.si_status)
                            : fmt::format("the child was ended while it was made (signal {})", info.si_status));
      --silent_;
    }
    return true;
  });
  options_.children.set(children_.size());
}

void ForkBrancher::give_up_late_ones() {
  if (silent_ == 0 || std::chrono::steady_clock::now() < deadline_) return;
  for (Child& child : children_) {
    if (!child.told.empty()) continue;
    // By its number, which is its own until it is reaped: there may be no descriptor for it.
    (void)::tgkill(child.pid, child.pid, SIGKILL);
    note(child.index,
         fmt::format("the child did not come up in {:g} s, and was killed: look at the storage of its drives",
                     std::chrono::duration<double>{options_.patience}.count()));
    child.report.reset();
    child.told = kFailed;
    --silent_;
  }
}

void ForkBrancher::answer_if_complete() {
  if (silent_ > 0 || !done_) return;
  // First: the loop may begin the next as soon as it has this.
  Done done = std::exchange(done_, nullptr);
  options_.loop.post(
      [done = std::move(done), outcome = std::exchange(outcome_, {})]() mutable { done(std::move(outcome)); });
}

}  // namespace mayfly
